"""Claim 10: successive levels of a matching ladder are linearly connected."""

from lottery_jax.reproduce.claim import PROBE, SECOND_HAND, Check, Claim, Evidence, PerSeed
from lottery_jax.reproduce.verdict import Rule

STABLE = Rule(high=2.0)


def _barrier(e: Evidence, density: float) -> PerSeed:
    return e.analysis("levels", "imp", "barrier", density).map(lambda share: 100 * share)


CLAIM = Claim(
    statement=(
        "The error barrier on the line between the trained tickets of successive levels is "
        "below 2 points, at densities at which tickets are expected to match the dense network."
    ),
    source="Paul et al. 2023, Unmasking the lottery ticket hypothesis",
    access=SECOND_HAND,
    published=(
        "a barrier of zero if and only if the next level matches; here only the first half is"
        " tested"
    ),
    expected=f"0.01 to 0.41 points down to 1.15 %, {PROBE}",
    checks=(
        Check("barrier to the next level", "early moderate sparse", STABLE,
              _barrier, published=0.0),
    ),
    runs=("imp",),
    analyses=(("levels", "imp"),),
)  # fmt: skip
