"""The convolution and pooling the models use: the same numbers as the library's, faster on CPU.

XLA's CPU convolution is slow where images are a few pixels wide and channels are many, which is
where VGG and ResNet spend most of their weights. There a convolution is written as one matrix
product over gathered taps. On GPU and TPU it is always the library's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# At and below this output width gathering the taps costs less than XLA's CPU convolution loses.
_SMALL_PIXELS = 4

Initializer = Callable[..., jax.Array]


def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0) -> jax.Array:
    """A 2D convolution (cross-correlation), square stride and padding.

    Args:
        x: `[batch, height, width, in]`.
        kernel: `[kh, kw, in, out]`, of x's dtype.
        stride: step between outputs, in pixels, both ways.
        padding: zeros around the image, in pixels.

    Returns:
        `[batch, (height + 2 padding - kh) // stride + 1, ..., out]`.
    """
    kh, kw, _, features = kernel.shape
    height = (x.shape[1] + 2 * padding - kh) // stride + 1
    width = (x.shape[2] + 2 * padding - kw) // stride + 1
    pointwise = kh == kw == 1 and padding == 0
    small = max(height, width) <= _SMALL_PIXELS
    if jax.default_backend() != "cpu" or not (pointwise or small):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    taps = [
        padded[
            :, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride
        ]
        for i in range(kh)
        for j in range(kw)
    ]
    patches = taps[0] if len(taps) == 1 else jnp.concatenate(taps, axis=-1)
    return patches @ kernel.reshape(-1, features)


class Conv(nn.Module):
    """A convolution with parameters `kernel` `[k, k, in, out]` and, if asked, `bias` `[out]`.

    Attributes:
        features: output channels.
        size: k, the kernel's height and width.
        stride: step between outputs.
        padding: zeros around the image; by default (size - 1) // 2.
        use_bias: whether a bias is added.
        dtype: in which to compute; parameters are float32.
        kernel_init: initialiser of the kernel.
        bias_init: initialiser of the bias.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: int | None = None
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, height, width, in]` to `[batch, height', width', features]`."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        padding = (self.size - 1) // 2 if self.padding is None else self.padding
        y = conv2d(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, padding)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,))
            y = y + bias.astype(self.dtype)
        return y


def max_pool2(x: jax.Array) -> jax.Array:
    """2x2 max-pooling with stride 2, an odd last row or column dropped.

    Written as a reshape and a maximum, whose gradient is several times cheaper on CPU than that of
    a reduce-window. Where entries of a window tie, they share the gradient equally; after a ReLU
    ties are zeros, through which no gradient passes anyway.

    Raises:
        ValueError: the image has fewer than two rows or columns.
    """
    n, h, w, c = x.shape
    if min(h, w) < 2:
        raise ValueError(f"an image of {h}x{w} pixels can't be pooled any further")
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))


def batch_norm(x: jax.Array, name: str, *, train: bool, dtype: Any) -> jax.Array:
    """Flax's BatchNorm with the usual decay (0.9) and epsilon (1e-5), created under `name`.

    Call it inside a compact method. Statistics are over the global batch, on however many devices.
    """
    norm = nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name
    )
    return norm(x)
