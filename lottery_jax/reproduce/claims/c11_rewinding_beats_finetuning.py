"""Claim 11: rewinding beats fine-tuning."""

from lottery_jax.reproduce.claim import HIGHER, NOT_WORSE, SECOND_HAND, Check, Claim, less

CLAIM = Claim(
    statement=(
        "At an equal budget, rewinding weights or the learning rate beats fine-tuning, and "
        "rewinding the learning rate is no worse than rewinding weights."
    ),
    source="Renda et al. 2020, Comparing rewinding and fine-tuning",
    access=SECOND_HAND,
    published=(
        "both rewindings beat fine-tuning; learning-rate rewinding is at least as good as the other"
    ),
    expected="the same signs; from the paper alone",
    checks=(
        Check("weight rewinding less fine-tuning", "extreme", HIGHER,
              less("retrain_weights", "retrain_finetune")),
        Check("rate rewinding less fine-tuning", "extreme", HIGHER,
              less("retrain_lr", "retrain_finetune")),
        Check("rate rewinding less weight rewinding", "extreme", NOT_WORSE,
              less("retrain_lr", "retrain_weights")),
    ),
    runs=("retrain_weights", "retrain_lr", "retrain_finetune"),
)  # fmt: skip
