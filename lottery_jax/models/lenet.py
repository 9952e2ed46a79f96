"""LeNet-300-100 and the Conv-2, -4, -6 networks of Frankle & Carbin (ICLR 2019, figure 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lottery_jax.models.layers import Conv, max_pool2
from lottery_jax.models.scaling import conv_and_dense_widths

# Glorot normal weights, truncated as in TensorFlow, which the paper used; zero biases.
_INIT = nn.initializers.glorot_normal()


class LeNet(nn.Module):
    """Pairs of 3x3 convolutions, each pair followed by 2x2 max-pooling, then dense layers.

    Attributes:
        num_classes: number of outputs.
        conv_widths: channels of the convolutions, in pairs; empty for LeNet-300-100.
        dense_widths: units of the hidden dense layers.
        dtype: in which the network computes.
    """

    num_classes: int
    conv_widths: tuple[int, ...]
    dense_widths: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Return logits of images `[batch, height, width, channels]`; `train` has no effect here."""
        for i, features in enumerate(self.conv_widths, 1):
            conv = Conv(features, kernel_init=_INIT, dtype=self.dtype, name=f"conv{i}")
            x = nn.relu(conv(x))
            if i % 2 == 0:
                x = max_pool2(x)
        x = x.reshape(x.shape[0], -1)
        for i, features in enumerate(self.dense_widths, 1):
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
) -> LeNet:
    counts = conv_and_dense_widths(convs, denses, width, widths)
    return LeNet(num_classes, *counts, dtype)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet_300_100": partial(_build, (), (300, 100)),
    "conv2": partial(_build, (64, 64), (256, 256)),
    "conv4": partial(_build, (64, 64, 128, 128), (256, 256)),
    "conv6": partial(_build, (64, 64, 128, 128, 256, 256), (256, 256)),
}
