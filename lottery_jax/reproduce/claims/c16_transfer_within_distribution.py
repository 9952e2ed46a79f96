"""Claim 16: tickets transfer within a distribution."""

from lottery_jax.reproduce.claim import EQUAL, PROBE, SECOND_HAND, Check, Claim, less

CLAIM = Claim(
    statement=(
        "A ticket that was found on one half of a data set trains as well on the other half "
        "as that half's own ticket."
    ),
    source="Morcos et al. 2019, One ticket to win them all",
    access=SECOND_HAND,
    published="a difference of about 0",
    expected=f"+0.3 points, give or take 0.3, {PROBE}",
    checks=(
        Check("transferred less native", "moderate sparse", EQUAL,
              less("a_to_b", "half_b"), published=0.0),
    ),
    runs=("half_a", "half_b", "a_to_b"),
)  # fmt: skip
