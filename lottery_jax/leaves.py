"""Leaves: which leaves of any pytree can be pruned, and the name of each one's layer.

A tree may be Linen's or Haiku's params, an `nnx.State`, an Equinox module or plain containers. Its
leaves may be anything: only arrays of numbers are pruned, and all else passes through unchanged.
"""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path, tree_map_with_path

from lottery_jax.types import PyTree

# (path of a leaf, its keys joined by "/"; an array of the leaf's shape) -> whether it is prunable
Predicate = Callable[[str, Any], bool]
# A predicate, or patterns of which a path must match one: see `as_predicate`.
Prunable = Predicate | str | Collection[str]

# The weights of layers, as Flax, Haiku and Equinox name them.
WEIGHT_NAMES = ("kernel", "w", "weight")
# The name below which NNX's variables and Flax's partitioned parameters keep their array.
_BOX = "/value"
_SHOWN = 8


def is_kernel(path: str, leaf: Any) -> bool:
    """Return whether a leaf has two or more dimensions and is named `kernel`, `w` or `weight`.

    These are the weights of convolutions and dense layers in Flax, Haiku and Equinox. The name may
    be followed by `value`, as in the paths of an `nnx.State`.

    >>> is_kernel("dense1/kernel/value", np.ones((2, 3))), is_kernel("norm/weight", np.ones(3))
    (True, False)
    """
    return np.ndim(leaf) >= 2 and path.removesuffix(_BOX).rpartition("/")[2] in WEIGHT_NAMES


def as_predicate(prunable: Prunable) -> Predicate:
    """Return the predicate that `prunable` stands for.

    A pattern is compared as file names are: `*` stands for any characters, `/` included. It must
    match the whole path, or the part of it that follows a `/`; a `/value` at the end may be left
    out. So `embedding` means every array of that name, and `decoder/*` all of a module.

    >>> chosen = as_predicate(["embedding", "attention/*/kernel"])
    >>> chosen("words/embedding/value", None), chosen("attention/query/bias", None)
    (True, False)
    """
    if callable(prunable):
        return prunable
    patterns = [prunable] if isinstance(prunable, str) else list(prunable)

    def matches(path: str, leaf: Any) -> bool:
        return any(
            fnmatch.fnmatchcase(f"/{each}", f"*/{pattern}")
            for pattern in patterns
            for each in (path, path.removesuffix(_BOX))
        )

    return matches


def is_array(leaf: Any) -> bool:
    """Return whether a leaf is an array of numbers or bools, or stands for one.

    Functions, strings, Python numbers, PRNG keys and the gradients of integers are not.
    """
    dtype = getattr(leaf, "dtype", None)
    return (
        dtype is not None
        and hasattr(leaf, "shape")
        and (jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.bool_))
    )


def is_none(leaf: Any) -> bool:
    """Return whether a leaf is None, as where a tree had a leaf before it was filtered."""
    return leaf is None


def map_arrays(
    function: Callable[..., Any],
    tree: PyTree,
    *others: PyTree,
    is_leaf: Callable[[Any], bool] = is_none,
) -> PyTree:
    """Return `tree` with `function` applied to its arrays, and all other leaves as they are.

    Args:
        function: from a leaf of `tree` and the same leaf of each of `others` to a new leaf.
        tree: any pytree.
        others: pytrees of the same structure; any leaf may be None in one and not in another.
        is_leaf: as in `jax.tree.map`.
    """

    def mapped(leaf: Any, *rest: Any) -> Any:
        return function(leaf, *rest) if is_array(leaf) else leaf

    return jax.tree.map(mapped, tree, *others, is_leaf=is_leaf)


def named_leaves(tree: PyTree, prunable: Prunable) -> list[tuple[str | None, Any]]:
    """Return every leaf in order, with its layer's name if it is prunable.

    Raises:
        ValueError: two prunable leaves have the same path.
    """
    chosen, flat = as_predicate(prunable), _with_paths(tree)
    paths = [path if is_array(leaf) and chosen(path, leaf) else None for path, leaf in flat]
    layers = [None if path is None else layer_of(path) for path in paths]
    uses = Counter(layers)
    # A layer with two prunable leaves has no name that fits both: their paths tell them apart.
    names = [path if uses[layer] > 1 else layer for path, layer in zip(paths, layers, strict=True)]
    repeated = [name for name, count in Counter(names).items() if name is not None and count > 1]
    if repeated:
        raise ValueError(f"several prunable leaves have the path {repeated[0]}; rename their keys")
    return [(name, leaf) for name, (_, leaf) in zip(names, flat, strict=True)]


def prunable_paths(tree: PyTree, prunable: Prunable = is_kernel) -> list[str]:
    """Return the whole paths of the prunable leaves, in order.

    >>> prunable_paths({"a": {"kernel": np.ones((2, 2)), "bias": np.ones(2)}})
    ['a/kernel']
    """
    chosen = as_predicate(prunable)
    return [path for path, leaf in _with_paths(tree) if is_array(leaf) and chosen(path, leaf)]


def layers_by_path(tree: PyTree, prunable: Prunable = is_kernel) -> dict[str, str]:
    """Return the name of the layer of each prunable leaf by the leaf's path, in order."""
    paths = prunable_paths(tree, prunable)
    names = [name for name, _ in named_leaves(tree, prunable) if name is not None]
    return dict(zip(paths, names, strict=True))


def nothing_prunable(tree: PyTree, prunable: Prunable) -> ValueError:
    """Return the error that says that no leaf is prunable, which leaves there are, what to do."""
    arrays = [f"{path} {tuple(leaf.shape)}" for path, leaf in _with_paths(tree) if is_array(leaf)]
    shown = ", ".join(arrays[:_SHOWN]) or "none"
    more = f" and {len(arrays) - _SHOWN} more" if len(arrays) > _SHOWN else ""
    rule = "by default, arrays of two or more dimensions named kernel, w or weight are"
    if prunable is not is_kernel:
        rule = f"none fits prunable={getattr(prunable, '__name__', prunable)!r}"
    return ValueError(
        f"no leaf is prunable: {rule}. The arrays: {shown}{more}. Choose some with prunable=: a "
        "name or a pattern such as '*/embedding', several of them, or a function of (path, leaf)"
    )


def size_in_bytes(tree: PyTree) -> int:
    """Return the bytes of a tree's arrays, or of those that its shapes stand for."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def path_name(path: Any) -> str:
    """Return the keys of a path of `jax.tree_util` joined by `/`."""
    return keystr(path, simple=True, separator="/")


def by_path(tree: PyTree) -> dict[str, Any]:
    """Return the leaves of a tree by path, such as `conv1/kernel`, in order."""
    return dict(_with_paths(tree))


def map_by_path(function: Callable[[str, Any], Any], tree: PyTree) -> PyTree:
    """Return a tree of `function(path, leaf)` for each leaf, with paths as in `by_path`."""
    return tree_map_with_path(lambda path, leaf: function(path_name(path), leaf), tree)


def _with_paths(tree: PyTree) -> list[tuple[str, Any]]:
    return [(path_name(path), leaf) for path, leaf in tree_flatten_with_path(tree)[0]]


def layer_of(path: str) -> str:
    """Return a path without the name of the array at its end, where that is a usual one.

    >>> layer_of("block1_1/conv1/kernel"), layer_of("query")
    ('block1_1/conv1', 'query')
    """
    path = path.removesuffix(_BOX)
    layer, _, name = path.rpartition("/")
    return layer if layer and name in WEIGHT_NAMES else path
