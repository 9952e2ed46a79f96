"""Claim 3: winning tickets learn faster."""

import math

from lottery_jax.curve import WINNING
from lottery_jax.reproduce.claim import HIGHER, LOWER, READ, Check, Claim, Evidence, PerSeed


def _steps(e: Evidence, density: float, control: str = WINNING) -> PerSeed:
    return e.column("steps", "early_stop_step", density, control)


# Logarithms, since the mean of a ratio of two noisy numbers is above 1 even if neither is larger.
def _against_dense(e: Evidence, density: float) -> PerSeed:
    return (_steps(e, density) / _steps(e, 1.0)).map(_log2)


def _reinit(e: Evidence, density: float) -> PerSeed:
    return (_steps(e, density, "reinit") / _steps(e, density)).map(_log2)


def _log2(ratio: float) -> float:
    return math.log2(ratio) if ratio > 0 else math.nan


CLAIM = Claim(
    statement=(
        "Winning tickets reach their smallest validation loss in fewer steps than the dense "
        "network, and than new weights under the same mask."
    ),
    source="Frankle & Carbin 2019, LeNet-300-100 on MNIST",
    access=READ,
    published="-38 % of the steps at 21 % of the weights; 2.5 times as fast as new weights",
    expected="the same signs; from the paper alone",
    checks=(
        Check("steps, ticket against dense", "early", LOWER,
              _against_dense, unit="log2", published=-0.69),
        Check("steps, new weights over ticket", "early", HIGHER,
              _reinit, unit="log2", published=1.32),
    ),
    runs=("steps",),
)  # fmt: skip
