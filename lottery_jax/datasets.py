"""Data sets: a name becomes uint8 images and integer labels.

Sources, in order: `digits` from scikit-learn's wheel; `<data_dir>/<name>.npz`; data that
tensorflow-datasets has prepared; what it can prepare from archives or download (extra `tfds`).
What comes from tensorflow-datasets is kept as an npz, which the next run reads.

    python -m lottery_jax.datasets list
    python -m lottery_jax.datasets from-idx /usr/share/datasets/fashion-mnist fashion_mnist
    python -m lottery_jax.datasets prepare cifar10
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gzip
import importlib.util
import os
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lottery_jax import tfds_source
from lottery_jax.errors import DataError, describe_unknown, exit_status
from lottery_jax.files import replacing

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = dict[str, Array]  # x_train, y_train, x_test, y_test


@dataclasses.dataclass(frozen=True)
class Info:
    """What is known of a built-in data set before it is read."""

    num_classes: int
    augment: str  # none, crop, flip or crop_flip; never a flip where left and right matter
    tfds_name: str | None = None


BUILT_IN = {
    "digits": Info(10, "none"),
    "fashion_mnist": Info(10, "crop_flip", "fashion_mnist"),
    "cifar10": Info(10, "crop_flip", "cifar10"),
    "cifar100": Info(100, "crop_flip", "cifar100"),
    "svhn": Info(10, "crop", "svhn_cropped"),
}
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
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

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels


def default_data_dir() -> Path:
    """`$TFDS_DATA_DIR`, or tensorflow-datasets' own default, `~/tensorflow_datasets`."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def load_dataset(
    name: str,
    data_dir: str | os.PathLike[str] = "",
    *,
    input_shape: tuple[int, ...] = (),
    validation_fraction: float = 0.0,
) -> Dataset:
    """Loads a data set by name.

    Args:
        name: `digits`, `fashion_mnist`, `cifar10`, `cifar100`, `svhn`, or the name of an npz file
            in `data_dir`; with `_a` or `_b` at the end, one half of the training set (stratified,
            the two disjoint and together all of it). The test set is always whole.
        data_dir: where files are; empty for `default_data_dir()`.
        input_shape: (height, width, channels) to which images are adapted, alike in training and
            test: smaller ones padded with black, larger ones averaged down, one channel repeated,
            three made grey; empty: as they are.
        validation_fraction: in [0, 1), of the training set, held out (stratified).

    Raises:
        DataError: the data can't be had, or a file is not what it should be.

    >>> data = load_dataset("digits_a", input_shape=(12, 12, 3))
    >>> data.x_train.shape, data.x_train.dtype, data.num_classes
    ((719, 12, 12, 3), dtype('uint8'), 10)
    """
    folder = Path(data_dir).expanduser() if data_dir else default_data_dir()
    base, half = _parse_name(name, folder)
    arrays = _arrays_of(base, folder)
    info = BUILT_IN.get(base) or Info(_check_shapes(arrays, base), "none")
    _check(arrays, base, info.num_classes)
    # Before padding, so that the black around an image does not count as its pixels.
    x, y = shrink(arrays["x_train"], input_shape), arrays["y_train"].astype(np.int32)
    if half:
        first, second = stratified_split(y, 0.5, _SPLIT_SEED)
        chosen = first if half == "a" else second
        x, y = x[chosen], y[chosen]
    held_out, rest = stratified_split(y, validation_fraction, _SPLIT_SEED + 1)
    mean, std = _channel_statistics(x[rest])
    channels = input_shape[2] if input_shape else x.shape[-1]
    return Dataset(
        name=f"{base}_{half}" if half else base,
        num_classes=info.num_classes,
        augment=info.augment,
        x_train=pad(x[rest], input_shape),
        y_train=y[rest],
        x_val=pad(x[held_out], input_shape),
        y_val=y[held_out],
        x_test=fit_shape(arrays["x_test"], input_shape),
        y_test=arrays["y_test"].astype(np.int32),
        mean=mean * (channels // len(mean)),
        std=std * (channels // len(std)),
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


def fit_shape(images: Array, shape: tuple[int, ...]) -> Array:
    """Adapts images to (height, width, channels): `shrink`, then `pad`.

    Raises:
        DataError: the images have another number of channels that is neither 1 nor 3.

    >>> fit_shape(np.full((2, 28, 28, 1), 7, np.uint8), (32, 32, 3))[0, 1:3, 2, :].tolist()
    [[0, 0, 0], [7, 7, 7]]
    """
    return pad(shrink(images, shape), shape)


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

    Raises:
        DataError: it is missing, damaged or of another type.
    """
    try:
        raw = Path(path).read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: can't be read: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise DataError(f"{path}: is not an idx file of unsigned bytes")
    rank = raw[3]
    header = 4 + 4 * rank
    shape = struct.unpack(f">{rank}I", raw[4:header]) if len(raw) >= header else None
    if shape is None or len(raw) - header != int(np.prod(shape, dtype=object)):
        raise DataError(f"{path}: is cut short or damaged")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def from_idx(folder: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    """Turns the four idx files of an MNIST-like set (gzipped or not) into one npz.

    Raises:
        DataError: a file is missing or damaged.
    """
    arrays: Arrays = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        for letter, kind in (("x", "images-idx3"), ("y", "labels-idx1")):
            found = sorted(Path(folder).glob(f"{stem}-{kind}-ubyte*"))
            if not found:
                raise DataError(f"{folder}: has no {stem}-{kind}-ubyte[.gz]")
            arrays[f"{letter}_{split}"] = read_idx(found[0])
    for split in ("train", "test"):
        if arrays[f"x_{split}"].ndim == 3:
            arrays[f"x_{split}"] = arrays[f"x_{split}"][..., None]
    _check(arrays, str(folder), _check_shapes(arrays, str(folder)))
    write_npz(output, arrays)


def write_npz(path: str | os.PathLike[str], arrays: Arrays) -> None:
    """Writes x_train, y_train, x_test, y_test to an npz file, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{key: arrays[key] for key in _ARRAYS})


def read_npz(path: str | os.PathLike[str]) -> Arrays:
    """Reads what `write_npz` writes, or a user's own file of the same four arrays.

    Raises:
        DataError: it is damaged or lacks an array.
    """
    try:
        with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {key: file[key] for key in _ARRAYS}
    except KeyError as error:
        raise DataError(f"{path}: has no array {error}; it needs {', '.join(_ARRAYS)}") from error
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: can't be read as npz: {error}") from error


def _parse_name(name: str, folder: Path) -> tuple[str, str]:
    """(data set, half): the half is 'a', 'b' or ''."""

    def exists(base: str) -> bool:
        return base in BUILT_IN or (folder / f"{base}.npz").is_file()

    if not re.fullmatch(r"[\w.-]+", name):
        raise DataError(f"config.data.name: {name!r} is not a name (letters, digits, _ - .)")
    if exists(name):
        return name, ""
    match = re.fullmatch(r"(.+?)_?([ab])", name)
    if match and exists(match[1]):
        return match[1], match[2]
    own = sorted(p.stem for p in folder.glob("*.npz"))
    raise DataError(
        describe_unknown("config.data.name", name, {*BUILT_IN, *own})
        + f"; or put your own arrays in {folder / name}.npz"
    )


def _arrays_of(name: str, folder: Path) -> Arrays:
    if name == "digits":
        return _digits()
    path = folder / f"{name}.npz"
    if path.is_file():
        return read_npz(path)
    tfds_name = BUILT_IN[name].tfds_name
    assert tfds_name is not None
    try:
        arrays = tfds_source.read_prepared(tfds_name, folder)
        if arrays is None:
            arrays = tfds_source.download_and_prepare(tfds_name, folder)
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


def _check_shapes(arrays: Arrays, name: str) -> int:
    """Checks shapes and dtypes; returns the number of classes that the training labels have."""
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if x.dtype != np.uint8 or x.ndim != 4 or 0 in x.shape:
            raise DataError(
                f"{name}: x_{split} is {x.dtype} {x.shape}; images must be uint8 "
                "[n, height, width, channels]"
            )
        if y.ndim != 1 or y.dtype.kind not in "iu" or len(y) != len(x):
            raise DataError(
                f"{name}: y_{split} is {y.dtype} {y.shape}; labels must be integers, one for each "
                f"of the {len(x)} images"
            )
    if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        raise DataError(f"{name}: training and test images differ in shape")
    return int(arrays["y_train"].max()) + 1


def _check(arrays: Arrays, name: str, num_classes: int) -> None:
    _check_shapes(arrays, name)
    for split in ("train", "test"):
        y = arrays[f"y_{split}"]
        if y.min() < 0 or y.max() >= num_classes:
            raise DataError(f"{name}: y_{split} has labels outside 0..{num_classes - 1}")


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


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m lottery_jax.datasets", description="Bring data sets into place."
    )
    parser.add_argument("--data_dir", default="", help=f"default: {default_data_dir()}")
    commands = parser.add_subparsers(dest="command", required=True)
    idx = commands.add_parser("from-idx", help="turn MNIST-style idx files into an npz")
    idx.add_argument("folder", help="where train-images-idx3-ubyte[.gz] and the others are")
    idx.add_argument("name", help="of the data set, such as fashion_mnist")
    prepare = commands.add_parser("prepare", help="fetch or convert a built-in set once")
    prepare.add_argument("name", choices=sorted(BUILT_IN))
    commands.add_parser("list", help="what is there")
    args = parser.parse_args(argv)
    folder = Path(args.data_dir).expanduser() if args.data_dir else default_data_dir()

    def command() -> None:
        if args.command == "from-idx":
            from_idx(args.folder, folder / f"{args.name}.npz")
            print(f"wrote {folder / args.name}.npz")
        elif args.command == "prepare":
            data = load_dataset(args.name, folder)
            print(f"{data.name}: {len(data.x_train)} training and {len(data.x_test)} test images")
        else:
            files = {p.stem for p in folder.glob("*.npz")}
            for name in sorted({*BUILT_IN, *files}):
                there = name in files or name == "digits"
                print(f"{name:16} {'ready' if there else 'not here yet'}")

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main())
