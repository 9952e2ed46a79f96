"""VGG with BatchNorm for small images: global average pooling and one dense layer.

The configurations are A, B, D and E of Simonyan & Zisserman (ICLR 2015); the head, BatchNorm and
initialisation follow Morcos et al. (NeurIPS 2019, appendix A.1): no pooling after the last stage,
Xavier-normal weights, zero biases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lottery_jax.models.layers import BatchNorm, Conv, max_pool2
from lottery_jax.models.scaling import scaled, with_widths

# Xavier normal as in PyTorch; Flax's `glorot_normal` is truncated.
_INIT = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")
_STAGE_WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Stages of 3x3 convolutions, with 2x2 max-pooling between stages.

    Attributes:
        num_classes: number of outputs.
        widths: for each stage, the channels of each of its convolutions.
        dtype: in which the network computes.
    """

    num_classes: int
    widths: tuple[tuple[int, ...], ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Return logits `[batch, num_classes]` of images `[batch, height, width, channels]`."""
        for i, stage in enumerate(self.widths, 1):
            if i > 1:
                x = max_pool2(x)
            for j, features in enumerate(stage, 1):
                x = Conv(features, kernel_init=_INIT, dtype=self.dtype, name=f"conv{i}_{j}")(x)
                x = nn.relu(BatchNorm(train, self.dtype, name=f"bn{i}_{j}")(x))
        x = x.mean(axis=(1, 2))
        return nn.Dense(self.num_classes, kernel_init=_INIT, dtype=self.dtype, name="head")(x)


def _build(
    depths: tuple[int, ...],
    *,
    num_classes: int,
    width: float,
    dtype: Any,
    widths: Mapping[str, int] | None = None,
) -> VGG:
    stages = [
        {f"conv{i}_{j}": features for j in range(1, depth + 1)}
        for i, (depth, features) in enumerate(
            zip(depths, scaled(_STAGE_WIDTHS, width), strict=True), 1
        )
    ]
    counts = with_widths({name: n for stage in stages for name, n in stage.items()}, widths)
    return VGG(num_classes, tuple(tuple(counts[name] for name in stage) for stage in stages), dtype)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "vgg11": partial(_build, (1, 1, 2, 2, 2)),
    "vgg13": partial(_build, (2, 2, 2, 2, 2)),
    "vgg16": partial(_build, (2, 2, 3, 3, 3)),
    "vgg19": partial(_build, (2, 2, 4, 4, 4)),
}
