"""Evaluation: mean loss and mean metric over a whole set, every example counted exactly once."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from lottery_jax.models.network import Network
from lottery_jax.parallel.mesh import batch_sharded, to_host
from lottery_jax.training.batches import (
    DeviceData,
    EvalBatches,
    Preprocess,
    eval_order,
    gather_batch,
)
from lottery_jax.training.state import EvalMetrics, MetricSums
from lottery_jax.training.task import Task
from lottery_jax.types import PyTree

# (params, batch_stats, data, index, counted) -> sums
EvalPass = Callable[..., MetricSums]


def make_eval_pass(network: Network, task: Task, preprocess: Preprocess, mesh: Mesh) -> EvalPass:
    """Return the function `(params, batch_stats, data, index, counted) -> sums` over all `data`.

    `index` and `counted` are those of `batches.eval_order`. Without `index`, `data` is one batch.
    """

    def eval_pass(
        params: PyTree,
        batch_stats: PyTree,
        data: DeviceData,
        index: jax.Array | None,
        counted: jax.Array,
    ) -> MetricSums:
        def add(sums: MetricSums, batch: DeviceData, counted: jax.Array) -> MetricSums:
            images = preprocess(jax.random.key(0), batch.images, False)
            outputs = network.apply_eval(params, batch_stats, images)
            return sums + task.metric_sums(outputs, batch.labels, counted)

        def add_rows(
            sums: MetricSums, rows: tuple[jax.Array, jax.Array]
        ) -> tuple[MetricSums, None]:
            index, counted = rows
            counted = jax.lax.with_sharding_constraint(counted, batch_sharded(mesh))
            return add(sums, gather_batch(data, index, mesh), counted), None

        if index is None:
            return add(task.zero_sums(), data, counted)
        return jax.lax.scan(add_rows, task.zero_sums(), (index, counted))[0]

    return eval_pass


def evaluate(
    eval_pass: EvalPass,
    batch_size: int,
    params: PyTree,
    batch_stats: PyTree,
    data: DeviceData | EvalBatches,
) -> EvalMetrics:
    """Return mean loss and mean metric over all of `data`.

    Args:
        eval_pass: from `make_eval_pass`, compiled; or that of a `Program`.
        batch_size: a multiple of the number of devices that share a batch.
        params: on the devices.
        batch_stats: on the devices.
        data: the set on the devices, or the function that yields its batches.
    """
    if isinstance(data, DeviceData):
        order = eval_order(data.labels.shape[0], batch_size)
        sums = eval_pass(params, batch_stats, data, *order)
    else:
        with contextlib.closing(data()) as batches:
            parts = [
                eval_pass(params, batch_stats, batch, None, counted) for batch, counted in batches
            ]
        sums = functools.reduce(operator.add, parts)
    sums = to_host(sums)
    return EvalMetrics(sums.loss / sums.count, sums.correct / sums.count)
