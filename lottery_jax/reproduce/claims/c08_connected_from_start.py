"""Claim 8: LeNet is linearly connected from its start."""

from lottery_jax.reproduce.claim import SECOND_HAND, Check, Claim, Evidence, PerSeed
from lottery_jax.reproduce.verdict import Rule

STABLE = Rule(high=2.0)


def _barrier(e: Evidence, density: float) -> PerSeed:
    return e.analysis("stability", "imp", "barrier", density).map(lambda share: 100 * share)


CLAIM = Claim(
    statement=(
        "Trained in two orders of the data from its initialisation, LeNet and its winning "
        "tickets end in networks with no error barrier on the line between them."
    ),
    source="Frankle et al. 2020, Linear mode connectivity",
    access=SECOND_HAND,
    published="a barrier of about 0, below the 2 points that count as unstable",
    expected="below 2 points; from the paper alone",
    checks=(
        Check("barrier of the dense network", "dense", STABLE, _barrier, published=0.0),
        Check("barrier of the ticket", "sparse extreme", STABLE, _barrier, published=0.0),
    ),
    runs=("imp",),
    analyses=(("stability", "imp"),),
    scales=("small",),
)
