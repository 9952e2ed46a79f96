"""Masks have exact counts, nest and break ties as a plain stable sort does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lottery_jax.pruning import masks, scores

# Few distinct values, so that ties are common, and both zeros.
FLOATS = st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, 3.5, np.inf])


def sorted_reference(values, count):
    """Return the `count` largest by a stable descending sort: among equals the earlier first."""
    keep = np.zeros(len(values), bool)
    keep[np.argsort(-values, kind="stable")[:count]] = True
    return keep


@given(hnp.arrays(np.float32, st.integers(0, 60), elements=FLOATS), st.data())
def test_keep_largest_is_a_stable_sort(values, data):
    count = data.draw(st.integers(0, len(values)))
    np.testing.assert_array_equal(
        masks.keep_largest(values, count), sorted_reference(values, count)
    )


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["normal", "rounded", "sorted", "equal", "few large", "periodic"]),
    st.floats(0.02, 1.0),
    st.floats(0.0, 1.0),
)
def test_a_sample_changes_no_mask(seed, kind, share_alive, share_kept):
    """Large arrays, some of which mislead a sample, are compared with a sort of the survivors."""
    rng, n = np.random.default_rng(seed), 4000
    values = {
        "normal": lambda: rng.normal(size=n),
        "rounded": lambda: rng.normal(size=n).round(1),
        "sorted": lambda: np.sort(rng.normal(size=n)),
        "equal": lambda: np.zeros(n),
        "few large": lambda: np.where(rng.random(n) < 0.002, 1e30, rng.random(n)),
        "periodic": lambda: np.arange(n) % 62.0,  # the step from one of the sample to the next
    }[kind]().astype(np.float32)
    alive = rng.random(n) < share_alive
    alive[0] = True
    count = max(1, round(share_kept * alive.sum()))
    layers = {"a": slice(0, 1), "b": slice(1, 1500), "c": slice(1500, n)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "_SAMPLE", 64)
        new = masks.prune_to(
            {name: {"kernel": values[None, part]} for name, part in layers.items()},
            {name: {"kernel": alive[None, part]} for name, part in layers.items()},
            {tuple(layers): count},
        )
    survivors = np.flatnonzero(alive)
    expected = np.zeros(n, bool)
    expected[survivors[sorted_reference(values[survivors], count)]] = True
    np.testing.assert_array_equal(np.concatenate([v["kernel"][0] for v in new.values()]), expected)


def network(rng, sizes=((3, 3, 1, 4), (16, 5), (5, 2))):
    return {
        f"layer{i}": {
            # Repeated values, so that thresholds cut through ties.
            "kernel": rng.integers(-3, 4, size).astype(np.float32),
            "bias": rng.normal(size=size[-1:]).astype(np.float32),
        }
        for i, size in enumerate(sizes)
    } | {"bn": {"scale": np.full(4, 1e-9, np.float32), "bias": np.zeros(4, np.float32)}}


def test_layers_without_a_prunable_leaf_are_refused():
    """A name that is misspelt must not leave the tree as it was."""
    params = network(np.random.default_rng(0))
    for name in ("layer9", "bn"):
        with pytest.raises(ValueError, match=f"no prunable layer named {name}"):
            masks.with_kernels(params, {name: 0.0})
        with pytest.raises(ValueError, match=f"no prunable layer named {name}"):
            masks.kernels(params, [name])
    with pytest.raises(TypeError, match=r"a list, such as \['layer1'\], not one text"):
        masks.kernels(params, "layer1")


@pytest.mark.parametrize("dtype", [int, np.float32])
def test_masks_of_zeros_and_ones_are_masks(dtype):
    """They must not be taken for indices."""
    params = {"a": {"kernel": np.array([[4.0, 3.0], [2.0, 1.0]])}}
    for mask in ([[1, 1], [1, 1]], [[0, 1], [1, 1]]):
        given = {"a": {"kernel": np.array(mask, dtype)}}
        found = masks.prune(params, given, 0.25)["a"]["kernel"]
        expected = masks.prune(params, {"a": {"kernel": np.array(mask, bool)}}, 0.25)
        np.testing.assert_array_equal(found, expected["a"]["kernel"])
        assert found.dtype == bool and found.sum() == round(np.sum(mask) * 0.75)


def test_a_mask_must_fit_its_array():
    ones = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(masks.apply({"w": np.array([True, False, True])}, {"w": ones})["w"],
                                  ones * [1, 0, 1])  # fmt: skip
    for shape in ((3, 2), (1, 2, 3), (4, 3)):
        with pytest.raises(ValueError, match=r"does not fit an array of shape \(2, 3\)"):
            masks.apply({"w": np.ones(shape, bool)}, {"w": ones})


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.6), st.sampled_from(masks.SCOPES))
def test_a_ladder_of_masks_nests_with_exact_counts(seed, fraction, scope):
    rng = np.random.default_rng(seed)
    params = network(rng)
    mask = masks.ones_like(params)
    for _ in range(4):
        score = scores.magnitude(params)
        new = masks.prune(score, mask, fraction, scope=scope)
        before, after = masks.layer_counts(mask), masks.layer_counts(new)
        if scope == "global":
            alive = sum(n for n, _ in before.values())
            assert masks.counts(new)[0] == round(alive * (1 - fraction))
        else:
            for name, (alive, _) in before.items():
                assert after[name][0] == round(alive * (1 - fraction))
        for old, kept in zip(jax.tree.leaves(mask), jax.tree.leaves(new), strict=True):
            assert not np.any(kept & ~old)
        mask = new
        params = jax.tree.map(lambda p: p + rng.integers(-1, 2, p.shape), params)


def test_global_pruning_equals_one_sort_over_all_survivors():
    rng = np.random.default_rng(1)
    params = network(rng)
    mask = masks.prune(scores.magnitude(params), masks.ones_like(params), 0.3)
    params = network(rng)
    new = masks.prune(scores.magnitude(params), mask, 0.3)
    names = sorted(masks.kernels(params))
    old = np.concatenate([mask[n]["kernel"].ravel() for n in names])
    values = np.concatenate([np.abs(params[n]["kernel"]).ravel() for n in names])
    expected = old.copy()
    expected[old] = sorted_reference(values[old], round(old.sum() * 0.7))
    np.testing.assert_array_equal(
        np.concatenate([new[n]["kernel"].ravel() for n in names]), expected
    )


def test_biases_and_batch_norm_are_neither_pruned_nor_counted():
    params = network(np.random.default_rng(0))
    mask = masks.prune(scores.magnitude(params), masks.ones_like(params), 0.9)
    assert all(mask[f"layer{i}"]["bias"].all() for i in range(3))
    assert mask["bn"]["scale"].all() and mask["bn"]["bias"].all()
    total = 3 * 3 * 4 + 16 * 5 + 5 * 2
    assert masks.counts(mask) == (round(total * 0.1), total)


@pytest.mark.parametrize("scope", masks.SCOPES)
def test_another_predicate_prunes_other_leaves_in_the_same_way(scope):
    """The same weights as leaves named `query` in a list have the same masks and counts."""
    params = network(np.random.default_rng(5))
    renamed = [{"query": layer["kernel"]} for name, layer in params.items() if name != "bn"]
    is_query = {"prunable": lambda path, leaf: path.endswith("/query")}
    dense, other = masks.ones_like(params), masks.ones_like(renamed)
    assert masks.counts(other) == (0, 0)
    assert masks.counts(other, **is_query) == masks.counts(dense)
    for options, skip in (({}, "layer2"), (is_query, "2/query")):
        tree, mask = (params, dense) if not options else (renamed, other)
        pruned = masks.prune(scores.magnitude(tree), mask, 0.4, scope=scope, skip=[skip], **options)
        moved = masks.permute(pruned, jax.random.key(1), scope=scope, skip=[skip], **options)
        if not options:
            expected = [masks.kernels(m).values() for m in (pruned, moved)]
    for found, those in zip((pruned, moved), expected, strict=True):
        for ours, theirs in zip(masks.kernels(found, **is_query).values(), those, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_skipped_layers_stay_dense():
    params = network(np.random.default_rng(0))
    mask = masks.prune(scores.magnitude(params), masks.ones_like(params), 0.5, skip=["layer2"])
    assert masks.layer_counts(mask)["layer2"] == (10, 10)
    assert masks.counts(mask)[0] == round((36 + 80) * 0.5) + 10


def test_global_ranking_is_not_normalised_by_layer():
    params = {"big": {"kernel": np.full((4, 4), 100.0)}, "small": {"kernel": np.full((4, 4), 1.0)}}
    mask = masks.prune(scores.magnitude(params), masks.ones_like(params), 0.5)
    assert masks.layer_counts(mask) == {"big": (16, 16), "small": (0, 16)}
    assert masks.collapsed_layers(mask) == ["small"]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 20])
def test_a_fraction_outside_the_range_is_an_error(fraction):
    params = network(np.random.default_rng(0))
    with pytest.raises(ValueError, match="fraction must be"):
        masks.prune(scores.magnitude(params), masks.ones_like(params), fraction)


def test_pruning_everything_is_an_error():
    params = {"a": {"kernel": np.ones((1, 2))}}
    with pytest.raises(ValueError, match="no weight at all"):
        masks.prune(params, masks.ones_like(params), 0.9)
    found = masks.prune(params, masks.ones_like(params), 0.9, skip=["a"])  # nothing is ranked
    assert found["a"]["kernel"].all()


def test_nan_scores_are_an_error():
    params = {"a": {"kernel": np.array([[1.0, np.nan]])}}
    with pytest.raises(ValueError, match="NaN"):
        masks.prune(params, masks.ones_like(params), 0.5)


def test_apply_gives_positive_zero_even_for_infinities():
    mask = {"a": {"kernel": np.array([False, False, True])}}
    params = {"a": {"kernel": jnp.array([-2.0, jnp.inf, -3.0])}}
    out = np.asarray(jax.jit(masks.apply)(mask, params)["a"]["kernel"])
    assert out.tolist() == [0.0, 0.0, -3.0]
    assert not np.signbit(out[:2]).any()


def test_permutation_keeps_counts_and_moves_weights():
    params = network(np.random.default_rng(0))
    mask = masks.prune(scores.magnitude(params), masks.ones_like(params), 0.7)
    key = jax.random.key(3)
    run_on_all = masks.permute(mask, key)
    within = masks.permute(mask, key, scope="layer")
    assert masks.counts(run_on_all) == masks.counts(mask)
    assert masks.layer_counts(run_on_all) != masks.layer_counts(mask)
    assert masks.layer_counts(within) == masks.layer_counts(mask)
    assert not np.array_equal(within["layer1"]["kernel"], mask["layer1"]["kernel"])
    skipped = masks.permute(mask, key, skip=["layer0"])
    np.testing.assert_array_equal(skipped["layer0"]["kernel"], mask["layer0"]["kernel"])
    assert not np.array_equal(skipped["layer1"]["kernel"], mask["layer1"]["kernel"])
