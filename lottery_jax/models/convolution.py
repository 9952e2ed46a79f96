"""A 2D convolution that selects its algorithm by platform and shape, for each direction by itself.

On GPU and TPU every direction is the library's own convolution. On CPU XLA's convolution is fast on
large images and very slow on images of two pixels, and a 1x1 convolution is a matrix product. There
the forward pass, the gradient of the input and that of the kernel each use the formula that was
measured to be fastest for their shape (docs/performance.md has the figures):

- *library*: `lax.conv_general_dilated`, on a few images at a time where that is faster;
- *taps*: the sum over the kernel's taps of the pixels that a tap meets times its part of the
  kernel. Products with padding are left out: of a 3x3 convolution these are 31 % at 4x4 pixels,
  56 % at 2x2 and 89 % at a single pixel. A 1x1 convolution has one tap.

The platform is the one that a program is compiled for, not that of the machine that traces it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# Up to this many pixels a side, taps are faster in all directions.
_TINY = 2
# Up to this many, taps are faster in the forward pass and the gradient of the input, if a batch of
# images stays in a core's cache (bytes).
_SMALL = 4
_CACHE = 2**21
# A kernel gradient that writes out more than this (bytes) is split into parts, if the parts and the
# channels of the input are few.
_FRESH = 20 * 2**20
_MOST_PARTS = 16
_FEW_CHANNELS = 64

# x, kernel, stride, padding -> y
Formula = Callable[[jax.Array, jax.Array, int, int], jax.Array]


class Algorithm(NamedTuple):
    """A formula for each direction; a gradient is the transpose of its formula."""

    forward: Formula
    input_gradient: Formula
    kernel_gradient: Formula


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0) -> jax.Array:
    """Return a 2D convolution (cross-correlation) with the same stride and padding in both axes.

    It equals `lax.conv_general_dilated` except for the order of summation. It can be differentiated
    in reverse mode, and its gradients in any mode.

    Args:
        x: `[batch, height, width, in]`, floating point.
        kernel: `[kh, kw, in, out]`, of x's dtype.
        stride: step between outputs, in pixels.
        padding: zeros around the image, in pixels.

    Returns:
        `[batch, (height + 2 padding - kh) // stride + 1, ..., out]`, of x's dtype.

    >>> conv2d(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 8)), 2, 1).shape
    (1, 2, 2, 8)
    """
    return _convolve(x, kernel, stride, padding)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    def along(formula: Formula, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return formula(x, kernel, stride, padding)

    formula = choose_on_cpu(x, kernel, stride, padding).forward
    return _by_platform(along, formula, x, kernel)


def _conv2d_forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel, stride, padding), (x, kernel)


def _conv2d_backward(
    stride: int, padding: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    chosen = choose_on_cpu(x, kernel, stride, padding)

    def to_input(formula: Formula, kernel: jax.Array, gradient: jax.Array) -> jax.Array:
        transposed = jax.linear_transpose(lambda x: formula(x, kernel, stride, padding), x)
        return transposed(gradient)[0]

    def to_kernel(formula: Formula, x: jax.Array, gradient: jax.Array) -> jax.Array:
        transposed = jax.linear_transpose(lambda k: formula(x, k, stride, padding), kernel)
        return transposed(gradient)[0]

    return (
        _by_platform(to_input, chosen.input_gradient, kernel, gradient),
        _by_platform(to_kernel, chosen.kernel_gradient, x, gradient),
    )


conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def _by_platform(
    direction: Callable[..., jax.Array], on_cpu: Formula, *arrays: jax.Array
) -> jax.Array:
    def cpu(*arrays: jax.Array) -> jax.Array:
        # Without barriers XLA fuses the operations that make an array into every tap or
        # transposition that reads it, and computes them once for each. `xla_options` keeps them.
        return lax.optimization_barrier(direction(on_cpu, *lax.optimization_barrier(arrays)))

    return lax.platform_dependent(*arrays, cpu=cpu, default=partial(direction, library))


def choose_on_cpu(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> Algorithm:
    """Return the formulas that are fastest on CPU for these shapes."""
    (n, *size, channels), (*count, _, features) = x.shape, kernel.shape
    height, width = (_outputs(*pair, stride, padding) for pair in zip(size, count, strict=True))
    if max(height, width) <= _TINY or (max(count) == 1 and padding == 0):
        return Algorithm(taps, taps, taps)
    batch = 4 * n * height * width * max(channels, features)
    if max(height, width) <= _SMALL and batch <= _CACHE:
        return Algorithm(taps, taps, library)
    return Algorithm(library, library, in_parts if _parts(x, kernel, height, width) else library)


def library(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """Return JAX's own convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def taps(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """Return the sum over the kernel's taps, each over the pixels within the image."""
    (n, *size, _), (*count, _, features) = x.shape, kernel.shape
    height, width = (_outputs(*pair, stride, padding) for pair in zip(size, count, strict=True))
    rows, columns = (
        [_meet(tap, pixels, outputs, stride, padding) for tap in range(taps)]
        for pixels, taps, outputs in zip(size, count, (height, width), strict=True)
    )
    # Sums are at least float32, as within the library's convolution.
    wide = jnp.promote_types(x.dtype, jnp.float32)
    total = jnp.zeros((n, height, width, features), wide)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            if row and column:
                part = x[:, row.pixels, column.pixels] @ kernel[i, j]
                around = ((0, 0), row.around, column.around, (0, 0))
                total += jnp.pad(part.astype(wide), around)
    return total.astype(x.dtype)


def in_parts(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """Return the library's convolution, computed for a few images at a time.

    For the gradient of the kernel XLA writes out, for every output, the pixels that it meets. If
    these are tens of megabytes, the system gives new memory each time, which costs more than the
    arithmetic of few channels.
    """
    (_, *size, _), (*count, _, _) = x.shape, kernel.shape
    height, width = (_outputs(*pair, stride, padding) for pair in zip(size, count, strict=True))
    parts = jnp.split(x, _parts(x, kernel, height, width) or 1)
    return jnp.concatenate([library(part, kernel, stride, padding) for part in parts])


def _parts(x: jax.Array, kernel: jax.Array, height: int, width: int) -> int:
    """Return into how many parts of a batch to split its kernel gradient; 0 for no split."""
    kh, kw, channels, _ = kernel.shape
    written_out = 4 * x.shape[0] * height * width * kh * kw * channels
    parts = 2 ** max(0, math.ceil(math.log2(written_out / _FRESH)))
    worthwhile = 1 < parts <= _MOST_PARTS and channels <= _FEW_CHANNELS
    return parts if worthwhile and x.shape[0] % parts == 0 else 0


class _Meeting(NamedTuple):
    """The pixels along one axis that a tap meets."""

    pixels: slice
    around: tuple[int, int]  # the numbers of outputs before and after, in which the tap has no part


def _meet(tap: int, size: int, outputs: int, stride: int, padding: int) -> _Meeting | None:
    """Return where a tap meets the image, or None if it only ever meets padding.

    Output o needs pixel `o * stride + tap - padding`.
    """
    shift = tap - padding
    first = max(0, -(shift // stride))
    end = min(outputs, (size - 1 - shift) // stride + 1)
    if end <= first:
        return None
    start = first * stride + shift
    pixels = slice(start, start + (end - first - 1) * stride + 1, stride)
    return _Meeting(pixels, (first, outputs - end))


def _outputs(size: int, taps: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - taps) // stride + 1
