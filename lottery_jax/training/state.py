"""The state of a training and its metrics, as pytrees."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from lottery_jax.pruning import masks
from lottery_jax.pruning.controls import UntrainedTicket
from lottery_jax.types import PyTree


@struct.dataclass
class TrainState:
    """Everything that training changes, and the mask that it keeps to.

    In the state of several replicates that train together, every array has a leading axis.

    Attributes:
        step: int32 scalar; the number of steps taken, which selects learning rate and batch.
        params: float32; exactly 0.0 where `mask` is False.
        batch_stats: BatchNorm's running means and variances, or empty.
        opt_state: the optimizer's state.
        mask: bool, with the structure of params.
    """

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    mask: PyTree


@struct.dataclass
class MetricSums:
    """Sums over examples, kept on the device until an epoch ends.

    Attributes:
        loss: float32, the sum of the examples' losses.
        correct: the sum of the examples' metric: for classification, int32, the number of right
            answers; for other tasks float32.
        count: int32, the number of examples.
    """

    loss: jax.Array
    correct: jax.Array
    count: jax.Array

    @classmethod
    def zero(cls, metric_dtype: Any = jnp.int32) -> MetricSums:
        """Return the sums over no examples."""
        return cls(
            jnp.zeros((), jnp.float32), jnp.zeros((), metric_dtype), jnp.zeros((), jnp.int32)
        )

    def __add__(self, other: MetricSums) -> MetricSums:
        return jax.tree.map(jnp.add, self, other)


class EvalMetrics(NamedTuple):
    """Mean loss and mean metric; arrays for several replicates.

    Attributes:
        loss: the mean loss.
        accuracy: the mean of the task's metric: for classification the share of right answers, 0
            to 1.
    """

    loss: Any
    accuracy: Any


class EpochProgress(NamedTuple):
    """Progress within an unfinished epoch, saved so that training can resume.

    Attributes:
        sums: over the epoch's steps so far; `Task.zero_sums()` at its start.
        seconds: the time that these steps took.
    """

    sums: MetricSums
    seconds: float


def init_state(
    optimizer: optax.GradientTransformation,
    ticket: UntrainedTicket,
    restored: TrainState | None = None,
) -> TrainState:
    """Return the state in which a ticket's training starts, as NumPy arrays.

    Args:
        optimizer: without a learning rate.
        ticket: its weights are masked here.
        restored: a state whose optimizer state is taken over; without it that is fresh.
    """
    params = masks.apply(ticket.mask, ticket.variables["params"])
    return jax.device_get(
        TrainState(
            step=jnp.int32(ticket.step),
            params=params,
            batch_stats=ticket.variables["batch_stats"],
            opt_state=restored.opt_state if restored else optimizer.init(params),
            mask=ticket.mask,
        )
    )
