"""Data sets in memory: a name becomes uint8 images and integer labels."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
from pathlib import Path

import numpy as np

from lottery_jax.datasets import tfds
from lottery_jax.datasets.checks import Array, Arrays, check_dataset, in_normal_form
from lottery_jax.datasets.dataset import Dataset
from lottery_jax.datasets.images import (
    channel_statistics,
    check_resize,
    enlarge,
    fit_shape,
    pad,
    shrink,
)
from lottery_jax.datasets.npz import read_npz, write_npz
from lottery_jax.datasets.registry import BUILT_IN, Info, is_digits, resolve_folder, split_name
from lottery_jax.datasets.splits import SPLIT_SEED, hold_out, part_of, stratified_split
from lottery_jax.datasets.untrusted import check_memory
from lottery_jax.errors import DataError


def load_dataset(
    name: str,
    data_dir: str | os.PathLike[str] = "",
    *,
    input_shape: tuple[int, ...] = (),
    resize: str = "pad",
    validation_fraction: float = 0.0,
) -> Dataset:
    """Load a data set by name.

    Args:
        name: `digits`, `fashion_mnist`, `cifar10`, `cifar100`, `svhn`, or the name of an npz file
            in `data_dir`. With `_a` or `_b` at the end it is one half of the training set: the
            halves are stratified, disjoint and together the whole. With `_1of2`, `_1of4`, ...,
            `_1of64` it is a part of that size, contained in all larger ones (`splits.part_of`).
            The test set is always whole.
        data_dir: the folder of data files; empty for the default of `registry.resolve_folder`.
        input_shape: (height, width, channels) to which training and test images are adapted.
            Smaller images are padded with black or resized, larger ones averaged down; one channel
            is repeated, and three become grey. Empty: images stay as they are.
        resize: how smaller images are adapted: `pad`, or `bilinear` (`images.enlarge`). Mean and
            standard deviation are those of the pixels that the network sees, without the black of
            a padding.
        validation_fraction: the share of the training set, in [0, 1), that is held out
            (stratified).

    Raises:
        DataError: the data can't be had, or a file is not what it should be.
        ConfigError: there is no such way to resize.

    >>> data = load_dataset("digits_a", input_shape=(12, 12, 3))
    >>> data.x_train.shape, data.x_train.dtype, data.num_classes
    ((719, 12, 12, 3), dtype('uint8'), 10)
    """
    check_resize(resize)
    try:
        folder = resolve_folder(data_dir)
    except DataError:  # a user without a home has no default folder, and bundled data need none
        if str(data_dir) or not is_digits(name):
            raise
        folder = Path(os.devnull)
    base, part = split_name(name, folder)
    arrays, reshaped = in_normal_form(_read(base, folder))
    where = base if base == "digits" else str(folder / f"{base}.npz")
    known = BUILT_IN.get(base)
    num_classes = check_dataset(arrays, where, known.num_classes if known else None)
    # Statistics come before padding, so that the black around an image does not count.
    x, y = shrink(arrays["x_train"], input_shape), arrays["y_train"].astype(np.int32)
    if part:
        chosen = part_of(y, part)
        x, y = x[chosen], y[chosen]
        if not len(y):
            raise DataError(f"{where}: half {part!r} of one training image has none")
    held_out, rest = hold_out(y, validation_fraction, "config.data.validation_fraction")
    count = len(y) + len(arrays["y_test"])
    check_memory(
        f"config.data.input_shape: {count} images of {input_shape} take",
        count * math.prod(input_shape) if input_shape else 0,
    )
    if resize == "bilinear":
        x = enlarge(x, input_shape)
    mean, std = channel_statistics(x[rest])
    channels = input_shape[2] if input_shape else x.shape[-1]
    return Dataset(
        name=f"{base}_{part}" if part else base,
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


def _read(name: str, folder: Path) -> Arrays:
    """Read a data set from the first source that has it; keep what had to be converted as an npz."""
    if BUILT_IN.get(name, Info(0, "")).streamed and not (folder / f"{name}.npz").is_file():
        raise DataError(
            f"{name}: does not fit into memory; lottery_jax.open_stream reads it from disk"
        )
    if name == "digits":
        return read_digits()
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


def read_digits() -> Arrays:
    """Return scikit-learn's 1,797 handwritten digits (UCI); a fifth of each class is the test set."""
    pixels, labels = _digits()
    images = np.rint(pixels * (255 / 16)).astype(np.uint8)[..., None]
    test, train = stratified_split(labels, 0.2, SPLIT_SEED)
    return {
        "x_train": images[train],
        "y_train": labels[train],
        "x_test": images[test],
        "y_test": labels[test],
    }


def _digits() -> tuple[Array, Array]:
    """Return pixels float64 `[1797, 8, 8]`, 0 to 16, and labels int32 `[1797]`.

    They are read from scikit-learn's file if it is in its usual place, because importing
    scikit-learn takes longer than the compilation of many a ladder.
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
