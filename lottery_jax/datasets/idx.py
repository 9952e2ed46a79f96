"""MNIST's idx files, which the `datasets` command turns into an npz."""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from lottery_jax.datasets.checks import Array, Arrays, check_dataset, in_normal_form
from lottery_jax.datasets.npz import write_npz
from lottery_jax.datasets.untrusted import DEFLATE_LIMIT, check_memory, open_regular, read_array
from lottery_jax.errors import DataError, one_line

_MOST_AXES = 4


def from_idx(folder: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    """Turn the four idx files of an MNIST-like set into one npz.

    The files are called train-images-idx3-ubyte or train-images.idx3-ubyte and so on, gzipped (.gz)
    or not. They are in the folder, or each in a folder of its own that has such a name.

    Raises:
        DataError: a file is missing or damaged, or the arrays can't be those of a data set.
    """
    arrays: Arrays = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        for letter, kind in (("x", "images-idx3"), ("y", "labels-idx1")):
            arrays[f"{letter}_{split}"] = read_idx(_find(Path(folder), stem, kind))
    arrays, _ = in_normal_form(arrays)
    check_dataset(arrays, str(folder))
    write_npz(output, arrays)


def _find(folder: Path, stem: str, kind: str) -> Path:
    """Return the first file that has one of the names under which an idx file is distributed."""
    names = (f"{stem}-{kind}-ubyte", f"{stem}-{kind}-ubyte".replace("-idx", ".idx"))
    files = [name + ending for name in names for ending in ("", ".gz")]
    for place in (folder, *(folder / name for name in names)):
        for path in (place / file for file in files):
            if path.exists() and not path.is_dir():
                return path
    raise DataError(
        f"{folder}: has no {', '.join(files)}, nor one of them in a folder {' or '.join(names)}"
    )


def read_idx(path: str | os.PathLike[str]) -> Array:
    """Read an idx file of unsigned bytes, gzipped or not, as a uint8 array of the shape it states.

    No more memory is taken than the file can fill.

    Raises:
        DataError: it is missing, damaged or of another type.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            is_gzip = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not is_gzip:
                return _read(path, file, size)
            with gzip.GzipFile(fileobj=file) as unzipped:
                return _read(path, unzipped, DEFLATE_LIMIT * size)
    except (OSError, EOFError, MemoryError, zlib.error, struct.error) as error:
        raise DataError(f"{path}: can't be read: {one_line(error)}") from error


def _read(path: str | os.PathLike[str], file: io.BufferedIOBase, limit: int) -> Array:
    """Read an idx file whose content has at most `limit` bytes."""
    head = file.read(4)
    if len(head) < 4 or head[:3] != b"\x00\x00\x08" or not 1 <= head[3] <= _MOST_AXES:
        raise DataError(f"{path}: is not an idx file of unsigned bytes")
    shape = struct.unpack(f">{head[3]}I", file.read(4 * head[3]))
    if math.prod(shape) > limit:
        raise DataError(f"{path}: is cut short or damaged: it can't hold {shape}")
    check_memory(f"{path}: takes", math.prod(shape))
    return read_array(file, math.prod(shape), np.dtype(np.uint8)).reshape(shape)
