"""The interface of a loss, and the losses that scores differentiate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lottery_jax.curve import ACCURACY
from lottery_jax.models.network import Network
from lottery_jax.pruning.scores import ScoreBatch
from lottery_jax.training.state import MetricSums
from lottery_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Task:
    """The aim of training: two pure functions of a network's outputs.

    Outputs are `[batch, ...]` in the dtype in which the network computes; targets are the labels
    of a batch, `[batch, ...]`.

    Attributes:
        loss: `(outputs, targets)` to the mean loss of the batch, a float32 scalar. Training
            lowers it.
        metric_sums: `(outputs, targets, counted)` to the sums over the examples for which
            `counted`, bool `[batch]`, is True.
        metric: the name of the metric, in columns such as `test_accuracy`. Names that end in
            `accuracy` are shares, shown in percent.
        metric_dtype: the dtype in which `metric_sums` sums the metric.
        has_logits: whether outputs are logits, which GraSP divides by a temperature. Other outputs,
            such as those of a regression, stay as they are.
    """

    loss: Callable[[jax.Array, jax.Array], jax.Array]
    metric_sums: Callable[[jax.Array, jax.Array, jax.Array], MetricSums]
    metric: str = ACCURACY
    metric_dtype: Any = jnp.int32
    has_logits: bool = True

    def zero_sums(self) -> MetricSums:
        """Return the sums over no examples."""
        return MetricSums.zero(self.metric_dtype)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the mean softmax cross-entropy in float32.

    Args:
        logits: `[batch, classes]`.
        labels: int32 `[batch]`.
    """
    return _cross_entropies(logits, labels).mean()


def classification_sums(logits: jax.Array, labels: jax.Array, counted: jax.Array) -> MetricSums:
    """Return the sums of cross-entropies and of right answers over the counted examples."""
    hits = (logits.argmax(-1) == labels) & counted
    return MetricSums(
        loss=jnp.where(counted, _cross_entropies(logits, labels), 0.0).sum(),
        correct=hits.sum(dtype=jnp.int32),
        count=counted.sum(dtype=jnp.int32),
    )


def _cross_entropies(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


CLASSIFICATION = Task(cross_entropy, classification_sums)


@dataclasses.dataclass(frozen=True)
class BatchLoss:
    """The loss of a network on a batch as a function of the weights, for `scores.snip` and others.

    In training mode BatchNorm normalises by the batch; the updated statistics are dropped. Equal
    instances share compiled programs.

    Attributes:
        network: computes in float32, so that scores do not depend on the training's dtype.
        task: the task whose loss is taken.
        temperature: a number by which the outputs are divided if they are logits.
    """

    network: Network
    task: Task
    temperature: float = 1.0

    def __call__(self, params: PyTree, batch: ScoreBatch) -> jax.Array:
        """Return the mean loss of a batch."""
        outputs, _ = self.network.apply_train(params, batch.batch_stats, batch.images, batch.key)
        outputs = outputs.astype(jnp.float32)
        if self.task.has_logits:
            outputs = outputs / self.temperature
        return self.task.loss(outputs, batch.labels)


@dataclasses.dataclass(frozen=True)
class SummedOutput:
    """The sum of a network's outputs in evaluation mode, for `scores.synflow`.

    Attributes:
        network: computes in float64.
    """

    network: Network

    def __call__(self, params: PyTree, batch_stats: PyTree, inputs: jax.Array) -> jax.Array:
        """Return the sum over all examples and outputs."""
        return self.network.apply_eval(params, batch_stats, inputs).sum()
