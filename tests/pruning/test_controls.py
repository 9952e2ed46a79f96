"""Controls: what each keeps of the winning ticket and what it takes away."""

import jax
import numpy as np
import pytest

from lottery_jax.pruning import masks, scores
from lottery_jax.pruning.controls import (
    CONTROLS,
    ControlInputs,
    OtherInitialisation,
    UntrainedTicket,
)
from tests.helpers import assert_same

SIZES = {"conv": (3, 3, 2, 40), "dense": (50, 60), "head": (60, 10)}
KEY = jax.random.key(11)


def draw(seed):
    """Variables without a zero or a repeated value, so that every one is recognised."""
    rng = np.random.default_rng(seed)
    params = {
        name: {
            "kernel": rng.normal(size=shape).astype(np.float32),
            "bias": rng.normal(size=shape[-1:]).astype(np.float32),
        }
        for name, shape in SIZES.items()
    }
    return {"params": params, "batch_stats": {"bn": {"mean": rng.normal(size=3)}}}


def init(key):
    return draw(np.asarray(jax.random.key_data(key)))


@pytest.fixture(scope="module")
def winner():
    variables = draw(1)
    mask = masks.prune(
        scores.magnitude(variables["params"]), masks.ones_like(variables["params"]), 0.9
    )
    return UntrainedTicket(mask, variables, 17)


def rotated(mask):
    """A mask whose units have changed places, as `aligned` is given them."""
    return masks.with_kernels(
        mask, {name: np.roll(kernel, 3, -1) for name, kernel in masks.kernels(mask).items()}
    )


INITIAL = draw(2)
OTHER = OtherInitialisation(draw(3), rotated)
# name -> (mask: same, in layers or anywhere; weights: rewind, new, initial, signs or other)
WHAT = {
    "reinit": ("same", "new"),
    "shuffle_layers": ("layers", "rewind"),
    "shuffle_global": ("anywhere", "rewind"),
    "random": ("anywhere", "new"),
    "random_preserved": ("layers", "new"),
    "init": ("same", "initial"),
    "dense_sign": ("same", "signs"),
    "aligned": ("layers", "other"),
    "unaligned": ("same", "other"),
}


def test_the_table_has_every_control():
    assert set(WHAT) == set(CONTROLS)


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_keeps_the_count_and_changes_what_it_says(name, winner):
    where, weights = WHAT[name]
    before = jax.tree.map(np.copy, winner)
    control = CONTROLS[name](winner, KEY, ControlInputs(init, INITIAL, other=OTHER))
    assert_same(winner, before)  # nothing is changed in place
    assert masks.counts(control.mask) == masks.counts(winner.mask)
    if where == "same":
        assert_same(control.mask, winner.mask)
    else:
        layers = masks.layer_counts(control.mask), masks.layer_counts(winner.mask)
        assert (layers[0] == layers[1]) == (where == "layers")
        for layer, mask in masks.kernels(control.mask).items():
            # At a tenth of the weights, two masks that have nothing to do with each other
            # share a tenth of what they keep.
            old = masks.kernels(winner.mask)[layer]
            assert (mask & old).sum() < 0.4 * old.sum(), layer
    if weights == "rewind":
        assert_same(control.variables, winner.variables)
    if weights == "initial":
        assert_same(control.variables, INITIAL)
    if weights == "other":
        assert_same(control.variables, OTHER.variables)
    if name == "aligned":
        assert_same(control.mask, rotated(winner.mask))
    assert control.step == (17 if weights in ("rewind", "signs", "other") else 0)
    for layer, kernel in masks.kernels(control.variables["params"]).items():
        # No weight at the mask's places is a zero left over from the old mask.
        assert (kernel[masks.kernels(control.mask)[layer]] != 0).all()
        if weights == "new":
            assert not (kernel == masks.kernels(winner.variables["params"])[layer]).any()


@pytest.mark.parametrize("name", ["reinit", "random", "random_preserved", "shuffle_layers"])
def test_another_key_gives_another_control(name, winner):
    one, same, other = (
        CONTROLS[name](winner, jax.random.key(k), ControlInputs(init, INITIAL)) for k in (1, 1, 2)
    )
    assert_same(one, same)
    trees = (one.mask, other.mask) if "shuffle" in name else (one.variables, other.variables)
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(*(jax.tree.leaves(tree) for tree in trees), strict=True)
    )


def test_signs_keep_their_layers_magnitude_and_nothing_else(winner):
    control = CONTROLS["dense_sign"](winner, KEY, ControlInputs(init, INITIAL))
    for layer, kernel in masks.kernels(control.variables["params"]).items():
        original = masks.kernels(winner.variables["params"])[layer]
        np.testing.assert_array_equal(np.sign(kernel), np.sign(original))
        np.testing.assert_allclose(np.abs(kernel), original.std(), rtol=1e-6)
        assert kernel.dtype == np.float32
        bias = control.variables["params"][layer]["bias"]
        np.testing.assert_array_equal(bias, winner.variables["params"][layer]["bias"])
    assert_same(control.variables["batch_stats"], winner.variables["batch_stats"])


@pytest.mark.parametrize("name", ["shuffle_layers", "shuffle_global", "random"])
def test_layers_that_are_never_pruned_stay_dense(name, winner):
    mask = masks.with_kernels(winner.mask, {"head": np.ones(SIZES["head"], bool)})
    start = winner._replace(mask=mask)
    control = CONTROLS[name](start, KEY, ControlInputs(init, INITIAL, skip=["head"]))
    assert control.mask["head"]["kernel"].all()
    assert masks.counts(control.mask) == masks.counts(mask)
