"""The networks of this package, Linen modules that are built by name; others come by `networks`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lottery_jax.errors import ConfigError, lookup
from lottery_jax.models import alexnet, lenet, resnet, vgg, vit
from lottery_jax.models.network import LinenNetwork
from lottery_jax.types import PyTree

MODELS: dict[str, Callable[..., nn.Module]] = {
    **lenet.MODELS,
    **vgg.MODELS,
    **resnet.MODELS,
    **alexnet.MODELS,
    **vit.MODELS,
}
# Networks without a convolution.
FULLY_CONNECTED = frozenset({"lenet_300_100"})
# Networks whose units never decrease when their inputs or weights grow: their paths can be followed.
MONOTONE = frozenset(MODELS.keys() - vit.MODELS.keys())
DTYPES = {"float32": jnp.dtype("float32"), "bfloat16": jnp.dtype("bfloat16")}


def build_model(
    name: str, num_classes: int, *, width: float = 1.0, dtype: str = "float32", **options: Any
) -> nn.Module:
    """Build a network.

    Every model is called as `model.apply(variables, images, train=...)` with float images
    `[batch, height, width, channels]` and returns float logits `[batch, num_classes]`. Its output
    layer is named `head`. Parameters are float32 whatever `dtype` is.

    Args:
        name: a key of `MODELS`, such as `vgg19`.
        num_classes: number of outputs.
        width: multiplies the standard layer widths; each is rounded, and at least 1.
        dtype: `float32` or `bfloat16`, in which the network computes.
        options: `stem='cifar'` (3x3, stride 1) or `'imagenet'` (7x7, stride 2, max-pool) for
            ResNets. `widths={layer: units}` gives the numbers of units of some layers in place of
            the standard ones, as `pruning.compaction` finds them; its keys are the groups of the
            wiring.

    Raises:
        ConfigError: the name, the dtype or an option is unknown.

    >>> build_model("resnet18", 10, stem="imagenet").stem
    'imagenet'
    """
    builder = lookup(MODELS, name, "config.model.name")
    compute = lookup(DTYPES, dtype, "config.model.dtype")
    try:
        return builder(num_classes=num_classes, width=width, dtype=compute, **options)
    except TypeError as error:
        raise ConfigError(f"config.model: {name} does not take these options: {error}") from error


def init_variables(model: nn.Module, key: jax.Array, input_shape: tuple[int, ...]) -> PyTree:
    """Return fresh variables: `params`, and `batch_stats` (empty for a model without BatchNorm).

    Args:
        model: a network of this package.
        key: a typed PRNG key.
        input_shape: `(height, width, channels)`.
    """
    return LinenNetwork(model, input_shape).init(key)


def abstract_variables(model: nn.Module, input_shape: tuple[int, ...]) -> PyTree:
    """Return the shapes and dtypes of `init_variables`, a tree of `ShapeDtypeStruct`, at no cost."""
    return LinenNetwork(model, input_shape).abstract_variables()


def layer_names(model: nn.Module, input_shape: tuple[int, ...]) -> list[str]:
    """Return the names of the layers that have a kernel, from the input to the output.

    >>> layer_names(build_model("conv2", 10), (28, 28, 1))
    ['conv1', 'conv2', 'dense1', 'dense2', 'head']
    """
    return LinenNetwork(model, input_shape).layer_names()
