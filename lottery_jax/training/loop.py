"""The loop over epochs that trains one masked network, or several replicates together."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lottery_jax.errors import TrainingError
from lottery_jax.parallel.mesh import keys_to_mesh, to_host, to_mesh
from lottery_jax.parallel.replicates import REPLICA_SPEC
from lottery_jax.training.batches import DeviceData, TrainBatches
from lottery_jax.training.evaluation import evaluate, make_eval_pass
from lottery_jax.training.program import Program, compiled, init_device_state, make_program
from lottery_jax.training.state import (
    EpochProgress,
    EvalMetrics,
    MetricSums,
    TrainState,
    init_state,
)

# Names that were in this module before 0.2 and are imported from it by scripts.
__all__ = ["LOWER_RATE", "EpochProgress", "EpochReport", "EvalMetrics", "MetricSums", "Program",
           "TrainState", "compiled", "evaluate", "first_not_finite", "fit", "init_device_state",
           "init_state", "make_eval_pass", "make_program"]  # fmt: skip

# The advice in messages about a loss that is not finite.
LOWER_RATE = "a lower config.optimizer.learning_rate or config.optimizer.warmup_epochs may help"


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """The report that `fit` gives at the end of each epoch.

    Attributes:
        epoch: the number of complete epochs.
        step: the number of steps taken.
        train_loss: the mean over the examples that this training has seen in the epoch, those of
            `progress` included; an array for replicates that train together.
        learning_rate: the rate of the epoch's last step.
        images_per_s: training images a second of each replicate, without evaluation and saving.
        seconds: the time that training took, without evaluation and saving.
    """

    epoch: int
    step: int
    train_loss: Any
    learning_rate: float
    images_per_s: float
    seconds: float


def fit(
    program: Program,
    state: TrainState,
    data: DeviceData | TrainBatches,
    key: jax.Array,
    *,
    until: int,
    progress: EpochProgress | None = None,
    on_epoch: Callable[[TrainState, EpochReport], None] | None = None,
    on_step: Callable[[TrainState, EpochProgress], None] | None = None,
    eval_every: int = 0,
    on_eval: Callable[[TrainState, int], None] | None = None,
) -> TrainState:
    """Train from the state's step to step `until`.

    Args:
        program: the compiled steps.
        state: of one replicate, or of several that are at the same step, stacked by
            `replicates.stack`. It is donated: do not use it afterwards.
        data: the training set on the devices; or, for one replicate, the function that yields its
            batches.
        key: a typed PRNG key, or one for each replicate. Batches, augmentation and dropout are
            functions of the key, the epoch and the step.
        until: the step to stop at, which may be within an epoch.
        progress: the progress within the epoch that `state` is in, as `on_step` received it.
        on_epoch: called at the end of every epoch.
        on_step: called within epochs, after every `program.steps_per_dispatch` steps; it may raise
            to stop. Its arguments are donated to the next step.
        eval_every: steps between calls of `on_eval`; 0: it is never called.
        on_eval: called with the state and its step after every step that is a multiple of
            `eval_every`, before `on_step` and `on_epoch`. The state is donated to the next step.

    Returns:
        The state at step `until`.

    Raises:
        TrainingError: an epoch's loss is not finite. The message names step and learning rate, and
            `replicate` is the index of the replicate.
    """
    is_stacked = state.step.ndim == 1
    split = jax.vmap(jax.random.split, out_axes=1) if is_stacked else jax.random.split
    spec = REPLICA_SPEC if is_stacked else None
    # On the mesh, or else every step copies its key to all devices.
    order_key, step_key = (keys_to_mesh(program.mesh, each, spec) for each in split(key))
    functions = program.stacked if is_stacked else program
    per_epoch = program.steps_per_epoch
    in_memory = isinstance(data, DeviceData)
    # A batch from the disk is for one step.
    per_dispatch = program.steps_per_dispatch if in_memory else 1
    zero = jax.tree.map(lambda a: np.zeros(state.step.shape, a.dtype), program.task.zero_sums())
    step = int(np.ravel(to_host(state.step))[0])
    eval_every = eval_every if on_eval else 0

    def order_of(epoch: int) -> jax.Array | None:
        # A stream has an order of its own.
        return functions.epoch_order(order_key, np.int32(epoch)) if in_memory else None

    next_order = order_of(step // per_epoch)
    while step < until:
        epoch = step // per_epoch
        stop = min(until, (epoch + 1) * per_epoch)
        order = next_order
        sums, seconds = progress or EpochProgress(zero, 0.0)
        progress = None
        sums = to_mesh(program.mesh, sums, spec)
        began = time.perf_counter() - seconds
        with contextlib.closing(_step_inputs(data, order, epoch, step % per_epoch)) as inputs:
            while step < stop:
                count = min(per_dispatch, stop - step)
                if eval_every:  # a dispatch ends where the network is evaluated
                    count = min(count, eval_every - step % eval_every)
                state, sums = functions.train_step(state, sums, *next(inputs), step_key, count)
                step += count
                if on_eval and eval_every and step < stop and step % eval_every == 0:
                    jax.block_until_ready(sums)
                    paused = time.perf_counter()
                    on_eval(state, step)
                    began += time.perf_counter() - paused  # evaluation is no training time
                if on_step is not None and step < stop:
                    if per_dispatch > 1:
                        # Wait: otherwise all dispatches of the epoch are queued before a stop is
                        # seen.
                        jax.block_until_ready(sums)
                    on_step(state, EpochProgress(sums, time.perf_counter() - began))
        if stop < until:
            next_order = order_of(epoch + 1)  # computed while the steps still run
        # Without `on_step`, the only time in an epoch that the host waits.
        sums = to_host(sums)
        seconds = time.perf_counter() - began
        report = EpochReport(
            epoch=step // per_epoch,
            step=step,
            train_loss=sums.loss / sums.count,
            learning_rate=float(program.schedule(jnp.int32(step - 1))),
            images_per_s=int(np.ravel(sums.count)[0]) / seconds,
            seconds=seconds,
        )
        _check_finite(report)
        if on_eval and eval_every and step % eval_every == 0:
            on_eval(state, step)
        if on_epoch is not None and step % per_epoch == 0:
            on_epoch(state, report)
    return state


def first_not_finite(loss: Any) -> int | None:
    """Return the index of the first replicate whose loss is infinite or NaN, or None.

    Args:
        loss: a scalar, or an array with one entry for each replicate.
    """
    (which,) = np.nonzero(~np.isfinite(np.atleast_1d(loss)))
    return int(which[0]) if len(which) else None


def _check_finite(report: EpochReport) -> None:
    if (replicate := first_not_finite(report.train_loss)) is not None:
        raise TrainingError(
            f"the training loss is {np.ravel(report.train_loss)[replicate]} in the epoch of step "
            f"{report.step} (learning rate {report.learning_rate:g}); {LOWER_RATE}",
            replicate=replicate,
        )


def _step_inputs(
    data: DeviceData | TrainBatches, order: jax.Array | None, epoch: int, first_step: int
) -> Generator[tuple[DeviceData, jax.Array | None], None, None]:
    """Yield the arguments `data` and `order` of each of an epoch's train steps."""
    if isinstance(data, DeviceData):
        yield from itertools.repeat((data, order))
    else:
        with contextlib.closing(data(epoch, first_step)) as batches:
            for batch in batches:
                yield batch, None
