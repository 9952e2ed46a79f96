"""Claim 6: winning tickets are stable to the order of the data."""

from lottery_jax.reproduce.claim import PROBE, READ, Check, Claim, Evidence, PerSeed
from lottery_jax.reproduce.verdict import Rule

FARTHER = Rule(low=1.0)


def _ratio(e: Evidence, density: float) -> PerSeed:
    shuffled = e.analysis("stability", "imp", "l2", density, "shuffle_layers")
    return shuffled / e.analysis("stability", "imp", "l2", density)


CLAIM = Claim(
    statement=(
        "Trained in two orders of the data, a winning ticket ends at weights that are nearer "
        "to each other than those of a ticket with a shuffled mask."
    ),
    source="Frankle et al. 2019, Stabilizing the lottery ticket hypothesis",
    access=READ,
    published=(
        "2.8 times as far for LeNet at 10.7 % (58.6 against 20.7); 2.7 times for VGG19 at 2.2 %"
    ),
    expected=f"3.1 times at 6.9 %, 5.9 times at 2.8 %, {PROBE}",
    checks=(
        Check("L2, shuffled over ticket", "moderate", FARTHER, _ratio, unit="ratio", published=2.8),
        Check("L2, shuffled over ticket", "sparse extreme", FARTHER, _ratio, unit="ratio"),
    ),
    runs=("imp",),
    analyses=(("stability", "imp"),),
)
