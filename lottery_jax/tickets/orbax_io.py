"""Trees of arrays on the disk, with Orbax: saved and loaded by one process, quietly and whole."""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as orbax
from orbax.checkpoint import v1 as ocp

from lottery_jax.errors import TicketError, first_line, one_line, raise_if_environment
from lottery_jax.system.files import remove, sync_tree, temporary_in
from lottery_jax.system.signals import defer_signals
from lottery_jax.tickets.ticket import compare_leaves, leaves
from lottery_jax.tickets.untrusted.directory import check_arrays
from lottery_jax.types import PyTree


def save_arrays(folder: Path, arrays: PyTree) -> None:
    """Write a tree of arrays to a new directory, which gets its name only when it is whole.

    Raises:
        OSError: they can't be written; names the directory.
    """
    try:
        with _orbax(), _saver() as saver:
            saver.save(folder.absolute(), arrays, force=True)
        sync_tree(folder)  # Orbax does not flush its lists and the names to the disk
    except Exception as error:
        for path in temporary_in(folder.parent):
            remove(path)
        raise _as_os_error(error, folder) from error


def load_arrays(folder: Path, expected: PyTree) -> PyTree:
    """Load a tree of NumPy arrays after comparing its leaves with the expected shapes and dtypes.

    Raises:
        TicketError: a leaf differs; or the directory is damaged, or not safe to give to Orbax.
    """
    check_arrays(folder, leaves(expected))
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
        raise TicketError(f"{folder}: is damaged: {first_line(error, with_type=True)}") from error


@contextmanager
def _orbax() -> Iterator[None]:
    """Let Orbax work undisturbed, quietly, and for this process alone.

    Signals are deferred: Orbax works in event loops and threads of its own, which may swallow an
    interrupt or leave warnings behind. Each process saves and loads whole trees by itself; by
    default Orbax would wait for all of them.
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
    # Orbax's older interface: with the newer one, which loads here, saving compares directories with
    # the other processes whatever its options are.
    options = orbax.options.MultiprocessingOptions(**_this_process())
    handler = orbax.PyTreeCheckpointHandler(use_zarr3=True, multiprocessing_options=options)
    return orbax.Checkpointer(handler, multiprocessing_options=options)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Orbax and its event loops from printing their threads' tracebacks.

    The failure itself is raised anyway. After one they stay quiet, for their threads end later.
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
    """Drop errors that nobody can catch: answers that come too late to an event loop of Orbax's.

    Arrays are written and read side by side. Where several fail, as on a full disk, Orbax raises the
    first failure, and each of the others would print a traceback.
    """
    usual = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            usual(unraisable)

    sys.unraisablehook = hook


def _as_os_error(error: Exception, folder: Path) -> OSError:
    """Return the system's error, which TensorStore puts into the text of its own."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    number = error.errno if isinstance(error, OSError) else int(code[1]) if code else None
    if number is None:
        return OSError(f"{folder}: can't be written: {one_line(error)}")
    return OSError(number, os.strerror(number), str(folder))
