"""Masks: which weights of a network take part.

A mask is a pytree of bool arrays with the full structure of the parameters. It is True where a
weight is kept, and everywhere in the leaves that are never pruned (biases, BatchNorm scales and
biases). *Prunable* are the kernels of convolutions and dense layers; counts and densities count
prunable weights only.

Masks are drawn on the host: the number of weights to keep is a Python int, ties are broken by
index, and the same scores give the same mask on every backend. The index order is that of the
layers' names, then of the weights within a kernel in C order.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

PyTree = Any
Array = np.ndarray[Any, np.dtype[Any]]

SCOPES = ("global", "layer")
_KERNEL = "/kernel"


def _paths(tree: PyTree) -> list[str]:
    return [keystr(path, simple=True, separator="/") for path, _ in tree_flatten_with_path(tree)[0]]


def kernels(tree: PyTree, skip: Collection[str] = ()) -> dict[str, Any]:
    """The prunable leaves of a parameter-shaped tree, by layer name, in name order.

    Args:
        tree: params, a mask or scores; a kernel is a leaf named `kernel`.
        skip: names of layers that are not to be pruned, such as `head`.

    Raises:
        ValueError: `skip` names a layer that has no kernel.

    >>> list(kernels({"head": {"kernel": 1, "bias": 2}, "conv1": {"kernel": 3}}, skip=["head"]))
    ['conv1']
    """
    leaves = dict(zip(_paths(tree), jax.tree.leaves(tree), strict=True))
    found = {path[: -len(_KERNEL)]: x for path, x in leaves.items() if path.endswith(_KERNEL)}
    if missing := set(skip) - set(found):
        raise ValueError(f"no prunable layer named {', '.join(sorted(missing))}")
    return {name: leaf for name, leaf in found.items() if name not in skip}


def with_kernels(tree: PyTree, new: Mapping[str, Any]) -> PyTree:
    """A parameter-shaped tree with the kernels of the layers named in `new` replaced.

    >>> with_kernels({"a": {"kernel": 1, "bias": 2}}, {"a": 7})
    {'a': {'bias': 2, 'kernel': 7}}
    """
    leaves, treedef = jax.tree.flatten(tree)
    replaced = [
        new.get(path.removesuffix(_KERNEL), leaf) if path.endswith(_KERNEL) else leaf
        for path, leaf in zip(_paths(tree), leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, replaced)


def ones_like(params: PyTree) -> PyTree:
    """The mask that keeps everything: bool ones of each leaf's shape."""
    return jax.tree.map(lambda p: np.ones(p.shape, bool), params)


@functools.partial(jax.jit, inline=True)  # one program, not one for each shape
def apply(mask: PyTree, params: PyTree) -> PyTree:
    """`params` with exactly +0.0 where `mask` is False.

    A product would give -0.0 for negative weights, and NaN for a pruned infinity.
    """
    return jax.tree.map(lambda m, p: jnp.where(m, p, jnp.zeros((), p.dtype)), mask, params)


def kept_count(alive: int, fraction: float) -> int:
    """How many of `alive` weights stay when `fraction` of them is pruned.

    >>> kept_count(20_024_000, 0.2)
    16019200
    """
    return round(alive * (1.0 - fraction))


def keep_largest(scores: Array, count: int) -> Array:
    """Which `count` entries of a flat array are the largest; among equals the earlier stay.

    Args:
        scores: `[n]`, any real dtype, no NaN.
        count: how many to keep, 0 to n.

    Returns:
        bool `[n]` with exactly `count` True.

    Raises:
        ValueError: `scores` has NaN, or `count` is out of range.

    >>> keep_largest(np.array([1.0, 3.0, 1.0, 1.0]), 3)
    array([ True,  True,  True, False])
    """
    return _keep_largest([scores], [np.ones(scores.size, bool)], count)[0]


def _keep_largest(scores: list[Array], alive: list[Array], count: int) -> list[Array]:
    """`keep_largest` of those alive in several flat arrays, as if these were one.

    They are looked at one after the other and never put together: a layer fits into the caches.
    """
    n = sum(int(np.count_nonzero(a)) for a in alive)
    if not 0 <= count <= n:
        raise ValueError(f"can't keep {count} of {n} weights")
    pairs = list(zip(scores, alive, strict=True))
    if any((np.isnan(s) & a).any() for s, a in pairs):
        raise ValueError("scores contain NaN")
    if count in (0, n):
        return [a & (count == n) for a in alive]
    threshold = _nth_largest(pairs, count, n)
    kept = [(s > threshold) & a for s, a in pairs]
    ties = count - sum(int(np.count_nonzero(k)) for k in kept)
    for keep, (s, a) in zip(kept, pairs, strict=True):
        tied = np.flatnonzero((s == threshold) & a)[:ties]
        keep[tied] = True
        ties -= tied.size
    return kept


# A sample of this size leaves few values that it can't tell from the threshold.
_SAMPLE = 2**16


def _nth_largest(pairs: list[tuple[Array, Array]], n: int, count: int) -> Any:
    """The n-th largest of the `count` scores that are alive; the idea of Floyd & Rivest (1975).

    Two values of a sample are almost surely above and below it, and only what lies between them is
    sorted: all else is compared with the two. If it is not between them after all, or there is
    little to save, all that are alive are sorted.
    """
    step = max(1, sum(s.size for s, _ in pairs) // _SAMPLE)
    sample = np.sort(np.concatenate([s[::step][a[::step]] for s, a in pairs]))
    if step > 4 and sample.size:
        place, share = sample.size * (1 - n / count), n / count
        # Four standard deviations of a binomial count, and some for the ends.
        margin = 4 * (sample.size * share * (1 - share)) ** 0.5 + 2
        low = sample[max(0, int(place - margin))]
        high = sample[min(sample.size - 1, int(place + margin))]
        above = sum(int(np.count_nonzero((s > high) & a)) for s, a in pairs)
        near = np.concatenate([s[(s >= low) & (s <= high) & a] for s, a in pairs])
        if above < n <= above + near.size:
            return np.partition(near, near.size - n + above)[near.size - n + above]
    return np.partition(np.concatenate([s[a] for s, a in pairs]), count - n)[count - n]


def ranking_groups(
    mask: PyTree, scope: str, skip: Collection[str] = ()
) -> dict[tuple[str, ...], int]:
    """Which layers are ranked together, and how many prunable weights each group has left.

    One group of all layers for `global` (Morcos et al. 2019), one for each layer for `layer`
    (Frankle & Carbin 2019). Layers named in `skip` are in no group.

    Raises:
        ValueError: an unknown scope or layer.

    >>> ranking_groups({"a": {"kernel": np.ones(3, bool)}, "b": {"kernel": np.ones(2, bool)}}, "global")
    {('a', 'b'): 5}
    """
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {SCOPES}, not {scope!r}")
    alive = {name: int(np.count_nonzero(m)) for name, m in kernels(mask, skip).items()}
    if scope == "global":
        return {tuple(alive): sum(alive.values())}
    return {(name,): count for name, count in alive.items()}


def prune_to(scores: PyTree, mask: PyTree, keep: Mapping[tuple[str, ...], int]) -> PyTree:
    """Keeps, of each group of layers, the given number of surviving weights: the best by score.

    Survivors alone are ranked, so the result is a subset of `mask`.

    Args:
        scores: pytree like `mask`; larger is more important. Only kernels are read.
        mask: the present mask.
        keep: for each group of layer names, how many weights remain; other layers stay as they
            are.

    Returns:
        A new mask, NumPy bool arrays.

    Raises:
        ValueError: no weight would remain, a count is out of range, or scores have NaN.
    """
    alive = {name: np.asarray(m) for name, m in kernels(mask).items()}
    ranked = kernels(scores)
    new: dict[str, Array] = {}
    for group, count in keep.items():
        layers = [alive[name].ravel() for name in group]
        scored = [np.ravel(ranked[name]) for name in group]
        if sum(np.count_nonzero(a) for a in layers) * 8 > sum(a.size for a in layers):
            kept = _keep_largest(scored, layers, count)
        else:  # few are left: only these are looked at
            places = [np.flatnonzero(a) for a in layers]
            few = [s[at] for s, at in zip(scored, places, strict=True)]
            chosen = _keep_largest(few, [np.ones(s.size, bool) for s in few], count)
            kept = [np.zeros_like(a) for a in layers]
            for layer, at, choice in zip(kept, places, chosen, strict=True):
                layer[at[choice]] = True
        for name, layer in zip(group, kept, strict=True):
            new[name] = layer.reshape(alive[name].shape)
    if not any(layer.any() for layer in new.values()):
        raise ValueError("this would leave no weight at all")
    return with_kernels(mask, new)


def prune(
    scores: PyTree,
    mask: PyTree,
    fraction: float,
    *,
    scope: str = "global",
    skip: Collection[str] = (),
) -> PyTree:
    """Prunes the `fraction` of the surviving weights whose scores are lowest.

    Exactly `kept_count(alive, fraction)` weights remain: over all layers together (`global`), or
    in each layer by itself (`layer`).

    Args:
        scores: pytree like `mask`; larger is more important. Only kernels are read.
        mask: the present mask.
        fraction: in [0, 1), of the weights that are still there, not of all.
        scope: `global` or `layer`.
        skip: names of layers that are left as they are.

    Returns:
        A new mask, NumPy bool arrays.

    Raises:
        ValueError: no weight would remain, scores have NaN, or an argument is out of range.
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"fraction must be in [0, 1), not {fraction}")
    alive = ranking_groups(mask, scope, skip)
    return prune_to(scores, mask, {group: kept_count(n, fraction) for group, n in alive.items()})


def permute(
    mask: PyTree, key: jax.Array, *, scope: str = "global", skip: Collection[str] = ()
) -> PyTree:
    """A mask with as many weights at random places: over all layers, or within each layer.

    Layers named in `skip` stay as they are. `key` is a typed PRNG key.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {SCOPES}, not {scope!r}")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    layers = {name: np.asarray(m) for name, m in kernels(mask, skip).items()}
    if scope == "layer":
        new = {name: rng.permutation(m.ravel()).reshape(m.shape) for name, m in layers.items()}
        return with_kernels(mask, new)
    flat = rng.permutation(np.concatenate([m.ravel() for m in layers.values()]))
    ends = np.cumsum([m.size for m in layers.values()])[:-1]
    parts = zip(layers.items(), np.split(flat, ends), strict=True)
    return with_kernels(mask, {name: part.reshape(m.shape) for (name, m), part in parts})


def layer_counts(mask: PyTree) -> dict[str, tuple[int, int]]:
    """For each layer's kernel, by name: (weights remaining, weights in all)."""
    return {
        name: (int(np.count_nonzero(m)), int(np.size(m)))
        for name, m in ((name, np.asarray(m)) for name, m in kernels(mask).items())
    }


def counts(mask: PyTree) -> tuple[int, int]:
    """(prunable weights remaining, prunable weights in all)."""
    per_layer = layer_counts(mask).values()
    return sum(kept for kept, _ in per_layer), sum(total for _, total in per_layer)


def density(mask: PyTree) -> float:
    """The share of the prunable weights that remain; 1 - sparsity."""
    kept, total = counts(mask)
    return kept / total


def collapsed_layers(mask: PyTree) -> list[str]:
    """Layers with no weight left; the network's output no longer depends on its input there."""
    return [name for name, (kept, _) in layer_counts(mask).items() if kept == 0]
