"""Claim 15: a mask alone classifies."""

from collections.abc import Callable

from lottery_jax.curve import WINNING
from lottery_jax.reproduce.claim import PROBE, READ, Check, Claim, Evidence, PerSeed
from lottery_jax.reproduce.verdict import Rule

CLASSIFIES = Rule(low=30.0)  # three times chance
ACCURACY = "accuracy, %"


def _untrained(control: str) -> Callable[[Evidence, float], PerSeed]:
    return lambda e, d: e.column("imp", "untrained_accuracy", d, control)


CLAIM = Claim(
    statement=(
        "Without any training a ticket's mask on the initial weights, or on their signs, "
        "classifies far better than chance (10 %)."
    ),
    source="Zhou et al. 2019, Deconstructing lottery tickets",
    access=READ,
    published=(
        "without training about 80 % on MNIST with initial weights, 86 % with signed constants; "
        "24 and 41 % on CIFAR-10"
    ),
    expected=f"63 to 75 % with initial weights, 74 to 78 % with their signs, {PROBE}",
    checks=(
        Check("untrained accuracy of the mask", "moderate", CLASSIFIES,
              _untrained(WINNING), unit=ACCURACY, published=80.0),
        Check("untrained accuracy of mask and signs", "moderate", CLASSIFIES,
              _untrained("dense_sign"), unit=ACCURACY, published=86.0),
    ),
    runs=("imp",),
    scales=("small",),
)  # fmt: skip
