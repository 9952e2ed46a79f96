"""The size and the cost of a network, from shapes alone: nothing is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lottery_jax import leaves
from lottery_jax.models.network import Network
from lottery_jax.system import settings
from lottery_jax.types import PyTree


def prunable_sizes(network: Network, params: PyTree) -> dict[str, int]:
    """Return the number of prunable weights of each layer; `params` may be shapes."""
    named = leaves.named_leaves(params, network.is_prunable)
    return {name: math.prod(leaf.shape) for name, leaf in named if name is not None}


def multiply_adds(
    network: Network, layers: Sequence[str] | None = None, variables: PyTree = None
) -> int | None:
    """Return the multiply-adds of a forward pass of one example, those with padding included.

    It is the sum of `multiply_adds_by_layer`, or None where that is None.
    """
    by_layer = multiply_adds_by_layer(network, layers, variables)
    return None if by_layer is None else sum(by_layer.values())


@settings.fixed()
def multiply_adds_by_layer(
    network: Network, layers: Sequence[str] | None = None, variables: PyTree = None
) -> dict[str, int] | None:
    """Return each layer's multiply-adds in a forward pass of one example, padding included.

    The layers with prunable weights are counted: each of their weights is used once for each
    position of the layer's output `[batch, ..., channels]`. None: a layer is called more than once
    or not at all, so that outputs do not tell their layers.

    Args:
        network: takes examples of its `input_shape`.
        layers: its `layer_names()`, if they are known.
        variables: its `abstract_variables()`, if they are known.
    """
    positions: list[int] = []

    def record(y: jax.Array) -> jax.Array:
        positions.append(math.prod(y.shape[1:-1]))
        return y

    layers = network.layer_names() if layers is None else layers
    variables = network.abstract_variables() if variables is None else variables
    example = jax.ShapeDtypeStruct((1, *network.input_shape), jnp.dtype(network.input_dtype))
    jax.eval_shape(
        lambda v, x: network.apply_eval(v["params"], v["batch_stats"], x, after_layer=record),
        variables,
        example,
    )
    sizes = prunable_sizes(network, variables["params"])
    if len(positions) != len(layers):
        return None
    return {layer: sizes[layer] * count for layer, count in zip(layers, positions, strict=True)}
