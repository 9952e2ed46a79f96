"""Masks: which weights of a network take part.

A mask is a pytree of bool arrays with the full structure of the parameters. It is True where a
weight is kept, and everywhere in the arrays that are never pruned (biases, BatchNorm scales and
biases). Leaves that are no arrays of numbers, such as the functions in an Equinox module, are in
the mask as they are. By default the *prunable* leaves are the weights of convolutions and dense
layers (`is_kernel`). Functions that must tell them apart take another rule as `prunable`: a
predicate of (path, leaf), or name patterns such as `"embedding"` or `["*/kernel", "*/embedding"]`.
Counts and densities count prunable weights only.

Masks are drawn on the host: the number of weights to keep is a Python int, ties are broken by
index, and the same scores give the same mask on every backend. The earlier of equal weights stays:
in the order of `jax.tree.flatten`, and within an array in C order.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lottery_jax import leaves
from lottery_jax.leaves import Prunable as Prunable
from lottery_jax.leaves import is_kernel as is_kernel
from lottery_jax.types import PyTree

Array = np.ndarray[Any, np.dtype[Any]]

SCOPES = ("global", "layer")


def kernels(
    tree: PyTree, skip: Collection[str] = (), *, prunable: Prunable = is_kernel
) -> dict[str, Any]:
    """Return the prunable leaves of a tree that is shaped like the params, by layer name, in order.

    Args:
        tree: params, a mask or scores.
        skip: names of layers to leave out, such as `head`.
        prunable: which leaves are prunable. The name of a layer is the path of its leaf, without
            `/kernel`, `/w`, `/weight` or `/value` at the end; leaves whose names would be equal
            (`a/kernel` and `a/w`) keep their whole paths.

    Raises:
        ValueError: `skip` names a layer without a prunable leaf.
        TypeError: `skip` is one text.

    >>> weights = np.ones((2, 2))
    >>> params = {"head": {"kernel": weights, "bias": weights[0]}, "conv1": {"kernel": weights}}
    >>> list(kernels(params, skip=["head"])), list(kernels(params, prunable="head/*"))
    (['conv1'], ['head/bias', 'head'])
    """
    found = {name: leaf for name, leaf in leaves.named_leaves(tree, prunable) if name is not None}
    _check_names(skip, found)
    return {name: leaf for name, leaf in found.items() if name not in skip}


def _check_names(names: Iterable[str], found: Iterable[str | None]) -> None:
    if isinstance(names, str):
        raise TypeError(f"names of layers are a list, such as [{names!r}], not one text")
    if missing := set(names) - set(found):
        raise ValueError(f"no prunable layer named {', '.join(sorted(missing))}")


def with_kernels(tree: PyTree, new: Mapping[str, Any], *, prunable: Prunable = is_kernel) -> PyTree:
    """Return `tree` with the prunable leaves of the layers named in `new` replaced.

    Raises:
        ValueError: `new` names a layer without a prunable leaf.

    >>> with_kernels({"a": {"kernel": np.ones((2, 2)), "bias": 2}}, {"a": 7})
    {'a': {'bias': 2, 'kernel': 7}}
    """
    named = leaves.named_leaves(tree, prunable)
    _check_names(new, (name for name, _ in named))
    replaced = [leaf if name is None else new.get(name, leaf) for name, leaf in named]
    return jax.tree.unflatten(jax.tree.structure(tree), replaced)


def ones_like(params: PyTree) -> PyTree:
    """Return the mask that keeps everything: bool ones of each array's shape, other leaves as is."""
    return leaves.map_arrays(lambda p: np.ones(p.shape, bool), params)


dense = ones_like  # its name before 0.2


def apply(mask: PyTree, params: PyTree) -> PyTree:
    """Return `params` with exactly +0.0 where `mask` is False; leaves that are no arrays stay.

    A product would give -0.0 for negative weights, and NaN for a pruned infinity.

    Raises:
        ValueError: the mask of an array does not fit its shape.

    >>> apply({"w": np.array([True, False]), "act": max}, {"w": np.array([3.0, -2.0]), "act": max})
    {'act': <built-in function max>, 'w': Array([3., 0.], dtype=float32)}
    """
    structure: Any
    flat, structure = jax.tree.flatten(params, is_leaf=leaves.is_none)
    kept = structure.flatten_up_to(mask)
    places = [i for i, leaf in enumerate(flat) if leaves.is_array(leaf) and kept[i] is not None]
    for i in places:
        _check_shape(np.shape(kept[i]), np.shape(flat[i]))
    masked = _apply([kept[i] for i in places], [flat[i] for i in places])
    for i, leaf in zip(places, masked, strict=True):
        flat[i] = leaf
    return jax.tree.unflatten(structure, flat)


def _check_shape(mask: tuple[int, ...], array: tuple[int, ...]) -> None:
    if len(mask) > len(array) or any(
        m not in (1, a) for m, a in zip(mask[::-1], array[::-1], strict=False)
    ):
        raise ValueError(f"a mask of shape {mask} does not fit an array of shape {array}")


# Inlined when traced; by itself one program for the whole tree, not one for each shape.
@functools.partial(jax.jit, inline=True)
def _apply(mask: list[Any], arrays: list[Any]) -> list[jax.Array]:
    return [jnp.where(m, p, jnp.zeros((), p.dtype)) for m, p in zip(mask, arrays, strict=True)]


def kept_count(alive: int, fraction: float) -> int:
    """Return how many of `alive` weights stay when `fraction` of them is pruned.

    >>> kept_count(20_024_000, 0.2)
    16019200
    """
    return round(alive * (1.0 - fraction))


def keep_largest(scores: Array, count: int) -> Array:
    """Return which `count` entries of a flat array are the largest; among equals the earlier stay.

    Args:
        scores: `[n]`, any real dtype, no NaN.
        count: number of entries to keep, 0 to n.

    Returns:
        bool `[n]` with exactly `count` True.

    Raises:
        ValueError: `scores` has NaN, or `count` is out of range.

    >>> keep_largest(np.array([1.0, 3.0, 1.0, 1.0]), 3)
    array([ True,  True,  True, False])
    """
    return _keep_largest([scores], [np.ones(scores.size, bool)], count)[0]


def _keep_largest(scores: list[Array], alive: list[Array], count: int) -> list[Array]:
    """Return `keep_largest` among the entries alive in several flat arrays, as if these were one.

    The arrays are read one after the other and never joined, since one layer fits into the caches.
    """
    alive_count = sum(int(np.count_nonzero(a)) for a in alive)
    if not 0 <= count <= alive_count:
        raise ValueError(f"can't keep {count} of {alive_count} weights")
    pairs = list(zip(scores, alive, strict=True))
    if any((np.isnan(s) & a).any() for s, a in pairs):
        raise ValueError("scores contain NaN")
    if count in (0, alive_count):
        return [a & (count == alive_count) for a in alive]
    threshold = _nth_largest(pairs, count, alive_count)
    kept = [(s > threshold) & a for s, a in pairs]
    ties = count - sum(int(np.count_nonzero(k)) for k in kept)
    for layer, (s, a) in zip(kept, pairs, strict=True):
        tied = np.flatnonzero((s == threshold) & a)[:ties]
        layer[tied] = True
        ties -= tied.size
    return kept


# A sample of this size leaves few values that may be on either side of the threshold.
_SAMPLE = 2**16


def _nth_largest(pairs: list[tuple[Array, Array]], rank: int, alive: int) -> Any:
    """Return the score of a rank among the `alive` scores that are alive; rank 1 is the largest.

    Two values of a sample are chosen that almost surely enclose it. All scores are compared with
    these two, and only the scores between them are sorted. If the score is not between them, or if
    there are few scores, all scores that are alive are sorted (after Floyd & Rivest, 1975).
    """
    step = max(1, sum(s.size for s, _ in pairs) // _SAMPLE)
    sample = np.sort(np.concatenate([s[::step][a[::step]] for s, a in pairs]))
    if step > 4 and sample.size:
        place, share = sample.size * (1 - rank / alive), rank / alive
        # Four standard deviations of a binomial count, and two more for the ends of the sample.
        margin = 4 * (sample.size * share * (1 - share)) ** 0.5 + 2
        low = sample[max(0, int(place - margin))]
        high = sample[min(sample.size - 1, int(place + margin))]
        above = sum(int(np.count_nonzero((s > high) & a)) for s, a in pairs)
        near = np.concatenate([s[(s >= low) & (s <= high) & a] for s, a in pairs])
        if above < rank <= above + near.size:
            return np.partition(near, near.size - rank + above)[near.size - rank + above]
    return np.partition(np.concatenate([s[a] for s, a in pairs]), alive - rank)[alive - rank]


def _some_kernels(tree: PyTree, skip: Collection[str], prunable: Prunable) -> dict[str, Any]:
    """Return `kernels`, or raise the error that helps if no leaf is prunable at all."""
    found = kernels(tree, skip, prunable=prunable)
    if not found and not kernels(tree, prunable=prunable):
        raise leaves.nothing_prunable(tree, prunable)
    return found


def ranking_groups(
    mask: PyTree, scope: str, skip: Collection[str] = (), *, prunable: Prunable = is_kernel
) -> dict[tuple[str, ...], int]:
    """Return which layers are ranked together, and how many prunable weights each group has left.

    There is one group of all layers for `global` (Morcos et al. 2019), and one for each layer for
    `layer` (Frankle & Carbin 2019). Layers named in `skip` are in no group.

    Raises:
        ValueError: the scope or a layer is unknown, or no leaf is prunable.

    >>> mask = ones_like({"a": {"kernel": np.zeros((1, 3))}, "b": {"kernel": np.zeros((2, 1))}})
    >>> ranking_groups(mask, "global")
    {('a', 'b'): 5}
    """
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {SCOPES}, not {scope!r}")
    layers = _some_kernels(mask, skip, prunable)
    alive = {name: int(np.count_nonzero(m)) for name, m in layers.items()}
    if scope == "global":
        return {tuple(alive): sum(alive.values())}
    return {(name,): count for name, count in alive.items()}


def prune_to(
    scores: PyTree,
    mask: PyTree,
    kept_counts: Mapping[tuple[str, ...], int],
    *,
    prunable: Prunable = is_kernel,
) -> PyTree:
    """Keep the given number of surviving weights of each group of layers: the best by score.

    Only survivors are ranked, so the result is a subset of `mask`.

    Args:
        scores: pytree like `mask`; larger is more important. Only prunable leaves are read.
        mask: the present mask.
        kept_counts: for each group of layer names, how many weights remain; layers in no group
            stay as they are.
        prunable: as in `kernels`.

    Returns:
        A new mask, NumPy bool arrays.

    Raises:
        ValueError: no weight would remain, a count is out of range, or scores have NaN.
    """
    alive = {name: np.asarray(m, bool) for name, m in kernels(mask, prunable=prunable).items()}
    ranked = kernels(scores, prunable=prunable)
    new: dict[str, Array] = {}
    for group, count in kept_counts.items():
        layers = [alive[name].ravel() for name in group]
        scored = [np.ravel(ranked[name]) for name in group]
        if sum(np.count_nonzero(a) for a in layers) * 8 > sum(a.size for a in layers):
            kept = _keep_largest(scored, layers, count)
        else:  # few weights are left, and it is faster to read no others
            places = [np.flatnonzero(a) for a in layers]
            few = [s[at] for s, at in zip(scored, places, strict=True)]
            chosen = _keep_largest(few, [np.ones(s.size, bool) for s in few], count)
            kept = [np.zeros_like(a) for a in layers]
            for layer, at, choice in zip(kept, places, chosen, strict=True):
                layer[at[choice]] = True
        for name, layer in zip(group, kept, strict=True):
            new[name] = layer.reshape(alive[name].shape)
    if new and not any(layer.any() for layer in new.values()):
        raise ValueError("this would leave no weight at all")
    return with_kernels(mask, alive | new, prunable=prunable)


def prune(
    scores: PyTree,
    mask: PyTree,
    fraction: float,
    *,
    scope: str = "global",
    skip: Collection[str] = (),
    prunable: Prunable = is_kernel,
) -> PyTree:
    """Prune the `fraction` of the surviving weights whose scores are lowest.

    Exactly `kept_count(alive, fraction)` weights remain: over all layers together (`global`), or
    in each layer by itself (`layer`).

    Args:
        scores: pytree like `mask`; larger is more important. Only prunable leaves are read.
        mask: the present mask.
        fraction: in [0, 1), of the weights that are still there, not of all.
        scope: `global` or `layer`.
        skip: names of layers that are left as they are.
        prunable: as in `kernels`.

    Returns:
        A new mask, NumPy bool arrays.

    Raises:
        ValueError: no leaf is prunable, no weight would remain, scores have NaN, or an argument is
            out of range.
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"fraction must be in [0, 1), not {fraction}")
    alive = ranking_groups(mask, scope, skip, prunable=prunable)
    kept_counts = {group: kept_count(n, fraction) for group, n in alive.items()}
    return prune_to(scores, mask, kept_counts, prunable=prunable)


def permute(
    mask: PyTree,
    key: jax.Array,
    *,
    scope: str = "global",
    skip: Collection[str] = (),
    prunable: Prunable = is_kernel,
) -> PyTree:
    """Return a mask with as many weights at random places: over all layers, or within each layer.

    Layers named in `skip` stay as they are. `key` is a typed PRNG key.

    Raises:
        ValueError: the scope or a layer is unknown, or no leaf is prunable.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {SCOPES}, not {scope!r}")
    rng = host_rng(key)
    layers = {name: np.asarray(m, bool) for name, m in _some_kernels(mask, skip, prunable).items()}
    if scope == "layer" or not layers:
        new = {name: rng.permutation(m.ravel()).reshape(m.shape) for name, m in layers.items()}
    else:
        flat = rng.permutation(np.concatenate([m.ravel() for m in layers.values()]))
        ends = np.cumsum([m.size for m in layers.values()])[:-1]
        parts = zip(layers.items(), np.split(flat, ends), strict=True)
        new = {name: part.reshape(m.shape) for (name, m), part in parts}
    return with_kernels(mask, new, prunable=prunable)


def host_rng(key: jax.Array) -> np.random.Generator:
    """Return NumPy's generator for a typed PRNG key, for draws on the host."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def layer_counts(mask: PyTree, *, prunable: Prunable = is_kernel) -> dict[str, tuple[int, int]]:
    """Return (weights remaining, weights in all) of each layer, by name."""
    layers = kernels(mask, prunable=prunable)
    return {name: (int(np.count_nonzero(m)), int(np.size(m))) for name, m in layers.items()}


def counts(mask: PyTree, *, prunable: Prunable = is_kernel) -> tuple[int, int]:
    """Return (prunable weights remaining, prunable weights in all)."""
    per_layer = layer_counts(mask, prunable=prunable).values()
    return sum(kept for kept, _ in per_layer), sum(total for _, total in per_layer)


def density(mask: PyTree, *, prunable: Prunable = is_kernel) -> float:
    """Return the share of the prunable weights that remain; 1 - sparsity.

    Raises:
        ValueError: no leaf is prunable, or those that are have no weights.
    """
    kept, total = counts(mask, prunable=prunable)
    if not total:
        raise leaves.nothing_prunable(mask, prunable)
    return kept / total


def collapsed_layers(mask: PyTree, *, prunable: Prunable = is_kernel) -> list[str]:
    """Return the layers with no weight left: no signal passes through them."""
    per_layer = layer_counts(mask, prunable=prunable)
    return [name for name, (kept, _) in per_layer.items() if kept == 0]
