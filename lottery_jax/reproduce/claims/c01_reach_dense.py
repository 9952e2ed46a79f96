"""Claim 1: winning tickets exceed, and later still reach, the accuracy of the dense network."""

from lottery_jax.reproduce.claim import (
    HIGHER,
    NOT_WORSE,
    PROBE,
    READ,
    Check,
    Claim,
    Evidence,
    PerSeed,
)


def _gain(e: Evidence, density: float) -> PerSeed:
    return e.accuracy("imp", density) - e.accuracy("imp", 1.0)


CLAIM = Claim(
    statement=(
        "Winning tickets, rewound and retrained, exceed the accuracy of the dense network at "
        "moderate densities and still reach it when few weights are left."
    ),
    source="Frankle & Carbin 2019, LeNet-300-100 on MNIST",
    access=READ,
    published="+0.3 points at 13.5 % of the weights, dense again at 3.6 %",
    expected=f"+0.7 points at 16.8 %, {PROBE}",
    checks=(
        Check("ticket less dense", "moderate", HIGHER, _gain, published=0.3),
        Check("ticket less dense", "reach", NOT_WORSE, _gain, published=0.0),
    ),
    runs=("imp",),
    scales=("small", "full", "full_resnet50"),
)
