"""Images of one size become images of another: averaged down, enlarged or padded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lottery_jax.errors import ConfigError, DataError, describe_unknown

Array = np.ndarray[Any, np.dtype[Any]]

# How images that are smaller than the requested shape are brought to it.
RESIZES = ("pad", "bilinear")
_GREY = np.array([[0.299], [0.587], [0.114]], np.float32)  # of red, green and blue (ITU-R BT.601)
_ENLARGED_AT_ONCE = 2**21  # values of 8 bytes that `enlarge` holds at once


def check_resize(resize: str) -> None:
    """Raise a ConfigError if there is no such way to resize."""
    if resize not in RESIZES:
        raise ConfigError(describe_unknown("config.data.resize", resize, RESIZES))


def fit_shape(images: Array, shape: tuple[int, ...], resize: str = "pad") -> Array:
    """Adapt uint8 images `[n, h, w, c]` to the shape (height, width, channels).

    Applies `shrink`, then `enlarge` if `resize` is `bilinear`, then `pad`. An empty shape leaves
    the images as they are.

    Raises:
        DataError: the images have another number of channels that is neither 1 nor 3.

    >>> fit_shape(np.full((2, 28, 28, 1), 7, np.uint8), (32, 32, 3))[0, 1:3, 2, :].tolist()
    [[0, 0, 0], [7, 7, 7]]
    """
    images = shrink(images, shape)
    return pad(enlarge(images, shape) if resize == "bilinear" else images, shape)


def shrink(images: Array, shape: tuple[int, ...]) -> Array:
    """Average images down where they are larger than `shape`; turn colour to grey if it is grey.

    A pixel of the result is the mean of the pixels that it covers. Grey is
    0.299 R + 0.587 G + 0.114 B (ITU-R BT.601). Images that fit are returned unchanged.

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
        values = values @ _GREY
    if images.shape[1] > shape[0]:
        values = np.einsum("nhwc,Hh->nHwc", values, _averages(images.shape[1], shape[0]))
    if images.shape[2] > shape[1]:
        values = np.einsum("nhwc,Ww->nhWc", values, _averages(images.shape[2], shape[1]))
    return np.rint(values).astype(np.uint8)


def _averages(old: int, new: int) -> Array:
    """Return the float32 matrix `[new, old]` that averages `old` pixels over `new` equal stretches."""
    edges = np.linspace(0, old, new + 1)
    starts, pixels = edges[:-1, None], np.arange(old)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(starts, pixels)
    return (np.clip(covered, 0, 1) * (new / old)).astype(np.float32)


def enlarge(images: Array, shape: tuple[int, ...]) -> Array:
    """Enlarge images to the height and width of `shape` by bilinear interpolation.

    The centre of pixel i is at i + 1/2 (half-pixel centres). Beyond the outermost centres the
    pixels at the border are continued. The computation is in whole numbers and rounds once, half
    up, so the result is the same on every machine. A side that is large enough stays as it is.

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
    at_once = max(1, _ENLARGED_AT_ONCE // math.prod(enlarged.shape[1:]))
    for first in range(0, count, at_once):
        part = images[first : first + at_once].astype(np.int64)
        part = part[:, above] * (2 * new[0] - down) + part[:, below] * down
        part = part[:, :, left] * (2 * new[1] - across) + part[:, :, right] * across
        enlarged[first : first + at_once] = (part + whole // 2) // whole
    return enlarged


def _neighbours(old: int, new: int) -> tuple[Array, Array, Array]:
    """Return the two of `old` pixels that each of `new` pixels lies between.

    Returns:
        Their indices, and the weight of the second in parts of `2 * new`.
    """
    # A new pixel i is at (i + 1/2) * old / new - 1/2 old pixels; here in parts of 2 * new.
    place = (2 * np.arange(new) + 1) * old - new
    low, weight = np.divmod(np.clip(place, 0, 2 * new * (old - 1)), 2 * new)
    return low, np.minimum(low + 1, old - 1), weight


def pad(images: Array, shape: tuple[int, ...]) -> Array:
    """Pad images evenly with black, and repeat a single channel, to `shape`."""
    if not shape or images.shape[1:] == tuple(shape):
        return images
    height, width, channels = images.shape[1:]
    up, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    down, right = shape[0] - height - up, shape[1] - width - left
    padded = np.pad(images, ((0, 0), (up, down), (left, right), (0, 0)))
    return np.repeat(padded, shape[2], axis=3) if channels != shape[2] else padded


def channel_statistics(images: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the exact mean and standard deviation of each channel of uint8 images, from 0 to 1.

    The standard deviation of a channel with one value is given as 1, so that it can divide.
    """
    values = np.arange(256) / 255.0
    means, stds = [], []
    for channel in range(images.shape[-1]):
        histogram = np.bincount(images[..., channel].ravel(), minlength=256)
        mean = float(histogram @ values / histogram.sum())
        variance = float(histogram @ (values - mean) ** 2 / histogram.sum())
        means.append(mean)
        stds.append(variance**0.5 or 1.0)
    return tuple(means), tuple(stds)
