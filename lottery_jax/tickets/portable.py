"""A ticket as one small file for any machine: safetensors without the pruned weights.

docs/format.md specifies the file, for readers without this package. It holds, by names such as
`params/conv1/kernel`,

    mask/…                        for each kernel: its bits in C order, packed by `numpy.packbits`
    params/…, trained/…           for each kernel: the values that the mask keeps, in C order;
                                  for every other leaf: the whole leaf
    batch_stats/…, trained_batch_stats/…

and one entry of text, `ticket`: JSON with `format`, `version`, the ticket's `metadata` and, from
version 2 on, the table of all leaves, the orders of bits and values, and a hash of the contents.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from jax import ShapeDtypeStruct
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lottery_jax.errors import TicketError, raise_if_environment
from lottery_jax.leaves import by_path, layers_by_path, map_by_path, prunable_paths
from lottery_jax.models.network import Network
from lottery_jax.system.files import atomic_write
from lottery_jax.tickets.metadata import PARTS, Metadata, check_metadata, parse_json
from lottery_jax.tickets.ticket import Ticket, compare_leaves, complete, expected_arrays, verify
from lottery_jax.types import PyTree

Array = np.ndarray[Any, np.dtype[Any]]

SUFFIX = ".safetensors"  # of the files' names
_FORMAT, _VERSIONS = "lottery_jax ticket", (1, 2)  # the last one is written
_ENTRY = "ticket"  # one entry of text, for safetensors does not keep the order of several
_SPARSE = ("params", "trained")
# The orders of the bits in a byte of a mask (the first weight is the highest bit), and of values.
_ORDERS = {"bit_order": "big", "value_order": "C"}
# safetensors' names of the dtypes that a portable ticket can have.
_DTYPES = {"U8": np.uint8, "U32": np.uint32, "I32": np.int32, "F16": np.float16,
           "F32": np.float32, "BOOL": np.bool_}  # fmt: skip


class _Leaf(NamedTuple):
    """A line of the table of leaves, as it stands in the file.

    Attributes:
        name: the part and the path, such as `params/conv1/kernel`.
        dtype: NumPy's name.
        shape: of the whole leaf.
        stored: `bits` (of a mask, packed), `ones` (a mask that prunes nothing: not in the file),
            `kept` (only the values that the mask keeps) or `whole`.
    """

    name: str
    dtype: str
    shape: list[int]
    stored: str

    @property
    def path(self) -> str:
        """The name without the part."""
        return self.name.partition("/")[2]


def _table(arrays: Mapping[str, PyTree]) -> list[_Leaf]:
    """Return the table of leaves, masks first; the leaves may be `ShapeDtypeStruct`."""
    kernels = set(prunable_paths(arrays["mask"]))

    def stored(part: str, path: str) -> str:
        if part == "mask":
            return "bits" if path in kernels else "ones"
        return "kept" if part in _SPARSE and path in kernels else "whole"

    return [
        _Leaf(f"{part}/{path}", np.dtype(leaf.dtype).name, list(leaf.shape), stored(part, path))
        for part in PARTS
        for path, leaf in by_path(arrays[part]).items()
    ]


def _contents_hash(table: list[_Leaf], tensors: Mapping[str, Array]) -> str:
    """Return the SHA-256 of a line for each leaf, `NAME DTYPE SHAPE STORED`, and its bytes in the file."""
    digest = hashlib.sha256()
    for leaf in table:
        digest.update(f"{leaf.name} {leaf.dtype} {leaf.shape} {leaf.stored}\n".encode())
        if leaf.stored != "ones":
            digest.update(tensors[leaf.name].tobytes())
    return digest.hexdigest()


def save_portable(path: str | os.PathLike[str], ticket: Ticket) -> Ticket:
    """Write a trained ticket to one file, whole or not at all; replace what is there.

    Returns:
        The ticket as `load_ticket` will return it: with NumPy arrays and completed metadata.

    Raises:
        TicketError: as `save_ticket`; or a leaf has a dtype that such a file can't hold.
    """
    ticket = complete(path, ticket)
    arrays = {part: getattr(ticket, part) for part in PARTS}
    table, flat = _table(arrays), by_path(arrays)
    if other := [leaf for leaf in table if np.dtype(leaf.dtype) not in _DTYPES.values()]:
        raise TicketError(
            f"{path}: {other[0].name} is {other[0].dtype}, which a portable file can't hold; save the "
            "ticket as a directory"
        )
    tensors = {}
    for leaf in table:
        array = flat[leaf.name]
        if leaf.stored == "bits":
            tensors[leaf.name] = np.packbits(array)
        elif leaf.stored == "kept":
            tensors[leaf.name] = array[flat[f"mask/{leaf.path}"]]
        elif leaf.stored == "whole":
            tensors[leaf.name] = np.asarray(array, order="C")
    entry = {
        "format": _FORMAT,
        "version": _VERSIONS[-1],
        **_ORDERS,
        "leaves": [leaf._asdict() for leaf in table],
        "sha256": _contents_hash(table, tensors),
        "metadata": ticket.metadata,
    }
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
        return check_metadata(Path(path), _entry_of(Path(path), file)["metadata"])


def load_portable(
    path: str | os.PathLike[str],
    model: Network | nn.Module | None = None,
    *,
    allow_nonfinite: bool = False,
) -> Ticket:
    """Load a portable ticket of version 1 or 2 and verify it as `load_ticket` does.

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
        entry = _entry_of(where, file)
        metadata = check_metadata(where, entry["metadata"])
        expected = expected_arrays(where, metadata, model)
        table = _table(expected)
        kept = _kept_counts(where, expected["mask"], metadata)
        compare_leaves(where, _header(where, file), _stored(table, kept))
        if entry["version"] > 1:
            _check_table(where, entry, table)
        tensors = {leaf.name: file.get_tensor(leaf.name) for leaf in table if leaf.stored != "ones"}
    if entry["version"] > 1 and entry.get("sha256") != _contents_hash(table, tensors):
        raise TicketError(
            f"{where}: is damaged (the SHA-256 of its contents is not the recorded one)"
        )
    flat: dict[str, Array] = {}
    for leaf in table:
        flat[leaf.name] = _decoded(where, leaf, tensors, flat, kept)

    def whole(part: str, path: str, _: ShapeDtypeStruct) -> Array:
        return flat[f"{part}/{path}"]

    arrays = {part: map_by_path(partial(whole, part), expected[part]) for part in PARTS}
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


def _entry_of(where: Path, file: Any) -> dict[str, Any]:
    """Return the entry of text, of a version that is known; its other values may be anything."""
    text = (file.metadata() or {}).get(_ENTRY)
    if text is None:
        raise TicketError(f"{where}: is not a ticket (a safetensors file without its metadata)")
    try:
        entry = parse_json(text)
        what, version, _ = entry["format"], entry["version"], entry["metadata"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TicketError(f"{where}: can't be read as a ticket's metadata: {error}") from error
    if what != _FORMAT or type(version) is not int or version not in _VERSIONS:
        found = f"{short_repr(what)} {short_repr(version)}"
        versions = " and ".join(map(str, _VERSIONS))
        raise TicketError(f"{where}: has format {found}; this version reads {_FORMAT!r} {versions}")
    return dict(entry)


def _header(where: Path, file: Any) -> dict[str, ShapeDtypeStruct]:
    """Return the shape and dtype of each tensor by name; only the header is read."""
    found = {}
    for name in file.keys():  # noqa: SIM118 (a handle that is not itself iterable)
        tensor = file.get_slice(name)
        if tensor.get_dtype() not in _DTYPES:
            raise TicketError(f"{where}: leaf {name} is {tensor.get_dtype()}, which no ticket has")
        found[name] = ShapeDtypeStruct(tuple(tensor.get_shape()), _DTYPES[tensor.get_dtype()])
    return found


def _kept_counts(where: Path, mask: PyTree, metadata: Metadata) -> dict[str, int]:
    """Return how many weights of each kernel remain, by path, as the metadata says."""
    kept = {}
    shapes = by_path(mask)
    for path, layer in layers_by_path(mask).items():
        try:
            kept[path], total = metadata["layers"][layer]
            fits = type(kept[path]) is int and 0 <= kept[path] <= shapes[path].size == total
        except (KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise TicketError(f"{where}: its metadata has no counts that fit {path}")
    return kept


def _stored(table: list[_Leaf], kept: dict[str, int]) -> dict[str, ShapeDtypeStruct]:
    """Return the shape and dtype that each tensor in the file of such a ticket must have, by name."""
    stored = {}
    for leaf in table:
        if leaf.stored == "bits":
            size = -(-math.prod(leaf.shape) // 8)
            stored[leaf.name] = ShapeDtypeStruct((size,), np.uint8)
        elif leaf.stored != "ones":
            shape = (kept[leaf.path],) if leaf.stored == "kept" else tuple(leaf.shape)
            stored[leaf.name] = ShapeDtypeStruct(shape, np.dtype(leaf.dtype))
    return stored


def _check_table(where: Path, entry: dict[str, Any], table: list[_Leaf]) -> None:
    """Compare what a file says of its leaves, and the orders, with what it must say."""
    for key, order in _ORDERS.items():
        if entry.get(key) != order:
            found = short_repr(entry.get(key))
            raise TicketError(f"{where}: has {key} {found}; this version reads {order!r}")
    listed = entry.get("leaves")
    if not isinstance(listed, list):
        raise TicketError(f"{where}: has no list of its leaves")
    for leaf, found in zip_longest(table, listed):
        # Short readers, such as those of docs/format.md, rely on the order of the keys.
        if leaf is None or found != leaf._asdict() or list(found) != list(leaf._fields):
            name = "the end" if leaf is None else leaf.name
            raise TicketError(f"{where}: its list of leaves is not the network's at {name}")


def _decoded(
    where: Path,
    leaf: _Leaf,
    tensors: dict[str, Array],
    decoded: dict[str, Array],
    kept: dict[str, int],
) -> Array:
    """Return a whole leaf; `decoded` has the masks."""
    if leaf.stored == "ones":
        return np.ones(leaf.shape, bool)
    tensor = tensors[leaf.name]
    if leaf.stored == "whole":
        return tensor
    if leaf.stored == "kept":
        whole: Array = np.zeros(leaf.shape, leaf.dtype)
        whole[decoded[f"mask/{leaf.path}"]] = tensor
        return whole
    bits, size = np.unpackbits(tensor), math.prod(leaf.shape)
    if bits[size:].any():
        raise TicketError(f"{where}: the mask of {leaf.path} has bits beyond its last weight")
    if np.count_nonzero(bits) != kept[leaf.path]:
        raise TicketError(f"{where}: the mask of {leaf.path} does not keep as many as recorded")
    return bits[:size].astype(bool).reshape(leaf.shape)
