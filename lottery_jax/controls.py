"""Controls: what to compare a winning ticket with.

A control turns a winning ticket into one of the same density, weight for weight. If the winner is
better, what the control took away mattered: the weights, or the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import jax

from lottery_jax import masks

PyTree = Any
# A function from a key to freshly initialised variables of the ticket's network.
Init = Callable[[jax.Array], PyTree]
# (mask, key, init, layers never pruned) -> (mask, variables)
Control = Callable[[PyTree, jax.Array, Init, Collection[str]], tuple[PyTree, PyTree]]


def reinit(
    mask: PyTree, key: jax.Array, init: Init, skip: Collection[str] = ()
) -> tuple[PyTree, PyTree]:
    """The winning mask on newly drawn weights (Frankle & Carbin 2019)."""
    return mask, init(key)


def random(
    mask: PyTree, key: jax.Array, init: Init, skip: Collection[str] = ()
) -> tuple[PyTree, PyTree]:
    """Newly drawn weights and the mask permuted over all layers (Morcos et al. 2019).

    The weights are drawn afresh everywhere, so none of those at the mask's new places is a zero
    left over from the old mask.
    """
    weights_key, mask_key = jax.random.split(key)
    return masks.permute(mask, mask_key, scope="global", skip=skip), init(weights_key)


CONTROLS: dict[str, Control] = {"reinit": reinit, "random": random}
