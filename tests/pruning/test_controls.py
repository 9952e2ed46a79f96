"""Controls: what each keeps of the winning ticket and what it takes away."""

import itertools

import jax
import numpy as np
import pytest

from lottery_jax.pruning import masks, scores
from lottery_jax.pruning.controls import (
    CONTROLS,
    ControlInputs,
    OtherInitialisation,
    UntrainedTicket,
    find_control,
    is_from_rewind_point,
    register_control,
)
from lottery_jax.pruning.ratios import smart_ratios
from tests import golden
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
OTHER = OtherInitialisation(draw(4), rotated)
TRAINED = draw(3)
# name -> (mask: same, in layers, anywhere, of the worst weights or in layers at other ratios;
#          weights: rewind, new, initial, or those that a test below looks at)
WHAT = {
    "reinit": ("same", "new"),
    "shuffle_layers": ("layers", "rewind"),
    "shuffle_global": ("anywhere", "rewind"),
    "random": ("anywhere", "new"),
    "random_preserved": ("layers", "new"),
    "init": ("same", "initial"),
    "dense_sign": ("same", "signs"),
    "noise": ("same", "noisy"),
    "noise_0.5": ("same", "noisy"),
    "resample": ("same", "resampled"),
    "rescaled": ("same", "new"),
    "invert": ("worst", "rewind"),
    "smart_ratio": ("ratios", "rewind"),
    "replayed_random": ("anywhere", "trained"),
    "aligned": ("layers", "other"),
    "unaligned": ("same", "other"),
}


def worst():
    params = draw(1)["params"]
    smallest = jax.tree.map(np.negative, scores.magnitude(params))
    return masks.prune(smallest, masks.ones_like(params), 0.9)


def trained_before():
    """Trained weights that are 0 where the level before was pruned: at a random half."""
    rng = np.random.default_rng(4)
    params = jax.tree.map(lambda w: w * (rng.random(w.shape) < 0.5), TRAINED["params"])
    return {**TRAINED, "params": params}


def kept_of(ticket, layer):
    return masks.kernels(ticket.variables["params"])[layer][masks.kernels(ticket.mask)[layer]]


INPUTS = ControlInputs(
    init, INITIAL, layers=list(SIZES), worst=worst, before=trained_before, other=OTHER
)


def test_the_table_has_every_control():
    assert set(WHAT) - {"noise_0.5"} == set(CONTROLS)


@pytest.mark.parametrize("name", WHAT)
def test_a_control_keeps_the_count_and_changes_what_it_says(name, winner):
    where, weights = WHAT[name]
    before = jax.tree.map(np.copy, winner)
    control = find_control(name)(winner, KEY, INPUTS)
    assert_same(winner, before)  # nothing is changed in place
    assert masks.counts(control.mask) == masks.counts(winner.mask)
    if where == "same":
        assert_same(control.mask, winner.mask)
    elif where == "worst":
        assert_same(control.mask, worst())
    else:
        layers = masks.layer_counts(control.mask), masks.layer_counts(winner.mask)
        assert (layers[0] == layers[1]) == (where == "layers")
        for layer, mask in masks.kernels(control.mask).items():
            # Two masks that have nothing to do with each other share, of what one keeps, the share
            # that the other keeps of everything.
            old = masks.kernels(winner.mask)[layer]
            assert (mask & old).sum() < 2 * mask.mean() * old.sum() + 5, layer
    if weights == "rewind":
        assert_same(control.variables, winner.variables)
    if weights == "initial":
        assert_same(control.variables, INITIAL)
    if weights == "trained":
        assert_same(control.variables, trained_before())
    from_rewind_point = weights not in ("new", "initial")
    assert control.step == (17 if from_rewind_point else 0)
    assert is_from_rewind_point(name) == from_rewind_point
    if weights == "other":
        assert_same(control.variables, OTHER.variables)
    if name == "aligned":
        assert_same(control.mask, rotated(winner.mask))
    for layer, kernel in masks.kernels(control.variables["params"]).items():
        kept = kernel[masks.kernels(control.mask)[layer]]
        # No weight at the mask's places is a zero left over from the old mask; but this is the
        # very mistake that a replay replays.
        assert (kept != 0).all() if weights != "trained" else 0.3 < (kept == 0).mean() < 0.7
        assert kernel.dtype == np.float32
        if weights == "new":
            assert not (kernel == masks.kernels(winner.variables["params"])[layer]).any()
        if weights in ("noisy", "resampled"):
            assert (kernel[masks.kernels(winner.mask)[layer]] != kept_of(winner, layer)).any()
            bias = control.variables["params"][layer]["bias"]
            np.testing.assert_array_equal(bias, winner.variables["params"][layer]["bias"])
            assert_same(control.variables["batch_stats"], winner.variables["batch_stats"])


@pytest.mark.parametrize("name", ["reinit", "random", "random_preserved", "shuffle_layers", "smart_ratio",
                                  "noise", "resample", "rescaled", "replayed_random"])  # fmt: skip
def test_another_key_gives_another_control(name, winner):
    one, same, other = (CONTROLS[name](winner, jax.random.key(k), INPUTS) for k in (1, 1, 2))
    assert_same(one, same)
    moves = name in ("shuffle_layers", "smart_ratio", "replayed_random")
    trees = (one.mask, other.mask) if moves else (one.variables, other.variables)
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


@pytest.mark.parametrize(
    "name", ["shuffle_layers", "shuffle_global", "random", "smart_ratio", "replayed_random"]
)
def test_layers_that_are_never_pruned_stay_dense(name, winner):
    mask = masks.with_kernels(winner.mask, {"head": np.ones(SIZES["head"], bool)})
    start = winner._replace(mask=mask)
    control = CONTROLS[name](start, KEY, INPUTS._replace(skip=["head"]))
    assert control.mask["head"]["kernel"].all()
    assert masks.counts(control.mask) == masks.counts(mask)


@pytest.mark.parametrize("name, sigmas", [("noise", 1), ("noise_0.5", 0.5), ("noise_3", 3)])
def test_noise_has_its_size_in_units_of_each_layer(name, sigmas, winner):
    scaled = jax.tree.map(np.copy, winner.variables)
    scaled["params"]["dense"]["kernel"] *= 7  # so that layers have sigmas of their own
    control = find_control(name)(winner._replace(variables=scaled), KEY, INPUTS)
    for layer, kernel in masks.kernels(control.variables["params"]).items():
        clean = masks.kernels(scaled["params"])[layer]
        drawn = (kernel - clean).ravel() / (sigmas * clean.std())
        n = drawn.size
        assert abs(drawn.mean()) < 4 / n**0.5 and abs(drawn.std() - 1) < 4 / (2 * n) ** 0.5
        assert abs(np.corrcoef(drawn, clean.ravel())[0, 1]) < 4 / n**0.5  # no part of the weights


@pytest.mark.parametrize(
    "name", ["noise_0", "noise_", "noise_-1", "noise_x", "noise_1e3", "noise5"]
)
def test_a_name_that_is_no_amount_of_noise_is_no_control(name):
    with pytest.raises(KeyError):
        find_control(name)


def test_names_of_noise_are_taken():
    with pytest.raises(ValueError, match="already"):
        register_control("noise_2", CONTROLS["reinit"])


def test_resampled_weights_are_the_layers_own_survivors_drawn_with_replacement(winner):
    empty = masks.with_kernels(winner.mask, {"head": np.zeros(SIZES["head"], bool)})
    control = CONTROLS["resample"](winner._replace(mask=empty), KEY, INPUTS)
    kernels, old = (masks.kernels(t.variables["params"]) for t in (control, winner))
    for layer, kept in masks.kernels(empty).items():
        survivors, drawn = old[layer][kept], kernels[layer][kept]
        assert set(drawn) <= set(survivors)
        if kept.any():
            # With replacement, a share of about 1 / e is never drawn.
            assert 0.5 < len(set(drawn)) / len(survivors) < 0.75
    np.testing.assert_array_equal(kernels["head"], old["head"])  # nothing to draw from


def test_rescaled_weights_give_outputs_the_variance_of_the_dense_network():
    rng = np.random.default_rng(5)
    shapes = {"wide": (400, 300), "sparse": (500, 200), "empty": (20, 30)}
    densities = {"wide": 0.5, "sparse": 0.02, "empty": 0.0}

    def fresh(key):
        drawn = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        kernels = {n: drawn.normal(size=s).astype(np.float32) for n, s in shapes.items()}
        return {"params": {n: {"kernel": k} for n, k in kernels.items()}, "batch_stats": {}}

    mask = {n: {"kernel": rng.random(s) < densities[n]} for n, s in shapes.items()}
    start = UntrainedTicket(mask, fresh(jax.random.key(0)), 9)
    inputs = ControlInputs(fresh, start.variables)
    weights = CONTROLS["rescaled"](start, KEY, inputs).variables["params"]
    reinit = CONTROLS["reinit"](start, KEY, inputs).variables["params"]
    for name in ("wide", "sparse"):
        x = rng.normal(size=(1000, shapes[name][0]))
        dense = x @ fresh(jax.random.key(1))["params"][name]["kernel"]
        ticket = x @ (weights[name]["kernel"] * mask[name]["kernel"])
        np.testing.assert_allclose(ticket.var(), dense.var(), rtol=0.06)
        ratio = weights[name]["kernel"] / reinit[name]["kernel"]
        np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-6)  # otherwise it is reinit
    np.testing.assert_array_equal(weights["empty"]["kernel"], reinit["empty"]["kernel"])


def test_smart_ratios_are_those_of_the_formula():
    """By hand: L = 4, so 4*5, 3*4, 2*3 and 1*2; the output keeps 30 % whatever its place says."""
    sizes = {"a": 100, "b": 1000, "c": 1000, "head": 200}
    # The factor f of (100*20 + 1000*12 + 1000*6) f = 560 - 60 is 1 / 40.
    assert smart_ratios(sizes, 560, output="head") == {"a": 50, "b": 300, "c": 150, "head": 60}
    # (100*20 + 1000*12 + 1000*6 + 200*2) f = 510 without an output: again 1 / 40.
    assert smart_ratios(sizes, 510) == {"a": 50, "b": 300, "c": 150, "head": 10}
    # At f = 1 / 10 layer a would keep 200 of 100 and b 1200 of 1000: both are full.
    assert smart_ratios(sizes, 1760, output="head") == {"a": 100, "b": 1000, "c": 600, "head": 60}
    # 60 of 80 would be more than half for the output; the other 40 are split 4 : 24 : 12.
    assert smart_ratios(sizes, 80, output="head") == {"a": 4, "b": 24, "c": 12, "head": 40}
    assert smart_ratios(sizes, 2200, output="head") == {**sizes, "head": 100}


def test_smart_ratios_keep_exactly_the_total_and_fall_from_input_to_output():
    rng = np.random.default_rng(6)
    for _ in range(200):
        sizes = {f"l{i}": int(n) for i, n in enumerate(rng.integers(1, 5000, rng.integers(1, 9)))}
        keep = int(rng.integers(0, sum(sizes.values()) + 1))
        output = [*sizes][-1] if rng.random() < 0.5 else None
        counts = smart_ratios(sizes, keep, output=output)
        assert sum(counts.values()) == keep and list(counts) == list(sizes)
        assert all(0 <= counts[name] <= size for name, size in sizes.items())
        ruled = [name for name in sizes if name != output]
        for earlier, later in itertools.pairwise(ruled):
            # To within the rounding to whole weights.
            slack = 1 / sizes[earlier] + 1 / sizes[later]
            assert counts[earlier] / sizes[earlier] > counts[later] / sizes[later] - slack
    with pytest.raises(ValueError, match="can't keep 7 of 6"):
        smart_ratios({"a": 6}, 7)


def test_smart_ratio_follows_the_order_of_the_network(winner):
    """The tree is in the order of names, where `conv` comes first; here it comes last but one."""
    order = ["dense", "conv", "head"]
    control = CONTROLS["smart_ratio"](winner, KEY, INPUTS._replace(layers=order))
    sizes = {name: int(np.prod(SIZES[name])) for name in order}
    expected = smart_ratios(sizes, masks.counts(winner.mask)[0], output="head")
    assert {n: kept for n, (kept, _) in masks.layer_counts(control.mask).items()} == expected


@pytest.mark.parametrize("name", ["invert", "replayed_random", "aligned", "unaligned"])
def test_a_control_without_what_a_run_provides_says_so(name, winner):
    with pytest.raises(ValueError, match="ControlInputs"):
        CONTROLS[name](winner, KEY, ControlInputs(init, INITIAL))


def test_the_golden_record_has_every_control():
    recorded = ",".join(run.get("controls", "") for run in golden.RUNS.values()).split(",")
    assert CONTROLS.keys() <= set(recorded)
