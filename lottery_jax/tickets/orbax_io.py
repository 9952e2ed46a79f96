"""Trees of arrays on the disk, in Orbax's format: saved and loaded by one process, whole."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore
from numpy.typing import NDArray
from orbax.checkpoint import v1 as ocp

from lottery_jax.errors import TicketError, first_line, one_line, raise_if_environment
from lottery_jax.leaves import by_path
from lottery_jax.system.files import atomic_folder
from lottery_jax.system.signals import defer_signals
from lottery_jax.tickets.ticket import compare_leaves
from lottery_jax.tickets.untrusted.directory import check_arrays
from lottery_jax.types import PyTree


def save_arrays(folder: Path, arrays: PyTree) -> None:
    """Write a tree of arrays to a directory, which gets its name only when it is whole.

    Raises:
        OSError: they can't be written; names the directory.
    """
    with atomic_folder(folder) as temporary:
        write_arrays(temporary, arrays)


def write_arrays(folder: Path, arrays: PyTree) -> None:
    """Write a tree of arrays as an Orbax checkpoint into an empty directory, which is not yet synced.

    The files are those of Orbax's PyTreeCheckpointHandler. Its own `save` takes several times as
    long for a small network, nearly all of it in Python, and a ladder saves hundreds of tickets.

    Args:
        folder: an empty directory that `atomic_folder` has made, or one within it; `atomic_folder`
            flushes it to the disk.
        arrays: nested dicts of arrays, whose keys are text without dots.

    Raises:
        TicketError: an array is empty.
        OSError: they can't be written; names the directory.
    """
    named = by_path(arrays)
    if empty := [name for name, leaf in named.items() if np.size(leaf) == 0]:
        raise TicketError(f"{folder}: {empty[0]} is empty; a checkpoint can't hold such an array")
    try:
        with defer_signals():
            _write_database(folder, named)
            for name, content in (("_METADATA", _tree(arrays)), ("_CHECKPOINT_METADATA", _ABOUT)):
                (folder / name).write_text(json.dumps(content), encoding="utf-8")
    except (OSError, ValueError) as error:  # TensorStore raises the latter for what the system says
        raise _as_os_error(error, folder) from error


_ZSTANDARD_LEVEL = 1  # Orbax's 3 takes 3 ms longer for LeNet-300-100, for files of the same size
_KEY_OF_A_DICT = 2
# What Orbax's own `save` writes here, without its times.
_ABOUT = {
    "item_handlers": (
        "orbax.checkpoint._src.handlers.pytree_checkpoint_handler.PyTreeCheckpointHandler"
    ),
    "metrics": {},
    "performance_metrics": {},
    "custom_metadata": {},
}


def _tree(arrays: PyTree) -> dict[str, Any]:
    """Return Orbax's list of the tree's leaves and of its empty dicts."""

    def is_empty(node: PyTree) -> bool:
        return isinstance(node, Mapping) and not node

    entries = {}
    for path, node in jax.tree_util.tree_flatten_with_path(arrays, is_leaf=is_empty)[0]:
        names = tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
        entries[str(names)] = {
            "key_metadata": [{"key": name, "key_type": _KEY_OF_A_DICT} for name in names],
            "value_metadata": {
                "value_type": "Dict" if is_empty(node) else "np.ndarray",
                "skip_deserialize": is_empty(node),
            },
        }
    return {
        "tree_metadata": entries,
        "use_ocdbt": True,
        "use_zarr3": True,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }


def _write_database(folder: Path, arrays: Mapping[str, Any]) -> None:
    """Write all arrays, by path, to one new database in a single transaction."""
    database = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder.absolute()}/"}}
    context = tensorstore.Context({"file_io_sync": False})  # the folder is synced as a whole
    transaction = tensorstore.Transaction(atomic=True)
    codecs = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "zstd", "configuration": {"level": _ZSTANDARD_LEVEL}},
    ]

    def create(path: str, array: NDArray[Any]) -> Any:
        grid = {"name": "regular", "configuration": {"chunk_shape": array.shape}}
        spec = {
            "driver": "zarr3",
            "kvstore": {**database, "path": path.replace("/", ".") + "/"},
            "metadata": {
                "shape": array.shape,
                "data_type": array.dtype.name,
                "chunk_grid": grid,
                "codecs": codecs,
            },
            "store_data_equal_to_fill_value": True,
            "create": True,
        }
        return tensorstore.open(spec, context=context, transaction=transaction)

    created = [(create(path, np.asarray(a)), np.asarray(a)) for path, a in arrays.items()]
    written = [array.result().write(values) for array, values in created]
    transaction.commit_async().result()
    for future in written:
        future.result()


def load_arrays(folder: Path, expected: PyTree) -> PyTree:
    """Load a tree of NumPy arrays after comparing its leaves with the expected shapes and dtypes.

    Raises:
        TicketError: a leaf differs; or the directory is damaged, or not safe to give to Orbax.
    """
    check_arrays(folder, by_path(expected))
    try:
        with _orbax():
            stored = by_path(ocp.metadata(folder.absolute()).metadata)
        compare_leaves(folder, stored, by_path(expected))
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
