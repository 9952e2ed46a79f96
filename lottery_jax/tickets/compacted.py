"""Tickets of smaller networks: without the units that the mask cut off, with the same outputs."""

from __future__ import annotations

import importlib
import os
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from lottery_jax.errors import ConfigError, TicketError
from lottery_jax.models.network import LinenNetwork
from lottery_jax.models.xla_options import compiler_options
from lottery_jax.pruning import masks
from lottery_jax.pruning.compaction import EXAMPLES, TOLERANCE, Compaction, compact
from lottery_jax.pruning.permutations import largest_difference, outputs, random_examples
from lottery_jax.system import settings
from lottery_jax.system.files import atomic_write
from lottery_jax.tickets.metadata import Metadata
from lottery_jax.tickets.ticket import Ticket, complete, is_own_network, model_of
from lottery_jax.types import PyTree

_PLATFORMS = ("cpu", "cuda", "tpu")


@settings.fixed()
def compact_ticket(ticket: Ticket, *, fold: bool = True) -> tuple[Ticket, Compaction]:
    """Return a ticket of a smaller network with the outputs of a ticket's trained weights.

    The outputs are equal up to rounding: for random inputs they are compared, and may differ by 1e-4
    of the largest one.

    Args:
        ticket: trained, of a network of this package.
        fold: whether to fold constants; see `pruning.compaction`. If none are folded, the weights to
            start from also have the same outputs, and the same gradients. If some are, these are
            the weights of the units that stay, and no more than that.

    Returns:
        The ticket as it is written, whose metadata has the numbers of units as `widths` of the model;
        and what went.

    Raises:
        ConfigError: the network is not one of this package, or its outputs are not finite.
        TicketError: it is not trained, its metadata lacks what saving needs, or the outputs of the
            smaller network differ.
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
    start = jax.device_get(masks.apply(small.mask, small.take(ticket.params)))
    result = Ticket(
        mask=small.mask,
        params=start,
        batch_stats=small.take(ticket.batch_stats),
        trained=small.params,
        trained_batch_stats=small.batch_stats,
        metadata={**ticket.metadata, "model": model, "compacted": _what_went(ticket, small)},
    )
    inputs = random_examples(network, EXAMPLES)
    before, after = (outputs(network_of(t), t.trained_variables, inputs) for t in (ticket, result))
    difference = largest_difference(before, after)
    if not difference <= TOLERANCE:
        raise TicketError(
            f"the smaller network's outputs differ by {difference:.1e} of the largest one; please "
            "report this"
        )
    return complete("the smaller ticket", result), small


def _what_went(ticket: Ticket, small: Compaction) -> Metadata:
    """Return what a ticket's metadata says of this compaction and of those before it."""
    units, weights = sum(small.widths_before.values()), masks.counts(ticket.mask)[0]
    folded, trainable = small.folded, not small.folded
    match ticket.metadata.get("compacted"):  # which loading does not check
        case {
            "units": [_, int(first_units)],
            "weights_remaining": int(first_weights),
            "folded": int(folded_before),
            "trainable": bool(trainable_before),
        }:
            units, weights, folded = first_units, first_weights, folded + folded_before
            trainable = trainable and trainable_before
    return {
        "units": [sum(small.widths.values()), units],
        "weights_remaining": weights,
        "folded": folded,
        "trainable": trainable,
    }


def network_of(ticket: Ticket) -> LinenNetwork:
    """Return the network of a ticket, computing in float32."""
    return LinenNetwork(*model_of(ticket.metadata)).with_dtype(jnp.float32)


def compiled(ticket: Ticket) -> Any:
    """Return a compiled function from inputs to the outputs of the trained weights."""
    options = compiler_options(jax.default_backend())
    apply = jax.jit(network_of(ticket).apply_eval, compiler_options=options)
    variables = jax.device_put((ticket.trained, ticket.trained_batch_stats))
    return lambda inputs: apply(*variables, inputs)


def import_flatbuffers(path: str | os.PathLike[str]) -> None:
    """Import the package with which JAX writes StableHLO; `path` is for the message.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        importlib.import_module("flatbuffers")
    except ImportError as error:
        raise ConfigError(f"{path}: needs flatbuffers: pip install flatbuffers") from error


@settings.fixed()
def export_stablehlo(path: str | os.PathLike[str], ticket: Ticket) -> None:
    """Write the trained network, weights included, for `jax.export.deserialize`.

    It takes any number of normalised examples, `[batch, height, width, channels]` in float32, on a
    CPU, GPU or TPU, and needs nothing of this package.

    Raises:
        ConfigError: the package `flatbuffers`, which JAX writes such files with, is not installed.
    """
    import_flatbuffers(path)
    network, variables = network_of(ticket), (ticket.trained, ticket.trained_batch_stats)

    def one(example: jax.Array) -> jax.Array:
        return network.apply_eval(*variables, example[None])[0]

    (batch,) = export.symbolic_shape("batch")
    inputs = jax.ShapeDtypeStruct((batch, *ticket.metadata["input_shape"]), jnp.float32)
    exported = export.export(jax.jit(jax.vmap(one)), platforms=_PLATFORMS)(inputs)
    with atomic_write(path) as temporary:
        temporary.write_bytes(exported.serialize())


def parameters(tree: PyTree) -> int:
    """Return the number of entries of a tree's arrays."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))
