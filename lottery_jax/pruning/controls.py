"""Controls: what to compare a winning ticket with.

A control turns a winning ticket into one of the same density, weight for weight. If the winner is
better, what the control took away mattered: the weights, or the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import numpy as np

from lottery_jax.pruning import masks

PyTree = Any


class UntrainedTicket(NamedTuple):
    """A ticket that is not yet trained.

    Attributes:
        mask: bool.
        variables: `params` and `batch_stats` to start from, at pruned places too: training masks
            them, and a control may put its mask elsewhere.
        step: of the schedule and of the order of batches, to start at.
    """

    mask: PyTree
    variables: PyTree
    step: int


class ControlInputs(NamedTuple):
    """What a control can put in place of a ticket's own weights, and where it must not.

    Attributes:
        init: from a typed PRNG key to freshly drawn variables of the network.
        initial: the variables of step 0 from which the winning ticket came.
        skip: names of layers that are never pruned.
    """

    init: Callable[[jax.Array], PyTree]
    initial: PyTree
    skip: Collection[str] = ()


Control = Callable[[UntrainedTicket, jax.Array, ControlInputs], UntrainedTicket]


def reinit(start: UntrainedTicket, key: jax.Array, others: ControlInputs) -> UntrainedTicket:
    """The winning mask on newly drawn weights (Frankle & Carbin 2019)."""
    return UntrainedTicket(start.mask, others.init(key), 0)


def shuffle_layers(
    start: UntrainedTicket, key: jax.Array, others: ControlInputs
) -> UntrainedTicket:
    """The winner's weights, its mask permuted within each layer (Morcos et al. 2019, appendix)."""
    return start._replace(mask=masks.permute(start.mask, key, scope="layer", skip=others.skip))


def shuffle_global(
    start: UntrainedTicket, key: jax.Array, others: ControlInputs
) -> UntrainedTicket:
    """The winner's weights, its mask permuted over all layers."""
    return start._replace(mask=masks.permute(start.mask, key, scope="global", skip=others.skip))


def random(start: UntrainedTicket, key: jax.Array, others: ControlInputs) -> UntrainedTicket:
    """The random ticket of Morcos et al. (2019): new weights and a mask permuted over all layers.

    The weights are drawn afresh everywhere, so none of those at the mask's new places is a zero
    left over from the old mask.
    """
    weights_key, mask_key = jax.random.split(key)
    return reinit(shuffle_global(start, mask_key, others), weights_key, others)


def random_preserved(
    start: UntrainedTicket, key: jax.Array, others: ControlInputs
) -> UntrainedTicket:
    """New weights and a mask permuted within each layer: the layers' densities are preserved."""
    weights_key, mask_key = jax.random.split(key)
    return reinit(shuffle_layers(start, mask_key, others), weights_key, others)


def init(start: UntrainedTicket, key: jax.Array, others: ControlInputs) -> UntrainedTicket:
    """The winning mask on the weights of step 0 instead of those of the rewind point."""
    return UntrainedTicket(start.mask, others.initial, 0)


def dense_sign(start: UntrainedTicket, key: jax.Array, others: ControlInputs) -> UntrainedTicket:
    """The winning mask on the signs of its weights, one magnitude a layer (Zhou et al. 2019).

    The magnitude is the standard deviation of the layer's kernel at the rewind point, pruned
    places included. Biases and BatchNorm are the winner's.
    """

    def constant(kernel: Any) -> Any:
        kernel = np.asarray(kernel)
        return np.where(np.signbit(kernel), -kernel.std(), kernel.std())

    params = start.variables["params"]
    signs = {name: constant(kernel) for name, kernel in masks.kernels(params).items()}
    variables = {**start.variables, "params": masks.with_kernels(params, signs)}
    return start._replace(variables=variables)


# Controls that train the winner's weights, or their signs, from the rewind point on.
FROM_REWIND_POINT = {"shuffle_layers", "shuffle_global", "dense_sign"}
CONTROLS: dict[str, Control] = {
    "reinit": reinit,
    "shuffle_layers": shuffle_layers,
    "shuffle_global": shuffle_global,
    "random": random,
    "random_preserved": random_preserved,
    "init": init,
    "dense_sign": dense_sign,
}
