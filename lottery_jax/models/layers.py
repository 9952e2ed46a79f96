"""The layers of the networks: convolution, 2x2 max-pooling, BatchNorm.

They compute the same as Flax's. Pooling and BatchNorm have gradients of their own, which are faster
on CPU, and `convolution` has the algorithms of the convolution.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from lottery_jax.models.convolution import conv2d

Initializer = Callable[..., jax.Array]


class Conv(nn.Module):
    """A convolution with parameters `kernel` `[k, k, in, out]` and, with `use_bias`, `bias` `[out]`.

    Attributes:
        features: number of output channels.
        size: k, the kernel's height and width.
        stride: step between outputs, in pixels.
        padding: zeros around the image, in pixels; by default (size - 1) // 2.
        use_bias: whether a bias is added.
        dtype: in which the layer computes; parameters are float32.
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
        """Map `[batch, height, width, in]` to `[batch, height', width', features]`."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        padding = (self.size - 1) // 2 if self.padding is None else self.padding
        y = conv2d(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, padding)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)
        return y


def max_pool2(x: jax.Array) -> jax.Array:
    """Return the 2x2 max-pooling with stride 2; an odd last row or column is dropped.

    Equal maxima of a window share the gradient equally. After a ReLU these are zeros, through which
    no gradient passes.

    Args:
        x: `[batch, height, width, channels]`.

    Raises:
        ValueError: the image has fewer than two rows or columns.
    """
    _, h, w, _ = x.shape
    if min(h, w) < 2:
        raise ValueError(f"an image of {h}x{w} pixels can't be pooled any further")
    return _max_pool2(x[:, : h // 2 * 2, : w // 2 * 2])


@jax.custom_vjp
def _max_pool2(x: jax.Array) -> jax.Array:
    """Return the maxima of the windows' corners: on CPU faster than a reduction over windows."""
    return _max_pool2_forward(x)[0]


def _max_pool2_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = functools.reduce(jnp.maximum, _corners(x))
    return y, (x, y)


def _max_pool2_backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    x, y = saved
    n, h, w, c = y.shape
    winners = sum((corner == y).astype(gradient.dtype) for corner in _corners(x))
    share = gradient / winners
    windows = x.reshape(n, h, 2, w, 2, c) == y[:, :, None, :, None]
    return (jnp.where(windows, share[:, :, None, :, None], 0).reshape(x.shape),)


_max_pool2.defvjp(_max_pool2_forward, _max_pool2_backward)


def _corners(x: jax.Array) -> list[jax.Array]:
    """Return the four entries of each 2x2 window."""
    return [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015), with statistics over the global batch.

    Parameters (`scale`, `bias`), statistics (`mean`, `var`) and results are those of Flax's layer,
    except for the order of summation.

    Attributes:
        train: whether to normalise by the batch and update the running statistics; if not, they
            normalise.
        dtype: of the output; statistics are float32.
        momentum: the decay of the running statistics.
        epsilon: added to the variance.
    """

    train: bool
    dtype: Any = jnp.float32
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[batch, height, width, channels]` to the same shape."""
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones_init(), channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), channels, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        if not self.train:
            factor = scale * lax.rsqrt(var.value + self.epsilon)
            return ((x - mean.value) * factor + bias).astype(self.dtype)
        y, batch_mean, batch_var = _normalise(x, scale, bias, self.epsilon)
        if not self.is_initializing():
            mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
            var.value = self.momentum * var.value + (1 - self.momentum) * batch_var
        return y.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the normalised batch, its mean and its (biased) variance."""
    return _normalise_forward(x, scale, bias, epsilon)[0]


def _normalise_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
    wide = x.astype(scale.dtype)
    count = x.size // x.shape[-1]
    total, square_total = wide.sum((0, 1, 2)), (wide * wide).sum((0, 1, 2))
    mean = total / count
    var = jnp.maximum(0.0, square_total / count - mean * mean)
    inverse = lax.rsqrt(var + epsilon)
    y = (wide - mean) * (scale * inverse) + bias
    return (y, mean, var), (x, scale, mean, inverse)


def _normalise_backward(
    epsilon: float, saved: tuple[jax.Array, ...], gradients: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, inverse = saved
    dy, dmean, dvar = gradients
    count = x.size // x.shape[-1]
    centred = x.astype(scale.dtype) - mean
    dbias, with_centred = dy.sum((0, 1, 2)), (dy * centred).sum((0, 1, 2))
    dscale = with_centred * inverse
    constant = (dmean - scale * inverse * dbias) / count
    slope = (2.0 * dvar - scale * inverse * inverse * dscale) / count
    dx = dy * (scale * inverse) + centred * slope + constant
    return dx.astype(x.dtype), dscale, dbias


_normalise.defvjp(_normalise_forward, _normalise_backward)
