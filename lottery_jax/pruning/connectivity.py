"""Connectivity: which of the weights that a mask keeps connect the input to the output.

A kept weight carries nothing from the input to the output if its input unit is fed by no kept
weight, or if its output unit feeds none. The other kept weights lie on a path of kept weights from
a pixel to a logit. They are called *effective* (Vysogorets & Kempe, "Connectivity matters", JMLR
2023).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Jaxpr, jaxpr_as_fun

from lottery_jax.models.network import Network, as_network
from lottery_jax.pruning import masks
from lottery_jax.system import settings
from lottery_jax.types import PyTree


@settings.fixed()
def effective_mask(
    network: Network | nn.Module, mask: PyTree, input_shape: tuple[int, ...] = ()
) -> PyTree:
    """Return the part of `mask` that lies on paths from the input to the output.

    The result is exact for the networks of `lottery_jax.models.MONOTONE`, pixel by pixel: a tap of
    a kernel that only ever meets the padding is on no path. Biases begin no path, and shortcuts are
    paths.

    Args:
        network: a network whose units never decrease when their inputs or weights grow, as with
            ReLU, BatchNorm in evaluation, and maxima over windows or axes; or its Linen module.
            LayerNorm and attention are not of that kind. A maximum with a gradient of its own, such
            as `models.layers.max_pool2`, is exact for the outputs of a layer only.
        mask: bool tree like its parameters.
        input_shape: `(height, width, channels)`, if a module is given.

    Returns:
        A new mask, NumPy bool arrays; leaves that are never pruned are as in `mask`.

    Raises:
        ValueError: a layer that keeps weights is on no path, and in the dense network neither: its
            paths can't be followed, or its output is not used.

    >>> from lottery_jax.models import abstract_variables, build_model
    >>> model = build_model("lenet_300_100", 10)
    >>> mask = masks.ones_like(abstract_variables(model, (8, 8, 1))["params"])
    >>> mask["dense2"]["kernel"][7] = False  # unit 7 of the first layer feeds nothing any more
    >>> masks.layer_counts(effective_mask(model, mask, (8, 8, 1)))["dense1"]
    (19136, 19200)
    """
    network = as_network(network, input_shape)
    on_paths = _on_paths(network, mask)
    kept = masks.layer_counts(mask, prunable=network.is_prunable)
    if lost := [name for name in _collapsed(network, on_paths) if kept[name][0]]:
        dense = _collapsed(network, _on_paths(network, masks.ones_like(mask)))
        if never := [name for name in lost if name in dense]:
            raise ValueError(
                f"no path leads through {never[0]}, not even in the dense network: its output is not "
                "used, or units can decrease when weights grow, as with LayerNorm or attention"
            )
    return jax.tree.map(lambda m: np.array(m, bool), on_paths)


def _collapsed(network: Network, on_paths: PyTree) -> list[str]:
    return masks.collapsed_layers(on_paths, prunable=network.is_prunable)


@functools.partial(jax.jit, static_argnums=0)
def _on_paths(network: Network, mask: PyTree) -> PyTree:
    # With weights of zeros and ones and nothing negative anywhere, a unit is above zero exactly
    # if some path leads to it, and has a gradient exactly if some path leads on from it.
    variables, prunable = network.mask_as_variables(mask), network.is_prunable

    def output(params: PyTree) -> jax.Array:
        ones, stats = jnp.ones((1, *network.input_shape)), variables["batch_stats"]
        return jnp.sum(network.apply_eval(params, stats, ones, after_layer=_reach))

    params = variables["params"]
    gradient = masks.kernels(jax.grad(_sums_for_maxima(output, params))(params), prunable=prunable)
    kept = masks.kernels(mask, prunable=prunable)
    on_paths = {name: kept[name] & (gradient[name] > 0) for name in kept}
    return masks.with_kernels(mask, on_paths, prunable=prunable)


@jax.custom_vjp
def _reach(x: jax.Array) -> jax.Array:
    """Return ones where `x` is above zero; backward, ones where the gradient is.

    So values neither overflow nor vanish in a deep network. All units that are reached are equal,
    and `layers.max_pool2` shares the gradient among equal ones.
    """
    return (x > 0).astype(x.dtype)


def _reach_forward(x: jax.Array) -> tuple[jax.Array, None]:
    return _reach(x), None


def _reach_backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
    return ((gradient > 0).astype(gradient.dtype),)


_reach.defvjp(_reach_forward, _reach_backward)


def _sums_for_maxima(function: Callable[[PyTree], jax.Array], params: PyTree) -> Any:
    """Return `function` with sums over windows and axes in place of maxima.

    The library's maximum gives the whole gradient to the largest entry, or to one of several equal
    ones, and the others none. A sum is above zero where the maximum is, and gives every entry a
    gradient.
    """
    changed = jaxpr_as_fun(_with_sums(jax.make_jaxpr(function)(params)))
    return lambda params: changed(*jax.tree.leaves(params))[0]


_SUMS = {lax.reduce_window_max_p: lax.reduce_window_sum_p, lax.reduce_max_p: lax.reduce_sum_p}


def _with_sums(part: Any) -> Any:
    """Return a jaxpr with its maxima replaced, within `jit`, `remat`, `scan` and branches, too.

    Anything that is no jaxpr, nor a list of them, stays as it is.
    """
    if type(part) in (list, tuple):
        return type(part)(map(_with_sums, part))
    if not isinstance(part, Jaxpr):  # before JAX 0.12, a closed one is of another type
        inner = getattr(part, "jaxpr", None)
        return part.replace(jaxpr=_with_sums(inner)) if isinstance(inner, Jaxpr) else part
    return part.replace(eqns=list(map(_with_sum, part.eqns)))


def _with_sum(equation: Any) -> Any:
    params = {name: _with_sums(value) for name, value in equation.params.items()}
    if equation.primitive is lax.reduce_max_p:  # in JAX 0.10 a sum has a parameter more
        params = {**_params_of_a_sum(), **params}
    primitive = _SUMS.get(equation.primitive, equation.primitive)
    return equation.replace(primitive=primitive, params=params)


@functools.cache
def _params_of_a_sum() -> dict[str, Any]:
    (equation,) = jax.make_jaxpr(lambda x: x.sum(0))(jnp.zeros((1, 1))).eqns
    assert equation.primitive is lax.reduce_sum_p
    return dict(equation.params)
