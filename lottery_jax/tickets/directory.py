"""What a ticket's directory may hold, checked before Orbax opens any of it.

Orbax and TensorStore follow symbolic links, wait on pipes, open whatever path an array is said to
have, and end the process if an array is said to be larger than the memory.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from lottery_jax import memory
from lottery_jax.errors import TicketError
from lottery_jax.tickets.ticket import parse_json

PyTree = Any

# Zstandard, with which Orbax compresses, says at most this often the same byte: a block of 128 KiB
# that repeats one byte takes four.
_MOST_BYTES_OF_A_BYTE = 32768
# A ticket's metadata has a few KiB, and Orbax's a few hundred bytes for each array.
_MOST_BYTES_OF_JSON = 2**24


def size_on_disk(folder: Path) -> int:
    """The bytes of all files in a folder, which holds plain files and folders alone.

    Links within it are links to these.

    Raises:
        TicketError: something is a link out of the folder, or neither a file nor a folder; or it
            can't be read.
    """
    try:
        inside = folder.resolve(strict=True)
        return sum(_checked_size(path, inside) for path in _below(folder))
    except (OSError, RuntimeError) as error:  # the latter for links in a circle
        raise TicketError(f"{folder}: can't be read: {error}") from error


def _below(folder: Path) -> Iterator[Path]:
    folders = [folder]  # and no recursion: they can be deeper than Python's stack
    while folders:
        for path in folders.pop().iterdir():
            if stat.S_ISDIR(path.lstat().st_mode):
                folders.append(path)
            yield path


def _checked_size(path: Path, inside: Path) -> int:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        if not path.resolve(strict=True).is_relative_to(inside):
            raise TicketError(f"{path}: is a symbolic link out of the ticket; copy what it names")
    elif stat.S_ISREG(status.st_mode):
        return status.st_size
    elif not stat.S_ISDIR(status.st_mode):
        raise TicketError(f"{path}: is neither a file nor a folder")
    return 0


def read_json(file: Path) -> Any:
    """The JSON of a plain file.

    Raises:
        OSError, ValueError, RecursionError: it can't be read, or is none.
    """
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("is not a plain file")
    if status.st_size > _MOST_BYTES_OF_JSON:
        raise ValueError(f"it has {status.st_size} bytes")
    return parse_json(file.read_text(encoding="utf-8"))


def check_room(where: Path, expected: PyTree, on_disk: int) -> None:
    """Checks that arrays of these shapes can be what so many bytes say, and fit the memory.

    Raises:
        TicketError: they can't or don't.
    """
    needed = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(expected))
    if needed > _MOST_BYTES_OF_A_BYTE * on_disk:
        raise TicketError(f"{where}: has {on_disk} bytes, too few for the {needed} of its arrays")
    if needed > memory.of_this_machine():
        raise TicketError(
            f"{where}: its arrays take {memory.in_words(needed)}, this machine has "
            f"{memory.in_words(memory.of_this_machine())} of memory"
        )


def check_names(folder: Path) -> None:
    """Checks that the arrays of an Orbax checkpoint have plain names and are NumPy's.

    A name becomes part of a path, and one such as `/home` a path of its own.

    Raises:
        TicketError: one has not or is not, or its list of arrays can't be read.
    """
    try:
        files = [path for path in _below(folder) if path.name == "_METADATA"]
    except OSError as error:
        raise TicketError(f"{folder}: is not a readable Orbax checkpoint: {error}") from error
    if not files:
        raise TicketError(f"{folder}: is not a readable Orbax checkpoint: it lists no arrays")
    for file in files:
        try:
            arrays = read_json(file)["tree_metadata"].values()
            plain = all(map(_is_plain, arrays))
        except (
            OSError,
            ValueError,
            RecursionError,
            AttributeError,
            LookupError,
            TypeError,
        ) as error:
            raise TicketError(f"{file}: can't be read: {error}") from error
        if not plain:
            raise TicketError(f"{file}: has an array of a name or of a type that no ticket has")


def _is_plain(entry: Any) -> bool:
    names = [part["key"] for part in entry["key_metadata"]]
    return entry["value_metadata"]["value_type"] in ("np.ndarray", "Dict") and all(
        re.fullmatch(r"\w+", name, re.ASCII) for name in names
    )


def check_chunks(where: Path, stored: dict[str, Any]) -> None:
    """Checks that no array is stored in pieces larger than itself, as memory is taken for a piece.

    Args:
        where: for messages.
        stored: by name, what Orbax says of each array.

    Raises:
        TicketError: one is.
    """
    for path, leaf in stored.items():
        chunk = leaf.storage_metadata.chunk_shape
        if len(chunk) != len(leaf.shape) or any(
            c > size for c, size in zip(chunk, leaf.shape, strict=True)
        ):
            raise TicketError(f"{where}: leaf {path} is stored in pieces larger than itself")
