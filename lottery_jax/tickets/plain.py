"""Whole arrays of a ticket as plain safetensors, for every framework that reads them."""

from __future__ import annotations

import json
import os

import numpy as np
from safetensors.numpy import save

from lottery_jax.errors import TicketError, lookup
from lottery_jax.leaves import by_path
from lottery_jax.system.files import atomic_write
from lottery_jax.tickets.ticket import Ticket

_PARTS = {
    "trained": ("trained", "trained_batch_stats"),
    "start": ("params", "batch_stats"),
    "mask": ("mask",),
}


def export_safetensors(
    path: str | os.PathLike[str], ticket: Ticket, weights: str = "trained"
) -> None:
    """Write whole arrays by their paths, such as `conv1/kernel` and `bn1/mean`; replace what is there.

    The entry of text `lottery_jax` is JSON with `weights` and the ticket's `metadata`.

    Args:
        path: the file to write.
        ticket: a trained ticket.
        weights: `trained`, or `start` for the weights to start from, each with its BatchNorm
            statistics; or `mask`: bool, True where a weight remains.

    Raises:
        TicketError: a weight and a statistic have the same path.
    """
    parts = [by_path(getattr(ticket, part)) for part in lookup(_PARTS, weights, "weights")]
    tensors = {name: np.asarray(leaf, order="C") for part in parts for name, leaf in part.items()}
    if len(tensors) < sum(map(len, parts)):
        raise TicketError(f"{path}: a weight and a statistic of this network have the same path")
    about = json.dumps({"weights": weights, "metadata": ticket.metadata}, allow_nan=False)
    content = save(tensors, {"lottery_jax": about})
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
