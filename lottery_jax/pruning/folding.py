"""Constants within a masked network, folded into biases.

A unit that nothing feeds is not zero but a constant, such as relu(bias), or what BatchNorm makes of
a zero with its running statistics. A layer that reads it gets the same sum if the constant times its
weights goes into the layer's bias, or into the running mean of the BatchNorm that follows.

Around an image a convolution reads zeros, so near the border it sees less of a constant than in the
middle, and no bias can stand for it. There only constants of zero can go. Several others become one
if a single layer reads them, for their weights can be added up.

The constants and the sums are not derived but measured: the network itself computes them.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lottery_jax.models.network import WiredNetwork
from lottery_jax.models.xla_options import compiler_options
from lottery_jax.pruning.called_layers import Layer, inputs_kept, masked, outputs_kept
from lottery_jax.pruning.permutations import Array, Symmetry, random_examples, with_leaves
from lottery_jax.types import PyTree

# Rounding may make equal sums differ from pixel to pixel by this many units in the last place.
_ROUNDING = 256

# Params and batch statistics by path.
Arrays = dict[str, dict[str, Array]]


def fold(
    network: WiredNetwork,
    layers: list[Layer],
    symmetry: Symmetry,
    arrays: Arrays,
    kept: dict[str, Array],
) -> int:
    """Take constants out of what layers read, and add them where they belong.

    Folding leaves the outputs of every layer as they are. So all of it can be computed from the
    constants that the network has before.

    Args:
        network: with the layers.
        layers: in the order of calls.
        symmetry: the units of the groups.
        arrays: the params, with zeros where they are pruned, and the batch statistics; replaced
            where they change.
        kept: the masks by path; changed in place.

    Returns:
        How many constants layers read with fewer weights than before, or with none.
    """
    constant = constant_inputs(layers, symmetry, kept)
    inputs, sums = _measure(network, layers, arrays, kept, constant)
    folded = 0
    for layer in layers:
        mask, x = kept[layer.path], inputs[layer.name]
        read = np.flatnonzero(constant[layer.name] & inputs_kept(mask))
        if not len(read):
            continue
        before = mask.copy()
        others = read[x[:, read].any(axis=0)]
        mask[..., np.setdiff1d(read, others), :] = False  # constants of zero
        if len(others) and layer.takes is not None:
            _add_to_bias(layer, arrays, mask, others, x, sums[layer.name])
        still = others[inputs_kept(mask[..., others, :])]
        is_flat = x.shape[1] != symmetry.units[layer.read]
        is_alone = sum(other.read == layer.read for other in layers) == 1
        if len(still) > 1 and is_alone and not is_flat and not np.ptp(x[:, still], axis=0).any():
            _merge(arrays["params"], layer.path, mask, still, x[0])
        folded += int(inputs_kept(before & ~mask).sum())
    return folded


def constant_inputs(
    layers: list[Layer], symmetry: Symmetry, kept: dict[str, Array]
) -> dict[str, Array]:
    """Return which inputs of each layer no example can change: bool `[inputs of a kernel]`.

    That is so if no kept weight leads from anything else to such a unit, in any of the layers that
    have it and are called before. A unit of an image that is made flat is as many inputs as pixels.
    """
    found: dict[str, Array] = {}
    for i, layer in enumerate(layers):
        count = kept[layer.path].shape[-2]
        sources = [other for other in layers[:i] if other.has == layer.read]
        if layer.read and sources:
            fed = [outputs_kept(kept[x.path][..., ~found[x.name], :]) for x in sources]
            found[layer.name] = np.tile(~np.any(fed, axis=0), count // symmetry.units[layer.read])
        else:
            found[layer.name] = np.zeros(count, bool)
    return found


def _measure(
    network: WiredNetwork,
    layers: list[Layer],
    arrays: Arrays,
    kept: dict[str, Array],
    constant: dict[str, Array],
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return what each layer reads, and its sums over constant inputs alone without its bias.

    Both are `[positions, inputs or units]`, in the precision of the params, for a random example.
    """
    variables = network.abstract_variables()

    def tree(part: str, new: dict[str, Array]) -> PyTree:
        return with_leaves(variables[part], {**arrays[part], **new})

    of_constants = {x.path: kept[x.path] & constant[x.name][:, None] for x in layers}
    others = tree("params", masked(arrays["params"], of_constants))
    params, stats = tree("params", {}), tree("batch_stats", {})
    dtype = jnp.result_type(*arrays["params"].values())
    example = random_examples(network, 1, dtype)
    with jax.default_matmul_precision("highest"):
        found = _program()(network.with_dtype(dtype), params, others, stats, example)
    read, made = jax.device_get(found)
    sums = {}
    for layer, y in zip(layers, made, strict=True):
        part, path, _ = layer.takes or ("", "", 0)
        bias = arrays["params"][path] if part == "params" else np.zeros((), y.dtype)
        sums[layer.name] = y.reshape(-1, y.shape[-1]) - bias
    return {name: x.reshape(-1, x.shape[-1]) for name, x in read.items()}, sums


@functools.cache
def _program() -> Any:
    options = compiler_options(jax.default_backend(), run_once=True)
    return jax.jit(_trace_layers, static_argnums=0, compiler_options=options)


def _trace_layers(
    network: WiredNetwork, params: PyTree, others: PyTree, batch_stats: PyTree, example: jax.Array
) -> tuple[dict[str, jax.Array], list[jax.Array]]:
    """Return what layers read with some params, and what they give with others, as called."""
    outputs: list[jax.Array] = []

    def record(y: jax.Array) -> jax.Array:
        outputs.append(y)
        return y

    network.apply_eval(others, batch_stats, example, after_layer=record)
    return network.layer_inputs(params, batch_stats, example), outputs


def _add_to_bias(
    layer: Layer, arrays: Arrays, mask: Array, constants: Array, x: Array, sums: Array
) -> None:
    """Fold constant inputs into those units of a layer that get the same sum in all positions."""
    assert layer.takes is not None
    part, path, sign = layer.takes
    weights = np.abs(np.where(mask, arrays["params"][layer.path], 0.0)[..., constants, :])
    taps = weights.reshape(-1, *weights.shape[-2:]).sum(axis=0)
    largest = np.abs(x[:, constants]).max(axis=0) @ taps
    same = np.ptp(sums, axis=0) <= _ROUNDING * np.finfo(sums.dtype).eps * largest
    same &= outputs_kept(mask[..., constants, :])
    before = arrays[part][path]
    arrays[part][path] = np.where(same, (before + sign * sums[0]).astype(before.dtype), before)
    mask[..., constants, :] &= ~same


def _merge(
    params: dict[str, Array], path: str, mask: Array, constants: Array, values: Array
) -> None:
    """Let the largest of several constant inputs of a layer stand for all."""
    largest = constants[np.argmax(np.abs(values[constants]))]
    rest = constants[constants != largest]
    weights = np.where(mask, params[path], np.zeros((), params[path].dtype))
    ratios = values[rest].astype(np.float64) / values[largest]
    added = np.einsum("i,...io->...o", ratios, weights[..., rest, :])
    weights[..., largest, :] = (weights[..., largest, :] + added).astype(weights.dtype)
    mask[..., largest, :] |= mask[..., rest, :].any(axis=-2)
    mask[..., rest, :] = False
    params[path] = weights
