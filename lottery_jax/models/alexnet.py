"""AlexNet for 32x32 images, with the sizes of the Generalizing Lottery Tickets experiments.

The layers are those of Krizhevsky (2014, "One weird trick"), with a first 3x3 convolution of
stride 2, 2x2 pooling and a 1024-4096-4096 classifier with dropout. There is no BatchNorm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lottery_jax.models.layers import Conv, max_pool2
from lottery_jax.models.scaling import conv_and_dense_widths

# Weights uniform in +-1/sqrt(fan_in): PyTorch's default, which the experiments used.
_INIT = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")
_POOL_AFTER = (1, 2, 5)


class AlexNet(nn.Module):
    """Five convolutions, three max-poolings, two hidden dense layers with dropout.

    Attributes:
        num_classes: number of outputs.
        conv_widths: channels of the five convolutions.
        dense_widths: units of the hidden dense layers.
        dropout: the rate before each hidden dense layer; training needs a `dropout` key.
        dtype: in which the network computes.
    """

    num_classes: int
    conv_widths: tuple[int, ...]
    dense_widths: tuple[int, ...]
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Return logits `[batch, num_classes]` of images `[batch, height, width, channels]`."""
        for i, features in enumerate(self.conv_widths, 1):
            stride = 2 if i == 1 else 1
            conv = Conv(features, 3, stride, kernel_init=_INIT, dtype=self.dtype, name=f"conv{i}")
            x = nn.relu(conv(x))
            if i in _POOL_AFTER:
                x = max_pool2(x)
        x = x.reshape(x.shape[0], -1)
        for i, features in enumerate(self.dense_widths, 1):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            dense = nn.Dense(features, kernel_init=_INIT, dtype=self.dtype, name=f"dense{i}")
            x = nn.relu(dense(x))
        return nn.Dense(self.num_classes, kernel_init=_INIT, dtype=self.dtype, name="head")(x)


def _build(
    convs: tuple[int, ...],
    denses: tuple[int, ...],
    *,
    num_classes: int,
    width: float,
    dtype: Any,
    widths: Mapping[str, int] | None = None,
) -> AlexNet:
    counts = conv_and_dense_widths(convs, denses, width, widths)
    return AlexNet(num_classes, *counts, dtype=dtype)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "alexnet": partial(_build, (64, 192, 384, 256, 256), (4096, 4096))
}
