"""Tickets of smaller networks: without the units that the mask cut off, with the same outputs."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from lottery_jax.errors import ConfigError, TicketError
from lottery_jax.models.network import LinenNetwork
from lottery_jax.models.xla_options import compiler_options
from lottery_jax.pruning import masks
from lottery_jax.pruning.compaction import Compaction, compact
from lottery_jax.system import settings
from lottery_jax.system.files import atomic_write
from lottery_jax.tickets.ticket import Ticket, is_own_network, model_of
from lottery_jax.types import PyTree

# The largest difference of two outputs that is rounding, as a share of the largest output.
_TOLERANCE = 1e-4
_EXAMPLES = 16
_PLATFORMS = ("cpu", "cuda", "tpu")


@settings.fixed()
def compact_ticket(ticket: Ticket, *, fold: bool = True) -> tuple[Ticket, Compaction]:
    """Return the ticket of the smallest network with the outputs of a ticket's trained weights.

    Args:
        ticket: trained, of a network of this package.
        fold: whether to fold constants; see `pruning.compaction`. If not, the weights to start from
            also have the same outputs and gradients, and training them gives the same network. If
            so, they are those of the units that stay, and no more than that.

    Returns:
        The ticket, whose metadata has the numbers of units as `widths` of the model; and what went.

    Raises:
        ConfigError: the network is not one of this package.
        TicketError: it is not trained, or the outputs of the smaller network differ.
    """
    if is_own_network(ticket.metadata):
        raise ConfigError(
            "only networks of this package can be built with fewer units; for your own, "
            "lottery_jax.pruning.compaction.compact gives the arrays"
        )
    if ticket.trained is None:
        raise TicketError("an untrained ticket can't be compacted: train it first")
    network = network_of(ticket)
    small = compact(network, ticket.trained, ticket.trained_batch_stats, ticket.mask, fold=fold)
    model = {**ticket.metadata["model"], "widths": small.widths}
    compacted = {
        "units": [sum(small.widths.values()), sum(small.widths_before.values())],
        "weights_remaining": masks.counts(ticket.mask)[0],
        "folded": small.folded,
        "trainable": not fold,
    }
    start = jax.device_get(masks.apply(small.mask, small.take(ticket.params)))
    result = Ticket(
        mask=small.mask,
        params=start,
        batch_stats=small.take(ticket.batch_stats),
        trained=small.params,
        trained_batch_stats=small.batch_stats,
        metadata={**ticket.metadata, "model": model, "compacted": compacted},
    )
    difference = largest_difference(ticket, result)
    if not np.isfinite(difference):
        raise TicketError("its outputs are not finite, so that a smaller network can't be checked")
    if difference > _TOLERANCE:
        raise TicketError(
            f"the smaller network's outputs differ by {difference:.1e} of the largest one; please "
            "report this"
        )
    return result, small


def network_of(ticket: Ticket) -> LinenNetwork:
    """Return the network of a ticket, computing in float32."""
    return LinenNetwork(*model_of(ticket.metadata)).with_dtype(jnp.float32)


def compiled(ticket: Ticket) -> Any:
    """Return a compiled function from inputs to the outputs of the trained weights."""
    options = compiler_options(jax.default_backend())
    apply = jax.jit(network_of(ticket).apply_eval, compiler_options=options)
    variables = jax.device_put((ticket.trained, ticket.trained_batch_stats))
    return lambda inputs: apply(*variables, inputs)


def largest_difference(a: Ticket, b: Ticket) -> float:
    """Return the largest difference of outputs for random inputs, as a share of the largest."""
    shape = (_EXAMPLES, *a.metadata["input_shape"])
    inputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        before, after = (np.asarray(compiled(each)(inputs)) for each in (a, b))
    return float(np.abs(after - before).max() / max(np.abs(before).max(), np.float32(1e-30)))


@settings.fixed()
def export_stablehlo(path: str | os.PathLike[str], ticket: Ticket) -> None:
    """Write the trained network, weights included, for `jax.export.deserialize`.

    It takes any number of normalised examples, `[batch, height, width, channels]` in float32, on a
    CPU, GPU or TPU, and needs nothing of this package.

    Raises:
        ConfigError: the package `flatbuffers`, which JAX writes such files with, is not installed.
    """
    network, variables = network_of(ticket), (ticket.trained, ticket.trained_batch_stats)

    def one(example: jax.Array) -> jax.Array:
        return network.apply_eval(*variables, example[None])[0]

    (batch,) = export.symbolic_shape("batch")
    inputs = jax.ShapeDtypeStruct((batch, *ticket.metadata["input_shape"]), jnp.float32)
    exported = export.export(jax.jit(jax.vmap(one)), platforms=_PLATFORMS)(inputs)
    try:
        content = exported.serialize()
    except ImportError as error:
        raise ConfigError(f"{path}: needs flatbuffers: pip install flatbuffers") from error
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def parameters(tree: PyTree) -> int:
    """Return the number of entries of a tree's arrays."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))
