"""Data sets as npz files: four arrays, x_train, y_train, x_test and y_test."""

from __future__ import annotations

import io
import math
import os
import warnings
import zipfile

import numpy as np

from lottery_jax.datasets.checks import ARRAYS, Array, Arrays, check_array
from lottery_jax.datasets.untrusted import DEFLATE_LIMIT, check_memory, open_regular, read_array
from lottery_jax.errors import DataError, one_line, raise_if_environment
from lottery_jax.system.files import atomic_write

_HEADER_BYTES = 4096  # at most, of an array; NumPy's own have 128


def write_npz(path: str | os.PathLike[str], arrays: Arrays) -> None:
    """Write x_train, y_train, x_test and y_test to an npz file, whole or not at all."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{key: arrays[key] for key in ARRAYS})


def read_npz(path: str | os.PathLike[str]) -> Arrays:
    """Read a file of `write_npz`, or a user's own file of the same four arrays.

    Images are uint8 `[n, h, w, c]`, or `[n, h, w]` for one channel; labels are integers `[n]` or
    `[n, 1]`. The file may be a stranger's: nothing in it is executed or extracted, other entries
    are not looked at, and no more memory is taken than the file can fill.

    Raises:
        DataError: it is damaged, or lacks an array, or one is not uint8 images or integer labels.
    """
    try:
        with open_regular(path) as raw, zipfile.ZipFile(raw) as archive:
            size = os.fstat(raw.fileno()).st_size
            entries = {key: _entry(path, archive, key, size) for key in ARRAYS}
            check_memory(f"{path}: takes", sum(entry.file_size for entry in entries.values()))
            return {key: _read_entry(path, archive, entries[key], key) for key in ARRAYS}
    except DataError:
        raise
    except Exception as error:  # zipfile documents no list of its errors for damaged files
        raise_if_environment(error)
        raise DataError(
            f"{path}: can't be read as npz: {one_line(error) or type(error).__name__}"
        ) from error


def _entry(
    path: str | os.PathLike[str], archive: zipfile.ZipFile, key: str, size: int
) -> zipfile.ZipInfo:
    """Return the one entry of an array, if its sizes can be true in a file of `size` bytes."""
    found = [entry for entry in archive.infolist() if entry.filename == f"{key}.npy"]
    if len(found) != 1:
        says = f"{key} {len(found)} times" if found else f"no array {key}"
        raise DataError(f"{path}: has {says}; it needs {', '.join(ARRAYS)}")
    (entry,) = found
    limits = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: DEFLATE_LIMIT}
    if entry.compress_type not in limits:
        raise DataError(
            f"{path}: {key} is compressed in a way that numpy.savez and savez_compressed don't use"
        )
    whole = entry.header_offset + entry.compress_size <= size
    if not whole or entry.file_size > limits[entry.compress_type] * entry.compress_size:
        raise DataError(f"{path}: {key} can't be {entry.file_size} bytes long; it is damaged")
    return entry


def _read_entry(
    path: str | os.PathLike[str], archive: zipfile.ZipFile, entry: zipfile.ZipInfo, key: str
) -> Array:
    """Read the array of an entry; memory is taken only after its header has been checked."""
    with archive.open(entry) as file:
        head = io.BytesIO(file.read(_HEADER_BYTES))
    version = np.lib.format.read_magic(head)
    if version == (1, 0):
        read_header = np.lib.format.read_array_header_1_0
    elif version == (2, 0):
        read_header = np.lib.format.read_array_header_2_0
    else:
        raise ValueError(f"{key} is of version {version} of the npy format")
    with warnings.catch_warnings():  # Python's parser may warn of what a header contains
        warnings.simplefilter("ignore")
        shape, in_fortran_order, dtype = read_header(head, max_header_size=_HEADER_BYTES)
    check_array(str(path), key, dtype, shape)
    if head.tell() + math.prod(shape) * dtype.itemsize != entry.file_size:
        raise ValueError(f"{key} is of another size than it says, {shape}")
    with archive.open(entry) as file:
        file.read(head.tell())
        array = read_array(file, math.prod(shape), dtype)
    return array.reshape(shape, order="F" if in_fortran_order else "C")
