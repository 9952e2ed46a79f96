"""Ticket directories and mid-level checkpoints, kept with Orbax.

A ticket directory holds

    arrays/          an Orbax checkpoint: mask, params, batch_stats, trained, trained_batch_stats
    metadata.json    the network, the data, the level, what was measured, and SHA-256 hashes

A ticket's directory appears whole or not at all. Nothing is ever unpickled.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as orbax
from orbax.checkpoint import v1 as ocp

from lottery_jax.errors import TicketError, one_line, raise_if_environment
from lottery_jax.system import host
from lottery_jax.system.files import (
    atomic_folder,
    local_path,
    remove,
    sync_tree,
    temporary_in,
    write_text,
)
from lottery_jax.system.signals import defer_signals
from lottery_jax.tickets import portable
from lottery_jax.tickets.ticket import (
    PARTS,
    Ticket,
    checked_metadata,
    compare_leaves,
    completed,
    expected_arrays,
    leaves,
    verified,
)
from lottery_jax.tickets.untrusted import directory

PyTree = Any


def save_ticket(path: str | os.PathLike[str], ticket: Ticket) -> Ticket:
    """Write a trained ticket, with counts, hashes and the format's version in its metadata.

    A path that ends in `.safetensors` becomes a portable file, any other a ticket directory.
    Whatever is at `path` is replaced. When this returns the ticket is on disk.

    Returns:
        The ticket with NumPy arrays and the completed metadata.

    Raises:
        ConfigError: the path is a URL.
        TicketError: it is not trained, has weights that its mask prunes, or its metadata lacks
            what `load_ticket` needs.
        OSError: it can't be written; what was at `path` stays.
    """
    folder = local_path(path)
    if folder.suffix == portable.SUFFIX:
        return portable.save_portable(folder, ticket)
    host.devices()  # Orbax needs one
    ticket = completed(folder, ticket)
    text = json.dumps(ticket.metadata, indent=1, allow_nan=False)
    with atomic_folder(folder) as temporary:
        save_arrays(temporary / "arrays", {part: getattr(ticket, part) for part in PARTS})
        write_text(temporary / "metadata.json", text + "\n")
    return ticket


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Whether a ticket was saved there to the end."""
    return (Path(path) / "metadata.json").is_file()


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of a ticket directory or of a portable file.

    Raises:
        TicketError: there is no ticket, or one of another format, or its metadata was changed.
    """
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
    return checked_metadata(file, metadata)


def load_ticket(
    path: str | os.PathLike[str], model: nn.Module | None = None, *, allow_nonfinite: bool = False
) -> Ticket:
    """Loads a ticket and verifies it: structure, shapes and dtypes against the model, then hashes.

    Whoever made the ticket, nothing in it is run, nothing outside of it is read, and no more
    memory is taken than its files can fill.

    Args:
        path: a ticket directory or a portable file.
        model: the network it must fit, also one of your own; by default the one of this package
            that its metadata describes.
        allow_nonfinite: take weights and BatchNorm statistics that are infinite or no numbers.

    Raises:
        ConfigError: the path is a URL.
        TicketError: it is missing or damaged, or does not fit; says which leaf differs.
        EnvironmentFault: JAX can't be used, or memory or open files ran out.
    """
    folder = local_path(path)
    if folder.is_file():
        return portable.load_portable(folder, model, allow_nonfinite=allow_nonfinite)
    host.devices()  # Orbax needs one
    metadata = read_metadata(folder)
    expected = expected_arrays(folder, metadata, model)
    directory.check_room(folder, expected, directory.size_on_disk(folder))
    arrays = load_arrays(folder / "arrays", expected)
    return verified(folder, arrays, metadata, allow_nonfinite=allow_nonfinite)


@contextmanager
def _orbax() -> Iterator[None]:
    """Has Orbax work undisturbed, quietly, and for this process alone.

    A signal is put off: Orbax works in event loops and threads of its own, in which an interrupt is
    now swallowed, now leaves warnings behind. Whatever is saved is whole in each process, and so
    one alone saves or loads it; by default Orbax would wait for all of them.
    """
    with (
        defer_signals(),
        _quiet(),
        ocp.Context(multiprocessing_options=ocp.options.MultiprocessingOptions(**_this_process())),
    ):
        yield


def _this_process() -> dict[str, Any]:
    this = jax.process_index()
    return {
        "primary_host": this,
        "active_processes": {this},
        "barrier_sync_key_prefix": f"process_{this}",
    }


def _saver() -> orbax.Checkpointer:
    # Of Orbax's two interfaces the one that a process can use for itself: the newer one, which
    # loads here, compares directories with the other processes whatever it is told.
    options = orbax.options.MultiprocessingOptions(**_this_process())
    handler = orbax.PyTreeCheckpointHandler(use_zarr3=True, multiprocessing_options=options)
    return orbax.Checkpointer(handler, multiprocessing_options=options)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax and its event loops from printing their threads' tracebacks.

    What failed is raised anyway. After a failure they stay quiet, for their threads end later.
    """
    _ignore_closed_loops()
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio", "concurrent.futures")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@functools.cache
def _ignore_closed_loops() -> None:
    """Drops what nobody can catch or mend: an answer that comes to an event loop of Orbax's too late.

    Arrays are written and read side by side; where several fail, as on a full disk, Orbax goes on
    at the first failure, and the others would each print a traceback.
    """
    usual = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            usual(unraisable)

    sys.unraisablehook = hook


def save_arrays(folder: Path, arrays: PyTree) -> None:
    """Writes arrays to a new directory, which has its name only when it is whole.

    Raises:
        OSError: they can't be written; names the directory.
    """
    try:
        with _orbax(), _saver() as saver:
            saver.save(folder.absolute(), arrays, force=True)
        sync_tree(folder)  # Orbax leaves that to the system for its lists and for names
    except Exception as error:
        for path in temporary_in(folder.parent):
            remove(path)
        raise _as_os_error(error, folder) from error


def _as_os_error(error: Exception, folder: Path) -> OSError:
    """What the disk said, which TensorStore puts into its messages."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    number = error.errno if isinstance(error, OSError) else int(code[1]) if code else None
    if number is None:
        return OSError(f"{folder}: can't be written: {one_line(error)}")
    return OSError(number, os.strerror(number), str(folder))


def load_arrays(folder: Path, expected: PyTree) -> PyTree:
    """Loads NumPy arrays, having compared every leaf's shape and dtype with the expected one."""
    directory.check_arrays(folder, leaves(expected))
    try:
        with _orbax():
            stored = leaves(ocp.metadata(folder.absolute()).metadata)
        compare_leaves(folder, stored, leaves(expected))
    except TicketError:
        raise
    except Exception as error:
        raise_if_environment(error)
        raise TicketError(f"{folder}: is not a readable Orbax checkpoint: {error}") from error
    template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), expected)
    try:
        with _orbax(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ocp.load(folder.absolute(), template)
    except Exception as error:
        raise_if_environment(error)
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise TicketError(f"{folder}: is damaged: {type(error).__name__}: {first}") from error
