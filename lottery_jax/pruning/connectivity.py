"""Paths: which of the weights that a mask keeps still connect the input to the output.

A kept weight whose unit no kept weight feeds, or whose unit feeds no kept weight, changes no
output. Those that are left, on some path of kept weights from a pixel to a logit, are *effective*
(Vysogorets & Kempe, "Connectivity matters", JMLR 2023).
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
from jax.extend.core import jaxpr_as_fun
from jax.tree_util import tree_map_with_path

from lottery_jax.models import abstract_variables
from lottery_jax.system import settings

PyTree = Any


@settings.fixed()
def effective_mask(model: nn.Module, mask: PyTree, input_shape: tuple[int, ...]) -> PyTree:
    """The part of `mask` that lies on paths from the input to the output.

    Exact for the networks of this package, pixel by pixel: a tap that only ever meets the padding
    is on no path. Biases and BatchNorm's biases begin no path, and shortcuts are paths.

    Args:
        model: a network of this package.
        mask: bool tree like its parameters.
        input_shape: `(height, width, channels)`.

    Returns:
        A new mask, NumPy bool arrays; True in the leaves that are never pruned, as in `mask`.

    >>> from lottery_jax import masks
    >>> from lottery_jax.models import build_model
    >>> model = build_model("lenet_300_100", 10)
    >>> mask = masks.ones_like(abstract_variables(model, (8, 8, 1))["params"])
    >>> mask["dense2"]["kernel"][7] = False  # unit 7 of the first layer feeds nothing any more
    >>> masks.layer_counts(effective_mask(model, mask, (8, 8, 1)))["dense1"]
    (19136, 19200)
    """
    on_paths = _on_paths(model, mask, tuple(input_shape))
    return jax.tree.map(lambda m: np.array(m, bool), on_paths)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _on_paths(model: nn.Module, mask: PyTree, input_shape: tuple[int, ...]) -> PyTree:
    # With kernels of zeros and ones and nothing negative anywhere, a unit is above zero exactly
    # if some path leads to it, and has a gradient exactly if some path leads on from it.
    batch_stats = tree_map_with_path(
        lambda path, leaf: jnp.full(leaf.shape, path[-1].key == "var", leaf.dtype),
        abstract_variables(model, input_shape)["batch_stats"],
    )

    def output(params: PyTree) -> jax.Array:
        variables = {"params": params, "batch_stats": batch_stats}
        with nn.intercept_methods(_reach_after_kernels):
            logits: Any = model.apply(variables, jnp.ones((1, *input_shape)), train=False)
        return jnp.sum(logits)

    params = tree_map_with_path(
        lambda path, m: m.astype(jnp.float32) * (path[-1].key in ("kernel", "scale")), mask
    )
    gradient = jax.grad(_sums_for_maxima(output, params))(params)
    return tree_map_with_path(
        lambda path, m, g: m & (g > 0) if path[-1].key == "kernel" else m, mask, gradient
    )


@jax.custom_vjp
def _reach(x: jax.Array) -> jax.Array:
    """Ones where `x` is above zero; backward, ones where the gradient is.

    So values neither overflow nor vanish however deep the network, and those reached are equal:
    `layers.max_pool2` then shares the gradient among all of them.
    """
    return (x > 0).astype(x.dtype)


def _reach_forward(x: jax.Array) -> tuple[jax.Array, None]:
    return _reach(x), None


def _reach_backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
    return ((gradient > 0).astype(gradient.dtype),)


_reach.defvjp(_reach_forward, _reach_backward)


def _reach_after_kernels(
    call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
) -> Any:
    y = call(*args, **kwargs)
    has_kernel = context.module.has_variable("params", "kernel")
    return _reach(y) if has_kernel and context.method_name == "__call__" else y


def _sums_for_maxima(function: Callable[[PyTree], jax.Array], params: PyTree) -> Any:
    """`function` with sums over sliding windows in place of maxima.

    Of several equal entries of a window, the library's maximum gives one the whole gradient and
    the others none. A sum is above zero where the maximum is, and gives every entry its gradient.
    """
    closed = jax.make_jaxpr(function)(params)
    equations = [
        eqn.replace(primitive=lax.reduce_window_sum_p)
        if eqn.primitive is lax.reduce_window_max_p
        else eqn
        for eqn in closed.jaxpr.eqns
    ]
    changed = jaxpr_as_fun(closed.replace(jaxpr=closed.jaxpr.replace(eqns=equations)))
    return lambda params: changed(*jax.tree.leaves(params))[0]
