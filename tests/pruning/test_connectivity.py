"""Connectivity: the weights on paths against a search through the network's graph."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from lottery_jax.leaves import by_path
from lottery_jax.models import abstract_variables, build_model
from lottery_jax.pruning import connectivity, masks
from lottery_jax.pruning.connectivity import effective_mask
from tests.pruning.graph import lenet, resnet18


@functools.cache
def network(name, side, width, **options):
    return build_model(name, 10, width=width, **options), (side, side, 1)


def random_mask(model, input_shape, density, seed):
    rng = np.random.default_rng(seed)
    mask = masks.ones_like(abstract_variables(model, input_shape)["params"])
    for kernel in masks.kernels(mask).values():
        kernel[...] = rng.random(kernel.shape) < density
    return mask


def check(reference, name, side, width, mask, **options):
    """Compares with the search; returns the effective kernels."""
    model, shape = network(name, side, width, **options)
    effective = effective_mask(model, mask, shape)
    assert jax.tree.structure(effective) == jax.tree.structure(mask)
    found, expected = masks.kernels(effective), reference(mask, side)
    for layer, kernel in expected.items():
        np.testing.assert_array_equal(found[layer], kernel, err_msg=layer)
    biases = jax.tree.map(lambda e: e.all(), effective)
    assert all(np.all(v) for k, v in by_path(biases).items() if "kernel" not in k)
    return found


@pytest.mark.parametrize("density", [0.02, 0.1])
def test_paths_through_dense_layers(density):
    mask = random_mask(*network("lenet_300_100", 8, 0.3), density, seed=1)
    found = check(lenet, "lenet_300_100", 8, 0.3, mask)
    kept, left = masks.counts(mask)[0], sum(k.sum() for k in found.values())
    assert 0 < left < kept


@pytest.mark.parametrize("density", [0.06, 0.2, 1.0])
def test_paths_through_convolutions_and_pooling(density):
    mask = random_mask(*network("conv2", 8, 0.1), density, seed=2)
    found = check(lenet, "conv2", 8, 0.1, mask)
    assert any(kernel.any() for kernel in found.values())


RESNET = ("resnet18", 8, 0.05)  # small, so that few pixels see the outer taps of the stem


def resnet_mask(density, seed=3):
    model, shape = network(*RESNET, stem="imagenet")
    return random_mask(model, shape, density, seed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "density, seed",
    [
        (0.05, 3),
        *(pytest.param(*case, marks=pytest.mark.long) for case in ((0.15, 4), (0.4, 5), (1.0, 6))),
    ],
)
def test_paths_around_shortcuts_and_through_overlapping_windows(density, seed):
    mask = resnet_mask(density, seed)
    found = check(resnet18, *RESNET, mask, stem="imagenet")
    # The last images have one pixel: all taps of these kernels but the middle one meet padding.
    outer = found["block4_2/conv1"].copy()
    outer[1, 1] = False
    assert not outer.any()


@pytest.mark.slow
@pytest.mark.parametrize("tap", [(0, 0), (0, 6), (3, 3), (6, 5)])
def test_every_tap_of_the_stem_counts_whichever_pixel_a_window_takes(tap):
    """One tap a filter: at the border it meets padding, and so only some pixels carry it."""
    mask = resnet_mask(1.0)
    stem = masks.kernels(mask)["stem"]
    stem[...] = False
    stem[tap] = True
    stem[3, 3, :, 0] = True  # and one filter with a second tap that every pixel has
    found = check(resnet18, *RESNET, mask, stem="imagenet")
    np.testing.assert_array_equal(found["stem"], stem)


@pytest.mark.slow
def test_a_dead_branch_leaves_the_shortcut():
    mask = resnet_mask(1.0)
    whole = check(resnet18, *RESNET, mask, stem="imagenet")
    masks.kernels(mask)["block2_2/conv2"][...] = False
    found = check(resnet18, *RESNET, mask, stem="imagenet")
    dead = {"block2_2/conv1", "block2_2/conv2"}
    assert {name for name in found if not found[name].any()} == dead
    for name in found.keys() - dead:
        np.testing.assert_array_equal(found[name], whole[name])


def test_an_empty_layer_leaves_no_path_at_all():
    model, shape = network("lenet_300_100", 8, 0.3)
    mask = random_mask(model, shape, 1.0, seed=0)
    masks.kernels(mask)["dense2"][...] = False
    assert masks.counts(effective_mask(model, mask, shape))[0] == 0


def in_a_scan(function):
    return lambda rows: jax.lax.scan(lambda _, row: (None, function(row)), None, rows)[1]


def in_a_branch(function):
    return lambda rows: jax.lax.cond(rows.sum() > 0, function, lambda rows: rows[:, 0], rows)


class Pooled(nn.Module):
    """A convolution whose units are pooled within `jit`, or by a maximum over all pixels."""

    over_axes: bool

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.Conv(1, (3, 3), name="conv")(x))
        if self.over_axes:  # the units that several paths reach are larger than the others
            x = (x + nn.relu(nn.Conv(1, (1, 1), name="side")(x))).max((1, 2))
        else:
            x = jax.jit(lambda y: nn.max_pool(y, (2, 2)))(x).reshape(len(x), -1)
        return nn.Dense(2, name="head")(x)


@pytest.mark.parametrize("over_axes", [False, True])
def test_every_entry_of_a_maximum_is_on_a_path(over_axes):
    """An image of 2x2 pixels: each of the nine taps meets a pixel at some place, and only there."""
    model, shape = Pooled(over_axes), (2, 2, 1)
    mask = masks.ones_like(abstract_variables(model, shape)["params"])
    found = masks.layer_counts(effective_mask(model, mask, shape))
    assert all(kept == total for kept, total in found.values()), found
    masks.kernels(mask)["head"][...] = False
    assert masks.counts(effective_mask(model, mask, shape))[0] == 0


class Normalised(nn.Module):
    """A branch whose inputs are normalised, beside a shortcut around it."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dense(4, name="one")(x)
        x = x + nn.relu(nn.Dense(4, name="two")(nn.LayerNorm()(x)))
        return nn.Dense(2, name="head")(x)


@pytest.mark.parametrize("density", [0.5, 1.0])
def test_a_network_whose_units_can_decrease_is_refused(density):
    mask = random_mask(Normalised(), (6,), density, seed=0)
    with pytest.raises(ValueError, match="no path leads through two, not even in the dense"):
        effective_mask(Normalised(), mask, (6,))


@pytest.mark.parametrize("wrapped", [jax.jit, jax.checkpoint, jax.vmap, in_a_scan, in_a_branch])
def test_maxima_are_sums_wherever_they_are(wrapped):
    """Their gradients, with an input that is the largest by itself."""
    inputs = np.array([[1.0, 3.0, 2.0]], np.float32)

    def function(x):
        return wrapped(lambda row: row.max(-1))(x).sum()

    np.testing.assert_array_equal(jax.grad(function)(inputs), [[0, 1, 0]])
    gradient = jax.grad(connectivity._sums_for_maxima(function, inputs))(inputs)
    np.testing.assert_array_equal(gradient, [[1, 1, 1]])
