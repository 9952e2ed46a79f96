"""Data sets of other libraries become arrays; each library is imported when it is used."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from lottery_jax.datasets.checks import Array
from lottery_jax.datasets.decoding import pixels_of
from lottery_jax.datasets.examples import stack
from lottery_jax.datasets.folders import stack_images
from lottery_jax.errors import DataError, one_line, raise_if_environment


def read_huggingface(split: Any, image: str, label: str, where: str) -> tuple[Array, Array]:
    """Return the inputs and targets of a `datasets.Dataset`.

    Args:
        split: the data set.
        image: the column of inputs: images, which are decoded as `decoding.pixels_of` says, or
            arrays or lists of numbers.
        label: the column of targets.
        where: a name for messages.

    Raises:
        DataError: the library can't be imported, the object is another one, there is no such
            column, or an image can't be decoded.
    """
    try:
        import datasets
    except ImportError as error:
        raise _not_installed("datasets", "huggingface") from error
    if not hasattr(datasets, "Features"):
        raise DataError(
            f"{where}: the module datasets is {datasets.__file__ or 'a folder of this name'}, and "
            "not Hugging Face's; rename it"
        )
    if not isinstance(split, datasets.Dataset):
        raise DataError(
            f"{where}: must be a datasets.Dataset, such as load_dataset(..., split='train') gives, "
            f"and not {type(split).__name__}"
        )
    for column in (image, label):
        if column not in split.features:
            raise DataError(
                f"{where}: has no column {column!r}; it has {', '.join(split.column_names)}"
            )
    targets = _column(split, label, where)
    if not isinstance(split.features[image], datasets.Image):
        return _column(split, image, where), targets
    images = []
    decoded = split.select_columns([image]).with_format(None)
    decoded = decoded.cast_column(image, datasets.Image())  # decoded, whatever was set before
    for i in range(len(decoded)):
        try:
            images.append(pixels_of(decoded[i][image]))
        except Exception as error:  # Pillow documents no list of its errors for damaged images
            raise_if_environment(error)
            raise DataError(
                f"{where}: the image of row {i} can't be decoded: {one_line(error)}"
            ) from error
    return stack_images(images, where), targets


def class_names_of(split: Any, label: str) -> tuple[str, ...]:
    """Return the names of a `ClassLabel` column of a `datasets.Dataset`; empty for another one."""
    return tuple(getattr(split.features[label], "names", None) or ())


def _column(split: Any, name: str, where: str) -> Array:
    """Return a column of numbers as an array of the dtype that its feature states."""
    feature = leaf = split.features[name]
    while hasattr(leaf, "feature"):  # a list's items
        leaf = leaf.feature
    rows = split.select_columns([name]).with_format("numpy")[:][name]
    array = stack(list(rows), f"{where}: column {name}") if len(rows) else np.asarray(rows)
    if array.dtype.kind not in "iufb":
        raise DataError(f"{where}: column {name} holds {feature}, and not numbers")
    # The library hands out all integers as int64.
    return array.astype(np.uint8) if leaf.dtype == "uint8" else array


def read_grain(source: Any, image: str, label: str, where: str) -> tuple[Array, Array]:
    """Return the inputs and targets of a `grain.MapDataset`.

    Args:
        source: its elements are `(x, y)`, or dicts with the keys `image` and `label`. Those that a
            filter has left out are skipped.
        image: the key of inputs in a dict.
        label: the key of targets.
        where: a name for messages.

    Raises:
        DataError: the library can't be imported, the object or an element is another one, or the
            data set never ends.
    """
    try:
        import grain
    except ImportError as error:
        raise _not_installed("grain", "streaming") from error
    if not isinstance(source, grain.MapDataset):
        raise DataError(f"{where}: must be a grain.MapDataset, and not {type(source).__name__}")
    if len(source) == sys.maxsize:
        raise DataError(f"{where}: repeats without an end; leave repeat() out")
    inputs, targets = [], []
    for i in range(len(source)):
        element = source[i]
        if element is None:
            continue
        try:
            x, y = (element[image], element[label]) if isinstance(element, dict) else element
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{where}: element {i} is neither (x, y) nor a dict with {image!r} and {label!r}"
            ) from error
        inputs.append(x)
        targets.append(y)
    return stack(inputs, where), stack(targets, f"{where}: {label}")


def _not_installed(package: str, extra: str) -> DataError:
    return DataError(
        f"the package {package} can't be imported; pip install {package}, or 'lottery_jax[{extra}]'"
    )
