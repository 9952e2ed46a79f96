"""Tasks: classification, regression, one's own, and those that a config names.

lj.run_ladder(config, workdir, task=lj.tasks.regression())
config.task.name = "mypkg.losses:focal"
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lottery_jax.errors import ConfigError, lookup
from lottery_jax.system.imports import call, is_import_path, load_object, parse_options
from lottery_jax.training.state import MetricSums
from lottery_jax.training.task import CLASSIFICATION, Task

# (outputs, targets) -> one number for each example
PerExample = Callable[[jax.Array, jax.Array], jax.Array]


@functools.cache
def classification(label_smoothing: float = 0.0) -> Task:
    """Return the task of naming one class of several: softmax cross-entropy and accuracy.

    Args:
        label_smoothing: the share of each target that is spread evenly over all classes (Szegedy et
            al. 2016). The losses that are reported are smoothed, too.

    Raises:
        ValueError: it is not in [0, 1).
    """
    if not label_smoothing:
        return CLASSIFICATION
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1), not {label_smoothing}")

    def smoothed(logits: jax.Array, labels: jax.Array) -> jax.Array:
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
        return optax.softmax_cross_entropy(logits, targets)

    def hits(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return logits.argmax(-1) == labels

    return make_task(smoothed, metric="accuracy", values=hits, metric_dtype=jnp.int32)


@functools.cache
def regression() -> Task:
    """Return the task of predicting numbers: half the squared error, and the mean squared error.

    Outputs and targets have the same shape `[batch, ...]`; errors are averaged over all but the
    first axis.
    """
    return make_task(
        lambda o, t: 0.5 * squared_error(o, t), metric="mse", values=squared_error, has_logits=False
    )


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the squared error of each example, averaged over its numbers.

    Raises:
        ValueError: the shapes differ.
    """
    outputs = outputs.astype(jnp.float32)
    if targets.ndim == 1 and outputs.shape == (*targets.shape, 1):
        outputs = outputs[:, 0]
    if outputs.shape != targets.shape:
        raise ValueError(
            f"outputs are {outputs.shape[1:]} per example, targets {targets.shape[1:]}"
        )
    return jnp.square(outputs - targets).reshape(len(targets), -1).mean(-1)


def make_task(
    loss: PerExample,
    *,
    metric: str,
    values: PerExample,
    metric_dtype: Any = jnp.float32,
    has_logits: bool = True,
) -> Task:
    """Return a task of one's own.

    Args:
        loss: `(outputs, targets) -> [batch]`, the loss of each example; float32.
        metric: the name of the metric, such as `mae`; columns are called `test_mae`. A name that
            ends in `accuracy` is a share, shown in percent.
        values: `(outputs, targets) -> [batch]`, the metric of each example, whose mean is reported.
        metric_dtype: the dtype in which it is summed.
        has_logits: whether outputs are logits, which GraSP divides by a temperature.

    Raises:
        ValueError: the name is no Python identifier, or is `loss`.

    >>> absolute = lambda outputs, targets: jnp.abs(outputs - targets)
    >>> task = make_task(absolute, metric="mae", values=absolute, has_logits=False)
    >>> float(task.loss(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])))
    1.5
    """
    if not metric.isidentifier() or metric == "loss":
        raise ValueError(f"metric: {metric!r} is no name for a column")

    def per_example(function: PerExample, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        found = function(outputs, targets)
        if found.shape != targets.shape[:1]:
            raise ValueError(
                f"the {'loss' if function is loss else metric} must be one number for each of the "
                f"{len(targets)} examples, not an array of shape {found.shape}"
            )
        return found

    def mean_loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return per_example(loss, outputs.astype(jnp.float32), targets).mean()

    def metric_sums(outputs: jax.Array, targets: jax.Array, counted: jax.Array) -> MetricSums:
        outputs = outputs.astype(jnp.float32)
        losses = per_example(loss, outputs, targets)
        measured = per_example(values, outputs, targets).astype(metric_dtype)
        return MetricSums(
            loss=jnp.where(counted, losses, 0.0).sum(),
            correct=jnp.where(counted, measured, 0).sum(dtype=metric_dtype),
            count=counted.sum(dtype=jnp.int32),
        )

    return Task(mean_loss, metric_sums, metric, metric_dtype, has_logits)


TASKS: dict[str, Callable[..., Task]] = {"classification": classification, "regression": regression}


def from_config(name: str, options: str = "") -> Task:
    """Return the task that a config names: a built-in one, or a function by its import path.

    Args:
        name: a key of `TASKS`, or an import path of a function that returns a `Task`.
        options: keyword arguments as JSON, such as `{"label_smoothing": 0.1}`; empty: none.

    Raises:
        ConfigError: there is no such task, or it can't be made with these options.
    """
    key = "config.task.name"
    function = load_object(name, key) if is_import_path(name) else lookup(TASKS, name, key)
    task = call(function, parse_options(options, "config.task.options"), name, "task")
    if not isinstance(task, Task):
        raise ConfigError(
            f"config.task.name: {name} gives {type(task).__name__}, not a lj.Task; "
            "lj.tasks.make_task makes one"
        )
    return task
