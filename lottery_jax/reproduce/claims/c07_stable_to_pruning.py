"""Claim 7: winning tickets are stable to pruning."""

from lottery_jax.reproduce.claim import READ, Check, Claim, Evidence, PerSeed
from lottery_jax.reproduce.verdict import Rule

FARTHER = Rule(low=1.0)


def _ratio(e: Evidence, density: float) -> PerSeed:
    shuffled = e.analysis("from_dense", "imp", "l2", density, "shuffle_layers")
    return shuffled / e.analysis("from_dense", "imp", "l2", density)


CLAIM = Claim(
    statement=(
        "Trained alone, a winning ticket ends nearer to the weights that the dense network "
        "gives the same places than a ticket with a shuffled mask does."
    ),
    source="Frankle et al. 2019, Stabilizing the lottery ticket hypothesis",
    access=READ,
    published="LeNet at 10.7 %: a shuffled mask ends 1.6 times as far away",
    expected="above 1; from the paper alone",
    checks=(
        Check("L2 to dense, shuffled over ticket", "moderate", FARTHER,
              _ratio, unit="ratio", published=1.6),
        Check("L2 to dense, shuffled over ticket", "sparse", FARTHER, _ratio, unit="ratio"),
    ),
    runs=("imp",),
    analyses=(("from_dense", "imp"),),
)  # fmt: skip
