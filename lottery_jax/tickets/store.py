"""Ticket directories and mid-level checkpoints, kept with Orbax.

A ticket directory holds

    arrays/          an Orbax checkpoint: mask, params, batch_stats, trained, trained_batch_stats
    metadata.json    the network, the data, the level, what was measured, and SHA-256 hashes

`metadata.json` is written last: a directory without it is not a ticket. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from lottery_jax.errors import TicketError
from lottery_jax.files import write_text
from lottery_jax.tickets import portable
from lottery_jax.tickets.ticket import (
    PARTS,
    Ticket,
    checked_metadata,
    compare_leaves,
    completed,
    expected_arrays,
    leaves,
    parse_json,
    verified,
)
from lottery_jax.train import TrainState

PyTree = Any


def save_ticket(path: str | os.PathLike[str], ticket: Ticket) -> Ticket:
    """Writes a trained ticket, with counts, hashes and the format's version in its metadata.

    Whatever incomplete ticket is at `path` is replaced. When this returns the ticket is on disk.

    Returns:
        The ticket with NumPy arrays and the completed metadata.

    Raises:
        TicketError: it is not trained, has weights that its mask prunes, or its metadata lacks
            what `load_ticket` needs.
    """
    folder = Path(path)
    ticket = completed(folder, ticket)
    text = json.dumps(ticket.metadata, indent=1, allow_nan=False)
    (folder / "metadata.json").unlink(missing_ok=True)  # incomplete from here on
    _save_arrays(folder / "arrays", {part: getattr(ticket, part) for part in PARTS})
    write_text(folder / "metadata.json", text + "\n")
    return ticket


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Whether a ticket was saved there to the end."""
    return (Path(path) / "metadata.json").is_file()


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of a ticket directory or of a portable file.

    Raises:
        TicketError: there is no ticket, or one of another format.
    """
    if Path(path).is_file():
        return portable.read_metadata(path)
    file = Path(path) / "metadata.json"
    try:
        metadata = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TicketError(f"{path}: is not a ticket (it has no metadata.json)") from error
    except (OSError, ValueError, RecursionError) as error:
        raise TicketError(f"{file}: can't be read as a ticket's metadata: {error}") from error
    return checked_metadata(file, metadata)


def load_ticket(path: str | os.PathLike[str], model: nn.Module | None = None) -> Ticket:
    """Loads a ticket and verifies it: structure, shapes and dtypes against the model, then hashes.

    Args:
        path: a ticket directory or a portable file.
        model: the network it must fit; by default the one its metadata describes.

    Raises:
        TicketError: it is missing or damaged, or does not fit; says which leaf differs.
    """
    folder = Path(path)
    if folder.is_file():
        return portable.load_portable(folder, model)
    metadata = read_metadata(folder)
    arrays = _load_arrays(folder / "arrays", expected_arrays(folder, metadata, model))
    return verified(folder, arrays, metadata)


def save_state(folder: str | os.PathLike[str], state: TrainState) -> None:
    """Saves a mid-level checkpoint; an older one is removed only when this one is on disk."""
    new = Path(folder) / f"{int(state.step):09}"
    _save_arrays(new, jax.tree.map(np.asarray, _as_dict(state)))
    for old in new.parent.iterdir():
        if old != new:
            discard(old)


def latest_step(folder: str | os.PathLike[str]) -> int:
    """The step of the latest complete checkpoint in `folder`, or -1."""
    # Orbax gives a checkpoint its name when it is whole; an unfinished one has a longer name.
    names = (path.name for path in Path(folder).glob("*"))
    return max((int(name) for name in names if re.fullmatch(r"\d{9}", name)), default=-1)


def load_state(folder: str | os.PathLike[str], like: TrainState) -> TrainState | None:
    """The latest checkpoint in `folder` as NumPy arrays, or None if none was completed.

    Args:
        folder: as given to `save_state`.
        like: a state of the same structure, for its shapes and dtypes.

    Raises:
        TicketError: it is damaged or of another structure.
    """
    if (step := latest_step(folder)) < 0:
        return None
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), _as_dict(like))
    arrays = _load_arrays(Path(folder) / f"{step:09}", abstract)
    opt_state = jax.tree.unflatten(
        jax.tree.structure(like.opt_state), jax.tree.leaves(arrays["opt_state"])
    )
    return TrainState(**{**arrays, "opt_state": opt_state})


def _as_dict(state: TrainState) -> dict[str, PyTree]:
    # The optimizer's state is a nest of tuples; a plain dict of its leaves is what Orbax gives
    # back whatever the tuple types are called in another version of optax.
    opt_state = {f"{i:04}": leaf for i, leaf in enumerate(jax.tree.leaves(state.opt_state))}
    return {
        "step": state.step,
        "params": state.params,
        "batch_stats": state.batch_stats,
        "opt_state": opt_state,
        "mask": state.mask,
    }


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Puts a Ctrl-C off until the block has ended.

    Orbax works in event loops and threads of its own: an interrupt within them is now swallowed,
    now leaves warnings behind.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous or signal.default_int_handler)
    if caught:
        raise KeyboardInterrupt


def _save_arrays(folder: Path, arrays: PyTree) -> None:
    with _uninterrupted():
        ocp.save(folder.absolute(), arrays, overwrite=True)


def _load_arrays(folder: Path, expected: PyTree) -> PyTree:
    """Loads NumPy arrays, having compared every leaf's shape and dtype with the expected one."""
    try:
        with _uninterrupted():
            stored = ocp.metadata(folder.absolute()).metadata
    except Exception as error:
        raise TicketError(f"{folder}: is not a readable Orbax checkpoint: {error}") from error
    compare_leaves(folder, leaves(stored), leaves(expected))
    template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), expected)
    try:
        with _uninterrupted(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ocp.load(folder.absolute(), template)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise TicketError(f"{folder}: is damaged: {type(error).__name__}: {first}") from error


def discard(path: str | os.PathLike[str]) -> None:
    """Removes a checkpoint that is no longer needed."""
    shutil.rmtree(path, ignore_errors=True)
