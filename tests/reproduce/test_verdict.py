"""Verdicts: intervals and sign tests against independent computations, and each outcome."""

import itertools
import math
import statistics

import pytest

from lottery_jax.reproduce.claim import PerSeed
from lottery_jax.reproduce.verdict import Outcome, Rule, combine, judge, sign_test, t_interval

# Two-sided 95 % quantiles of Student's t, from printed tables, by degrees of freedom.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262}
HOLDS, FAILS, UNDECIDED = Outcome.HOLDS, Outcome.FAILS, Outcome.UNDECIDED


def seeds(*values):
    return PerSeed(enumerate(values))


@pytest.mark.parametrize("df", T)
def test_the_interval_is_that_of_the_tables(df):
    values = [0.3 * k**1.5 - 2 for k in range(df + 1)]
    half = T[df] * statistics.stdev(values) / math.sqrt(df + 1)
    low, high = t_interval(values)
    assert low == pytest.approx(statistics.mean(values) - half, rel=1e-3)
    assert high == pytest.approx(statistics.mean(values) + half, rel=1e-3)


def test_the_sign_test_counts_all_outcomes():
    """Against a listing of all signs that are at least as uneven."""
    for values in ([1, 2, 3, -1], [1, 1, 1, 1, 1, -2], [-1, -1, -1], [0, 0, 2, -2, 3]):
        signs = [v > 0 for v in values if v != 0]
        uneven = abs(2 * sum(signs) - len(signs))
        listed = list(itertools.product((0, 1), repeat=len(signs)))
        p = sum(abs(2 * sum(each) - len(each)) >= uneven for each in listed) / len(listed)
        assert sign_test(values) == pytest.approx(p)
    assert sign_test([3.0, 4.0, 5.0], line=4.5) == 1.0


@pytest.mark.parametrize(
    "values, rule, outcome",
    [
        # At 5 seeds the half width is 2.776 / sqrt(5) = 1.241 standard deviations.
        ((0.9, 1.0, 1.1, 1.0, 1.0), Rule(low=0), HOLDS),
        ((0.9, 1.0, 1.1, 1.0, 1.0), Rule(high=0), FAILS),
        ((0.9, 1.0, 1.1, 1.0, 1.0), Rule(-0.5, 0.5), FAILS),
        ((-0.9, -1.0, -1.1, -1.0, -1.0), Rule(-0.5, 0.5), FAILS),
        ((0.1, -0.1, 0.0, 0.2, -0.2), Rule(-0.5, 0.5), HOLDS),
        ((0.9, -0.9, 0.0, 0.8, -0.8), Rule(-0.5, 0.5), UNDECIDED),
        ((1.0, -0.5, 0.2, 0.9, 0.1), Rule(low=0), UNDECIDED),
        ((1.0, -0.5, 0.2, 0.9, 0.1), Rule(low=-1), HOLDS),
        ((-0.1, -0.2, -0.1, -0.15, -0.2), Rule(low=0), FAILS),
        # No variance: the interval is a point. On the line it is not within the open range.
        ((0.3, 0.3, 0.3), Rule(low=0), HOLDS),
        ((0.0, 0.0, 0.0), Rule(low=0), FAILS),
        ((0.0, 0.0, 0.0), Rule(-0.5, 0.5), HOLDS),
        # One seed, none, and seeds that are missing.
        ((5.0,), Rule(low=0), UNDECIDED),
        ((), Rule(low=0), UNDECIDED),
        ((5.0, 5.1, 5.2, math.nan), Rule(low=0), UNDECIDED),
        ((5.0, 5.1, 5.2, math.inf), Rule(low=0), UNDECIDED),
    ],
)
def test_each_outcome(values, rule, outcome):
    verdict = judge(seeds(*values), rule)
    assert verdict.outcome == outcome
    finite = [v for v in values if math.isfinite(v)]
    assert verdict.seeds == len(finite)
    assert verdict.missing == tuple(i for i, v in enumerate(values) if not math.isfinite(v))
    if finite:
        assert verdict.mean == pytest.approx(statistics.mean(finite))
        assert verdict.low <= verdict.mean <= verdict.high


def test_what_is_within_the_range_is_outside_the_opposite_one():
    """A rule and its complement are never both decided the same way."""
    for shift in (-2, -0.3, 0, 0.3, 2):
        values = seeds(*(shift + noise for noise in (0.5, -0.4, 0.1, -0.2, 0.3)))
        above, below = (judge(values, rule).outcome for rule in (Rule(low=0), Rule(high=0)))
        opposite = {HOLDS: FAILS, FAILS: HOLDS, UNDECIDED: UNDECIDED}
        assert below == opposite[above]


def test_a_claim_needs_all_its_checks():
    assert combine([HOLDS, HOLDS]) == HOLDS
    assert combine([HOLDS, UNDECIDED]) == UNDECIDED
    assert combine([HOLDS, UNDECIDED, FAILS]) == FAILS
    assert combine([]) == UNDECIDED


def test_seeds_are_paired():
    a, b = PerSeed({0: 1.0, 1: 2.0, 2: 3.0}), PerSeed({2: 1.0, 1: 0.0, 5: 1.0})
    difference, ratio = a - b, a / b
    assert list(difference) == [0, 1, 2, 5] and difference[1] == 2 and difference[2] == 2
    assert math.isnan(difference[0]) and math.isnan(difference[5])
    assert ratio[2] == 3 and math.isnan(ratio[1])  # nothing is divided by zero
    # Noise that both share cancels: the interval is that of the differences.
    shared = [10.0, 20.0, 30.0, 40.0]
    better = seeds(*(x + 1 + 0.01 * i for i, x in enumerate(shared)))
    assert judge(better - seeds(*shared), Rule(low=0)).outcome == HOLDS
