"""Training one masked network: the state, the compiled steps, and the loop over epochs."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh

from lottery_jax import masks
from lottery_jax.compilation import compiler_options
from lottery_jax.errors import TrainingError
from lottery_jax.optim import Schedule
from lottery_jax.pipeline import (
    Prepare,
    Split,
    batch_sharded,
    check_batch,
    covering_order,
    epoch_order,
    make_prepare,
    put,
    replicated,
)

PyTree = Any

# What helps against a loss that is not finite.
LOWER_RATE = "a lower config.optimizer.learning_rate or config.optimizer.warmup_epochs may help"


@struct.dataclass
class TrainState:
    """All that training changes, and the mask it keeps to.

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


class Start(NamedTuple):
    """A ticket that is not yet trained.

    Attributes:
        mask: bool.
        variables: `params` and `batch_stats` to start from, at pruned places too: training masks
            them, and a control may put its mask elsewhere.
        step: of the schedule and of the order of batches, to start at.
    """

    mask: PyTree
    variables: PyTree
    step: int


@struct.dataclass
class Totals:
    """Sums over examples, kept on the device until an epoch ends."""

    loss: jax.Array  # float32
    correct: jax.Array  # int32
    count: jax.Array  # int32

    @classmethod
    def zero(cls) -> Totals:
        """Nothing seen yet."""
        return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def add(self, logits: jax.Array, labels: jax.Array, counted: jax.Array) -> Totals:
        """Adds the examples for which `counted` is True."""
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        hits = (logits.argmax(-1) == labels) & counted
        return Totals(
            self.loss + jnp.where(counted, losses, 0.0).sum(),
            self.correct + hits.sum(dtype=jnp.int32),
            self.count + counted.sum(dtype=jnp.int32),
        )


class Measured(NamedTuple):
    """Mean loss and the share of right answers (0 to 1)."""

    loss: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """What `fit` tells after each epoch.

    Attributes:
        epoch: how many epochs are complete.
        step: how many steps.
        train_loss: mean over the steps of this epoch, those of `begun` included.
        learning_rate: of the epoch's last step.
        images_per_s: training images a second, evaluation and saving left out.
        seconds: that the training took, likewise.
    """

    epoch: int
    step: int
    train_loss: float
    learning_rate: float
    images_per_s: float
    seconds: float


class Begun(NamedTuple):
    """What has been of an epoch that is not at its end, so that it can be gone on with.

    Attributes:
        totals: over the epoch's steps so far; `Totals.zero()` at its start.
        seconds: that they took.
    """

    totals: Totals
    seconds: float


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled steps of one network on one data set; arrays are their arguments.

    One program serves all levels, seeds and controls of a run: nothing that differs between them
    is static.
    """

    mesh: Mesh
    optimizer: optax.GradientTransformation
    schedule: Schedule
    batch_size: int
    examples: int
    train_step: Callable[..., tuple[TrainState, Totals]]
    eval_pass: Callable[..., Totals]

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.examples // self.batch_size

    def evaluate(self, state: TrainState, data: Split) -> Measured:
        """Mean loss and accuracy over all of `data`, every example counted exactly once."""
        weights = state.params, state.batch_stats
        return evaluate(self.eval_pass, self.batch_size, *weights, data)


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    prepare: Prepare,
    mesh: Mesh,
) -> Callable[..., tuple[TrainState, Totals]]:
    """Compiles `(state, totals, data, order, key) -> (state, totals)`.

    `order` holds the epoch's batches, `[steps_per_epoch, batch_size]`; the state's step selects
    one. `state` and `totals` are donated. Gradients and the new weights are both masked: momentum,
    Adam's moments and weight decay then have nothing to revive a pruned weight with, and it is
    exactly 0.0 after every step.
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
        state: TrainState, totals: Totals, data: Split, order: jax.Array, key: jax.Array
    ) -> tuple[TrainState, Totals]:
        index = jax.lax.with_sharding_constraint(
            order[state.step % order.shape[0]], batch_sharded(mesh)
        )
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        images = prepare(augment_key, data.images[index], True)
        labels = data.labels[index]
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

    # Replicated outputs, as the inputs are: the next step's arguments look the same and nothing
    # is compiled twice.
    options = compiler_options(mesh.devices.flat[0].platform)
    return jax.jit(
        step, donate_argnums=(0, 1), out_shardings=replicated(mesh), compiler_options=options
    )


def make_eval_pass(model: nn.Module, prepare: Prepare, mesh: Mesh) -> Callable[..., Totals]:
    """Compiles `(params, batch_stats, data, index, counted) -> totals`, a pass over all of `data`.

    `index` and `counted` are those of `pipeline.covering_order`.
    """

    def whole_pass(
        params: PyTree, batch_stats: PyTree, data: Split, index: jax.Array, counted: jax.Array
    ) -> Totals:
        variables = {"params": params, "batch_stats": batch_stats}

        def add(totals: Totals, batch: tuple[jax.Array, jax.Array]) -> tuple[Totals, None]:
            chosen, counted = jax.lax.with_sharding_constraint(batch, batch_sharded(mesh))
            images = prepare(jax.random.key(0), data.images[chosen], False)
            logits: Any = model.apply(variables, images, train=False)
            return totals.add(logits.astype(jnp.float32), data.labels[chosen], counted), None

        return jax.lax.scan(add, Totals.zero(), (index, counted))[0]

    options = compiler_options(mesh.devices.flat[0].platform)
    return jax.jit(whole_pass, out_shardings=replicated(mesh), compiler_options=options)


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
) -> Program:
    """The steps for training `model` on a set of `examples` images.

    Args:
        model: a network of `lottery_jax.models`.
        optimizer: from `optim.make_optimizer`, without a learning rate.
        schedule: from `optim.make_schedule`.
        mesh: from `pipeline.make_mesh`.
        examples: size of the training set.
        batch_size: over all devices.
        mean: of each channel, of pixel value / 255.
        std: standard deviation, likewise.
        augment: none, crop, flip or crop_flip.

    Raises:
        ConfigError: the batch size does not fit the devices or the data.
    """
    check_batch(batch_size, mesh.size, examples)
    prepare = make_prepare(mean, std, augment)
    return Program(
        mesh=mesh,
        optimizer=optimizer,
        schedule=schedule,
        batch_size=batch_size,
        examples=examples,
        train_step=make_train_step(model, optimizer, schedule, prepare, mesh),
        eval_pass=make_eval_pass(model, prepare, mesh),
    )


def start_state(
    program: Program,
    variables: PyTree,
    mask: PyTree,
    step: int,
    restored: TrainState | None = None,
) -> TrainState:
    """A state at `step` from `params` and `batch_stats`, masked.

    The optimizer's state is fresh, or that of `restored`. All arrays are copied: training never
    changes those it is given.
    """
    variables, mask = put(program.mesh, variables), put(program.mesh, mask)
    params = masks.apply(mask, variables["params"])
    opt_state = restored.opt_state if restored else program.optimizer.init(params)
    return TrainState(
        step=put(program.mesh, np.int32(step)),
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state=put(program.mesh, opt_state),
        mask=mask,
    )


def fit(
    program: Program,
    state: TrainState,
    data: Split,
    key: jax.Array,
    *,
    until: int,
    begun: Begun | None = None,
    on_epoch: Callable[[TrainState, EpochReport], None] | None = None,
    on_step: Callable[[TrainState, Begun], None] | None = None,
) -> TrainState:
    """Trains from the state's step to step `until`.

    Args:
        program: the compiled steps.
        state: donated; not to be used afterwards.
        data: the training set, on the device.
        key: typed PRNG key of the replicate; batches, augmentation and dropout follow from it, the
            epoch and the step.
        until: the step to stop at; may be within an epoch.
        begun: of the epoch that `state` is in the middle of, as `on_step` was given it.
        on_epoch: called at the end of every epoch.
        on_step: called after every other step; may raise to stop. Its arguments are donated to the
            next step.

    Returns:
        The state at step `until`.

    Raises:
        TrainingError: an epoch's loss is not finite; names step and learning rate.
    """
    order_key, step_key = jax.random.split(key)
    per_epoch = program.steps_per_epoch
    step = int(state.step)

    def order_of(epoch: int) -> jax.Array:
        order = epoch_order(
            order_key, np.int32(epoch), examples=program.examples, batch_size=program.batch_size
        )
        return jax.device_put(order, replicated(program.mesh))

    upcoming = order_of(step // per_epoch)
    while step < until:
        epoch = step // per_epoch
        stop = min(until, (epoch + 1) * per_epoch)
        order = upcoming
        totals, seconds = begun or Begun(Totals.zero(), 0.0)
        begun = None
        totals = put(program.mesh, totals)
        began = time.perf_counter() - seconds
        for done in range(step + 1, stop + 1):
            state, totals = program.train_step(state, totals, data, order, step_key)
            if on_step is not None and done < stop:
                on_step(state, Begun(totals, time.perf_counter() - began))
        if stop < until:
            upcoming = order_of(epoch + 1)  # made while the steps still run
        seen = jax.device_get(totals)  # the one time in an epoch that the host waits
        loss = float(seen.loss) / int(seen.count)
        seconds = time.perf_counter() - began
        images_per_s = int(seen.count) / seconds
        step = stop
        rate = float(program.schedule(jnp.int32(step - 1)))
        if not math.isfinite(loss):
            raise TrainingError(
                f"the training loss is {loss} in the epoch that ends at step {step} (learning "
                f"rate {rate:g}); {LOWER_RATE}"
            )
        if on_epoch is not None and step % per_epoch == 0:
            report = EpochReport(step // per_epoch, step, loss, rate, images_per_s, seconds)
            on_epoch(state, report)
    return state


def evaluate(
    eval_pass: Callable[..., Totals],
    batch_size: int,
    params: PyTree,
    batch_stats: PyTree,
    data: Split,
) -> Measured:
    """Mean loss and accuracy over all of `data`, every example counted exactly once.

    Args:
        eval_pass: from `make_eval_pass`.
        batch_size: a multiple of the mesh's devices.
        params: on the device.
        batch_stats: on the device.
        data: on the device.
    """
    order = covering_order(data.labels.shape[0], batch_size)
    totals = jax.device_get(eval_pass(params, batch_stats, data, *order))
    return Measured(float(totals.loss) / int(totals.count), int(totals.correct) / int(totals.count))
