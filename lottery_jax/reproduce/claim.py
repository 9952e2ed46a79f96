"""A claim of the literature, as data: what is stated, where, and the checks that decide it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from lottery_jax.curve import WINNING, is_share
from lottery_jax.reproduce.verdict import Rule

# How the numbers of a source came here.
READ, SECOND_HAND = "read", "second-hand"


class PerSeed(dict[int, float]):
    """A value for each seed; NaN where there is none. Arithmetic pairs the seeds.

    >>> PerSeed({0: 3.0, 1: 5.0}) - PerSeed({0: 1.0, 2: 1.0})
    {0: 2.0, 1: nan, 2: nan}
    """

    def _pair(self, other: PerSeed, function: Callable[[float, float], float]) -> PerSeed:
        seeds = sorted({*self, *other})
        nan = math.nan
        return PerSeed({s: function(self.get(s, nan), other.get(s, nan)) for s in seeds})

    def __sub__(self, other: PerSeed) -> PerSeed:
        return self._pair(other, lambda a, b: a - b)

    def __truediv__(self, other: PerSeed) -> PerSeed:
        return self._pair(other, lambda a, b: a / b if b else math.nan)

    def map(self, function: Callable[[float], float]) -> PerSeed:
        """Return `function` of each value."""
        return PerSeed({seed: function(value) for seed, value in self.items()})


Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the runs of a scale have measured; plain rows, wherever they come from.

    Attributes:
        seeds: the seeds that were asked for.
        densities: the densities that are compared, by name, as fractions.
        curves: the rows of curve.csv of each run, by the run's name.
        analyses: the rows of each analysis, by its name and that of the run.
    """

    seeds: tuple[int, ...]
    densities: Mapping[str, float]
    curves: Mapping[str, list[Row]]
    analyses: Mapping[tuple[str, str], list[Row]] = dataclasses.field(default_factory=dict)

    def accuracy(self, run: str, density: float, control: str = WINNING) -> PerSeed:
        """Return the test accuracy at a density, in percent."""
        return self.column(run, "test_accuracy", density, control)

    def column(self, run: str, name: str, density: float, control: str = WINNING) -> PerSeed:
        """Return a column of curve.csv at a density; accuracies are in percent."""
        return self._pick(self.curves.get(run, []), name, density, control)

    def analysis(
        self, kind: str, run: str, name: str, density: float, control: str = WINNING
    ) -> PerSeed:
        """Return a column of an analysis at a density."""
        return self._pick(self.analyses.get((kind, run), []), name, density, control)

    def _pick(self, rows: list[Row], name: str, density: float, control: str) -> PerSeed:
        percent = 100.0 if is_share(name) else 1.0
        found = {
            int(row["seed"]): percent * float(row[name])
            for row in rows
            if row.get("control", WINNING) == control
            and abs(float(row["density"]) / density - 1) < 0.02
            and row.get(name) not in (None, "")
        }
        return PerSeed({seed: found.get(seed, math.nan) for seed in self.seeds})


@dataclasses.dataclass(frozen=True)
class Check:
    """One quantity of a claim and its rule.

    Attributes:
        label: what is compared.
        at: the densities, by names with spaces between them: dense, early, moderate, sparse,
            reach, extreme, vanishing. The rule must hold at each.
        rule: the range in which the quantity must lie.
        value: from the evidence and the density to the quantity of each seed.
        unit: points (of accuracy), percent, ratio, ...
        published: the paper's own value, where it has one.
    """

    label: str
    at: str
    rule: Rule
    value: Callable[[Evidence, float], PerSeed]
    unit: str = "points"
    published: float | None = None


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim.

    Attributes:
        statement: one sentence.
        source: authors and year.
        access: whether the published numbers were read in the source or are second-hand.
        published: what the paper reports.
        expected: what is expected at small scale, and where that expectation comes from.
        checks: the quantities and their rules; all must hold.
        runs: the names of the runs that it needs, as in `protocols.py`.
        analyses: pairs of an analysis and the run that it is made on, as in `analyses.py`.
        scales: the scales at which it can be run.
        key: its number, and the name on the command line; from the name of its file.
        name: a short name, which the command line knows too; from the name of its file.
    """

    statement: str
    source: str
    access: str
    published: str
    expected: str
    checks: tuple[Check, ...]
    runs: tuple[str, ...]
    analyses: tuple[tuple[str, str], ...] = ()
    scales: tuple[str, ...] = ("small", "full", "full_resnet50")
    key: str = ""
    name: str = ""


# A throw-away script gave size and sign before these rules were fixed; its figures are no result.
PROBE = "from a probe with one seed on 12,000 images, 4 epochs a level"
# How far apart two accuracies in percent may be and still count as equal.
EQUAL = Rule(-0.5, 0.5)
NOT_WORSE = Rule(low=-0.5)
HIGHER, LOWER = Rule(low=0.0), Rule(high=0.0)


def less(ticket: str, other: str) -> Callable[[Evidence, float], PerSeed]:
    """Return the quantity "accuracy of a ticket, less that of another", in points.

    Args:
        ticket: `RUN` for the winning tickets of a run, or `RUN/CONTROL`.
        other: the same.
    """

    def value(e: Evidence, density: float) -> PerSeed:
        (run, _, control), (other_run, _, baseline) = ticket.partition("/"), other.partition("/")
        return e.accuracy(run, density, control or WINNING) - e.accuracy(
            other_run, density, baseline or WINNING
        )

    return value
