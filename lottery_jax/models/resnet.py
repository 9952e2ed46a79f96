"""Residual networks (He et al., CVPR 2016).

The CIFAR family (20, 32, 56 layers: three stages of 16, 32, 64 channels) has projection shortcuts
where shapes change, as in lottery-ticket papers. The ImageNet family (18, 34, 50 layers) has four
stages; in a bottleneck block the 3x3 convolution has the stride.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lottery_jax.errors import lookup
from lottery_jax.models.layers import BatchNorm, Conv
from lottery_jax.models.scaling import scaled, with_widths
from lottery_jax.models.wiring import Wiring

_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# name -> (kernel size, stride); max-pooling follows that of ImageNet
STEMS = {"cifar": (3, 1), "imagenet": (7, 2)}
_HEAD_INIT = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


class Block(nn.Module):
    """Convolutions with a shortcut around them.

    Attributes:
        layers: (kernel size, channels) of each convolution.
        strided: the index of the convolution that has the stride.
        stride: the stride of the block.
        dtype: in which the block computes.
        projects: whether the shortcut is a convolution even where shapes stay the same.
    """

    layers: tuple[tuple[int, int], ...]
    strided: int
    stride: int
    dtype: Any
    projects: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map `[batch, height, width, in]` to `[batch, height / stride, width / stride, out]`."""
        y = x
        for i, (size, features) in enumerate(self.layers):
            stride = self.stride if i == self.strided else 1
            y = self._conv(features, size, stride, f"conv{i + 1}")(y)
            y = BatchNorm(train, self.dtype, name=f"bn{i + 1}")(y)
            if i < len(self.layers) - 1:
                y = nn.relu(y)
        if self.projects or x.shape != y.shape:
            x = self._conv(y.shape[-1], 1, self.stride, "shortcut")(x)
            x = BatchNorm(train, self.dtype, name="bn_shortcut")(x)
        return nn.relu(x + y)

    def _conv(self, features: int, size: int, stride: int, name: str) -> Conv:
        return Conv(
            features, size, stride, use_bias=False, kernel_init=_INIT, dtype=self.dtype, name=name
        )


class ResNet(nn.Module):
    """A stem, stages of residual blocks, global average pooling, a dense layer.

    Attributes:
        num_classes: number of outputs.
        stem: `cifar` (3x3, stride 1) or `imagenet` (7x7, stride 2, then 3x3 max-pooling).
        stem_width: channels of the stem.
        stages: for each stage, the `layers` of each of its blocks.
        strided: the index of the convolution that halves the image in a stage's first block.
        dtype: in which the network computes.
        projections: blocks with a convolution as shortcut even where shapes stay the same, such as
            `block1_1`.
    """

    num_classes: int
    stem: str
    stem_width: int
    stages: tuple[tuple[tuple[tuple[int, int], ...], ...], ...]
    strided: int
    dtype: Any = jnp.float32
    projections: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Return logits `[batch, num_classes]` of images `[batch, height, width, channels]`."""
        size, stride = STEMS[self.stem]
        x = Conv(
            self.stem_width,
            size,
            stride,
            use_bias=False,
            kernel_init=_INIT,
            dtype=self.dtype,
            name="stem",
        )(x)
        x = nn.relu(BatchNorm(train, self.dtype, name="bn_stem")(x))
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for i, stage in enumerate(self.stages, 1):
            for j, layers in enumerate(stage, 1):
                stride = 2 if i > 1 and j == 1 else 1
                name = f"block{i}_{j}"
                projects = name in self.projections
                block = Block(layers, self.strided, stride, self.dtype, projects, name=name)
                x = block(x, train=train)
        x = x.mean(axis=(1, 2))
        return nn.Dense(self.num_classes, kernel_init=_HEAD_INIT, dtype=self.dtype, name="head")(x)

    @nn.nowrap
    def wiring(self) -> Wiring:
        """Return which units each layer reads and has; blocks share theirs up to a projection."""
        wires = {"stem": ("", "stem"), "bn_stem": ("", "stem")}
        stream, channels = "stem", self.stem_width
        for i, stage in enumerate(self.stages, 1):
            for j, layers in enumerate(stage, 1):
                name, read = f"block{i}_{j}/", stream
                changes = (i > 1 and j == 1) or layers[-1][1] != channels
                if changes or f"block{i}_{j}" in self.projections:
                    stream, channels = f"{name}shortcut", layers[-1][1]
                    wires |= {stream: (read, stream), f"{name}bn_shortcut": ("", stream)}
                for k in range(1, len(layers) + 1):
                    units = f"{name}conv{k}" if k < len(layers) else stream
                    wires |= {f"{name}conv{k}": (read, units), f"{name}bn{k}": ("", units)}
                    read = units
        return wires | {"head": (stream, "")}


def _build(
    depths: tuple[int, ...],
    stage_widths: tuple[int, ...],
    bottleneck: bool,
    *,
    num_classes: int,
    width: float,
    dtype: Any,
    stem: str = "cifar",
    widths: Mapping[str, int] | None = None,
) -> ResNet:
    lookup(STEMS, stem, "config.model.stem")

    def block(n: int) -> tuple[tuple[int, int], ...]:
        return ((1, n), (3, n), (1, 4 * n)) if bottleneck else ((3, n), (3, n))

    channels = scaled(stage_widths, width)
    stages = tuple((block(n),) * depth for depth, n in zip(depths, channels, strict=True))
    network = ResNet(num_classes, stem, channels[0], stages, int(bottleneck), dtype)
    # An empty mapping gives none; any other empty value is a mistake, and `with_widths` says so.
    return network if widths is None or widths == {} else _with_widths(network, widths)


def _with_widths(network: ResNet, widths: Mapping[str, int]) -> ResNet:
    """Return a network with given numbers of channels, by the groups of its wiring.

    Blocks around which shortcuts lead have as many channels as the group that they share.
    """
    wires = network.wiring()
    standard = {"stem": network.stem_width}
    for i, stage in enumerate(network.stages, 1):
        for j, layers in enumerate(stage, 1):
            for k, (_, channels) in enumerate(layers, 1):
                standard[wires[f"block{i}_{j}/conv{k}"][1]] = channels
    counts = with_widths(standard, widths)
    stages = tuple(
        tuple(
            tuple(
                (size, counts[wires[f"block{i}_{j}/conv{k}"][1]])
                for k, (size, _) in enumerate(layers, 1)
            )
            for j, layers in enumerate(stage, 1)
        )
        for i, stage in enumerate(network.stages, 1)
    )
    projections = tuple(path.partition("/")[0] for path in wires if path.endswith("/shortcut"))
    return dataclasses.replace(
        network, stem_width=counts["stem"], stages=stages, projections=projections
    )


_CIFAR, _IMAGENET = (16, 32, 64), (64, 128, 256, 512)
MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet20": partial(_build, (3, 3, 3), _CIFAR, False),
    "resnet32": partial(_build, (5, 5, 5), _CIFAR, False),
    "resnet56": partial(_build, (9, 9, 9), _CIFAR, False),
    "resnet18": partial(_build, (2, 2, 2, 2), _IMAGENET, False),
    "resnet34": partial(_build, (3, 4, 6, 3), _IMAGENET, False),
    "resnet50": partial(_build, (3, 4, 6, 3), _IMAGENET, True),
}
