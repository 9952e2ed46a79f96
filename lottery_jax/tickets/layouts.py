"""Names, shapes and the order of numbers of a network's arrays in PyTorch.

| here | there |
|---|---|
| `lenet_300_100`, `conv2` to `conv6` | `conv1`, `conv2`, …; `fc1`, `fc2`, `fc3` |
| `vgg11` to `vgg19` | torchvision's `vgg*_bn`: `features.N`, and one linear layer, `classifier` |
| `resnet18` to `resnet56` | torchvision's: `conv1`, `layer1.0.conv1`, `layer2.0.downsample.0`, `fc` |
| `alexnet` | torchvision's: `features.0`, `.3`, `.6`, `.8`, `.10`, `classifier.1`, `.4`, `.6` |
| `vit_tiny` | timm's: `patch_embed.proj`, `blocks.0.attn.qkv`, `blocks.0.mlp.fc1`, `norm`, `head` |
| any other network | its own, with `.` for `/`; `names` are put in their place |

Kernels are OIHW there and HWIO here, and those of dense layers are transposed. A network that
flattens an image goes through the channels first there and last here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lottery_jax.errors import ConfigError, lookup
from lottery_jax.leaves import by_path
from lottery_jax.leaves import is_kernel as is_prunable
from lottery_jax.models.network import HEAD, Network
from lottery_jax.types import PyTree

Array = np.ndarray[Any, np.dtype[Any]]
Image = tuple[int, int]  # (height, width)

_ALEXNET = {"conv1": "features.0", "conv2": "features.3", "conv3": "features.6",
            "conv4": "features.8", "conv5": "features.10", "dense1": "classifier.1",
            "dense2": "classifier.4", "head": "classifier.6"}  # fmt: skip
# The names there of arrays, where they differ.
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight",
          "mean": "running_mean", "var": "running_var"}  # fmt: skip
# What a file is said to have where `fixed_shortcuts` stand for what it does not have.
NO_WEIGHTS = "shortcuts without weights"
# The ResNets that have a variant without projections: "option A" of He et al. (2016).
_CIFAR_RESNETS = ("resnet20", "resnet32", "resnet56")
_EPSILON = 1e-5  # of BatchNorm
# Layers that PyTorch does not have, or whose kernels have another order of axes there; and those of
# which it is so if their kernels have more than two axes.
_OTHERS, _GENERAL = {"ConvTranspose", "ConvLocal", "Einsum"}, {"DenseGeneral", "LinearGeneral"}


class Layout(NamedTuple):
    """The way in which PyTorch keeps the arrays of a network.

    Attributes:
        modules: the name there of each module, by its path here.
        images: (height, width) of the image that a dense layer takes flattened, by its path here.
        head: the name there of the output layer.
    """

    modules: Mapping[str, str]
    images: Mapping[str, Image]
    head: str

    def names(self, variables: PyTree) -> dict[str, dict[str, str]]:
        """Return, for `params` and for `batch_stats`, the name there of each leaf by its path.

        Raises:
            ConfigError: two leaves have the same name there.
        """
        names = {
            part: {path: self._name(path) for path in by_path(variables[part])}
            for part in ("params", "batch_stats")
        }
        paths: dict[str, str] = {}
        for path, name in (pair for of_part in names.values() for pair in of_part.items()):
            if name in paths:
                raise ConfigError(
                    f"{paths[name]} and {path} would both be {name} in PyTorch; rename one of them"
                )
            paths[name] = path
        return names

    def _name(self, path: str) -> str:
        module, _, leaf = path.rpartition("/")
        name = LEAVES.get(leaf, leaf)
        return f"{self.modules[module]}.{name}" if module else name

    def from_torch(self, path: str, weight: Array) -> Array:
        """Return an array from there as the leaf `path` has it here."""
        if not is_kernel(path):
            return weight
        kernel = weight.transpose(*range(2, weight.ndim), 1, 0)
        if (image := self.images.get(path.rpartition("/")[0])) is None:
            return kernel
        units = kernel.shape[-1]
        return kernel.reshape(-1, *image, units).transpose(1, 2, 0, 3).reshape(-1, units)

    def to_torch(self, path: str, kernel: Array) -> Array:
        """Return a leaf as an array there; the inverse of `from_torch`."""
        if not is_kernel(path):
            return kernel
        if (image := self.images.get(path.rpartition("/")[0])) is not None:
            units = kernel.shape[-1]
            kernel = kernel.reshape(*image, -1, units).transpose(2, 0, 1, 3).reshape(-1, units)
        return kernel.transpose(kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2))


def is_kernel(path: str) -> bool:
    """Return whether a leaf is the kernel of a dense layer or of a convolution."""
    return path.rpartition("/")[2] == "kernel"


def torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape there of a leaf of this shape here."""
    return (*shape[:-3:-1], *shape[:-2]) if is_kernel(path) else shape


def layout_of(
    variables: PyTree,
    network: str,
    input_shape: Sequence[int],
    layer_order: Sequence[str] = (),
    *,
    head: str = HEAD,
    names: Mapping[str, str] | None = None,
    flatten: Mapping[str, Image] | None = None,
) -> Layout:
    """Return the layout of a network of this package or of one's own.

    Args:
        variables: `params` and `batch_stats`, or their shapes.
        network: the name of a network of this package; any other text for one's own.
        input_shape: of one example.
        layer_order: the layers from input to output.
        head: the path of the output layer.
        names: the names there of modules by their paths here, where they differ from the layout.
        flatten: (height, width) of the image that a dense layer takes flattened, by its path. For
            one's own network it has to be said wherever the sizes of layers leave it open.

    Raises:
        ConfigError: `names` or `flatten` do not fit the network, or `flatten` is needed.
    """
    paths = {path: leaf for part in ("params", "batch_stats") for path, leaf in
             by_path(variables[part]).items()}  # fmt: skip
    here = sorted({path.rpartition("/")[0] for path in paths} - {""})
    kernels = {p.rpartition("/")[0]: tuple(a.shape) for p, a in paths.items() if is_kernel(p)}
    if network in LAYOUTS:
        modules, images = LAYOUTS[network](here, input_shape)
    else:
        modules = {module: module.replace("/", ".") for module in here}
        if flat := [layer for layer, shape in kernels.items() if len(shape) not in (2, 4)]:
            raise ConfigError(
                f"{flat[0]}: its kernel has {len(kernels[flat[0]])} dimensions; only those of dense "
                "layers (2) and of convolutions of images (4) can be from or for PyTorch"
            )
        params = by_path(variables["params"])
        if other := [p for p, leaf in params.items() if is_prunable(p, leaf) and not is_kernel(p)]:
            raise ConfigError(
                f"{other[0]}: only weights named kernel can be from or for PyTorch; the order of axes "
                "of one with this name is not known"
            )
        in_order = {layer: kernels[layer] for layer in layer_order if layer in kernels}
        images = _images(in_order, input_shape, flatten or {})
    for module, image in (flatten or {}).items():
        shape = kernels.get(module, ())
        if len(shape) != 2 or shape[0] % math.prod(image):
            raise ConfigError(
                f"flatten: {module} is not a dense layer of {network} that can take an image of "
                f"{image[0]}x{image[1]} flattened; it has {_some(kernels)}"
            )
    for module in names or {}:
        lookup(modules, module, f"names: modules of {network}")
    modules = {**modules, **(names or {})}
    if len(set(modules.values())) < len(modules):
        twice = next(n for n in modules.values() if list(modules.values()).count(n) > 1)
        raise ConfigError(f"names: {twice} would be two modules of {network}")
    return Layout(modules, {**images, **(flatten or {})}, modules.get(head, head))


def layer_kinds(network: Network) -> dict[str, str]:
    """Return the kind of each layer that has a kernel, such as `Conv`, by its path.

    It is the name of the layer's class, or of a layer of Flax from which the class derives and whose
    kernel PyTorch stores in another layout. A network that does not tell its classes has none.
    """
    classes: dict[str, type] = getattr(network, "module_classes", dict)()
    kernels = by_path(network.abstract_variables()["params"])
    return {
        path: next(
            (b.__name__ for b in cls.__mro__ if b.__name__ in _OTHERS | _GENERAL), cls.__name__
        )
        for path, cls in classes.items()
        if f"{path}/kernel" in kernels
    }


def check_layers(params: PyTree, kinds: Mapping[str, str]) -> None:
    """Check that the kernels of one's own network are of layers that PyTorch has, too.

    Args:
        params: arrays, or their shapes.
        kinds: as `layer_kinds` returns them.

    Raises:
        ConfigError: a layer is of a kind whose kernels would be read or written wrongly.
    """
    for path, kernel in by_path(params).items():
        layer = path.rpartition("/")[0]
        kind = kinds.get(layer) if is_kernel(path) else None
        if kind in (_OTHERS if kernel.ndim == 2 else _OTHERS | _GENERAL):
            raise ConfigError(
                f"{layer}: is a {kind}; of layers with a kernel, only Dense and Conv (in NNX Linear "
                "and Conv) can be from or for PyTorch"
            )


def _some(kernels: Mapping[str, tuple[int, ...]]) -> str:
    dense = [f"{layer} of {shape[0]}" for layer, shape in kernels.items() if len(shape) == 2]
    return ", ".join(dense[:3]) or "no dense layer"


def _images(
    kernels: Mapping[str, tuple[int, ...]], input_shape: Sequence[int], flatten: Mapping[str, Image]
) -> dict[str, Image]:
    """Return which layers of one's own network take the flattened image that the network is given.

    Raises:
        ConfigError: a layer may take a flattened image, and the sizes don't say whether or which.
    """
    images: dict[str, Image] = {}
    whole, channels = (math.prod(input_shape), input_shape[2]) if len(input_shape) == 3 else (0, 0)
    before, convolves = channels, False
    # The sizes of flattened images; the numbers of one with one channel have one order alone.
    flat = {whole} if channels > 1 and whole != channels else set()
    for layer, shape in kernels.items():
        if len(shape) == 4:
            channels, convolves = shape[-1], True
        elif layer in flatten:
            flat |= {shape[0]} if math.prod(flatten[layer]) > 1 else set()
        elif not convolves and shape[0] == whole != before:
            images[layer] = (input_shape[0], input_shape[1])
        elif (channels > 1 or convolves) and (shape[0] != before or shape[0] in flat):
            side = math.isqrt(shape[0] // channels)
            fits = side * side * channels == shape[0]
            size = f"{side}x{side}" if fits else "HEIGHTxWIDTH"
            raise ConfigError(
                f"{layer} takes {shape[0]} numbers, and the layer before it gives {before}: say the "
                f"size of the image that it takes flattened, --flatten={layer}={size} (in Python "
                "flatten={layer: (height, width)}); 1x1 leaves the order as it is"
            )
        elif shape[0] == channels:  # perhaps of each pixel
            channels = shape[-1]
        before = shape[-1]
    return images


def _lenet(modules: Collection[str], input_shape: Sequence[int]) -> _Found:
    convs = sorted(module for module in modules if module.startswith("conv"))
    names = {conv: conv for conv in convs}
    names |= {"dense1": "fc1", "dense2": "fc2", HEAD: "fc3"}
    poolings = len(convs) // 2
    return names, {"dense1": (input_shape[0] >> poolings, input_shape[1] >> poolings)}


def _vgg(modules: Collection[str], input_shape: Sequence[int]) -> _Found:
    names = {HEAD: "classifier"}
    for i, conv in enumerate(sorted(m for m in modules if m.startswith("conv"))):
        # Each convolution is followed by a BatchNorm and a ReLU, each stage by a pooling.
        index = 3 * i + int(conv[len("conv")]) - 1
        names[conv] = f"features.{index}"
        names[conv.replace("conv", "bn")] = f"features.{index + 1}"
    return names, {}


def _resnet(modules: Collection[str], input_shape: Sequence[int]) -> _Found:
    names = {"stem": "conv1", "bn_stem": "bn1", HEAD: "fc"}
    inside = {"shortcut": "downsample.0", "bn_shortcut": "downsample.1"}
    for module in modules:
        if match := re.fullmatch(r"block(\d+)_(\d+)/(\w+)", module):
            stage, block, layer = match.groups()
            names[module] = f"layer{stage}.{int(block) - 1}.{inside.get(layer, layer)}"
    return names, {}


def _alexnet(modules: Collection[str], input_shape: Sequence[int]) -> _Found:
    height, width = ((side + 1) // 2 // 8 for side in input_shape[:2])  # stride 2, three poolings
    return _ALEXNET, {"dense1": (height, width)}


def _vit(modules: Collection[str], input_shape: Sequence[int]) -> _Found:
    names = {"patch_embed": "patch_embed.proj", "norm": "norm", HEAD: "head"}
    for module in modules:
        if match := re.fullmatch(r"block(\d+)/(.+)", module):
            layer = match[2].replace("/", ".").replace("fc", "mlp.fc")
            names[module] = f"blocks.{int(match[1]) - 1}.{layer}"
    return names, {}


_Found = tuple[dict[str, str], dict[str, Image]]
LAYOUTS = {
    **dict.fromkeys(("lenet_300_100", "conv2", "conv4", "conv6"), _lenet),
    **dict.fromkeys(("vgg11", "vgg13", "vgg16", "vgg19"), _vgg),
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", *_CIFAR_RESNETS), _resnet),
    "alexnet": _alexnet,
    "vit_tiny": _vit,
}


def fixed_shortcuts(
    network: str, missing: Collection[str], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Array]:
    """Return the projections that compute what shortcuts without weights compute.

    Such a shortcut ("option A" of He et al., CVPR 2016, section 4.2) takes every second pixel and
    puts zeros before and after the channels, a quarter of all each. The projections' BatchNorms change
    nothing.

    Args:
        network: the name of a network of this package.
        missing: the names there of what a state dict lacks.
        shapes: the shapes there of the network's arrays by name.

    Returns:
        The arrays by name; none if something else is missing or the channels do not double.
    """
    kernels = [name for name in missing if name.endswith("downsample.0.weight")]
    doubled = all(shapes[k][0] == 2 * shapes[k][1] and shapes[k][1] % 2 == 0 for k in kernels)
    every = {name for name in shapes if ".downsample." in name}
    if network not in _CIFAR_RESNETS or set(missing) != every or not doubled:
        return {}
    constants = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0 - _EPSILON}
    arrays = {}
    for name in missing:
        if name in kernels:
            inputs = shapes[name][1]
            arrays[name] = np.eye(2 * inputs, inputs, -(inputs // 2), dtype=np.float32)[
                ..., None, None
            ]
        else:
            constant = constants[name.rpartition(".")[2]]
            arrays[name] = np.full(shapes[name], constant, np.float32)
    return arrays
