"""Masks and scores work on the trees of Linen, NNX, Equinox, Haiku and on plain containers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import lottery_jax as lj
from lottery_jax import leaves
from lottery_jax.pruning import masks, scores


@jax.tree_util.register_pytree_with_keys_class
class Net:
    """A module like Equinox': its attributes are leaves, whatever they are."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def tree_flatten_with_keys(self):
        names = tuple(self.__dict__)
        keys = [jax.tree_util.GetAttrKey(name) for name in names]
        return list(zip(keys, self.__dict__.values(), strict=True)), names

    @classmethod
    def tree_unflatten(cls, names, values):
        return cls(**dict(zip(names, values, strict=True)))


def rows(n, m, seed=0):
    return np.random.default_rng(seed).normal(size=(n, m)).astype(np.float32)


def drawn(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def module():
    """A network with a function, a string, None, a counter, a PRNG key and a number as leaves."""
    return Net(
        layers=[
            Net(weight=rows(3, 4), bias=np.ones(3, np.float32)),
            Net(weight=rows(2, 3, 1), bias=None),
        ],
        activation=jnp.tanh,
        name="mlp",
        rate=0.5,
        calls=np.arange(4).reshape(2, 2),
        key=jax.random.key(0),
        head=None,
    )


def test_the_weights_of_each_library_are_found_by_default():
    class Dense(nnx.Module):
        def __init__(self):
            self.dense1 = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
            self.value = nnx.Linear(3, 2, rngs=nnx.Rngs(1))
            self.words = nnx.Embed(5, 2, rngs=nnx.Rngs(2))

    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
            x = nn.Dense(3, kernel_init=init, name="boxed")(x)
            return nn.MultiHeadDotProductAttention(1, name="attention")(x)

    x = jnp.ones((1, 2, 3))
    boxed = drawn(jax.eval_shape(lambda: Boxed().init(jax.random.key(0), x)["params"]))
    bare = drawn(jax.eval_shape(lambda: nn.Dense(2).init(jax.random.key(0), x)["params"]))
    haiku = {"mlp/~/linear_0": {"w": rows(2, 3), "b": np.ones(3)}}
    attention = ["attention/key", "attention/out", "attention/query", "attention/value"]
    for tree, names in [
        (drawn(nnx.state(nnx.eval_shape(Dense), nnx.Param)), ["dense1", "value"]),
        (boxed, [*attention, "boxed"]),
        (bare, ["kernel"]),
        (haiku, ["mlp/~/linear_0"]),
        (module(), ["layers/0", "layers/1"]),
        ([{"w": rows(2, 2), "b": np.ones(2)}, {"w": np.ones(2)}], ["0"]),
    ]:
        assert list(masks.kernels(tree)) == names
        ends = [path.rpartition("/")[2] for path in leaves.prunable_paths(tree)]
        assert len(ends) == len(names) and set(ends) <= {"kernel", "w", "weight", "value"}
        mask = masks.prune(scores.magnitude(tree), masks.ones_like(tree), 0.5)
        assert jax.tree.structure(mask) == jax.tree.structure(tree)
        kept, total = masks.counts(mask)
        assert kept == round(total / 2) and masks.density(mask) == kept / total
        zeros = [np.count_nonzero(k) for k in masks.kernels(masks.apply(mask, tree)).values()]
        assert sum(zeros) == kept


def test_the_best_weights_of_an_nnx_state_are_those_of_its_plain_dict():
    shapes = nnx.eval_shape(lambda: nnx.Linear(6, 5, rngs=nnx.Rngs(0)))
    state = drawn(nnx.state(shapes, nnx.Param))
    plain = nnx.to_pure_dict(state)
    found, expected = (
        masks.prune(scores.magnitude(tree), masks.ones_like(tree), 0.3) for tree in (state, plain)
    )
    np.testing.assert_array_equal(nnx.to_pure_dict(found)["kernel"], expected["kernel"])


@pytest.mark.parametrize(
    "patterns, names",
    [
        ("embedding", ["words/embedding"]),
        ("*/embedding", ["words/embedding"]),
        ("words/*", ["words/embedding", "words/scale"]),
        (["out", "scale"], ["out", "words/scale"]),
        (lambda path, leaf: leaf.shape == (5, 2), ["words/embedding"]),
    ],
)
def test_patterns_and_predicates_choose_other_leaves(patterns, names):
    tree = {"words": {"embedding": rows(5, 2), "scale": np.ones(2)}, "out": rows(2, 2, 1)}
    assert sorted(masks.kernels(tree, prunable=patterns)) == names
    mask = masks.ones_like(tree)
    mask = masks.prune(scores.random(tree, jax.random.key(0)), mask, 0.5, prunable=patterns)
    for path, leaf in {"words/embedding": mask["words"]["embedding"], "out": mask["out"],
                       "words/scale": mask["words"]["scale"]}.items():  # fmt: skip
        assert path in names or leaf.all()
    total = sum(np.size(leaf) for leaf in masks.kernels(tree, prunable=patterns).values())
    assert masks.counts(mask, prunable=patterns) == (round(total / 2), total)


def test_layers_with_two_prunable_leaves_keep_both():
    tree = {"a": {"kernel": rows(2, 2), "w": rows(2, 3)}, "b": {"w": rows(2, 2)}}
    assert list(masks.kernels(tree)) == ["a/kernel", "a/w", "b"]
    assert masks.counts(masks.ones_like(tree)) == (14, 14)
    with pytest.raises(ValueError, match="several prunable leaves have the path a/w"):
        masks.kernels({"a/w": rows(2, 2), "a": {"w": rows(2, 2)}})


@pytest.mark.parametrize(
    "action",
    [
        lambda tree: masks.prune(tree, masks.ones_like(tree), 0.5),
        lambda tree: masks.density(masks.ones_like(tree)),
        lambda tree: masks.permute(masks.ones_like(tree), jax.random.key(0)),
        lambda tree: masks.ranking_groups(masks.ones_like(tree), "layer"),
    ],
)
def test_nothing_prunable_is_an_error_that_says_how_to_choose(action):
    tree = {"words": {"embedding": rows(5, 2)}, "norm": {"weight": np.ones(2)}, "f": max}
    with pytest.raises(ValueError, match=r"no leaf is prunable.*kernel, w or weight") as caught:
        action(tree)
    message = str(caught.value)
    assert "norm/weight (2,), words/embedding (5, 2)" in message and "prunable=" in message
    with pytest.raises(ValueError, match="none fits prunable='embeding'"):
        masks.density(masks.ones_like(tree), prunable="embeding")
    assert masks.counts(masks.ones_like(tree)) == (0, 0)


def test_leaves_that_are_no_arrays_pass_through():
    net = module()
    mask = masks.ones_like(net)
    pruned = masks.prune(scores.magnitude(net), mask, 0.5)
    moved = masks.permute(pruned, jax.random.key(1))
    noise = scores.random(net, jax.random.key(2))
    for tree in (mask, pruned, moved, noise, masks.apply(pruned, net), scores.magnitude(net)):
        assert (tree.activation, tree.name, tree.rate, tree.head) == (jnp.tanh, "mlp", 0.5, None)
        assert tree.key is net.key and tree.layers[1].bias is None
    assert (masks.apply(pruned, net).calls == net.calls).all() and pruned.calls.all()
    weights = masks.kernels(masks.apply(pruned, net)).values()
    assert sum(np.count_nonzero(w) for w in weights) == masks.counts(pruned)[0] == 9


def test_a_mask_of_a_module_fits_its_arrays_alone():
    """As after a library's `filter` or `partition`, which leave None in place of other leaves."""
    net = module()
    arrays = jax.tree.map(lambda leaf: leaf if leaves.is_array(leaf) else None, net)
    mask = masks.prune(scores.magnitude(net), masks.ones_like(net), 0.5)
    whole, part = masks.apply(mask, net), masks.apply(mask, arrays)
    np.testing.assert_array_equal(whole.layers[0].weight, part.layers[0].weight)
    assert part.activation is None
    np.testing.assert_array_equal(
        jax.jit(lambda m, p: masks.apply(m, p))(masks.ones_like(arrays), arrays).layers[0].weight,
        net.layers[0].weight,
    )


def test_gradient_scores_of_a_module_are_those_of_its_weights():
    """SNIP, GraSP and SynFlow of a module with other leaves, and of its weights in a dict."""
    net, x = module(), rows(7, 4, 5)

    def forward(weights, biases, x, activation):
        hidden = activation(x @ weights[0].T + biases)
        return hidden @ weights[1].T

    def of_module(net, batch):
        assert net.name == "mlp" and net.rate == 0.5
        weights = [layer.weight for layer in net.layers]
        scale = net.calls.shape[0] - 1  # 1; counters are arrays for the loss, too
        return jnp.mean(scale * forward(weights, net.layers[0].bias, batch, net.activation) ** 2)

    def of_plain(params, batch):
        weights = [params["0"]["w"], params["1"]["w"]]
        return jnp.mean(forward(weights, params["0"]["b"], batch, jnp.tanh) ** 2)

    plain = {"0": {"w": net.layers[0].weight, "b": net.layers[0].bias},
             "1": {"w": net.layers[1].weight}}  # fmt: skip
    mask, plain_mask = masks.ones_like(net), masks.ones_like(plain)
    for found, expected in [
        (scores.snip(of_module, net, [x, x + 1]), scores.snip(of_plain, plain, [x, x + 1])),
        (scores.grasp(of_module, net, mask, [x]), scores.grasp(of_plain, plain, plain_mask, [x])),
        (scores.synflow(of_module, net, x), scores.synflow(of_plain, plain, x)),
    ]:
        for name, one in masks.kernels(found).items():
            two = masks.kernels(expected)[name.removeprefix("layers/")]
            np.testing.assert_allclose(one, two, rtol=1e-6)
            assert np.count_nonzero(one)
        assert found.activation is jnp.tanh and found.key is net.key
        np.testing.assert_array_equal(found.calls, net.calls)


def test_a_modules_loss_is_compiled_once_for_all_its_weights():
    traced = []

    def loss(net, batch):
        traced.append(1)
        return jnp.mean(net.activation(batch @ net.layers[0].weight.T) ** 2)

    for seed in range(3):
        net = module()
        net.layers[0].weight = rows(3, 4, seed)
        scores.snip(loss, net, [rows(2, 4)])
    assert len(traced) == 1


def test_arrays_on_a_mesh_give_the_masks_of_the_host():
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
    host = {"a": {"kernel": rows(8, 6).round(1), "bias": np.ones(6)}, "b": {"kernel": rows(6, 4)}}
    spread = jax.device_put(host, NamedSharding(mesh, P(None)))
    spread["a"]["kernel"] = jax.device_put(
        host["a"]["kernel"], NamedSharding(mesh, P(*mesh.axis_names))
    )
    assert len(spread["a"]["kernel"].sharding.device_set) == jax.device_count() == 8
    results = []
    for tree in (host, spread):
        score = jax.jit(scores.magnitude)(tree)
        mask = masks.prune(score, masks.ones_like(tree), 0.6)
        on_devices = jax.tree.map(lambda m, p: jax.device_put(m, p.sharding) if hasattr(p, "sharding")
                                  else m, mask, tree)  # fmt: skip
        mask = masks.prune(score, on_devices, 0.5)
        results.append((mask, masks.apply(mask, tree), masks.permute(mask, jax.random.key(0)),
                        masks.density(on_devices)))  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, *results)
    applied = results[1][1]["a"]["kernel"]
    assert applied.sharding.is_equivalent_to(spread["a"]["kernel"].sharding, 2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_weights_of_few_bits_are_ranked_as_their_values(dtype):
    few = {"w": jnp.asarray(rows(40, 50), dtype)}
    mask = masks.prune(scores.magnitude(few), masks.ones_like(few), 0.9)
    same = {"w": np.asarray(few["w"], np.float32)}
    expected = masks.prune(scores.magnitude(same), masks.ones_like(same), 0.9)
    np.testing.assert_array_equal(mask["w"], expected["w"])
    assert masks.apply(mask, few)["w"].dtype == dtype


def test_shapes_that_stand_for_arrays_are_enough():
    shapes = jax.eval_shape(lambda: {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}})
    mask = lj.masks.ones_like(shapes)
    assert mask["dense"]["bias"].shape == (2,) and list(masks.kernels(shapes)) == ["dense"]
