"""A ticket as one small file for any machine: safetensors without the pruned weights.

The file holds, by names such as `params/conv1/kernel`,

    mask/…                        for each kernel: its bits in C order, packed by `numpy.packbits`
    params/…, trained/…           for each kernel: the values that the mask keeps, in C order;
                                  for every other leaf: the whole leaf
    batch_stats/…, trained_batch_stats/…

and one entry of text, `ticket`: JSON with `format`, `version` and the ticket's `metadata`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any

import flax.linen as nn
import numpy as np
from jax import ShapeDtypeStruct
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lottery_jax.errors import TicketError, raise_if_environment
from lottery_jax.leaves import prunable_paths
from lottery_jax.models.network import Network
from lottery_jax.system.files import atomic_write
from lottery_jax.tickets.metadata import PARTS, Metadata, check_metadata, parse_json
from lottery_jax.tickets.ticket import (
    Ticket,
    compare_leaves,
    complete,
    expected_arrays,
    leaves,
    map_leaves,
    verify,
)
from lottery_jax.types import PyTree

Array = np.ndarray[Any, np.dtype[Any]]

SUFFIX = ".safetensors"  # of the files' names
_FORMAT, _VERSION = "lottery_jax ticket", 1
_ENTRY = "ticket"  # one entry of text, for safetensors does not keep the order of several
_SPARSE = ("params", "trained")
# safetensors' names of the dtypes that a portable ticket can have.
_DTYPES = {"U8": np.uint8, "F32": np.float32}


def save_portable(path: str | os.PathLike[str], ticket: Ticket) -> Ticket:
    """Write a trained ticket to one file, whole or not at all; replace what is there.

    Returns:
        The ticket as `load_ticket` will return it: with NumPy arrays and completed metadata.

    Raises:
        TicketError: as `save_ticket`.
    """
    ticket = complete(path, ticket)
    kernels = prunable_paths(ticket.mask)
    mask = leaves(ticket.mask)
    tensors = {f"mask/{name}": np.packbits(mask[name]) for name in kernels}
    for part in PARTS[1:]:
        for name, leaf in leaves(getattr(ticket, part)).items():
            sparse = part in _SPARSE and name in kernels
            tensors[f"{part}/{name}"] = leaf[mask[name]] if sparse else np.ascontiguousarray(leaf)
    entry = {"format": _FORMAT, "version": _VERSION, "metadata": ticket.metadata}
    content = save(tensors, {_ENTRY: json.dumps(entry, allow_nan=False)})
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return ticket


def is_portable(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is safetensors with a ticket's entry; it may still be damaged.

    Raises:
        TicketError: it is not safetensors at all.
    """
    with _opened(path) as file:
        return _ENTRY in (file.metadata() or {})


def read_metadata(path: str | os.PathLike[str]) -> Metadata:
    """Read the metadata of a portable ticket.

    Raises:
        TicketError: the file is not one, or of another version.
    """
    with _opened(path) as file:
        return _metadata_of(Path(path), file)


def load_portable(
    path: str | os.PathLike[str],
    model: Network | nn.Module | None = None,
    *,
    allow_nonfinite: bool = False,
) -> Ticket:
    """Load a portable ticket and verify it as `load_ticket` does.

    Memory is allocated only after the names, shapes and dtypes of all tensors in the file have been
    compared with those that the model and the recorded counts require. A file holds a bit for each
    weight, so its size bounds the memory.

    Args:
        path: the file.
        model: the network it must fit; by default the one its metadata describes.
        allow_nonfinite: whether to load weights and statistics that are NaN or infinite.

    Raises:
        TicketError: the file is damaged or does not fit.
    """
    where = Path(path)
    with _opened(where) as file:
        metadata = _metadata_of(where, file)
        expected = expected_arrays(where, metadata, model)
        compare_leaves(where, _header(where, file), _stored(where, expected, metadata))
        mask = _read_mask(where, file, expected["mask"], metadata)
        kept = leaves(mask)

        def read(part: str, name: str, leaf: ShapeDtypeStruct) -> Array:
            values: Array = file.get_tensor(f"{part}/{name}")
            if part not in _SPARSE:
                return values
            whole = np.zeros(leaf.shape, leaf.dtype)
            whole[kept[name]] = values.ravel()
            return whole

        arrays = {"mask": mask}
        for part in PARTS[1:]:
            arrays[part] = map_leaves(partial(read, part), expected[part])
    return verify(where, arrays, metadata, allow_nonfinite=allow_nonfinite)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a safetensors file; a file that can't be read as such is a `TicketError`."""
    if not Path(path).is_file():  # opening a pipe would wait for a writer
        raise TicketError(f"{path}: is not a readable safetensors file: it is not a file")
    try:
        Path(path).open("rb").close()  # raises the system's error, which safe_open hides
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise_if_environment(error)
        raise TicketError(f"{path}: is not a readable safetensors file: {error}") from error


def _metadata_of(where: Path, file: Any) -> Metadata:
    text = (file.metadata() or {}).get(_ENTRY)
    if text is None:
        raise TicketError(f"{where}: is not a ticket (a safetensors file without its metadata)")
    try:
        entry = parse_json(text)
        what, version, metadata = entry["format"], entry["version"], entry["metadata"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TicketError(f"{where}: can't be read as a ticket's metadata: {error}") from error
    if (what, version) != (_FORMAT, _VERSION):
        found = f"{short_repr(what)} {short_repr(version)}"
        raise TicketError(f"{where}: has format {found}; this version reads {_FORMAT!r} {_VERSION}")
    return check_metadata(where, metadata)


def _header(where: Path, file: Any) -> dict[str, ShapeDtypeStruct]:
    """Return the shape and dtype of each tensor by name; only the header is read."""
    found = {}
    for name in file.keys():  # noqa: SIM118 (a handle that is not itself iterable)
        tensor = file.get_slice(name)
        if tensor.get_dtype() not in _DTYPES:
            raise TicketError(f"{where}: leaf {name} is {tensor.get_dtype()}, which no ticket has")
        found[name] = ShapeDtypeStruct(tuple(tensor.get_shape()), _DTYPES[tensor.get_dtype()])
    return found


def _stored(
    where: Path, expected: dict[str, PyTree], metadata: Metadata
) -> dict[str, ShapeDtypeStruct]:
    """Return the shape and dtype that each tensor in the file of such a ticket must have, by name."""
    stored = {}
    kept = {}
    for name, leaf in leaves(expected["mask"]).items():
        if name in prunable_paths(expected["mask"]):
            try:
                kept[name], total = metadata["layers"][name.removesuffix("/kernel")]
                fits = type(kept[name]) is int and 0 <= kept[name] <= leaf.size == total
            except (KeyError, TypeError, ValueError):
                fits = False
            if not fits:
                raise TicketError(f"{where}: its metadata has no counts that fit {name}")
            stored[f"mask/{name}"] = ShapeDtypeStruct((-(-leaf.size // 8),), np.uint8)
    for part in PARTS[1:]:
        for name, leaf in leaves(expected[part]).items():
            sparse = part in _SPARSE and name in kept
            shape = (kept[name],) if sparse else leaf.shape
            stored[f"{part}/{name}"] = ShapeDtypeStruct(shape, leaf.dtype)
    return stored


def _read_mask(where: Path, file: Any, expected: PyTree, metadata: Metadata) -> PyTree:
    kernels = prunable_paths(expected)

    def read(name: str, leaf: ShapeDtypeStruct) -> Array:
        if name not in kernels:
            return np.ones(leaf.shape, bool)
        bits = np.unpackbits(file.get_tensor(f"mask/{name}"))
        if bits[leaf.size :].any():
            raise TicketError(f"{where}: the mask of {name} has bits beyond its last weight")
        if np.count_nonzero(bits) != metadata["layers"][name.removesuffix("/kernel")][0]:
            raise TicketError(f"{where}: the mask of {name} does not keep as many as recorded")
        return bits[: leaf.size].astype(bool).reshape(leaf.shape)

    return map_leaves(read, expected)
