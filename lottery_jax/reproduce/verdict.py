"""Verdicts on whether a paired quantity lies within the range that a claim states.

The interval is Student's t-interval of the mean over seeds, two-sided at 95 %. A sign test, which
assumes nothing about the distribution, stands beside it and decides nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from enum import StrEnum

from lottery_jax.report.intervals import t_interval


class Outcome(StrEnum):
    """What the seeds say of a claim."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"


@dataclasses.dataclass(frozen=True)
class Rule:
    """The open range in which the mean must lie.

    Attributes:
        low: its lower end.
        high: its upper end.
    """

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        if math.isinf(self.low):
            return f"< {self.high:g}"
        if math.isinf(self.high):
            return f"> {self.low:g}"
        return f"{self.low:g} to {self.high:g}"

    @property
    def line(self) -> float:
        """The value whose sides the sign test counts: the finite end, or the middle of both."""
        if math.isinf(self.low):
            return self.high
        return self.low if math.isinf(self.high) else (self.low + self.high) / 2


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict on one quantity.

    Attributes:
        outcome: holds if the whole interval is within the rule's range, fails if all of it is
            outside, else undecided. Undecided too if a seed has no finite value: seeds are fixed
            beforehand, and those that happen to be there may not be a fair choice.
        mean: over the seeds that have a finite value; NaN without any.
        low: the lower end of the interval; -inf with fewer than two seeds.
        high: the upper end.
        sign_p: the p-value of the sign test against the rule's line.
        seeds: the number of seeds with a finite value.
        missing: the seeds without one.
    """

    outcome: Outcome
    mean: float
    low: float
    high: float
    sign_p: float
    seeds: int
    missing: tuple[int, ...] = ()


def sign_test(values: Iterable[float], line: float = 0.0) -> float:
    """Return the two-sided p-value of the sign test that the median is `line`; ties are left out.

    >>> sign_test([1, 2, 3, 4, 5]), sign_test([1, -1]), sign_test([])
    (0.0625, 1.0, 1.0)
    """
    above, below = 0, 0
    for value in values:
        above += value > line
        below += value < line
    n, k = above + below, min(above, below)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    return min(1.0, 2 * tail)


def judge(values: Mapping[int, float], rule: Rule) -> Verdict:
    """Return the verdict on a quantity that was measured for each seed.

    Args:
        values: by seed; a value that is not finite counts as missing.
        rule: the range that is claimed.
    """
    there = [value for value in values.values() if math.isfinite(value)]
    missing = tuple(seed for seed, value in values.items() if not math.isfinite(value))
    low, high = t_interval(there)
    if missing or len(there) < 2:
        outcome = Outcome.UNDECIDED
    elif rule.low < low and high < rule.high:
        outcome = Outcome.HOLDS
    elif high <= rule.low or low >= rule.high:
        outcome = Outcome.FAILS
    else:
        outcome = Outcome.UNDECIDED
    mean = math.fsum(there) / len(there) if there else math.nan
    return Verdict(outcome, mean, low, high, sign_test(there, rule.line), len(there), missing)


def combine(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the outcome of a claim: it holds if all its checks do, and fails if one of them does."""
    found = set(outcomes)
    if Outcome.FAILS in found:
        return Outcome.FAILS
    return Outcome.HOLDS if found == {Outcome.HOLDS} else Outcome.UNDECIDED
