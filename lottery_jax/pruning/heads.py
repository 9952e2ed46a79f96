"""The output layer, the one thing of a transferred ticket that may not fit its target."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from lottery_jax.errors import ConfigError
from lottery_jax.pruning import masks, scores

PyTree = Any

# The output layer of every network of this package.
HEAD = "head"


def replaces_head(policy: str, source_classes: int, target_classes: int) -> bool:
    """Whether the output layer is drawn anew.

    Args:
        policy: `auto` (if the number of classes differs), `reinit` (always, as Morcos et al.) or
            `keep`.
        source_classes: outputs of the ticket.
        target_classes: outputs that the target needs.

    Raises:
        ConfigError: `keep`, and the numbers differ.
    """
    if policy == "keep" and source_classes != target_classes:
        raise ConfigError(
            f"config.transfer.head: 'keep' needs the same classes; the ticket has {source_classes}, "
            f"the target {target_classes} (auto draws a new head)"
        )
    return policy == "reinit" or source_classes != target_classes


def with_new_head(params: PyTree, fresh: PyTree) -> PyTree:
    """`params` with the output layer of `fresh`."""
    return {**params, HEAD: fresh[HEAD]}


def mask_for_new_head(mask: PyTree, head: PyTree, head_mask: str, key: jax.Array) -> PyTree:
    """A ticket's mask for a network with another output layer.

    Args:
        mask: of the ticket.
        head: the new output layer's parameters.
        head_mask: `dense`: nothing of the new layer is pruned. `density`: as dense as the old one
            was; the same mask where the shape is the same, else as many weights at random places.
        key: for those places; with the same key they nest from level to level.
    """
    whole = masks.ones_like(head)
    old = np.asarray(mask[HEAD]["kernel"])
    if head_mask == "dense":
        new = whole["kernel"]
    elif old.shape == whole["kernel"].shape:
        new = old
    else:
        places = scores.random({HEAD: head}, key)[HEAD]["kernel"]
        count = round(old.mean() * places.size)
        new = masks.keep_largest(places.ravel(), count).reshape(places.shape)
    return {**mask, HEAD: {**whole, "kernel": new}}
