"""An optax wrapper that keeps pruned weights at exactly zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lottery_jax import leaves
from lottery_jax.pruning import masks
from lottery_jax.types import PyTree


class KeepMaskedState(NamedTuple):
    """The state of `keep_masked`.

    Attributes:
        mask: bool arrays where the params have arrays, None elsewhere.
        inner: the state of the wrapped transform.
    """

    mask: PyTree
    inner: PyTree


def keep_masked(
    inner: optax.GradientTransformation, mask: PyTree
) -> optax.GradientTransformationExtraArgs:
    """Return `inner` for a pruned network: weights that `mask` prunes are +0.0 after each update.

    The wrapped transform sees gradients and params with zeros where `mask` is False, so its moments
    stay zero there. The update it gives is replaced there by -params, so `optax.apply_updates`
    gives exactly +0.0 whatever `inner` does (weight decay, momentum, averages of weights, ...) and
    whatever finite number stood there. Before the first update params are as the caller made them:
    prune them with `masks.apply`, so that the first loss is the pruned network's.

    `init` copies the mask into the state, and `update` reads it there. So a step that is compiled
    once with one of these transforms serves every mask: for a new mask, call
    `keep_masked(inner, new_mask).init(params)` and pass that state to the old step.

    Args:
        inner: any optax transform. `optax.lookahead` holds two copies of the params: give it
            `keep_masked(fast, mask)` as its fast optimizer.
        mask: bool, with the structure of the params, as from `masks`. Where it is None, nothing is
            pruned.

    Returns:
        A transform whose `update` needs `params`. Leaves of params that are no arrays are None in
        what `inner` gets; the updates there are None (`equinox.apply_updates` accepts them).

    >>> params = {"kernel": jnp.ones((2, 1)), "bias": jnp.ones(1)}
    >>> mask = {"kernel": jnp.array([[True], [False]]), "bias": jnp.ones(1, bool)}
    >>> tx = keep_masked(optax.sgd(0.5, momentum=0.9), mask)
    >>> updates, state = tx.update(params, tx.init(params), params)  # the gradients are ones, too
    >>> optax.apply_updates(params, updates)["kernel"].tolist()
    [[0.5], [0.0]]
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> KeepMaskedState:
        arrays = _map(lambda leaf: leaf, params)
        kept = _map(_as_mask, arrays, mask)
        return KeepMaskedState(kept, inner.init(masks.apply(kept, arrays)))

    def update(
        updates: PyTree, state: KeepMaskedState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, KeepMaskedState]:
        if params is None:
            raise ValueError("keep_masked needs the params: tx.update(grads, state, params)")
        kept, arrays = state.mask, _map(lambda leaf: leaf, params)
        grads = masks.apply(kept, _map(lambda leaf: leaf, updates))
        new, inner_state = inner.update(grads, state.inner, masks.apply(kept, arrays), **extra)
        return _map(_update, new, kept, arrays), KeepMaskedState(kept, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _as_mask(param: Any, mask: Any) -> jax.Array:
    """Return a copy of the mask, so that it can be donated; spread over a mesh as the weights are."""
    kept = jnp.array(np.ones(param.shape, bool) if mask is None else mask, bool)
    concrete = isinstance(param, jax.Array) and not isinstance(param, jax.core.Tracer)
    if concrete and len(param.sharding.device_set) > 1:
        return jax.device_put(kept, param.sharding)
    return kept


def _update(update: Any, mask: Any, param: Any) -> Any:
    return update if mask is None else jnp.where(mask, update, -param)


def _map(function: Callable[..., Any], tree: PyTree, *others: PyTree) -> PyTree:
    """Apply a function to the arrays of a tree; other leaves become None."""

    def mapped(leaf: Any, *rest: Any) -> Any:
        if leaves.is_array(leaf):
            return function(leaf, *rest)
        return leaf if isinstance(leaf, optax.MaskedNode) else None

    return jax.tree.map(mapped, tree, *others, is_leaf=_is_absent)


def _is_absent(leaf: Any) -> bool:
    # `optax.masked` puts an empty node in place of a leaf.
    return leaf is None or isinstance(leaf, optax.MaskedNode)
