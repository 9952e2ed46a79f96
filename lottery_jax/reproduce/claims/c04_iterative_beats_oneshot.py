"""Claim 4: iterative pruning beats one-shot pruning."""

from lottery_jax.reproduce.claim import HIGHER, PROBE, READ, Check, Claim, less

CLAIM = Claim(
    statement=(
        "Tickets that are found by iterative pruning are better than those of one-shot pruning."
    ),
    source="Frankle & Carbin 2019, LeNet-300-100 on MNIST",
    access=READ,
    published="one-shot tickets are above the dense network from 95 to 5.2 % of the weights only",
    expected=f"+2.0 points at 2.8 %, {PROBE}",
    checks=(Check("iterative less one-shot", "sparse extreme", HIGHER, less("imp", "oneshot")),),
    runs=("imp", "oneshot"),
)
