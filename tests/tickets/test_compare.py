"""Comparisons of tickets against sets of indices."""

import math

import pytest

from lottery_jax import tickets
from lottery_jax.errors import TicketError
from lottery_jax.pruning import masks
from tests.helpers import synthetic_ticket
from tests.pruning.graph import lenet


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
