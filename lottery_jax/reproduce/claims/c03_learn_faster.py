"""Claim 3: winning tickets learn faster."""

from lottery_jax.curve import WINNING
from lottery_jax.reproduce.claim import LOWER, READ, Check, Claim, Evidence, PerSeed
from lottery_jax.reproduce.verdict import Rule


def _steps(e: Evidence, density: float, control: str = WINNING) -> PerSeed:
    return e.column("steps", "early_stop_step", density, control)


def _against_dense(e: Evidence, density: float) -> PerSeed:
    return (_steps(e, density) / _steps(e, 1.0)).map(lambda ratio: 100 * (ratio - 1))


def _reinit(e: Evidence, density: float) -> PerSeed:
    return _steps(e, density, "reinit") / _steps(e, density)


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
              _against_dense, unit="percent", published=-38.0),
        Check("steps, new weights over ticket", "early", Rule(low=1.0),
              _reinit, unit="ratio", published=2.5),
    ),
    runs=("steps",),
)  # fmt: skip
