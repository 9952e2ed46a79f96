"""Names and shapes of a network's arrays in torchvision's layout.

| here | there |
|---|---|
| `vgg11` to `vgg19` | `vgg*_bn`: `features.N`, and one linear layer, `classifier` or `classifier.0` |
| `resnet18`, `resnet34`, `resnet50` | `conv1`, `bn1`, `layer1.0.conv1`, `layer1.0.downsample.0`, `fc` |
| `alexnet` | `features.0`, `.3`, `.6`, `.8`, `.10`, `classifier.1`, `.4`, `.6` |

Kernels are OIHW there and HWIO here, and those of linear layers are transposed. Where AlexNet
flattens an image, PyTorch goes through the channels first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lottery_jax.errors import lookup
from lottery_jax.tickets.ticket import leaves
from lottery_jax.types import PyTree

Array = np.ndarray[Any, np.dtype[Any]]

_ALEXNET = {"conv1": "features.0", "conv2": "features.3", "conv3": "features.6",
            "conv4": "features.8", "conv5": "features.10", "dense1": "classifier.1",
            "dense2": "classifier.4", "head": "classifier.6"}  # fmt: skip
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean",
           "var": "running_var"}  # fmt: skip


def _vgg_names(modules: Iterable[str]) -> dict[str, str]:
    names = {"head": "classifier"}
    for i, conv in enumerate(sorted({m for m in modules if m.startswith("conv")})):
        # Each convolution is followed by a BatchNorm and a ReLU, each stage by a pooling.
        index = 3 * i + int(conv[len("conv")]) - 1
        names[conv] = f"features.{index}"
        names[conv.replace("conv", "bn")] = f"features.{index + 1}"
    return names


def _resnet_names(modules: Iterable[str]) -> dict[str, str]:
    names = {"stem": "conv1", "bn_stem": "bn1", "head": "fc"}
    inside = {"shortcut": "downsample.0", "bn_shortcut": "downsample.1"}
    for module in modules:
        if match := re.fullmatch(r"block(\d+)_(\d+)/(\w+)", module):
            stage, block, layer = match.groups()
            names[module] = f"layer{stage}.{int(block) - 1}.{inside.get(layer, layer)}"
    return names


def _alexnet_names(modules: Iterable[str]) -> dict[str, str]:
    return _ALEXNET


_LAYOUTS = {
    **dict.fromkeys(("vgg11", "vgg13", "vgg16", "vgg19"), _vgg_names),
    **dict.fromkeys(("resnet18", "resnet34", "resnet50"), _resnet_names),
    "alexnet": _alexnet_names,
}


def torch_names(variables: PyTree, network: str) -> dict[str, dict[str, str]]:
    """Return, for `params` and for `batch_stats`, the name there of each leaf by its path here.

    Raises:
        ConfigError: no PyTorch layout is known for the network.
    """
    layout = lookup(_LAYOUTS, network, "PyTorch layout")
    paths = {part: list(leaves(variables[part])) for part in ("params", "batch_stats")}
    modules = layout(path.rpartition("/")[0] for part in paths.values() for path in part)
    return {
        part: {
            path: f"{modules[path.rpartition('/')[0]]}.{_LEAVES[path.rpartition('/')[2]]}"
            for path in of_part
        }
        for part, of_part in paths.items()
    }


def head_name(network: str) -> str:
    """Return the name there of the output layer.

    Raises:
        ConfigError: no PyTorch layout is known for the network.
    """
    return lookup(_LAYOUTS, network, "PyTorch layout")(())["head"]


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape there of an array of this shape here."""
    return shape[:1:-1] + shape[:2] if len(shape) == 4 else shape[::-1]


def to_kernel(weight: Array, network: str, path: str, input_shape: Sequence[int]) -> Array:
    """Return the kernel of an array from there; `path` is that of the kernel."""
    if weight.ndim == 4:
        return weight.transpose(2, 3, 1, 0)
    if (image := _flattened_image(network, path, input_shape)) is None:
        return weight.T
    units = len(weight)
    return weight.T.reshape(-1, *image, units).transpose(1, 2, 0, 3).reshape(-1, units)


def from_kernel(kernel: Array, network: str, path: str, input_shape: Sequence[int]) -> Array:
    """Return the array there of a kernel; the inverse of `to_kernel`."""
    if kernel.ndim == 4:
        return kernel.transpose(3, 2, 0, 1)
    if (image := _flattened_image(network, path, input_shape)) is None:
        return kernel.T
    units = kernel.shape[-1]
    return kernel.reshape(*image, -1, units).transpose(2, 0, 1, 3).reshape(-1, units).T


def _flattened_image(network: str, path: str, input_shape: Sequence[int]) -> tuple[int, int] | None:
    """Return (height, width) of the image that a dense kernel takes flattened, if it does."""
    if (network, path) != ("alexnet", "dense1/kernel"):
        return None
    height, width = ((side + 1) // 2 // 8 for side in input_shape[:2])  # stride 2, three poolings
    return height, width
