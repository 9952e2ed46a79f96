"""Checks of a ticket's directory before Orbax opens any of it.

Orbax and TensorStore follow symbolic links, wait on pipes, open any path that the list of arrays
names, and end the process if an array is listed as larger than the memory.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import tensorstore

from lottery_jax.errors import TicketError, raise_if_environment
from lottery_jax.system import host
from lottery_jax.tickets.metadata import parse_json
from lottery_jax.types import PyTree

# Orbax compresses with Zstandard, which enlarges nothing by more than this factor: a block of
# 128 KiB that repeats one byte takes four bytes.
_ZSTANDARD_LIMIT = 32768
# A ticket's metadata.json has a few KiB, and Orbax's list a few hundred bytes for each array.
_MOST_BYTES_OF_JSON = 2**24
# A cache of downloads, such as that of Hugging Face, may consist of links.
_COPY = "copy the ticket with the files that its links name (cp -rL) and use the copy"
_CODECS = {"bytes", "zstd", "crc32c"}


def size_on_disk(folder: Path) -> int:
    """Return the bytes of all files in a folder that holds only files, folders and links to these.

    Raises:
        TicketError: there is a link out of the folder, or something that is neither a file nor a
            folder; or it can't be read.
    """
    try:
        inside = folder.resolve(strict=True)
        return sum(_checked_size(path, inside) for path in _below(folder))
    except (OSError, RuntimeError) as error:  # the latter for links in a circle
        raise TicketError(f"{folder}: can't be read: {error}") from error


def _below(folder: Path) -> Iterator[Path]:
    folders = [folder]  # a list, because folders can be deeper than Python's stack
    while folders:
        for path in folders.pop().iterdir():
            if stat.S_ISDIR(path.lstat().st_mode):
                folders.append(path)
            yield path


def _checked_size(path: Path, inside: Path) -> int:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        if not path.resolve(strict=True).is_relative_to(inside):
            raise TicketError(f"{path}: is a symbolic link out of the ticket; {_COPY}")
    elif stat.S_ISREG(status.st_mode):
        return status.st_size
    elif not stat.S_ISDIR(status.st_mode):
        raise TicketError(f"{path}: is neither a file nor a folder")
    return 0


def read_json(file: Path) -> Any:
    """Read a plain file of JSON.

    Raises:
        OSError, ValueError, RecursionError: it can't be read, or is not JSON.
    """
    status = file.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise OSError(f"is a symbolic link; {_COPY}")
    if not stat.S_ISREG(status.st_mode):
        raise OSError("is not a plain file")
    if status.st_size > _MOST_BYTES_OF_JSON:
        raise ValueError(f"it has {status.st_size} bytes")
    return parse_json(file.read_text(encoding="utf-8"))


def check_room(where: Path, expected: PyTree, on_disk: int) -> None:
    """Check that a directory of `on_disk` bytes can hold the expected arrays, and memory too.

    Raises:
        TicketError: it can't.
    """
    needed = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(expected))
    if needed > _ZSTANDARD_LIMIT * on_disk:
        raise TicketError(f"{where}: has {on_disk} bytes, too few for the {needed} of its arrays")
    if needed > host.memory():
        raise TicketError(
            f"{where}: its arrays take {host.in_words(needed)}, this machine has "
            f"{host.in_words(host.memory())} of memory"
        )


def check_arrays(folder: Path, names: Collection[str]) -> None:
    """Check how an Orbax checkpoint describes its arrays: their names, types and storage.

    A name becomes part of a path, and one such as `/home` a whole path. An array is read in pieces,
    for each of which memory is taken, and a description that is nested deeply ends the process.

    Args:
        folder: the checkpoint.
        names: the names of the arrays that it may have.

    Raises:
        TicketError: it has others, stores them otherwise than a ticket's, or can't be read.
    """
    try:
        files = [path for path in _below(folder) if path.name == "_METADATA"]
        if not files:
            raise TicketError(f"{folder}: is not a readable Orbax checkpoint: it lists no arrays")
        for file in files:
            for name, description in _descriptions(file).items():
                if name not in names:
                    raise TicketError(f"{folder}: has a leaf {name}, which the model does not have")
                if not _is_stored_plainly(parse_json(description.decode())):
                    raise TicketError(
                        f"{folder}: leaf {name} is not stored as a ticket's arrays are"
                    )
    except TicketError:
        raise
    except Exception as error:  # TensorStore raises many kinds for damaged files
        raise_if_environment(error)
        raise TicketError(f"{folder}: is not a readable Orbax checkpoint: {error}") from error


def _descriptions(file: Path) -> dict[str, bytes]:
    """Return TensorStore's description of each array in Orbax's list, by name."""
    listed = read_json(file)
    entries = listed["tree_metadata"].values()
    if not (listed["use_ocdbt"] is listed["use_zarr3"] is True and all(map(_is_plain, entries))):
        raise TicketError(f"{file}: has an array with a name or a type that tickets do not have")
    keys = [
        [part["key"] for part in entry["key_metadata"]] for entry in entries if _is_array(entry)
    ]
    base = {"driver": "file", "path": f"{file.parent.absolute()}/"}
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 100_000_000}})
    spec = {"driver": "ocdbt", "base": base, "cache_pool": "cache_pool"}
    database = tensorstore.KvStore.open(spec, context=context).result()
    futures = {"/".join(key): database.read(f"{'.'.join(key)}/zarr.json") for key in keys}
    return {name: future.result().value for name, future in futures.items()}


def _is_array(entry: Any) -> bool:
    return entry["value_metadata"]["value_type"] != "Dict"


def _is_plain(entry: Any) -> bool:
    names = [part["key"] for part in entry["key_metadata"]]
    return entry["value_metadata"]["value_type"] in ("np.ndarray", "Dict") and all(
        re.fullmatch(r"\w+", name, re.ASCII) for name in names
    )


def _is_stored_plainly(description: Any) -> bool:
    """Return whether an array is stored in pieces no larger than itself, and not compressed otherwise."""
    shape, codecs = description["shape"], description["codecs"]
    shards = [c["configuration"] for c in codecs if c["name"] == "sharding_indexed"]
    inner = [c for shard in shards for c in (*shard["codecs"], *shard["index_codecs"])]
    pieces = [part["chunk_shape"] for part in (description["chunk_grid"]["configuration"], *shards)]
    return (
        _is_shallow(description)
        and {c["name"] for c in codecs} <= {"sharding_indexed", *_CODECS}
        and {c["name"] for c in inner} <= _CODECS
        and all(len(piece) == len(shape) for piece in pieces)
        and all(0 < n <= size for piece in pieces for n, size in zip(piece, shape, strict=True))
    )


def _is_shallow(value: Any, depth: int = 12) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_is_shallow(part, depth - 1) for part in parts)
