"""Tickets on the disk, saved and loaded as a directory or as a portable file.

A ticket directory holds

    arrays/          an Orbax checkpoint: mask, params, batch_stats, trained, trained_batch_stats
    metadata.json    the network, the data, the level, the measurements, and SHA-256 hashes

It appears whole or not at all. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import flax.linen as nn

from lottery_jax.errors import TicketError, raise_if_environment
from lottery_jax.models.network import Network
from lottery_jax.system import host
from lottery_jax.system.files import atomic_folder, local_path
from lottery_jax.tickets import portable
from lottery_jax.tickets.addresses import is_address, local_ticket
from lottery_jax.tickets.metadata import PARTS, Metadata, check_metadata
from lottery_jax.tickets.orbax_io import load_arrays, write_arrays
from lottery_jax.tickets.ticket import Ticket, complete, expected_arrays, verify
from lottery_jax.tickets.untrusted import directory


def save_ticket(path: str | os.PathLike[str], ticket: Ticket) -> Ticket:
    """Write a trained ticket, with counts, hashes and the format's version in its metadata.

    A path that ends in `.safetensors` becomes a portable file, any other a ticket directory.
    Whatever is at `path` is replaced. When this returns the ticket is on disk.

    Returns:
        The ticket with NumPy arrays and completed metadata.

    Raises:
        ConfigError: the path is a URL.
        TicketError: it is not trained, has weights that its mask prunes, or its metadata lacks
            what `load_ticket` needs.
        OSError: it can't be written; what was at `path` stays.
    """
    folder = local_path(path)
    if folder.suffix == portable.SUFFIX:
        return portable.save_portable(folder, ticket)
    ticket = complete(folder, ticket)
    text = json.dumps(ticket.metadata, indent=1, allow_nan=False)
    with atomic_folder(folder) as temporary:
        (temporary / "arrays").mkdir()
        write_arrays(temporary / "arrays", {part: getattr(ticket, part) for part in PARTS})
        (temporary / "metadata.json").write_text(text + "\n", encoding="utf-8")
    return ticket


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Return whether a whole ticket directory is there."""
    return (Path(path) / "metadata.json").is_file()


def read_metadata(path: str | os.PathLike[str]) -> Metadata:
    """Read the metadata of a ticket directory, of a portable file or of what is at an address.

    Raises:
        TicketError: there is no ticket, or one of another format, or its metadata was changed.
    """
    if is_address(path):
        path = local_ticket(path)
    if Path(path).is_file():
        return portable.read_metadata(path)
    file = Path(path) / "metadata.json"
    try:
        metadata = directory.read_json(file)
    except FileNotFoundError as error:
        raise TicketError(f"{path}: is not a ticket (it has no metadata.json)") from error
    except (OSError, ValueError, RecursionError) as error:
        raise_if_environment(error)
        raise TicketError(f"{file}: can't be read as a ticket's metadata: {error}") from error
    return check_metadata(file, metadata)


def load_ticket(
    path: str | os.PathLike[str],
    model: Network | nn.Module | None = None,
    *,
    allow_nonfinite: bool = False,
) -> Ticket:
    """Load a ticket and verify it: structure, shapes and dtypes against the model, then hashes.

    Whoever made the ticket, nothing in it is executed, nothing outside of it is read, and no more
    memory is taken than its files can fill.

    Args:
        path: a ticket directory or a portable file; `zoo://NAME`, a ticket of the zoo (zoo.py); or
            `hf://USER/REPO`, one of the Hugging Face hub (hub.py).
        model: the network it must fit, which may be one of your own; by default the network of this
            package that its metadata describes.
        allow_nonfinite: whether to load weights and statistics that are NaN or infinite.

    Raises:
        ConfigError: the path is another URL.
        TicketError: it is missing or damaged, can't be fetched, or does not fit; says which leaf
            differs.
        EnvironmentFault: JAX can't be used, huggingface_hub is missing, or memory or open files ran
            out.
    """
    folder = local_ticket(path)
    if folder.is_file():
        return portable.load_portable(folder, model, allow_nonfinite=allow_nonfinite)
    host.devices()  # Orbax needs one
    metadata = read_metadata(folder)
    expected = expected_arrays(folder, metadata, model)
    directory.check_room(folder, expected, directory.size_on_disk(folder))
    arrays = load_arrays(folder / "arrays", expected)
    return verify(folder, arrays, metadata, allow_nonfinite=allow_nonfinite)
