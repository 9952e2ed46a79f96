"""Claim 5: which changes of the start a ticket survives."""

from lottery_jax.reproduce.claim import HIGHER, LOWER, NOT_WORSE, READ, Check, Claim, less
from lottery_jax.reproduce.verdict import Rule

NOT_BETTER = Rule(high=0.5)

CLAIM = Claim(
    statement=(
        "Noise of half a standard deviation on a ticket's start is harmless, and with three "
        "it still beats new weights; weights resampled from the survivors are no better than "
        "new ones, and the largest weights before training are worse."
    ),
    source="Frankle & Carbin 2019, appendix F, LeNet-300-100 on MNIST",
    access=READ,
    published="curves; no numbers in the text",
    expected="the same signs; from the paper alone",
    checks=(
        Check("noise of 0.5 sigma less ticket", "extreme", NOT_WORSE,
              less("imp/noise_0.5", "imp")),
        Check("noise of 3 sigma less new weights", "extreme", HIGHER,
              less("imp/noise_3", "imp/reinit")),
        Check("resampled less new weights", "extreme", NOT_BETTER,
              less("imp/resample", "imp/reinit")),
        Check("largest at the start less new weights", "extreme", LOWER,
              less("magnitude_at_init", "imp/reinit")),
    ),
    runs=("imp", "magnitude_at_init"),
)  # fmt: skip
