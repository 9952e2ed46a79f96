"""Ways to read files that strangers may have made: regular files, and memory only for their content."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO, Any

import numpy as np

from lottery_jax.errors import DataError
from lottery_jax.system import host

Array = np.ndarray[Any, np.dtype[Any]]

# Deflate needs at least two bits for 258 bytes, so it enlarges nothing by more than this factor.
DEFLATE_LIMIT = 1032
_PIECE = 2**20  # bytes that are unpacked at once


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file to read; a pipe or a device could block or never end.

    Raises:
        OSError: it is another kind of file, or can't be opened.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise OSError("it is not a regular file")
    return Path(path).open("rb")


def check_memory(what: str, size: int) -> None:
    """Raise a DataError that begins with `what` if `size` bytes are more than the machine has."""
    if size > host.memory():
        raise DataError(
            f"{what} {host.in_words(size)} of memory; there are {host.in_words(host.memory())}"
        )


def read_array(file: IO[bytes] | io.BufferedIOBase, count: int, dtype: np.dtype[Any]) -> Array:
    """Read the rest of a file, which must be `count` numbers and no more, as an array `[count]`.

    The array's memory is touched only as data arrive. A compressed file is read to its end, where
    it compares a checksum.

    Raises:
        EOFError: the file holds fewer or more numbers.
    """
    array = np.empty(count, dtype)
    buffer, filled = array.view(np.uint8).data, 0
    while piece := file.read(min(_PIECE, len(buffer) - filled)):
        buffer[filled : filled + len(piece)] = piece
        filled += len(piece)
    if filled < len(buffer) or file.read(1):
        raise EOFError(f"it is cut short, or has more than its {count} numbers")
    return array
