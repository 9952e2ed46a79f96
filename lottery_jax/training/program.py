"""The compiled steps: training and evaluation of a masked network, for one or several replicates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from lottery_jax.datasets.checks import check_batch
from lottery_jax.models.network import Network, as_network
from lottery_jax.models.xla_options import compiler_options
from lottery_jax.parallel.mesh import replicated, to_mesh
from lottery_jax.parallel.replicates import REPLICA_SPEC, map_replicates
from lottery_jax.pruning import masks
from lottery_jax.pruning.controls import UntrainedTicket
from lottery_jax.training.batches import (
    DeviceData,
    EvalBatches,
    Preprocess,
    epoch_order,
    gather_batch,
    make_preprocess,
)
from lottery_jax.training.evaluation import EvalPass, evaluate, make_eval_pass
from lottery_jax.training.optim import Schedule
from lottery_jax.training.state import EvalMetrics, MetricSums, TrainState, init_state
from lottery_jax.training.task import CLASSIFICATION, Task
from lottery_jax.types import PyTree

# (state, sums, data, order, key, count) -> (state, sums)
TrainStep = Callable[..., tuple[TrainState, MetricSums]]


class StackedProgram(NamedTuple):
    """The functions of a `Program` for replicates that are stacked along a leading axis."""

    epoch_order: Callable[..., jax.Array]
    train_step: TrainStep
    eval_pass: EvalPass


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled steps of one network on one data set; arrays are their arguments.

    One program serves all levels, seeds and controls of a run: whatever differs between them is
    an argument.

    Attributes:
        network: the network.
        task: its loss and metrics.
        mesh: the mesh of devices.
        optimizer: its output times `schedule(step)` is subtracted from the params.
        schedule: the learning rate by step; 1 if the optimizer has a rate of its own.
        batch_size: examples a step of one replicate, over all devices that share the batch.
        examples: size of the training set.
        steps_per_dispatch: the largest number of steps that one call of `train_step` takes.
        epoch_order: `(key, epoch) -> order`, the batches of an epoch.
        train_step: `(state, sums, data, order, key, count) -> (state, sums)`, `count` steps.
        eval_pass: `(params, batch_stats, data, index, counted) -> sums`.
        stacked: `epoch_order`, `train_step` and `eval_pass` for replicates that are stacked.
    """

    network: Network
    task: Task
    mesh: Mesh
    optimizer: optax.GradientTransformation
    schedule: Schedule
    batch_size: int
    examples: int
    steps_per_dispatch: int
    epoch_order: Callable[..., jax.Array]
    train_step: TrainStep
    eval_pass: EvalPass
    stacked: StackedProgram

    @property
    def steps_per_epoch(self) -> int:
        """The number of whole batches in an epoch."""
        return self.examples // self.batch_size

    def evaluate(self, state: TrainState, data: DeviceData | EvalBatches) -> EvalMetrics:
        """Return `evaluation.evaluate` of a state, of one replicate or of several."""
        eval_pass = self.stacked.eval_pass if state.step.ndim else self.eval_pass
        return evaluate(eval_pass, self.batch_size, state.params, state.batch_stats, data)


def make_program(
    network: Network | nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    *,
    task: Task = CLASSIFICATION,
    mesh: Mesh,
    examples: int,
    batch_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augment: str = "none",
    steps_per_dispatch: int = 1,
    vmapped: bool = False,
) -> Program:
    """Return the steps that train a network on a set of `examples` images.

    Args:
        network: a network, or a Linen module that is called like those of `lottery_jax.models`.
        optimizer: its output times `schedule(step)` is subtracted from the params: from
            `optim.make_optimizer`, or one with a rate of its own by `optim.with_own_rate`.
        schedule: from `optim.make_schedule`, or that of `with_own_rate`.
        task: the loss and the metrics.
        mesh: from `parallel.mesh.make_mesh`.
        examples: size of the training set.
        batch_size: examples a step of one replicate, over all devices that share the batch.
        mean: the mean of each channel, of pixel value / 255.
        std: the standard deviation of each channel, of pixel value / 255.
        augment: none, crop, flip or crop_flip.
        steps_per_dispatch: the largest number of steps that are dispatched together. More than one
            helps small networks; on CPU the gradients of convolutions are slow in a loop.
        vmapped: as in `replicates.Layout`.

    Raises:
        ConfigError: the batch size does not fit the devices or the data.
    """
    check_batch(batch_size, mesh.shape["data"], examples)
    network, preprocess = as_network(network), make_preprocess(mean, std, augment)
    order = partial(epoch_order, examples=examples, batch_size=batch_size)
    eval_pass = make_eval_pass(network, task, preprocess, mesh)
    train_step = make_train_step(
        network, task, optimizer, schedule, preprocess, mesh, steps_per_dispatch=steps_per_dispatch
    )
    per_replica = NamedSharding(mesh, REPLICA_SPEC)

    def stacked(function: Callable[..., PyTree], *shared: int) -> Callable[..., PyTree]:
        return map_replicates(function, mesh, shared, vmapped=vmapped)

    return Program(
        network=network,
        task=task,
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
            epoch_order=compiled(jax.vmap(order, (0, None)), mesh, out_shardings=per_replica),
            # Replicates share `data` and `count`.
            train_step=compiled(
                stacked(train_step, 2, 5), mesh, donate_argnums=(0, 1), out_shardings=per_replica
            ),
            # Replicates share `data`, `index` and `counted`.
            eval_pass=compiled(stacked(eval_pass, 2, 3, 4), mesh, out_shardings=per_replica),
        ),
    )


def make_train_step(
    network: Network,
    task: Task,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    preprocess: Preprocess,
    mesh: Mesh,
    *,
    steps_per_dispatch: int = 1,
) -> TrainStep:
    """Return the function `(state, sums, data, order, key, count) -> (state, sums)`.

    It takes `count` steps; with `steps_per_dispatch=1` one step, whatever `count` is. `order` holds
    the epoch's batches, int32 `[steps_per_epoch, batch_size]`, and the state's step selects one;
    without `order`, `data` is the batch. Gradients and new weights are both masked: then momentum,
    Adam's moments and weight decay can't revive a pruned weight, which is exactly 0.0 after every
    step.
    """

    def loss_of(
        params: PyTree, batch_stats: PyTree, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, PyTree]]:
        outputs, batch_stats = network.apply_train(params, batch_stats, images, key)
        return task.loss(outputs, labels), (outputs, batch_stats)

    def step(
        state: TrainState,
        sums: MetricSums,
        data: DeviceData,
        order: jax.Array | None,
        key: jax.Array,
    ) -> tuple[TrainState, MetricSums]:
        batch = data
        if order is not None:
            batch = gather_batch(data, order[state.step % order.shape[0]], mesh)
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        images, labels = preprocess(augment_key, batch.images, True), batch.labels
        grads, (outputs, batch_stats) = jax.grad(loss_of, has_aux=True)(
            state.params, state.batch_stats, images, labels, dropout_key
        )
        # All gradients come before any update: then no layer still reads weights that are written
        # to, and the donated weights are updated in place.
        grads = jax.lax.optimization_barrier(grads)
        grads = masks.apply(state.mask, grads)
        direction, opt_state = optimizer.update(grads, state.opt_state, state.params)
        rate = schedule(state.step)
        params = jax.tree.map(lambda p, d: p - (rate * d).astype(p.dtype), state.params, direction)
        params = masks.apply(state.mask, params)
        sums += task.metric_sums(outputs, labels, jnp.ones(labels.shape[:1], bool))
        return TrainState(state.step + 1, params, batch_stats, opt_state, state.mask), sums

    def steps(
        state: TrainState,
        sums: MetricSums,
        data: DeviceData,
        order: jax.Array | None,
        key: jax.Array,
        count: jax.Array | int = 1,
    ) -> tuple[TrainState, MetricSums]:
        if steps_per_dispatch == 1:
            return step(state, sums, data, order, key)
        return jax.lax.fori_loop(
            0, count, lambda _, carry: step(carry[0], carry[1], data, order, key), (state, sums)
        )

    return steps


def compiled(function: Callable[..., PyTree], mesh: Mesh, **options: Any) -> Callable[..., PyTree]:
    """Return `function` jitted for the mesh's devices, with replicated results by default.

    Results are laid out as arguments are: the results of one step are the next one's arguments, and
    nothing is compiled twice.

    Args:
        function: of arrays.
        mesh: the mesh of devices.
        options: of `jax.jit`.
    """
    return jax.jit(
        function,
        compiler_options=compiler_options(mesh.devices.flat[0].platform),
        **{"out_shardings": replicated(mesh), **options},
    )


def init_device_state(
    program: Program, variables: PyTree, mask: PyTree, step: int, restored: TrainState | None = None
) -> TrainState:
    """Return `state.init_state` on the devices: a state at `step`, masked.

    All arrays are copied, since training donates its state.

    Args:
        program: for its optimizer and its devices.
        variables: `params` and `batch_stats` to start from.
        mask: bool, like params.
        step: the step to start at.
        restored: a state whose optimizer state is taken over; without it that is fresh.
    """
    ticket = UntrainedTicket(mask, variables, step)
    return to_mesh(program.mesh, init_state(program.optimizer, ticket, restored))
