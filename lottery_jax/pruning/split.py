"""Splitting a tree into the arrays that a loss can be differentiated by, and all else.

JAX differentiates by floating-point arrays only, and compiles functions of arrays only, but a
network's tree may also have counters, PRNG keys, functions and settings as leaves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from lottery_jax.leaves import is_none
from lottery_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Split:
    """How params are split into floating-point arrays (the weights), other arrays, and the rest.

    Attributes:
        structure: that of params, with None as a leaf.
        leaves: for each leaf of params, `_WEIGHT`, `_OTHER`, or the leaf itself, if no array.
    """

    structure: Any
    leaves: tuple[Any, ...]

    @classmethod
    def from_params(cls, params: PyTree) -> tuple[Split, list[Any], list[Any]]:
        """Return the split of params, its weights and its other arrays."""
        flat, structure = jax.tree.flatten(params, is_leaf=is_none)
        split = cls(structure, tuple(map(_kind, flat)))
        others = zip(split.leaves, flat, strict=True)
        return split, split.weights(params), [leaf for kind, leaf in others if kind is _OTHER]

    def weights(self, tree: PyTree) -> list[Any]:
        """Return the leaves of a tree like params that are where params have weights."""
        pairs = zip(self.leaves, self.structure.flatten_up_to(tree), strict=True)
        return [leaf for kind, leaf in pairs if kind is _WEIGHT]

    def join(self, weights: Iterable[Any], others: Iterable[Any]) -> PyTree:
        """Return a tree like params with these weights and other arrays."""
        parts = {_WEIGHT: iter(weights), _OTHER: iter(others)}
        whole = [next(parts[k]) if k is _WEIGHT or k is _OTHER else k for k in self.leaves]
        return jax.tree.unflatten(self.structure, whole)


_WEIGHT, _OTHER = object(), object()


def _kind(leaf: Any) -> Any:
    if not hasattr(leaf, "dtype"):
        return leaf
    return _WEIGHT if jnp.issubdtype(leaf.dtype, jnp.inexact) else _OTHER


@dataclasses.dataclass(frozen=True)
class OfWeights:
    """A function of (params, ...) as one of (weights, other arrays, ...); equal for equal parts."""

    function: Callable[..., jax.Array]
    split: Split

    def __call__(self, weights: list[Any], others: list[Any], *arguments: PyTree) -> jax.Array:
        """Return the function's value for the params that these leaves make up."""
        return self.function(self.split.join(weights, others), *arguments)
