"""Comparisons against sets of indices, and paths against a search through the network's graph."""

import functools
import itertools
import math

import jax
import numpy as np
import pytest

from lottery_jax import tickets
from lottery_jax.errors import TicketError
from lottery_jax.models import abstract_variables, build_model
from lottery_jax.pruning import masks
from lottery_jax.pruning.connectivity import effective_mask
from lottery_jax.tickets.ticket import leaves
from tests.helpers import synthetic_ticket


class Graph:
    """A network as edges between pixels; each edge knows its kernel and weight.

    Layers are added from the input on; their inputs and outputs are arrays of node numbers.
    """

    def __init__(self, mask):
        self.kernels = {name: np.asarray(kernel) for name, kernel in masks.kernels(mask).items()}
        self.nodes = 0
        self.edges = []  # (from, to, layer, index of the weight in its kernel)

    def new(self, *shape):
        first, self.nodes = self.nodes, self.nodes + math.prod(shape)
        return np.arange(first, self.nodes).reshape(shape)

    def dense(self, x, name):
        kernel = self.kernels[name]
        y = self.new(kernel.shape[1])
        self.edges += [(x[i], y[o], name, (i, o)) for i, o in np.argwhere(kernel)]
        return y

    def conv(self, x, name, stride=1):
        kernel = self.kernels[name]
        padding = (len(kernel) - 1) // 2
        y = self.new(-(-len(x) // stride), -(-len(x) // stride), kernel.shape[3])
        taps = [tuple(index) for index in np.argwhere(kernel)]
        for r, c in np.ndindex(y.shape[:2]):
            for a, b, i, o in taps:
                row, column = stride * r + a - padding, stride * c + b - padding
                if 0 <= row < len(x) and 0 <= column < len(x):
                    self.edges.append((x[row, column, i], y[r, c, o], name, (a, b, i, o)))
        return y

    def pool(self, x, size=2, stride=2, padding=0):
        side = (len(x) + 2 * padding - size) // stride + 1
        y = self.new(side, side, x.shape[2])
        for r, c, a, b in itertools.product(range(side), range(side), range(size), range(size)):
            row, column = stride * r + a - padding, stride * c + b - padding
            if 0 <= row < len(x) and 0 <= column < len(x):
                self.join(x[row, column], y[r, c])
        return y

    def join(self, x, y):
        """Add edges without a weight from each node of `x` to the same node of `y`."""
        self.edges += [(i, j, None, None) for i, j in zip(x.ravel(), y.ravel(), strict=True)]

    def effective(self, inputs, outputs):
        """Return the weights with an edge that is reached from an input and leads to an output."""
        reached, leading = np.zeros(self.nodes, bool), np.zeros(self.nodes, bool)
        reached[inputs.ravel()] = leading[outputs.ravel()] = True
        # Edges were added from the input on, so that one pass each way is enough.
        for i, j, _, _ in self.edges:
            reached[j] |= reached[i]
        for i, j, _, _ in reversed(self.edges):
            leading[i] |= leading[j]
        found = {name: np.zeros(kernel.shape, bool) for name, kernel in self.kernels.items()}
        for i, j, name, index in self.edges:
            if name and reached[i] and leading[j]:
                found[name][index] = True
        return found


def lenet(mask, side):
    """Effective weights of LeNet-300-100 and of Conv-2."""
    graph = Graph(mask)
    x = inputs = graph.new(side, side, 1)
    if "conv1" in graph.kernels:
        x = graph.pool(graph.conv(graph.conv(x, "conv1"), "conv2"))
    x = graph.dense(x.ravel(), "dense1")
    return graph.effective(inputs, graph.dense(graph.dense(x, "dense2"), "head"))


def resnet18(mask, side):
    """Effective weights of ResNet18 with the ImageNet stem."""
    graph = Graph(mask)
    inputs = graph.new(side, side, 1)
    x = graph.pool(graph.conv(inputs, "stem", 2), size=3, stride=2, padding=1)
    for stage, block in itertools.product((1, 2, 3, 4), (1, 2)):
        name, stride = f"block{stage}_{block}", 2 if stage > 1 and block == 1 else 1
        y = graph.conv(graph.conv(x, f"{name}/conv1", stride), f"{name}/conv2")
        if f"{name}/shortcut" in graph.kernels:
            x = graph.conv(x, f"{name}/shortcut", stride)
        joined = graph.new(*y.shape)
        graph.join(x, joined)
        graph.join(y, joined)
        x = joined
    mean = graph.new(x.shape[2])
    for pixel in np.ndindex(x.shape[:2]):
        graph.join(x[pixel], mean)
    return graph.effective(inputs, graph.dense(mean, "head"))


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
    assert all(np.all(v) for k, v in leaves(biases).items() if "kernel" not in k)
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


def small(seed, classes=10, density=0.3, **more):
    return synthetic_ticket("lenet_300_100", (8, 8, 1), density, classes, seed, width=0.3, **more)


def survivors(tree, mask):
    """For each layer a dict: index of a weight that is kept, in C order, to its value."""
    kept = masks.kernels(mask)
    return {
        name: {i: v for i, v in enumerate(kernel.ravel().tolist()) if kept[name].ravel()[i]}
        for name, kernel in masks.kernels(tree).items()
    }


def test_a_comparison_is_what_sets_of_indices_say():
    a, b = small(1), small(2, density=0.2)
    found = tickets.compare_tickets(a, b)
    start_a, start_b = survivors(a.params, a.mask), survivors(b.params, b.mask)
    trained_a, trained_b = survivors(a.trained, a.mask), survivors(b.trained, b.mask)
    assert list(found.layers) == ["dense1", "dense2", "head"] and not found.left_out
    pairs, unions, chance = set(), set(), 0.0
    for name, overlap in found.layers.items():
        both = start_a[name].keys() & start_b[name].keys()
        either = start_a[name].keys() | start_b[name].keys()
        n = masks.kernels(a.mask)[name].size
        assert (overlap.size, overlap.both) == (n, len(both))
        assert (overlap.kept_a, overlap.kept_b) == (len(start_a[name]), len(start_b[name]))
        expected = len(start_a[name]) * len(start_b[name]) / n
        assert overlap.by_chance == pytest.approx(expected)
        assert overlap.ratio == pytest.approx(len(both) / expected)
        assert overlap.jaccard == pytest.approx(len(both) / len(either))
        assert overlap.same_start == sum(start_a[name][i] * start_b[name][i] > 0 for i in both)
        same = sum(trained_a[name][i] * trained_b[name][i] > 0 for i in both)
        assert overlap.same_trained == same
        pairs |= {(name, i) for i in both}
        unions |= {(name, i) for i in either}
        chance += expected
    total = found.total
    (kept_a, n), (kept_b, _) = masks.counts(a.mask), masks.counts(b.mask)
    assert (total.size, total.kept_a, total.kept_b, total.both) == (n, kept_a, kept_b, len(pairs))
    assert total.by_chance == pytest.approx(kept_a * kept_b / n)
    assert total.jaccard == pytest.approx(len(pairs) / len(unions))
    assert found.by_chance_within_layers == pytest.approx(chance)
    assert found.density == (a.density, b.density)
    counts = [sum(k.sum() for k in lenet(t.mask, 8).values()) for t in (a, b)]
    assert found.effective_density == tuple(count / n for count in counts)


def test_a_ticket_with_itself_and_with_nothing_in_common():
    a = small(1)
    same = tickets.compare_tickets(a, a).total
    assert same.jaccard == 1.0
    assert same.both == same.kept_a == same.same_start == same.same_trained
    other = small(2, density=0.0)
    nothing = tickets.compare_tickets(a, other)
    assert nothing.total.jaccard == 0.0 and math.isnan(nothing.total.ratio)
    assert nothing.effective_density[1] == 0.0
    assert math.isnan(tickets.compare_tickets(other, other).total.jaccard)


def test_heads_of_other_sizes_are_left_out():
    found = tickets.compare_tickets(small(1), small(2, classes=7))
    assert list(found.layers) == ["dense1", "dense2"]
    assert found.left_out == {"head": ((30, 10), (30, 7))}
    assert found.total.size == 64 * 90 + 90 * 30


def test_other_networks_are_errors():
    with pytest.raises(TicketError, match="other networks, lenet_300_100 and conv2"):
        tickets.compare_tickets(small(1), synthetic_ticket("conv2", (8, 8, 1), 0.5, width=0.1))
    with pytest.raises(TicketError, match="no layer of the same shape"):
        tickets.compare_tickets(
            small(1), synthetic_ticket("lenet_300_100", (8, 8, 1), 0.5, classes=3, width=0.2)
        )
