"""Checks of the arrays of a data set, and of a batch size."""

from __future__ import annotations

from typing import Any

import numpy as np

from lottery_jax.errors import ConfigError, DataError

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = dict[str, Array]  # by the names in ARRAYS

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
# Images may have this many channels without a suspicion that their axes are in another order.
_USUAL_CHANNELS = 4


def check_batch(
    batch_size: int, parts: int, examples: int | None = None, *, of: str = "devices"
) -> None:
    """Raise a ConfigError if a batch can't be shared evenly, or is larger than the training set.

    Args:
        batch_size: over all parts.
        parts: devices or processes that share each batch.
        examples: training images; None where a batch may be filled up.
        of: the noun for the parts in the message.
    """
    if batch_size % parts:
        raise ConfigError(
            f"config.train.batch_size: {batch_size} is not a multiple of the {parts} {of}; "
            f"{max(1, round(batch_size / parts)) * parts} would be"
        )
    if examples is not None and batch_size > examples:
        raise ConfigError(
            f"config.train.batch_size: {batch_size} is more than the {examples} training images"
        )


def in_normal_form(arrays: Arrays) -> tuple[Arrays, str]:
    """Add a missing channel axis to images and drop a second axis of length 1 from labels.

    Returns:
        The arrays, and what was done to them in words; empty if nothing was.
    """
    normal = dict(arrays)
    done = {}
    for key in ARRAYS:
        array = arrays[key]
        if key.startswith("x") and array.ndim == 3:
            normal[key] = array[..., None]
            done["images"] = f"images {array.shape[1:]} are taken as {normal[key].shape[1:]}"
        if key.startswith("y") and array.ndim == 2 and array.shape[1] == 1:
            normal[key] = array[:, 0]
            done["labels"] = "labels (n, 1) are taken as (n,)"
    return normal, ", ".join(done.values())


def check_dataset(arrays: Arrays, where: str, num_classes: int | None = None) -> int:
    """Check that images and labels belong together; return the number of classes.

    Args:
        arrays: a whole data set, in normal form.
        where: the file or folder, for messages.
        num_classes: the number that it must be; None: the training labels decide.

    Raises:
        DataError: says which array is wrong, and how.
    """
    for key in ARRAYS:
        check_array(where, key, arrays[key].dtype, arrays[key].shape)
    return check_together(arrays, where, num_classes)


def check_together(arrays: Arrays, where: str, num_classes: int | None = None) -> int:
    """Check that the arrays of a data set fit each other; return the number of classes.

    The arguments and errors are those of `check_dataset`, but inputs may be of any kind, and
    targets floats: then there are 0 classes.
    """
    noun = noun_of(arrays["x_train"].shape)
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if len(y) != len(x):
            raise DataError(
                f"{where}: y_{split} has {len(y)} labels; there must be one for each of the "
                f"{len(x)} {noun}s of x_{split}"
            )
    if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        raise DataError(
            f"{where}: training {noun}s {arrays['x_train'].shape[1:]} and test {noun}s "
            f"{arrays['x_test'].shape[1:]} differ in shape"
        )
    for split in ("train", "test"):
        x = arrays[f"x_{split}"]
        if len(x) > 1 and x.dtype == np.uint8:
            _check_pixels(where, f"x_{split}", x, noun)
    if arrays["y_train"].dtype.kind == "f":
        return 0
    return _check_labels(arrays, where, num_classes, noun)


def noun_of(shape: tuple[int, ...]) -> str:
    """Return what messages call the examples of an array of inputs: images or examples."""
    return "image" if len(shape) == 4 else "example"


def check_array(where: str, key: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Raise a DataError if an array of this dtype and shape can't be the images or labels `key`."""
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
    """Refuse images whose channels are in the place of their rows.

    The second and third axis of such images are the sides of a picture, which differ by no more
    than a factor of two. Square images with many channels pass, for patches of hyper-spectral
    images are like that; so do long rows, which are signals of several channels.
    """
    _, height, width, channels = shape
    if channels > max(height, _USUAL_CHANNELS) and height != width and width <= 2 * channels:
        raise DataError(
            f"{where}: {key} is {shape}: images of {height} x {width} pixels with {channels} "
            "channels; expected is [n, height, width, channels]: if the channels come first, store "
            f"{key}.transpose(0, 2, 3, 1)"
        )


def _check_pixels(where: str, key: str, images: Array, noun: str) -> None:
    """Refuse images that are all the same, or that have lost their grey levels."""
    low, high = int(images.min()), int(images.max())
    if low == high:
        raise DataError(f"{where}: {key} holds nothing but {low}: all {noun}s are the same")
    if high == 1 and noun == "image":
        raise DataError(
            f"{where}: {key} holds nothing but 0 and 1; pixels go from 0 to 255: multiply by 255, "
            "and if they were fractions from 0 to 1, before they are made uint8"
        )


def _check_labels(arrays: Arrays, where: str, num_classes: int | None, noun: str) -> int:
    """Check that labels are 0 to classes - 1 and each class has an example; return their number."""
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
    # Labels are compared with their index: one wrong label may claim billions of classes.
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if len(present) < classes:
        empty = int(gaps[0]) if len(gaps) else len(present)
        raise DataError(
            f"{where}: no training {noun} is of class {empty}, and labels go up to {classes - 1}; "
            "number the classes from 0 without a gap"
        )
    return classes
