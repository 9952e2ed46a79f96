"""Arrays of any network become the inputs and targets of a data set: pixels, numbers or tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from lottery_jax.datasets.checks import (
    ARRAYS,
    Array,
    Arrays,
    check_array,
    check_together,
    in_normal_form,
)
from lottery_jax.datasets.images import channel_statistics
from lottery_jax.errors import DataError

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean, standard deviation

_LARGEST_TOKEN = 2**31 - 1


def to_examples(
    arrays: dict[str, Any], where: str, num_classes: int | None = None
) -> tuple[Arrays, int, str]:
    """Check the four arrays of a data set and bring them to the dtypes in which devices hold them.

    Inputs are uint8 pixels, which stay uint8; floats, which become float32 unless they are float16;
    or integer tokens `[n, length]`, which become int32. Integer labels `[n]` become int32, and
    float targets `[n]` or `[n, k]` float32.

    Args:
        arrays: x_train, y_train, x_test and y_test, or what `np.asarray` takes.
        where: the name or place of the data, with which messages begin.
        num_classes: the number that it must be; None: the training labels decide.

    Returns:
        The arrays; the number of classes, 0 for float targets; and what was done to the axes, in
        words.

    Raises:
        DataError: says which array is wrong, and how.
    """
    given = {key: _as_array(where, key, arrays[key]) for key in ARRAYS}
    for key in ARRAYS:
        _check_kind(where, key, given[key])
    for letter, noun in (("x", "inputs"), ("y", "targets")):
        kinds = [given[f"{letter}_{split}"].dtype.kind for split in ("train", "test")]
        if (kinds[0] == "f") != (kinds[1] == "f") or (letter == "x" and kinds[0] != kinds[1]):
            raise DataError(
                f"{where}: {letter}_train is {given[f'{letter}_train'].dtype}, {letter}_test "
                f"{given[f'{letter}_test'].dtype}; training and test {noun} must be of one kind"
            )
    if num_classes is not None and given["y_train"].dtype.kind == "f":
        raise DataError(f"{where}: num_classes is {num_classes}, but y_train holds float targets")
    normal, done = in_normal_form(given)
    # Labels are compared with the classes before a cast to int32 could wrap them around.
    x = {key: _for_device(where, key, normal[key]) for key in ARRAYS if key.startswith("x")}
    classes = check_together({**normal, **x}, where, num_classes)
    y = {key: _for_device(where, key, normal[key]) for key in ARRAYS if key.startswith("y")}
    return {**x, **y}, classes, done


def statistics_of(
    inputs: Array, mean: tuple[float, ...] | None, std: tuple[float, ...] | None, where: str
) -> Statistics:
    """Return the mean and standard deviation by which inputs are normalised.

    Args:
        inputs: the training inputs, in the form that `to_examples` returns.
        mean: of each channel of images (of pixel value / 255 for uint8), of each feature of
            vectors, or one for all features. None: pixels have those of all training inputs; floats
            are used as they are, with 0 and 1.
        std: the standard deviation, in the same form.
        where: the name or place of the data, with which messages begin.

    Raises:
        DataError: only one of both is given, or they do not fit the inputs.
    """
    is_image = inputs.ndim == 4
    if (mean is None) != (std is None):
        raise DataError(f"{where}: give both mean and std, or neither")
    if mean is None or std is None:
        if inputs.dtype == np.uint8:
            # The features of a vector are pixels too: one mean for all of them.
            return channel_statistics(inputs if is_image else inputs[..., None])
        channels = inputs.shape[-1] if inputs.ndim > 2 else 1
        return (0.0,) * channels, (1.0,) * channels
    if inputs.dtype.kind == "i":
        raise DataError(f"{where}: mean and std are for pixels and floats, and these are tokens")
    lengths = {inputs.shape[-1]} if inputs.ndim > 2 else {1, inputs.shape[-1]}
    if len(mean) != len(std) or len(mean) not in lengths:
        raise DataError(
            f"{where}: mean and std have {len(mean)} and {len(std)} numbers; inputs of "
            f"{inputs.shape[1:]} need {' or '.join(map(str, sorted(lengths)))} each"
        )
    if not np.isfinite([*mean, *std]).all() or min(std) <= 0:
        raise DataError(f"{where}: mean must be finite numbers and std numbers above 0")
    return tuple(map(float, mean)), tuple(map(float, std))


def stack(examples: list[Any], where: str) -> Array:
    """Return examples of one shape as one array `[n, ...]`.

    Raises:
        DataError: there is none, or their shapes differ; names the first that does.
    """
    if not examples:
        raise DataError(f"{where}: has no examples")
    parts = [np.asarray(example) for example in examples]
    for i, part in enumerate(parts):
        if part.shape != parts[0].shape:
            raise DataError(
                f"{where}: example {i} has the shape {part.shape}, example 0 {parts[0].shape}; "
                "all must have one shape"
            )
    return np.stack(parts)


def _as_array(where: str, key: str, value: Any) -> Array:
    try:
        return np.asarray(value)
    except ValueError as error:  # nested lists of several lengths
        raise DataError(f"{where}: {key} is no array: its examples differ in shape") from error


def _check_kind(where: str, key: str, array: Array) -> None:
    """Refuse an array that can't be the inputs or the targets `key`, by its dtype and shape."""
    kind, what = array.dtype.kind, f"{where}: {key} is {array.dtype} {array.shape}"
    if array.ndim and not len(array):
        raise DataError(f"{where}: {key} has no examples")
    if key.startswith("y"):
        if kind == "f" and array.ndim not in (1, 2):
            raise DataError(f"{what}; float targets are [n] or [n, k]")
        if kind != "f" and (kind not in "iu" or not (array.ndim == 1 or array.shape[1:] == (1,))):
            raise DataError(
                f"{what}; it must be integer labels [n], or float targets [n] or [n, k]"
            )
        return
    if array.ndim < 2 or 0 in array.shape:
        raise DataError(
            f"{what}; inputs are images [n, height, width, channels], vectors [n, features] or "
            "tokens [n, length] (one number for each example: x[:, None])"
        )
    if array.dtype == np.uint8 and array.ndim > 2:
        check_array(where, key, array.dtype, array.shape)
    elif kind in "iu" and array.ndim != 2:
        raise DataError(
            f"{what}; images must be uint8 (0 to 255) or floats, and integer tokens [n, length]"
        )
    elif kind not in "iuf":
        raise DataError(f"{what}; inputs must be uint8 pixels, floats or integer tokens")


def _for_device(where: str, key: str, array: Array) -> Array:
    """Return an array in its dtype on the devices, after a check of its values."""
    if key.startswith("x") and array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f":
        half = key.startswith("x") and array.dtype == np.float16
        with np.errstate(over="ignore"):  # what becomes infinite is reported in the next line
            array = array.astype(np.float16 if half else np.float32)
        if not np.isfinite(array).all():
            bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
            raise DataError(
                f"{where}: {key} has NaN or infinite values (as {array.dtype}) in {bad.sum()} of "
                f"{len(array)} examples, the first in example {bad.argmax()}"
            )
        return array
    if key.startswith("x") and not 0 <= int(array.min()) <= int(array.max()) <= _LARGEST_TOKEN:
        raise DataError(
            f"{where}: {key} has tokens from {array.min()} to {array.max()}; they must be 0 or more "
            "and fit into 32 bits"
        )
    return array.astype(np.int32)
