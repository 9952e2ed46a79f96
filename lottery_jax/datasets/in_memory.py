"""Data sets in memory: a name becomes uint8 images and integer labels."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from pathlib import Path

import numpy as np

from lottery_jax.datasets import tfds
from lottery_jax.datasets.checks import Array, Arrays, check_dataset, in_normal_form
from lottery_jax.datasets.images import (
    channel_statistics,
    check_resize,
    enlarge,
    fit_shape,
    pad,
    shrink,
)
from lottery_jax.datasets.npz import read_npz, write_npz
from lottery_jax.datasets.registry import BUILT_IN, Info, resolve_folder, split_name
from lottery_jax.datasets.untrusted import check_memory
from lottery_jax.errors import DataError

# Splits belong to a data set, not to a run: every run and every replicate sees the same ones.
_SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Images are uint8 `[n, height, width, channels]`, labels int32 `[n]`. The validation arrays are
    empty unless a validation split was asked for.

    Attributes:
        name: the name that was asked for, in its normal form (`cifar10_a`).
        num_classes: labels are 0 to num_classes - 1.
        augment: the usual augmentation: none, crop, flip or crop_flip.
        mean: of each channel over the training images, as pixel value / 255.
        std: standard deviation of each channel, on the same scale.
        notes: lines that tell the user how an unusual file was understood.
        padded: whether black was added around the images.
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
        """The number of training images."""
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
    """Return the highest test accuracy that is no evidence of learning.

    Args:
        share: the share of the most frequent class, which is the accuracy of always naming it.
        images: the number of test images; two standard errors of a share of them are added.

    >>> round(chance(0.1, 10_000), 3)
    0.106
    """
    return float(share + 2 * math.sqrt(share * (1 - share) / images))


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
            halves are stratified, disjoint and together the whole. The test set is always whole.
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
        if str(data_dir) or not re.fullmatch(r"digits(_?[ab])?", name):
            raise
        folder = Path(os.devnull)
    base, half = split_name(name, folder)
    arrays, reshaped = in_normal_form(_read(base, folder))
    where = base if base == "digits" else str(folder / f"{base}.npz")
    known = BUILT_IN.get(base)
    num_classes = check_dataset(arrays, where, known.num_classes if known else None)
    # Statistics come before padding, so that the black around an image does not count.
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


def stratified_split(labels: Array, fraction: float, seed: int) -> tuple[Array, Array]:
    """Split examples into `fraction` and the rest of each class, as two sorted index arrays.

    Where a class does not divide evenly, the odd examples are dealt out so that the first part has
    `round(n * fraction)` entries in total.

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
    test, train = stratified_split(labels, 0.2, _SPLIT_SEED)
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
