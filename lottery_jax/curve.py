"""The columns of curve.csv, which runs write and reports read."""

from __future__ import annotations

# In curve.csv, the series of the winning tickets themselves.
WINNING = "winning"
CURVE_COLUMNS = (
    "seed",
    "level",
    "control",
    "weights_total",
    "weights_remaining",
    "density",
    "test_accuracy",
    "test_loss",
    "train_loss",
    "epochs",
    "seconds",
)
