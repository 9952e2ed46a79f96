"""The networks, each a Linen module, built by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lottery_jax.errors import ConfigError, lookup
from lottery_jax.models import alexnet, lenet, resnet, vgg
from lottery_jax.system import settings

PyTree = Any

MODELS: dict[str, Callable[..., nn.Module]] = {
    **lenet.MODELS,
    **vgg.MODELS,
    **resnet.MODELS,
    **alexnet.MODELS,
}
# Those of dense layers alone, without a convolution.
FULLY_CONNECTED = frozenset({"lenet_300_100"})
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_model(
    name: str, num_classes: int, *, width: float = 1.0, dtype: str = "float32", **options: Any
) -> nn.Module:
    """Builds a network.

    Every model is called as `model.apply(variables, images, train=...)` with float images
    `[batch, height, width, channels]` and gives float logits `[batch, num_classes]`. Its output
    layer is named `head`. Parameters are float32 whatever `dtype` is.

    Args:
        name: a key of `MODELS`, such as `vgg19`.
        num_classes: outputs.
        width: multiplies the standard layer widths; each is rounded, and at least 1.
        dtype: `float32` or `bfloat16`, of the computation.
        options: `stem='cifar'` (3x3, stride 1) or `'imagenet'` (7x7, stride 2, max-pool) for
            ResNets.

    Raises:
        ConfigError: an unknown name, dtype or option.

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
    """Fresh variables: `params`, and `batch_stats` (empty for a model without BatchNorm).

    Args:
        model: a network of this package.
        key: a typed PRNG key.
        input_shape: `(height, width, channels)`.
    """
    variables = model.init(key, jnp.zeros((1, *input_shape)), train=False)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


@settings.fixed()
def abstract_variables(model: nn.Module, input_shape: tuple[int, ...]) -> PyTree:
    """The shapes and dtypes of `init_variables`, at no cost: a tree of `ShapeDtypeStruct`."""
    # The key is made within, so that no device is needed.
    return jax.eval_shape(lambda: init_variables(model, jax.random.key(0), input_shape))


@settings.fixed()
def layer_names(model: nn.Module, input_shape: tuple[int, ...]) -> list[str]:
    """The names of the layers that have a kernel, from the input to the output.

    >>> layer_names(build_model("conv2", 10), (28, 28, 1))
    ['conv1', 'conv2', 'dense1', 'dense2', 'head']
    """
    order: list[str] = []

    def record() -> None:
        key = jax.random.key(0)
        # Here the dicts still have the order in which the layers were called; a jax function
        # returns them sorted by name.
        params = model.init(key, jnp.zeros((1, *input_shape)), train=False)["params"]
        order.extend(_kernel_names(params, ""))

    jax.eval_shape(record)
    params = abstract_variables(model, input_shape)["params"]
    assert sorted(order) == sorted(_kernel_names(params, ""))
    return order


def _kernel_names(tree: dict[str, Any], prefix: str) -> list[str]:
    names = []
    for name, value in tree.items():
        if isinstance(value, dict):
            names += _kernel_names(value, f"{prefix}{name}/")
        elif name == "kernel":
            names.append(prefix.removesuffix("/"))
    return names
