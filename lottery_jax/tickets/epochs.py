"""Kept epochs: the weights of a ticket in the course of its training, beside the ticket's directory.

    level_03/ticket/                 the ticket
    level_03/epochs/ticket/00010/    its weights and BatchNorm statistics after epoch 10
    level_03/epochs/reinit/00010/    those of the control `reinit`

Each is an Orbax checkpoint, which appears whole or not at all.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from lottery_jax.errors import TicketError
from lottery_jax.leaves import by_path
from lottery_jax.models.network import Network
from lottery_jax.system.files import local_path
from lottery_jax.tickets.orbax_io import load_arrays, save_arrays
from lottery_jax.tickets.store import load_ticket
from lottery_jax.tickets.ticket import Ticket, check_finite, tree_digest
from lottery_jax.tickets.untrusted import directory
from lottery_jax.types import PyTree

# The directory beside those of the tickets of a level.
FOLDER = "epochs"


def epoch_dir(ticket_dir: Path, epoch: int) -> Path:
    """Return the directory of a ticket's weights after an epoch."""
    return ticket_dir.parent / FOLDER / ticket_dir.name / f"{epoch:05}"


def kept_epochs(ticket_dir: str | os.PathLike[str]) -> list[int]:
    """List the epochs after which the weights of a ticket were kept."""
    folder = epoch_dir(Path(ticket_dir), 0).parent
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def save_epoch(ticket_dir: Path, epoch: int, params: PyTree, batch_stats: PyTree) -> None:
    """Keep weights and BatchNorm statistics, unless those of this epoch are there already.

    Args:
        ticket_dir: where the ticket is, or will be when it is trained to the end.
        epoch: the number of complete epochs, from the start of the dense training.
        params: float32, with the structure of the ticket's.
        batch_stats: the statistics that belong to them.

    Raises:
        OSError: they can't be written.
    """
    folder = epoch_dir(ticket_dir, epoch)
    if not folder.exists():
        arrays = {"trained": params, "trained_batch_stats": batch_stats}
        save_arrays(folder, {**arrays, "sha256": tree_digest(arrays)})


def load_epoch(
    ticket_dir: str | os.PathLike[str], epoch: int, model: Network | nn.Module | None = None
) -> Ticket:
    """Load a ticket whose trained weights and statistics are those after an epoch.

    Args:
        ticket_dir: the directory of the ticket, in its run directory.
        epoch: an epoch of `config.train.keep_epochs`.
        model: as for `load_ticket`.

    Returns:
        The ticket, without the result of its whole training.

    Raises:
        TicketError: the ticket or the epoch is missing or damaged.
    """
    path = local_path(ticket_dir)
    ticket, folder = load_ticket(path, model), epoch_dir(path, epoch)
    if not folder.is_dir():
        kept = ", ".join(map(str, kept_epochs(path))) or "none (config.train.keep_epochs)"
        raise TicketError(f"{path}: epoch {epoch} was not kept; kept epochs: {kept}")
    weights = {"trained": ticket.trained, "trained_batch_stats": ticket.trained_batch_stats}
    expected = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), {**weights, "sha256": tree_digest({})}
    )
    directory.check_room(folder, expected, directory.size_on_disk(folder))
    arrays = load_arrays(folder, expected)
    if not np.array_equal(arrays.pop("sha256"), tree_digest(arrays)):
        raise TicketError(f"{folder}: is damaged (its SHA-256 is not the recorded one)")
    check_finite(folder, by_path(arrays), allow_nonfinite=False)
    return dataclasses.replace(ticket, **arrays, metadata={**ticket.metadata, "result": {}})
