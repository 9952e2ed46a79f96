"""Training one masked network: the state, the compiled steps, and the loop over epochs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding

from lottery_jax.errors import TrainingError
from lottery_jax.models.xla_options import compiler_options
from lottery_jax.parallel.mesh import (
    batch_sharded,
    replicated,
    to_host,
    to_mesh,
)
from lottery_jax.parallel.replicates import REPLICA_SPEC, map_replicates
from lottery_jax.pruning import masks
from lottery_jax.pruning.controls import UntrainedTicket
from lottery_jax.training.batches import (
    DeviceData,
    EvalBatches,
    Preprocess,
    TrainBatches,
    check_batch,
    epoch_order,
    eval_order,
    gather_batch,
    make_preprocess,
)
from lottery_jax.training.optim import Schedule

PyTree = Any

# What helps against a loss that is not finite.
LOWER_RATE = "a lower config.optimizer.learning_rate or config.optimizer.warmup_epochs may help"


@struct.dataclass
class TrainState:
    """All that training changes, and the mask it keeps to.

    Of replicates that train together every array has a leading axis, a replicate each.

    Attributes:
        step: int32 scalar; where in the schedule and in the order of batches we are.
        params: float32; exactly 0.0 where `mask` is False.
        batch_stats: BatchNorm's running means and variances, or empty.
        opt_state: of the optimizer.
        mask: bool, with the structure of params.
    """

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    mask: PyTree


@struct.dataclass
class MetricSums:
    """Sums over examples, kept on the device until an epoch ends."""

    loss: jax.Array  # float32
    correct: jax.Array  # int32
    count: jax.Array  # int32

    @classmethod
    def zero(cls) -> MetricSums:
        """Nothing seen yet."""
        return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def add(self, logits: jax.Array, labels: jax.Array, counted: jax.Array) -> MetricSums:
        """Adds the examples for which `counted` is True."""
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        hits = (logits.argmax(-1) == labels) & counted
        return MetricSums(
            self.loss + jnp.where(counted, losses, 0.0).sum(),
            self.correct + hits.sum(dtype=jnp.int32),
            self.count + counted.sum(dtype=jnp.int32),
        )


class EvalMetrics(NamedTuple):
    """Mean loss and the share of right answers (0 to 1); of several replicates, arrays."""

    loss: Any
    accuracy: Any


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """What `fit` tells after each epoch.

    Attributes:
        epoch: how many epochs are complete.
        step: how many steps.
        train_loss: mean over the steps of this epoch, those of `progress` included; of replicates
            that train together an array.
        learning_rate: of the epoch's last step.
        images_per_s: training images a second, of each replicate; evaluation and saving left out.
        seconds: that the training took, likewise.
    """

    epoch: int
    step: int
    train_loss: Any
    learning_rate: float
    images_per_s: float
    seconds: float


class EpochProgress(NamedTuple):
    """What has been of an epoch that is not at its end, so that it can be gone on with.

    Attributes:
        totals: over the epoch's steps so far; `MetricSums.zero()` at its start.
        seconds: that they took.
    """

    totals: MetricSums
    seconds: float


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled steps of one network on one data set; arrays are their arguments.

    One program serves all levels, seeds and controls of a run: nothing that differs between them
    is static.

    Attributes:
        mesh: of the devices.
        optimizer: without a learning rate.
        schedule: of the learning rate.
        batch_size: of a replicate, over all the devices that share it.
        examples: size of the training set.
        steps_per_dispatch: the steps that `train_step` takes at most.
        epoch_order: `(key, epoch) -> order`, the batches of an epoch.
        train_step: `(state, totals, data, order, key, count) -> (state, totals)`, `count` steps.
        eval_pass: `(params, batch_stats, data, index, counted) -> totals`.
        stacked: the last three for replicates that are stacked.
    """

    mesh: Mesh
    optimizer: optax.GradientTransformation
    schedule: Schedule
    batch_size: int
    examples: int
    steps_per_dispatch: int
    epoch_order: Callable[..., jax.Array]
    train_step: Callable[..., tuple[TrainState, MetricSums]]
    eval_pass: Callable[..., MetricSums]
    stacked: StackedProgram

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.examples // self.batch_size

    def evaluate(self, state: TrainState, data: DeviceData | EvalBatches) -> EvalMetrics:
        """Mean loss and accuracy over all of `data`, every example counted exactly once."""
        eval_pass = self.stacked.eval_pass if state.step.ndim else self.eval_pass
        return evaluate(eval_pass, self.batch_size, state.params, state.batch_stats, data)


class StackedProgram(NamedTuple):
    """`Program`'s functions for stacked replicates."""

    epoch_order: Callable[..., jax.Array]
    train_step: Callable[..., tuple[TrainState, MetricSums]]
    eval_pass: Callable[..., MetricSums]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    preprocess: Preprocess,
    mesh: Mesh,
    *,
    steps_per_dispatch: int = 1,
) -> Callable[..., tuple[TrainState, MetricSums]]:
    """The function `(state, totals, data, order, key, count) -> (state, totals)` of `count` steps.

    `order` holds the epoch's batches, `[steps_per_epoch, batch_size]`; the state's step selects
    one. Without it `data` is the batch. Gradients and the new weights are both masked: momentum,
    Adam's moments and weight decay then have nothing to revive a pruned weight with, and it is
    exactly 0.0 after every step. With `steps_per_dispatch=1` the count is 1, whatever is given.
    """

    def loss_of(
        params: PyTree, batch_stats: PyTree, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, PyTree]]:
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        logits = logits.astype(jnp.float32)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (logits, updated.get("batch_stats", {}))

    def step(
        state: TrainState,
        totals: MetricSums,
        data: DeviceData,
        order: jax.Array | None,
        key: jax.Array,
    ) -> tuple[TrainState, MetricSums]:
        batch = (
            data if order is None else gather_batch(data, order[state.step % order.shape[0]], mesh)
        )
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        images, labels = preprocess(augment_key, batch.images, True), batch.labels
        grad = jax.grad(loss_of, has_aux=True)
        grads, (logits, batch_stats) = grad(
            state.params, state.batch_stats, images, labels, dropout_key
        )
        # All gradients before any update: then no layer still reads weights that are written to,
        # and the donated weights are updated in place.
        grads = jax.lax.optimization_barrier(grads)
        grads = masks.apply(state.mask, grads)
        direction, opt_state = optimizer.update(grads, state.opt_state, state.params)
        rate = schedule(state.step)
        params = jax.tree.map(lambda p, d: p - (rate * d).astype(p.dtype), state.params, direction)
        params = masks.apply(state.mask, params)
        totals = totals.add(logits, labels, jnp.ones(labels.shape, bool))
        return TrainState(state.step + 1, params, batch_stats, opt_state, state.mask), totals

    def steps(
        state: TrainState,
        totals: MetricSums,
        data: DeviceData,
        order: jax.Array | None,
        key: jax.Array,
        count: jax.Array | int = 1,
    ) -> tuple[TrainState, MetricSums]:
        if steps_per_dispatch == 1:
            return step(state, totals, data, order, key)
        return jax.lax.fori_loop(
            0, count, lambda _, at: step(at[0], at[1], data, order, key), (state, totals)
        )

    return steps


def make_eval_pass(
    model: nn.Module, preprocess: Preprocess, mesh: Mesh
) -> Callable[..., MetricSums]:
    """The function `(params, batch_stats, data, index, counted) -> totals`, a pass over all of `data`.

    `index` and `counted` are those of `batches.eval_order`. Without `index`, `data` is one
    batch.
    """

    def add(
        variables: PyTree, totals: MetricSums, batch: DeviceData, counted: jax.Array
    ) -> MetricSums:
        images = preprocess(jax.random.key(0), batch.images, False)
        logits: Any = model.apply(variables, images, train=False)
        return totals.add(logits.astype(jnp.float32), batch.labels, counted)

    def whole_pass(
        params: PyTree,
        batch_stats: PyTree,
        data: DeviceData,
        index: jax.Array | None,
        counted: jax.Array,
    ) -> MetricSums:
        variables = {"params": params, "batch_stats": batch_stats}
        if index is None:
            return add(variables, MetricSums.zero(), data, counted)

        def next_batch(
            totals: MetricSums, batch: tuple[jax.Array, jax.Array]
        ) -> tuple[MetricSums, None]:
            index, counted = batch
            counted = jax.lax.with_sharding_constraint(counted, batch_sharded(mesh))
            return add(variables, totals, gather_batch(data, index, mesh), counted), None

        return jax.lax.scan(next_batch, MetricSums.zero(), (index, counted))[0]

    return whole_pass


def compiled(function: Callable[..., PyTree], mesh: Mesh, **options: Any) -> Callable[..., PyTree]:
    """`jax.jit` for the mesh's devices, with replicated results unless `options` say otherwise.

    Results are laid out as arguments are: those of a step are the next one's arguments, and nothing
    is compiled twice.
    """
    return jax.jit(
        function,
        compiler_options=compiler_options(mesh.devices.flat[0].platform),
        **{"out_shardings": replicated(mesh), **options},
    )


def make_program(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    *,
    mesh: Mesh,
    examples: int,
    batch_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augment: str = "none",
    steps_per_dispatch: int = 1,
    vmapped: bool = False,
) -> Program:
    """The steps for training `model` on a set of `examples` images.

    Args:
        model: a network of `lottery_jax.models`.
        optimizer: from `optim.make_optimizer`, without a learning rate.
        schedule: from `optim.make_schedule`.
        mesh: from `parallel.mesh.make_mesh`.
        examples: size of the training set.
        batch_size: of a replicate, over all the devices that share it.
        mean: of each channel, of pixel value / 255.
        std: standard deviation, likewise.
        augment: none, crop, flip or crop_flip.
        steps_per_dispatch: how many steps are dispatched together at most. More than one helps small
            networks; on CPU the gradients of convolutions are slow in a loop.
        vmapped: as in `replicates.Layout`.

    Raises:
        ConfigError: the batch size does not fit the devices or the data.
    """
    check_batch(batch_size, mesh.shape["data"], examples)
    preprocess = make_preprocess(mean, std, augment)
    train_step = make_train_step(
        model, optimizer, schedule, preprocess, mesh, steps_per_dispatch=steps_per_dispatch
    )
    eval_pass = make_eval_pass(model, preprocess, mesh)
    order = partial(epoch_order, examples=examples, batch_size=batch_size)
    own = NamedSharding(mesh, REPLICA_SPEC)

    def several(function: Callable[..., PyTree], *shared: int) -> Callable[..., PyTree]:
        return map_replicates(function, mesh, shared, vmapped=vmapped)

    return Program(
        mesh=mesh,
        optimizer=optimizer,
        schedule=schedule,
        batch_size=batch_size,
        examples=examples,
        steps_per_dispatch=steps_per_dispatch,
        epoch_order=compiled(order, mesh),
        train_step=compiled(train_step, mesh, donate_argnums=(0, 1)),
        eval_pass=compiled(eval_pass, mesh),
        stacked=StackedProgram(
            epoch_order=compiled(jax.vmap(order, (0, None)), mesh, out_shardings=own),
            train_step=compiled(
                several(train_step, 2, 5), mesh, donate_argnums=(0, 1), out_shardings=own
            ),
            eval_pass=compiled(several(eval_pass, 2, 3, 4), mesh, out_shardings=own),
        ),
    )


def init_device_state(
    program: Program,
    variables: PyTree,
    mask: PyTree,
    step: int,
    restored: TrainState | None = None,
) -> TrainState:
    """A state at `step` from `params` and `batch_stats`, masked, on the devices.

    The optimizer's state is fresh, or that of `restored`. All arrays are copied: training never
    changes those it is given.
    """
    begin = UntrainedTicket(mask, variables, step)
    return to_mesh(program.mesh, init_state(program.optimizer, begin, restored))


def init_state(
    optimizer: optax.GradientTransformation,
    begin: UntrainedTicket,
    restored: TrainState | None = None,
) -> TrainState:
    """The state in which a ticket starts, as NumPy arrays, with the optimizer's state of `restored`."""
    params = masks.apply(begin.mask, begin.variables["params"])
    return jax.device_get(
        TrainState(
            step=jnp.int32(begin.step),
            params=params,
            batch_stats=begin.variables["batch_stats"],
            opt_state=restored.opt_state if restored else optimizer.init(params),
            mask=begin.mask,
        )
    )


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
) -> TrainState:
    """Trains from the state's step to step `until`.

    Args:
        program: the compiled steps.
        state: donated; not to be used afterwards. Of one replicate, or of several that are at the
            same step, as `replicates.stack` puts them together.
        data: the training set, on the device; or, for one replicate, what gives its batches.
        key: typed PRNG key of the replicate, or one of each; batches, augmentation and dropout
            follow from it, the epoch and the step.
        until: the step to stop at; may be within an epoch.
        progress: of the epoch that `state` is in the middle of, as `on_step` was given it.
        on_epoch: called at the end of every epoch.
        on_step: called before that after every `program.steps_per_dispatch` steps; may raise to stop.
            Its arguments are donated to the next step.

    Returns:
        The state at step `until`.

    Raises:
        TrainingError: an epoch's loss is not finite; names step and learning rate, and in
            `replicate` which one it was.
    """
    split = jax.random.split if key.ndim == 0 else jax.vmap(jax.random.split, out_axes=1)
    order_key, step_key = split(key)
    several = state.step.ndim == 1
    train_step = program.stacked.train_step if several else program.train_step
    per_dispatch = (
        program.steps_per_dispatch if isinstance(data, DeviceData) else 1
    )  # a batch is for one step
    per_epoch = program.steps_per_epoch
    step = int(np.ravel(to_host(state.step))[0])
    zero = jax.tree.map(lambda a: np.zeros(state.step.shape, a.dtype), MetricSums.zero())
    spec = REPLICA_SPEC if several else None

    def order_of(epoch: int) -> jax.Array:
        order = program.stacked.epoch_order if several else program.epoch_order
        return order(order_key, np.int32(epoch))

    upcoming = order_of(step // per_epoch)
    while step < until:
        epoch = step // per_epoch
        stop = min(until, (epoch + 1) * per_epoch)
        order = upcoming
        totals, seconds = progress or EpochProgress(zero, 0.0)
        progress = None
        totals = to_mesh(program.mesh, totals, spec)
        began = time.perf_counter() - seconds
        with contextlib.closing(_fed(data, order, epoch, step - epoch * per_epoch)) as fed:
            while step < stop:
                count = min(per_dispatch, stop - step)
                state, totals = train_step(state, totals, *next(fed), step_key, count)
                step += count
                if on_step is not None and step < stop:
                    if (
                        per_dispatch > 1
                    ):  # or all of an epoch is dispatched before a stop is asked for
                        jax.block_until_ready(totals)
                    on_step(state, EpochProgress(totals, time.perf_counter() - began))
        if stop < until:
            upcoming = order_of(epoch + 1)  # made while the steps still run
        seen = to_host(totals)  # the one time in an epoch that the host waits
        loss = seen.loss / seen.count
        seconds = time.perf_counter() - began
        images_per_s = int(np.ravel(seen.count)[0]) / seconds
        rate = float(program.schedule(jnp.int32(step - 1)))
        if (at := first_not_finite(loss)) is not None:
            raise TrainingError(
                f"the training loss is {np.ravel(loss)[at]} in the epoch that ends at step {step} "
                f"(learning rate {rate:g}); {LOWER_RATE}",
                replicate=at,
            )
        if on_epoch is not None and step % per_epoch == 0:
            report = EpochReport(step // per_epoch, step, loss, rate, images_per_s, seconds)
            on_epoch(state, report)
    return state


def first_not_finite(loss: Any) -> int | None:
    """Which replicate's loss, of one or an array of several, is infinite or no number, if any is."""
    (which,) = np.nonzero(~np.isfinite(np.atleast_1d(loss)))
    return int(which[0]) if len(which) else None


def _fed(
    data: DeviceData | TrainBatches, order: jax.Array, epoch: int, first_step: int
) -> Generator[tuple[DeviceData, jax.Array | None], None, None]:
    """`data` and `order` of each of an epoch's train steps."""
    if isinstance(data, DeviceData):
        yield from itertools.repeat((data, order))
    else:
        with contextlib.closing(data(epoch, first_step)) as batches:
            for batch in batches:
                yield batch, None


def evaluate(
    eval_pass: Callable[..., MetricSums],
    batch_size: int,
    params: PyTree,
    batch_stats: PyTree,
    data: DeviceData | EvalBatches,
) -> EvalMetrics:
    """Mean loss and accuracy over all of `data`, every example counted exactly once.

    Args:
        eval_pass: from `Program`, or `make_eval_pass`, compiled.
        batch_size: a multiple of the devices that share a batch.
        params: on the device.
        batch_stats: on the device.
        data: on the device, or what gives its batches.
    """
    if isinstance(data, DeviceData):
        order = eval_order(data.labels.shape[0], batch_size)
        totals = eval_pass(params, batch_stats, data, *order)
    else:
        with contextlib.closing(data()) as batches:
            parts = [
                eval_pass(params, batch_stats, batch, None, counted) for batch, counted in batches
            ]
        totals = functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), parts)
    totals = to_host(totals)
    return EvalMetrics(totals.loss / totals.count, totals.correct / totals.count)
