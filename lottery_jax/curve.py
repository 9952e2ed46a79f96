"""The columns of curve.csv, which runs write and reports read, and how its metric is shown."""

from __future__ import annotations

from collections.abc import Iterable

# In curve.csv, the series of the winning tickets themselves.
WINNING = "winning"
# The metric of classification.
ACCURACY = "accuracy"


def curve_columns(metric: str = ACCURACY) -> tuple[str, ...]:
    """Return the columns of curve.csv for a task with this metric; `optional_columns` may follow."""
    return (
        "seed",
        "level",
        "control",
        "weights_total",
        "weights_remaining",
        "density",
        f"test_{metric}",
        "test_loss",
        "train_loss",
        "epochs",
        "seconds",
    )


CURVE_COLUMNS = curve_columns()


def optional_columns(metric: str = ACCURACY) -> tuple[str, ...]:
    """Return the columns that curve.csv has after the others if the run's config asks for them.

    With `train.eval_every_steps`, the step of the smallest validation loss, counted from the start
    of the training, and the test metric at that step (Frankle & Carbin 2019). With
    `train.eval_untrained`, the test metric before training (Zhou et al. 2019).
    """
    return ("early_stop_step", f"early_stop_{metric}", f"untrained_{metric}")


def metric_of(names: Iterable[str]) -> str:
    """Return the metric that the names of columns, or the keys of a ticket's result, speak of.

    >>> metric_of(["train_loss", "test_loss", "test_mse"]), metric_of([])
    ('mse', 'accuracy')
    """
    metrics = (name.removeprefix("test_") for name in names if name.startswith("test_"))
    return next((metric for metric in metrics if metric != "loss"), ACCURACY)


def is_share(metric: str) -> bool:
    """Return whether values of a metric are shares, 0 to 1, which are shown in percent."""
    return metric.endswith(ACCURACY)


def show_metric(value: float, metric: str) -> str:
    """Return a value of a metric as people read it.

    >>> show_metric(0.98765, "accuracy"), show_metric(0.0123456, "mse")
    ('98.77%', 'mse 0.01235')
    """
    return f"{value:.2%}" if is_share(metric) else f"{metric} {value:.4g}"
