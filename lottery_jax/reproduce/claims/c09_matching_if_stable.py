"""Claim 9: a ticket matches the dense network exactly if it is stable."""

import math

from lottery_jax.reproduce.claim import HIGHER, SECOND_HAND, Check, Claim, Evidence, PerSeed
from lottery_jax.reproduce.verdict import Rule

RUNS = tuple(f"rewind_{i}" for i in range(5))
# The paper's thresholds, in points: below 2 a ticket is stable; within 0.2 it matches.
_STABLE, _MATCHING = 2.0, 0.2


def _points(e: Evidence, density: float) -> dict[int, list[tuple[float, float]]]:
    """Return (barrier, accuracy that is missing to the dense network) of each rewind point."""
    points: dict[int, list[tuple[float, float]]] = {seed: [] for seed in e.seeds}
    for run in RUNS:
        barrier = e.analysis("stability", run, "barrier", density)
        gap = e.accuracy(run, 1.0) - e.accuracy(run, density)
        for seed in e.seeds:
            points[seed].append((100 * barrier[seed], gap[seed]))
    return points


def _correlation(e: Evidence, density: float) -> PerSeed:
    """Return Spearman's rank correlation of barrier and gap, by seed; NaN if one does not vary."""

    def correlation(points: list[tuple[float, float]]) -> float:
        columns = [*zip(*points, strict=True)]
        if _is_missing(points) or any(len({*column}) == 1 for column in columns):
            return math.nan
        from scipy import stats  # which takes long to import

        return float(stats.spearmanr(*columns).statistic)

    return PerSeed({seed: correlation(points) for seed, points in _points(e, density).items()})


def _is_missing(points: list[tuple[float, float]]) -> bool:
    return any(math.isnan(value) for point in points for value in point)


def _agreement(e: Evidence, density: float) -> PerSeed:
    def share(points: list[tuple[float, float]]) -> float:
        if _is_missing(points):
            return math.nan
        same = [(barrier < _STABLE) == (gap <= _MATCHING) for barrier, gap in points]
        return sum(same) / len(same)

    return PerSeed({seed: share(points) for seed, points in _points(e, density).items()})


CLAIM = Claim(
    statement=(
        "A ticket reaches the dense accuracy exactly from the rewind points at which it is "
        "stable to the order of the data."
    ),
    source="Frankle et al. 2020, Linear mode connectivity",
    access=SECOND_HAND,
    published=(
        "stable and matching from step 500 for ResNet-20, 1000 for VGG-16, epoch 5 for ResNet-50"
    ),
    expected=(
        "none at LeNet's scale, which is stable from its start; for a narrow ResNet-20 the "
        "same sign"
    ),
    checks=(
        Check("correlation of barrier and gap to dense, over rewind points", "moderate", HIGHER,
              _correlation, unit="correlation"),
        Check("rewind points where stable is matching", "moderate", Rule(low=0.8),
              _agreement, unit="share", published=1.0),
    ),
    runs=("rewind_0", "rewind_1", "rewind_2", "rewind_3", "rewind_4"),
    analyses=tuple(("stability", run) for run in RUNS),
    scales=("mid", "full", "full_resnet50"),
)  # fmt: skip
