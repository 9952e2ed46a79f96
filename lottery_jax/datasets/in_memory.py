"""Data sets in memory: a name becomes uint8 images and integer labels."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import importlib.util
import io
import math
import os
import re
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from lottery_jax.datasets import tfds
from lottery_jax.errors import (
    ConfigError,
    DataError,
    describe_unknown,
    one_line,
    raise_if_environment,
)
from lottery_jax.system import host
from lottery_jax.system.files import atomic_write, local_path

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = dict[str, Array]  # x_train, y_train, x_test, y_test


@dataclasses.dataclass(frozen=True)
class Info:
    """What is known of a built-in data set before it is read."""

    num_classes: int
    augment: str  # none, crop, flip or crop_flip; never a flip where left and right matter
    tfds_name: str | None = None
    streamed: bool = False  # it stays on disk, and `streaming` reads it
    archives: tuple[str, ...] = ()  # those that can only be put into place by hand


BUILT_IN = {
    "digits": Info(10, "none"),
    "fashion_mnist": Info(10, "crop_flip", "fashion_mnist"),
    "cifar10": Info(10, "crop_flip", "cifar10"),
    "cifar100": Info(100, "crop_flip", "cifar100"),
    "svhn": Info(10, "crop", "svhn_cropped"),
    "imagenet2012": Info(
        1000,
        "crop_flip",
        "imagenet2012",
        streamed=True,
        archives=("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
    ),
    "places365_small": Info(365, "crop_flip", "places365_small", streamed=True),
}
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
# A name becomes a part of paths: of files of data, and of run directories.
NAME = re.compile(r"\w[\w.-]{0,99}")
# Deflate's best is 258 bytes for two bits: nothing that it holds is larger than 1032 times that.
_DEFLATE_LIMIT = 1032
_NPY_HEADER = 4096  # bytes; numpy's own are 128
_PIECE = 2**20  # bytes that are unpacked at once
_IDX_RANK = 4
# Beyond so many channels, channels that outnumber the rows are a sign of another order of the axes.
_USUAL_CHANNELS = 4
# What becomes of images that are smaller than they are asked for.
RESIZES = ("pad", "bilinear")
_ENLARGED = 2**21  # values that are made at once, of 8 bytes each
# Splits belong to a data set, not to a run: every run and every replicate sees the same ones.
_SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Images are uint8 `[n, height, width, channels]`, labels int32 `[n]`. The validation arrays are
    empty unless a validation split was asked for.

    Attributes:
        name: as asked for, in its normal form (`cifar10_a`).
        num_classes: labels are 0 to num_classes - 1.
        augment: the usual augmentation: none, crop, flip or crop_flip.
        mean: of each channel over the training images, as pixel value / 255.
        std: standard deviation, likewise.
        notes: lines for the user on how the file was understood, where that is no matter of course.
        padded: whether there is black around the images that they did not come with.
    """

    name: str
    num_classes: int
    augment: str
    x_train: Array
    y_train: Array
    x_val: Array
    y_val: Array
    x_test: Array
    y_test: Array
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()
    padded: bool = False

    @property
    def arrays(self) -> Arrays:
        """All images and labels by name."""
        names = ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test")
        return {name: getattr(self, name) for name in names}

    @property
    def num_train(self) -> int:
        """How many images there are to train on."""
        return len(self.x_train)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels

    @property
    def chance(self) -> float:
        """`chance` of the test images."""
        return chance(np.bincount(self.y_test).max() / len(self.y_test), len(self.y_test))


def chance(share: float, images: int) -> float:
    """The test accuracy up to which nothing need have been learnt.

    Args:
        share: of the most frequent class, which is the accuracy of naming it always.
        images: how many there are; two standard errors of a share of them are added.

    >>> round(chance(0.1, 10_000), 3)
    0.106
    """
    return float(share + 2 * math.sqrt(share * (1 - share) / images))


def default_data_dir() -> Path:
    """`$TFDS_DATA_DIR`, or tensorflow-datasets' own default, `~/tensorflow_datasets`."""
    return folder_of(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", "TFDS_DATA_DIR")


def folder_of(data_dir: str | os.PathLike[str], what: str = "config.data.dir") -> Path:
    """Return the folder of data sets that a user names, or the default one."""
    try:
        return local_path(data_dir, what) if str(data_dir) else default_data_dir()
    except ConfigError as error:
        raise DataError(str(error)) from error


def load_dataset(
    name: str,
    data_dir: str | os.PathLike[str] = "",
    *,
    input_shape: tuple[int, ...] = (),
    resize: str = "pad",
    validation_fraction: float = 0.0,
) -> Dataset:
    """Loads a data set by name.

    Args:
        name: `digits`, `fashion_mnist`, `cifar10`, `cifar100`, `svhn`, or the name of an npz file
            in `data_dir`; with `_a` or `_b` at the end, one half of the training set (stratified,
            the two disjoint and together all of it). The test set is always whole.
        data_dir: where files are; empty for `default_data_dir()`.
        input_shape: (height, width, channels) to which images are adapted, alike in training and
            test: smaller ones padded with black or resized, larger ones averaged down, one channel
            repeated, three made grey; empty: as they are.
        resize: what becomes of smaller ones: `pad`, or `bilinear` (`enlarge`). Mean and standard
            deviation are of the pixels that the network sees, without the black of a padding.
        validation_fraction: in [0, 1), of the training set, held out (stratified).

    Raises:
        DataError: the data can't be had, or a file is not what it should be.
        ConfigError: there is no such way to resize.

    >>> data = load_dataset("digits_a", input_shape=(12, 12, 3))
    >>> data.x_train.shape, data.x_train.dtype, data.num_classes
    ((719, 12, 12, 3), dtype('uint8'), 10)
    """
    check_resize(resize)
    try:
        folder = folder_of(data_dir)
    except DataError:  # a user without a home has no default one, and bundled data need none
        if str(data_dir) or not re.fullmatch(r"digits(_?[ab])?", name):
            raise
        folder = Path(os.devnull)
    base, half = _parse_name(name, folder)
    arrays, reshaped = _in_normal_form(_arrays_of(base, folder))
    where = base if base == "digits" else str(folder / f"{base}.npz")
    known = BUILT_IN.get(base)
    num_classes = _check(arrays, where, known.num_classes if known else None)
    # Before padding, so that the black around an image does not count as its pixels.
    x, y = shrink(arrays["x_train"], input_shape), arrays["y_train"].astype(np.int32)
    if half:
        first, second = stratified_split(y, 0.5, _SPLIT_SEED)
        chosen = first if half == "a" else second
        x, y = x[chosen], y[chosen]
        if not len(y):
            raise DataError(f"{where}: half {half!r} of one training image has none")
    held_out, rest = stratified_split(y, validation_fraction, _SPLIT_SEED + 1)
    if not len(rest) or (validation_fraction and not len(held_out)):
        raise DataError(
            f"config.data.validation_fraction: {validation_fraction:g} of {len(y)} training images "
            f"is {len(held_out)} of them; one at least must be on each side"
        )
    _check_adapted_size(len(y) + len(arrays["y_test"]), input_shape)
    if resize == "bilinear":
        x = enlarge(x, input_shape)
    mean, std = _channel_statistics(x[rest])
    channels = input_shape[2] if input_shape else x.shape[-1]
    return Dataset(
        name=f"{base}_{half}" if half else base,
        num_classes=num_classes,
        augment=known.augment if known else "none",
        x_train=pad(x[rest], input_shape),
        y_train=y[rest],
        x_val=pad(x[held_out], input_shape),
        y_val=y[held_out],
        x_test=fit_shape(arrays["x_test"], input_shape, resize),
        y_test=arrays["y_test"].astype(np.int32),
        mean=mean * (channels // len(mean)),
        std=std * (channels // len(std)),
        notes=(f"note: {where}: {reshaped}",) if reshaped else (),
        padded=bool(input_shape) and x.shape[1:3] != tuple(input_shape[:2]),
    )


def check_resize(resize: str) -> None:
    """Raises a ConfigError if there is no such way to resize."""
    if resize not in RESIZES:
        raise ConfigError(describe_unknown("config.data.resize", resize, RESIZES))


def _check_adapted_size(images: int, shape: tuple[int, ...]) -> None:
    size = images * math.prod(shape) if shape else 0
    if size > host.memory():
        raise DataError(
            f"config.data.input_shape: {images} images of {shape} take {host.in_words(size)} of "
            f"memory; there are {host.in_words(host.memory())}"
        )


def stratified_split(labels: Array, fraction: float, seed: int) -> tuple[Array, Array]:
    """Two sorted index arrays, disjoint and exhaustive, of `fraction` and the rest of each class.

    Where a class does not divide evenly the odd ones are dealt out so that the totals come out
    right: the first part has `round(n * fraction)` entries.

    >>> first, second = stratified_split(np.array([0, 0, 1, 1, 1, 1]), 0.5, seed=0)
    >>> len(first), len(second), np.concatenate([first, second]).sum()
    (3, 3, np.int64(15))
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # Position i is taken where the running quota passes a whole number: evenly within each class.
    quota = np.floor(np.arange(len(labels) + 1) * fraction + 0.5).astype(np.int64)
    taken = np.diff(quota) > 0
    return np.sort(by_class[taken]), np.sort(by_class[~taken])


def fit_shape(images: Array, shape: tuple[int, ...], resize: str = "pad") -> Array:
    """Adapts images to (height, width, channels): `shrink`, `enlarge` if `bilinear`, then `pad`.

    Raises:
        DataError: the images have another number of channels that is neither 1 nor 3.

    >>> fit_shape(np.full((2, 28, 28, 1), 7, np.uint8), (32, 32, 3))[0, 1:3, 2, :].tolist()
    [[0, 0, 0], [7, 7, 7]]
    """
    images = shrink(images, shape)
    return pad(enlarge(images, shape) if resize == "bilinear" else images, shape)


def shrink(images: Array, shape: tuple[int, ...]) -> Array:
    """Images no larger than `shape`: averaged down where they are, colour to grey where it is grey.

    A pixel of the result is the mean of what it covers. Grey is 0.299 R + 0.587 G + 0.114 B (ITU-R
    BT.601). Images that already fit come back as they are.

    >>> shrink(np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1), (2, 2, 1))[0, ..., 0].tolist()
    [[2, 4], [10, 12]]
    """
    if not shape:
        return images
    if images.shape[-1] not in (1, shape[2]) and (images.shape[-1], shape[2]) != (3, 1):
        raise DataError(
            f"config.data.input_shape: images of {images.shape[1:]} have {images.shape[-1]} "
            f"channels, which can't become {shape[2]}"
        )
    if all(have <= want for have, want in zip(images.shape[1:], shape, strict=True)):
        return images
    values = images.astype(np.float32)
    if images.shape[-1] > shape[2]:
        values = values @ np.array([[0.299], [0.587], [0.114]], np.float32)
    if images.shape[1] > shape[0]:
        values = np.einsum("nhwc,Hh->nHwc", values, _averages(images.shape[1], shape[0]))
    if images.shape[2] > shape[1]:
        values = np.einsum("nhwc,Ww->nhWc", values, _averages(images.shape[2], shape[1]))
    return np.rint(values).astype(np.uint8)


def _averages(old: int, new: int) -> Array:
    """The matrix `[new, old]` by which `new` equal stretches of `old` pixels are averaged."""
    edges = np.linspace(0, old, new + 1)
    starts, pixels = edges[:-1, None], np.arange(old)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(starts, pixels)
    return (np.clip(covered, 0, 1) * (new / old)).astype(np.float32)


def enlarge(images: Array, shape: tuple[int, ...]) -> Array:
    """Images no smaller than the height and width of `shape`, by bilinear interpolation.

    The centre of pixel i is at i + 1/2 (half-pixel centres); beyond the outermost centres the
    pixels at the border are continued. Computed in whole numbers and rounded once, half up: the
    same on every machine. Images that are large enough come back as they are.

    >>> enlarge(np.array([0, 40], np.uint8).reshape(1, 1, 2, 1), (1, 4, 1)).ravel().tolist()
    [0, 10, 30, 40]
    """
    if not shape:
        return images
    count, *old, channels = images.shape
    new = [max(have, want) for have, want in zip(old, shape[:2], strict=True)]
    if old == new:
        return images
    enlarged = np.empty((count, *new, channels), np.uint8)
    (above, below, down), (left, right, across) = (
        _neighbours(*lengths) for lengths in zip(old, new, strict=True)
    )
    down, across = down[:, None, None], across[:, None]
    whole = 4 * new[0] * new[1]
    at_once = max(1, _ENLARGED // math.prod(enlarged.shape[1:]))
    for first in range(0, count, at_once):
        part = images[first : first + at_once].astype(np.int64)
        part = part[:, above] * (2 * new[0] - down) + part[:, below] * down
        part = part[:, :, left] * (2 * new[1] - across) + part[:, :, right] * across
        enlarged[first : first + at_once] = (part + whole // 2) // whole
    return enlarged


def _neighbours(old: int, new: int) -> tuple[Array, Array, Array]:
    """For each of `new` pixels the two of `old` that it lies between.

    Returns:
        Their indices, and the weight of the second in parts of `2 * new`.
    """
    # At (i + 1/2) * old / new - 1/2 of the old pixels, here in parts of 2 * new.
    place = (2 * np.arange(new) + 1) * old - new
    low, weight = np.divmod(np.clip(place, 0, 2 * new * (old - 1)), 2 * new)
    return low, np.minimum(low + 1, old - 1), weight


def pad(images: Array, shape: tuple[int, ...]) -> Array:
    """Images padded evenly with black, and a single channel repeated, to `shape`."""
    if not shape or images.shape[1:] == tuple(shape):
        return images
    height, width, channels = images.shape[1:]
    up, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    down, right = shape[0] - height - up, shape[1] - width - left
    padded = np.pad(images, ((0, 0), (up, down), (left, right), (0, 0)))
    return np.repeat(padded, shape[2], axis=3) if channels != shape[2] else padded


def read_idx(path: str | os.PathLike[str]) -> Array:
    """Reads an idx file of unsigned bytes, gzipped or not (the format of MNIST's files).

    No more memory is taken than the file can fill.

    Raises:
        DataError: it is missing, damaged or of another type.
    """
    try:
        with _open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            is_gzip = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not is_gzip:
                return _read_idx(path, file, size)
            with gzip.GzipFile(fileobj=file) as unzipped:
                return _read_idx(path, unzipped, _DEFLATE_LIMIT * size)
    except (OSError, EOFError, MemoryError, zlib.error, struct.error) as error:
        raise DataError(f"{path}: can't be read: {one_line(error)}") from error


def _read_idx(path: str | os.PathLike[str], file: io.BufferedIOBase, limit: int) -> Array:
    head = file.read(4)
    if len(head) < 4 or head[:3] != b"\x00\x00\x08" or not 1 <= head[3] <= _IDX_RANK:
        raise DataError(f"{path}: is not an idx file of unsigned bytes")
    shape = struct.unpack(f">{head[3]}I", file.read(4 * head[3]))
    if math.prod(shape) > limit:
        raise DataError(f"{path}: is cut short or damaged: it can't hold {shape}")
    _check_memory(path, math.prod(shape))
    return _read_whole(file, math.prod(shape), np.dtype(np.uint8)).reshape(shape)


def _open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a file to read, but no pipe or device, on which one would wait or which never end."""
    if Path(path).exists() and not Path(path).is_file():
        raise OSError("it is not a regular file")
    return Path(path).open("rb")


def _check_memory(path: str | os.PathLike[str], size: int) -> None:
    if size > host.memory():
        raise DataError(
            f"{path}: takes {host.in_words(size)} of memory; there are "
            f"{host.in_words(host.memory())}"
        )


def _read_whole(file: IO[bytes] | io.BufferedIOBase, count: int, dtype: np.dtype[Any]) -> Array:
    """An array of what is left of a file, which must be `count` numbers and no more.

    Its memory is filled as data arrive. At their end compressed files compare a checksum.
    """
    array = np.empty(count, dtype)
    buffer, filled = array.view(np.uint8).data, 0
    while piece := file.read(min(_PIECE, len(buffer) - filled)):
        buffer[filled : filled + len(piece)] = piece
        filled += len(piece)
    if filled < len(buffer) or file.read(1):
        raise EOFError(f"it is cut short, or has more than its {count} numbers")
    return array


def from_idx(folder: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    """Turns the four idx files of an MNIST-like set into one npz.

    They are called train-images-idx3-ubyte or train-images.idx3-ubyte, gzipped (.gz) or not, in the
    folder or each in one of its own that has such a name.

    Raises:
        DataError: a file is missing or damaged, or the arrays can't be those of a data set.
    """
    arrays: Arrays = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        for letter, kind in (("x", "images-idx3"), ("y", "labels-idx1")):
            arrays[f"{letter}_{split}"] = read_idx(_find_idx(Path(folder), stem, kind))
    arrays, _ = _in_normal_form(arrays)
    _check(arrays, str(folder))
    write_npz(output, arrays)


def _find_idx(folder: Path, stem: str, kind: str) -> Path:
    """The first file there is of the names under which an idx file is handed on."""
    names = (f"{stem}-{kind}-ubyte", f"{stem}-{kind}-ubyte".replace("-idx", ".idx"))
    files = [name + ending for name in names for ending in ("", ".gz")]
    for place in (folder, *(folder / name for name in names)):
        for path in (place / file for file in files):
            if path.exists() and not path.is_dir():
                return path
    raise DataError(
        f"{folder}: has no {', '.join(files)}, nor one of them in a folder {' or '.join(names)}"
    )


def write_npz(path: str | os.PathLike[str], arrays: Arrays) -> None:
    """Writes x_train, y_train, x_test, y_test to an npz file, whole or not at all."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{key: arrays[key] for key in _ARRAYS})


def read_npz(path: str | os.PathLike[str]) -> Arrays:
    """Reads what `write_npz` writes, or a user's own file of the same four arrays.

    Images may lack the channel axis, and labels may be `[n, 1]`.

    A file may be a stranger's: nothing in it is executed or extracted, other entries than the four
    arrays are not looked at, and no more memory is taken than the file can fill.

    Raises:
        DataError: it is damaged, or lacks an array, or one is not uint8 images or integer labels.
    """
    try:
        with _open_regular(path) as raw, zipfile.ZipFile(raw) as archive:
            size = os.fstat(raw.fileno()).st_size
            entries = {key: _entry(path, archive, key, size) for key in _ARRAYS}
            _check_memory(path, sum(entry.file_size for entry in entries.values()))
            return {key: _read_entry(path, archive, entries[key], key) for key in _ARRAYS}
    except DataError:
        raise
    except Exception as error:  # what zipfile raises for nonsense is not its interface
        raise_if_environment(error)
        raise DataError(
            f"{path}: can't be read as npz: {one_line(error) or type(error).__name__}"
        ) from error


def _entry(
    path: str | os.PathLike[str], archive: zipfile.ZipFile, key: str, size: int
) -> zipfile.ZipInfo:
    """The one entry of an array, if its sizes can be true in a file of `size` bytes."""
    found = [entry for entry in archive.infolist() if entry.filename == f"{key}.npy"]
    if len(found) != 1:
        says = f"{key} {len(found)} times" if found else f"no array {key}"
        raise DataError(f"{path}: has {says}; it needs {', '.join(_ARRAYS)}")
    (entry,) = found
    limits = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _DEFLATE_LIMIT}
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
    """The array of an entry; no memory is taken before its header is known to be right."""
    with archive.open(entry) as file:
        head = io.BytesIO(file.read(_NPY_HEADER))
    version = np.lib.format.read_magic(head)
    if version == (1, 0):
        read_header = np.lib.format.read_array_header_1_0
    elif version == (2, 0):
        read_header = np.lib.format.read_array_header_2_0
    else:
        raise ValueError(f"{key} is of version {version} of the npy format")
    with warnings.catch_warnings():  # of what Python's parser thinks of the header
        warnings.simplefilter("ignore")
        shape, in_fortran_order, dtype = read_header(head, max_header_size=_NPY_HEADER)
    _check_array(str(path), key, dtype, shape)
    if head.tell() + math.prod(shape) * dtype.itemsize != entry.file_size:
        raise ValueError(f"{key} is of another size than it says, {shape}")
    with archive.open(entry) as file:
        file.read(head.tell())
        array = _read_whole(file, math.prod(shape), dtype)
    return array.reshape(shape, order="F" if in_fortran_order else "C")


def _parse_name(name: str, folder: Path) -> tuple[str, str]:
    """(data set, half): the half is 'a', 'b' or ''."""

    def exists(base: str) -> bool:
        return base in BUILT_IN or (folder / f"{base}.npz").is_file()

    check_name(name)
    try:
        if exists(name):
            return name, ""
        match = re.fullmatch(r"(.+?)_?([ab])", name)
        if match and exists(match[1]):
            return match[1], match[2]
    except OSError as error:
        raise DataError(f"config.data.dir: {folder}: {error.strerror}") from error
    own = sorted(p.stem for p in folder.glob("*.npz"))
    raise DataError(
        describe_unknown("config.data.name", name, {*BUILT_IN, *own})
        + f"; or put your own arrays in {folder / name}.npz"
    )


def check_name(name: str) -> None:
    """Raises a DataError if a name is not one that a data set can have."""
    if not NAME.fullmatch(name):
        raise DataError(
            f"config.data.name: {name!r} is not a name (up to 100 letters, digits, _ - ., the "
            "first no - or .)"
        )


def prepared_folder(name: str, data_dir: str | os.PathLike[str] = "") -> Path:
    """Where a streamed set is prepared.

    Raises:
        DataError: it is not; how to prepare it.
    """
    folder, known = folder_of(data_dir), BUILT_IN[name]
    assert known.tfds_name is not None
    try:
        found = tfds.find_prepared(known.tfds_name, folder)
    except OSError as error:
        raise DataError(f"config.data.dir: {folder}: {error.strerror}") from error
    if found is None:
        first = f"put {' and '.join(known.archives)} into {folder / 'downloads' / 'manual'} and "
        raise DataError(
            f"{name}: is not prepared in {folder}; {first if known.archives else ''}run 'python -m "
            f"lottery_jax.datasets --data_dir {folder} prepare {name}'"
        )
    return found


def _arrays_of(name: str, folder: Path) -> Arrays:
    if BUILT_IN.get(name, Info(0, "")).streamed and not (folder / f"{name}.npz").is_file():
        raise DataError(
            f"{name}: does not fit into memory; lottery_jax.open_stream reads it from disk"
        )
    if name == "digits":
        return _digits()
    path = folder / f"{name}.npz"
    if path.is_file():
        return read_npz(path)
    tfds_name = BUILT_IN[name].tfds_name
    assert tfds_name is not None
    try:
        arrays = tfds.read_prepared(tfds_name, folder)
        if arrays is None:
            arrays = tfds.download_and_prepare(tfds_name, folder)
    except DataError as error:
        raise DataError(
            f"{name}: {error}; or turn idx files into an npz ('python -m lottery_jax.datasets "
            f"from-idx FOLDER {name}'), or put x_train, y_train, x_test, y_test into {path}"
        ) from error
    with contextlib.suppress(OSError):  # a shared directory may be read-only; this is a cache
        write_npz(path, arrays)
    return arrays


def _read_digits() -> tuple[Array, Array]:
    """Pixels float64 `[1797, 8, 8]`, 0 to 16, and labels int32 `[1797]`.

    From scikit-learn's file where it usually is: importing scikit-learn would take longer than many
    a ladder's compilation.
    """
    package = importlib.util.find_spec("sklearn")
    if package is not None and package.origin is not None:
        path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            rows = np.loadtxt(path, delimiter=",")
            return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int32)
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target.astype(np.int32)


def _digits() -> Arrays:
    """The 1,797 handwritten digits of scikit-learn (UCI), a fifth of each class for the test."""
    pixels, labels = _read_digits()
    images = np.rint(pixels * (255 / 16)).astype(np.uint8)[..., None]
    test, train = stratified_split(labels, 0.2, _SPLIT_SEED)
    return {
        "x_train": images[train],
        "y_train": labels[train],
        "x_test": images[test],
        "y_test": labels[test],
    }


def _in_normal_form(arrays: Arrays) -> tuple[Arrays, str]:
    """Images with a channel axis and labels of one axis, as other programs leave them out or add.

    Returns:
        The arrays, and what was done to them in words; empty if nothing was.
    """
    normal = dict(arrays)
    done = {}
    for key in _ARRAYS:
        array = arrays[key]
        if key.startswith("x") and array.ndim == 3:
            normal[key] = array[..., None]
            done["images"] = f"images {array.shape[1:]} are taken as {normal[key].shape[1:]}"
        if key.startswith("y") and array.ndim == 2 and array.shape[1] == 1:
            normal[key] = array[:, 0]
            done["labels"] = "labels (n, 1) are taken as (n,)"
    return normal, ", ".join(done.values())


def _check_array(where: str, key: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if key.startswith("x"):
        if dtype != np.uint8 or len(shape) not in (3, 4) or min(shape) < 1:
            raise DataError(
                f"{where}: {key} is {dtype} {shape}; images must be uint8 "
                "[n, height, width, channels], each 1 or more"
            )
        if len(shape) == 4:
            _check_layout(where, key, shape)
    elif not (len(shape) == 1 or shape[1:] == (1,)) or dtype.kind not in "iu":
        raise DataError(
            f"{where}: {key} is {dtype} {shape}; labels must be integers, one for each image"
        )


def _check_layout(where: str, key: str, shape: tuple[int, ...]) -> None:
    """Refuses images whose channels are in the place of their rows.

    Of such images the second and the third side, which are those of a picture, differ by no more
    than twice. Square ones with many channels are not refused: patches of hyper-spectral images
    are like that; nor are long rows, which are signals of several channels.
    """
    _, height, width, channels = shape
    if channels > max(height, _USUAL_CHANNELS) and height != width and width <= 2 * channels:
        raise DataError(
            f"{where}: {key} is {shape}: images of {height} x {width} pixels with {channels} "
            "channels; expected is [n, height, width, channels]: if the channels come first, store "
            f"{key}.transpose(0, 2, 3, 1)"
        )


def _check_values(where: str, key: str, images: Array) -> None:
    """Refuses images in which there is nothing to see, or that have lost their grey levels."""
    low, high = int(images.min()), int(images.max())
    if low == high:
        raise DataError(f"{where}: {key} holds nothing but {low}: all images are the same")
    if high == 1:
        raise DataError(
            f"{where}: {key} holds nothing but 0 and 1; pixels go from 0 to 255: multiply by 255, "
            "and if they were fractions from 0 to 1, before they are made uint8"
        )


def _check(arrays: Arrays, where: str, num_classes: int | None = None) -> int:
    """Checks that images and labels belong together; returns the number of classes.

    Args:
        arrays: of a whole data set.
        where: for messages.
        num_classes: what it must be; None: as many as the training labels say.
    """
    for key in _ARRAYS:
        _check_array(where, key, arrays[key].dtype, arrays[key].shape)
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if len(y) != len(x):
            raise DataError(
                f"{where}: y_{split} has {len(y)} labels; there must be one for each of the "
                f"{len(x)} images of x_{split}"
            )
    if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        raise DataError(
            f"{where}: training images {arrays['x_train'].shape[1:]} and test images "
            f"{arrays['x_test'].shape[1:]} differ in shape"
        )
    for split in ("train", "test"):
        if len(arrays[f"x_{split}"]) > 1:
            _check_values(where, f"x_{split}", arrays[f"x_{split}"])
    present = np.unique(arrays["y_train"])
    if len(present) == 1 < len(arrays["y_train"]):
        raise DataError(
            f"{where}: all labels of y_train are {present[0]}; there must be two classes or more"
        )
    classes = num_classes or int(present[-1]) + 1
    for split in ("train", "test"):
        y = arrays[f"y_{split}"]
        for label in (int(y.min()), int(y.max())):
            if not 0 <= label < max(1, classes):
                raise DataError(
                    f"{where}: y_{split} has the label {label}, outside 0..{max(1, classes) - 1}"
                )
    # Not by counting up to the classes: one wrong label may say that there are billions of them.
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if len(present) < classes:
        empty = int(gaps[0]) if len(gaps) else len(present)
        raise DataError(
            f"{where}: no training image is of class {empty}, and labels go up to {classes - 1}; "
            "number the classes from 0 without a gap"
        )
    return classes


def _channel_statistics(images: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images, exact, on the scale 0 to 1."""
    values = np.arange(256) / 255.0
    means, stds = [], []
    for channel in range(images.shape[-1]):
        histogram = np.bincount(images[..., channel].ravel(), minlength=256)
        mean = float(histogram @ values / histogram.sum())
        variance = float(histogram @ (values - mean) ** 2 / histogram.sum())
        means.append(mean)
        stds.append(variance**0.5 or 1.0)
    return tuple(means), tuple(stds)
