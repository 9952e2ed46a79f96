"""`keep_masked` keeps pruned weights at +0.0 under any optax chain, and changes nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lottery_jax as lj
from lottery_jax.pruning import masks

RNG = np.random.default_rng(0)
PARAMS = {"a": {"kernel": RNG.normal(size=(4, 3)).astype(np.float32),
                "bias": RNG.normal(size=3).astype(np.float32)},
          "b": {"kernel": RNG.normal(size=(3, 2)).astype(np.float32)}}  # fmt: skip
MASK = masks.permute(
    masks.prune(masks.apply(masks.ones_like(PARAMS), PARAMS), masks.ones_like(PARAMS), 0.5),
    jax.random.key(1),
)
GRADS = [jax.tree.map(lambda p, i=i: np.cos(p + i).astype(np.float32), PARAMS) for i in range(4)]

CHAINS = {
    "sgd": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": optax.adamw(1e-2, weight_decay=0.3),
    "decay into moments": optax.chain(optax.add_decayed_weights(0.3), optax.adam(1e-2)),
    "clipping": optax.chain(optax.clip_by_global_norm(0.5), optax.lamb(1e-2, weight_decay=0.1)),
    "noise": optax.chain(optax.add_noise(0.1, 0.5, key=0), optax.sgd(0.1)),
    "sign": optax.lion(1e-2, weight_decay=0.1),
    "accumulation": optax.MultiSteps(optax.adam(1e-2), 2).gradient_transformation(),
}


def assert_pruned(params, mask=MASK):
    """Bits are compared: -0.0 is not +0.0."""
    for leaf, kept in zip(jax.tree.leaves(params), jax.tree.leaves(mask), strict=True):
        assert not np.asarray(leaf)[~np.asarray(kept)].view(np.uint32).any()


def train(tx, params, grads=GRADS):
    state = tx.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for gradient in grads:
        params, state = step(params, state, gradient)
        yield params, state


@pytest.mark.parametrize("name", CHAINS)
def test_pruned_weights_are_zero_after_every_step_whatever_they_were(name):
    for params, _ in train(lj.keep_masked(CHAINS[name], MASK), PARAMS, grads=GRADS[:3]):
        assert_pruned(params)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_adamw_equals_a_computation_by_hand():
    """Adam with decoupled decay, in float64, of the surviving weights alone."""
    rate, b1, b2, decay = 0.05, 0.9, 0.99, 0.2
    tx = lj.keep_masked(optax.adamw(rate, b1, b2, weight_decay=decay), MASK)
    params, m, v = {}, {}, {}
    leaves = dict(enumerate(jax.tree.leaves(PARAMS)))
    kept = dict(enumerate(jax.tree.leaves(MASK)))
    for i, leaf in leaves.items():
        params[i] = leaf[kept[i]].astype(np.float64)
        m[i], v[i] = np.zeros_like(params[i]), np.zeros_like(params[i])
    for t, (found, state) in enumerate(train(tx, PARAMS), start=1):
        adam = state.inner[0]
        for i, (leaf, mu, nu) in enumerate(
            zip(*map(jax.tree.leaves, (found, adam.mu, adam.nu)), strict=True)
        ):
            g = jax.tree.leaves(GRADS[t - 1])[i][kept[i]].astype(np.float64)
            m[i], v[i] = b1 * m[i] + (1 - b1) * g, b2 * v[i] + (1 - b2) * g**2
            direction = (m[i] / (1 - b1**t)) / (np.sqrt(v[i] / (1 - b2**t)) + 1e-8)
            params[i] -= rate * (direction + decay * params[i])
            np.testing.assert_allclose(np.asarray(leaf)[kept[i]], params[i], rtol=1e-5, atol=1e-6)
            assert not np.asarray(mu)[~kept[i]].any() and not np.asarray(nu)[~kept[i]].any()
        assert_pruned(found)


def test_a_mask_of_ones_changes_no_bit():
    """Operation by operation: a compiler may round differently in another program."""
    params, grads = PARAMS["b"], GRADS[0]["b"]
    ones, sgd = masks.ones_like(params), CHAINS["sgd"]
    found = [
        tx.update(grads, tx.init(params), params)[0] for tx in (sgd, lj.keep_masked(sgd, ones))
    ]
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_gradients_that_are_not_finite_do_no_harm_where_weights_are_pruned():
    bad = jax.tree.map(lambda g, m: np.where(m, g, np.nan), GRADS[0], MASK)
    (one, _), (two, _) = (
        next(train(lj.keep_masked(optax.adamw(0.1), MASK), PARAMS, grads=[g]))
        for g in (GRADS[0], bad)
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_both_copies_of_the_weights_that_lookahead_trains_stay_pruned():
    fast = lj.keep_masked(optax.sgd(0.1, momentum=0.9), MASK)
    tx = optax.lookahead(fast, sync_period=2, slow_step_size=0.3)
    params = optax.LookaheadParams.init_synced(masks.apply(MASK, PARAMS))
    state = tx.init(params)
    for grads in GRADS:
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        assert_pruned(params.fast)
        assert_pruned(params.slow)
    assert not np.array_equal(params.slow["b"]["kernel"], PARAMS["b"]["kernel"])


def test_one_compilation_serves_all_masks_and_donated_states():
    tx, traced = lj.keep_masked(CHAINS["adamw"], masks.ones_like(PARAMS)), []

    @jax.jit
    def plain(params, state, grads):
        traced.append(1)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for seed in range(3):
        mask = masks.permute(MASK, jax.random.key(seed))
        params, state = PARAMS, lj.keep_masked(CHAINS["adamw"], mask).init(PARAMS)
        for grads in GRADS[:2]:
            params, state = plain(params, state, grads)
        assert_pruned(params, mask)
        assert masks.counts(mask) == masks.counts(jax.device_get(state.mask))
    assert len(traced) == 1
    on_device = jax.tree.map(jnp.asarray, MASK)
    state = lj.keep_masked(CHAINS["adamw"], on_device).init(PARAMS)
    jax.block_until_ready(jax.jit(lambda s: s, donate_argnums=0)(state))
    assert masks.counts(on_device) == masks.counts(MASK)  # the state has its own copy


def test_leaves_that_are_no_arrays_and_leaves_that_are_left_out():
    """An Equinox module whole or filtered; `optax.masked` around the transform, or within it."""
    net = {"layer": PARAMS["b"], "act": jnp.tanh, "key": jax.random.key(0), "none": None}
    mask = {**masks.ones_like(net), "layer": MASK["b"]}
    part = {**net, "act": None, "key": None}
    grads = {**part, "layer": GRADS[0]["b"]}
    found = []
    for params in (net, part):
        tx = lj.keep_masked(optax.adamw(0.1), mask)
        state = jax.jit(lambda s: s)(tx.init(params))  # nothing in it but arrays
        updates, state = tx.update(grads, state, params)
        assert updates["act"] is None and updates["key"] is None
        found.append(np.asarray(net["layer"]["kernel"] + updates["layer"]["kernel"]))
    np.testing.assert_array_equal(*found)
    assert_pruned({"kernel": found[0]}, MASK["b"])
    only_a = {"a": True, "b": False}
    for tx in (
        optax.masked(lj.keep_masked(optax.adamw(0.1), MASK), only_a),
        lj.keep_masked(optax.masked(optax.adamw(0.1), only_a), MASK),
    ):
        updates, _ = tx.update(GRADS[0], tx.init(PARAMS), PARAMS)
        assert_pruned(optax.apply_updates(PARAMS["a"], updates["a"]), MASK["a"])
    assert_pruned(optax.apply_updates(PARAMS, updates))


def test_nnx_optimizer_trains_a_pruned_module():
    module = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    params = nnx.state(module, nnx.Param)
    mask = masks.prune(masks.apply(masks.ones_like(params), params), masks.ones_like(params), 0.5)
    optimizer = nnx.Optimizer(module, lj.keep_masked(CHAINS["sgd"], mask), wrt=nnx.Param)
    for seed in range(2):
        x = np.random.default_rng(seed).normal(size=(5, 4)).astype(np.float32)
        grads = nnx.grad(lambda m, x=x: (m(x) ** 2).mean())(module)
        optimizer.update(module, grads)
        assert_pruned(nnx.state(module, nnx.Param), mask)
    assert masks.counts(nnx.state(module, nnx.Param)) == masks.counts(mask)


def test_without_params_there_is_nothing_to_keep():
    tx = lj.keep_masked(optax.sgd(0.1), MASK)
    with pytest.raises(ValueError, match=r"tx.update\(grads, state, params\)"):
        tx.update(GRADS[0], tx.init(PARAMS))
