"""The output layer, the only part of a transferred ticket that may not fit its target."""

from __future__ import annotations

import jax
import numpy as np

from lottery_jax.errors import ConfigError
from lottery_jax.pruning import masks, scores
from lottery_jax.types import PyTree


def replaces_head(policy: str, source_classes: int, target_classes: int) -> bool:
    """Return whether the output layer is drawn anew.

    Args:
        policy: `auto` (if the number of classes differs), `reinit` (always, as Morcos et al.) or
            `keep`.
        source_classes: the number of outputs of the ticket.
        target_classes: the number of outputs that the target needs.

    Raises:
        ConfigError: the policy is `keep`, and the numbers differ.
    """
    if policy == "keep" and source_classes != target_classes:
        raise ConfigError(
            f"config.transfer.head: 'keep' needs the same classes; the ticket has {source_classes}, "
            f"the target {target_classes} (auto draws a new head)"
        )
    return policy == "reinit" or source_classes != target_classes


def with_new_head(params: PyTree, fresh: PyTree, *, layer: str) -> PyTree:
    """Return `params` with the output layer of `fresh`; `layer` is its path."""
    return _with_subtree(params, layer, subtree(fresh, layer))


def subtree(tree: PyTree, path: str) -> PyTree:
    """Return the part of nested dicts at a path.

    >>> subtree({"mlp": {"head": {"kernel": 1}}}, "mlp/head")
    {'kernel': 1}
    """
    for name in path.split("/"):
        tree = tree[name]
    return tree


def _with_subtree(tree: PyTree, path: str, value: PyTree) -> PyTree:
    first, _, rest = path.partition("/")
    return {**tree, first: _with_subtree(tree[first], rest, value) if rest else value}


def mask_for_new_head(
    mask: PyTree, head: PyTree, head_mask: str, key: jax.Array, *, layer: str
) -> PyTree:
    """Return a ticket's mask for a network with another output layer.

    Args:
        mask: the ticket's mask.
        head: the new output layer's parameters.
        head_mask: `dense` prunes nothing of the new layer. `density` makes it as dense as the old
            one: with the same mask if the shape is the same, else with that share of its weights,
            at random places.
        key: typed PRNG key for those places; with one key they nest from level to level.
        layer: the path of the output layer.
    """
    new = masks.ones_like(head)
    old = np.asarray(masks.kernels(mask)[layer])
    if head_mask != "dense":
        ranks = masks.kernels(scores.random({"head": head}, key))["head"]
        count = max(round(old.mean() * ranks.size), int(old.any()))  # else the network is dead
        drawn = masks.keep_largest(ranks.ravel(), count).reshape(ranks.shape)
        kernel = old if old.shape == drawn.shape else drawn
        new = masks.with_kernels({"head": new}, {"head": kernel})["head"]
    return _with_subtree(mask, layer, new)
