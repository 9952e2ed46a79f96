"""Claim 17: larger sources give better tickets."""

from lottery_jax.reproduce.claim import HIGHER, SECOND_HAND, Check, Claim, less

CLAIM = Claim(
    statement="Tickets that were found on more data of the same kind are better on other data.",
    source="Morcos et al. 2019, One ticket to win them all",
    access=SECOND_HAND,
    published="above 0; no number for nested sets",
    expected="above 0; from the paper alone",
    checks=(
        Check("ticket of all less that of a part", "sparse extreme", HIGHER,
              less("whole_to_target", "part_to_target")),
    ),
    runs=("whole", "part", "whole_to_target", "part_to_target"),
)  # fmt: skip
