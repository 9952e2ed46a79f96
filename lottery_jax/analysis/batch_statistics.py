"""BatchNorm's statistics computed anew for given weights, by a full pass over the training set.

Between two trained networks the running averages of neither are right, and averages of the two are
wrong too: activations of the interpolated weights have other means and variances. The pass is in
training mode and without augmentation. The statistics are the means over batches of each batch's own
mean and variance.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lottery_jax.errors import ConfigError
from lottery_jax.models.network import Network
from lottery_jax.training.batches import DeviceData, Preprocess, gather_batch
from lottery_jax.types import PyTree

# (params, batch_stats, data, order) -> a tree like batch_stats
StatisticsPass = Callable[..., PyTree]


def make_statistics_pass(network: Network, preprocess: Preprocess, mesh: Mesh) -> StatisticsPass:
    """Return the function `(params, batch_stats, data, order) -> sums` over all batches.

    `batch_stats` are the running averages with which each batch begins; what it makes of them is
    summed. `order` has the batches, int32 `[batches, batch_size]`; without it, `data` is one batch.
    """

    def updated(params: PyTree, batch_stats: PyTree, batch: DeviceData) -> PyTree:
        key = jax.random.key(0)
        images = preprocess(key, batch.images, False)
        return network.apply_train(params, batch_stats, images, key)[1]

    def statistics_pass(
        params: PyTree, batch_stats: PyTree, data: DeviceData, order: jax.Array | None
    ) -> PyTree:
        def add(sums: PyTree, index: jax.Array) -> tuple[PyTree, None]:
            new = updated(params, batch_stats, gather_batch(data, index, mesh))
            return jax.tree.map(jnp.add, sums, new), None

        if order is None:
            return updated(params, batch_stats, data)
        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, batch_stats), order)[0]

    return statistics_pass


def decay_of(
    statistics_pass: StatisticsPass, variables: PyTree, data: DeviceData, order: jax.Array | None
) -> PyTree:
    """Return how much of a running average a batch leaves: the momentum of BatchNorm, such as 0.9.

    Running averages of ones and of zeros are updated by the same batch; what is left of their
    difference is the momentum. Weights are zero, so that what a batch adds is small.

    Args:
        statistics_pass: from `make_statistics_pass`.
        variables: of the network, for their shapes.
        data: the training set, or one batch.
        order: one batch of the training set, int32 `[1, batch_size]`; None: `data` is the batch.

    Raises:
        ConfigError: the statistics of the network are no running averages.
    """
    params = jax.tree.map(np.zeros_like, variables["params"])
    ones, zeros = (
        jax.device_get(
            statistics_pass(params, jax.tree.map(start, variables["batch_stats"]), data, order)
        )
        for start in (np.ones_like, np.zeros_like)
    )
    decay = jax.tree.map(np.subtract, ones, zeros)
    if not all(np.all((leaf >= 0) & (leaf < 1)) for leaf in jax.tree.leaves(decay)):
        raise ConfigError(
            "the network's batch_stats are no running averages, so they can't be computed anew for "
            "interpolated weights"
        )
    return decay


def average(sums: PyTree, batches: int, decay: PyTree) -> PyTree:
    """Return the mean over batches of their own statistics.

    Args:
        sums: over batches that began with zeros.
        batches: their number.
        decay: from `decay_of`.
    """
    return jax.tree.map(lambda s, d: s / (batches * (1 - d)), sums, decay)
