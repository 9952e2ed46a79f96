"""Controls: tickets to compare a winning ticket with.

A control turns a winning ticket into one with exactly as many weights. If the winning ticket is
better, then what the control replaced mattered: the weights, or the mask.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import numpy as np

from lottery_jax.pruning import masks
from lottery_jax.types import PyTree


class UntrainedTicket(NamedTuple):
    """A ticket that is not yet trained.

    Attributes:
        mask: bool, like params.
        variables: `params` and `batch_stats` to start from. They are dense: training masks them,
            and a control may keep other weights.
        step: the step to start at, in the schedule and in the order of batches.
    """

    mask: PyTree
    variables: PyTree
    step: int


class OtherInitialisation(NamedTuple):
    """Another network of the seed, with other initial weights, for controls that put masks on it.

    Attributes:
        variables: its variables at the rewind point.
        align: from a mask of the winning ticket's network to the same mask with its units permuted
            to match this network's.
    """

    variables: PyTree
    align: Callable[[PyTree], PyTree]


class ControlInputs(NamedTuple):
    """Everything besides the winning ticket that a control may use.

    Attributes:
        init: from a typed PRNG key to freshly drawn variables of the network.
        initial: the variables of step 0 from which the winning ticket came.
        skip: names of layers that are never pruned.
        prunable: as in `masks.kernels`.
        other: another initialisation, for `aligned` and `unaligned`; None for other controls.
    """

    init: Callable[[jax.Array], PyTree]
    initial: PyTree
    skip: Collection[str] = ()
    prunable: masks.Prunable = masks.is_kernel
    other: OtherInitialisation | None = None

    def permute(self, mask: PyTree, key: jax.Array, scope: str) -> PyTree:
        """Return `masks.permute` of the layers that may be pruned."""
        return masks.permute(mask, key, scope=scope, skip=self.skip, prunable=self.prunable)


Control = Callable[[UntrainedTicket, jax.Array, ControlInputs], UntrainedTicket]


def reinit(start: UntrainedTicket, key: jax.Array, inputs: ControlInputs) -> UntrainedTicket:
    """Return the winning mask on newly drawn weights (Frankle & Carbin 2019)."""
    return UntrainedTicket(start.mask, inputs.init(key), 0)


def shuffle_layers(
    start: UntrainedTicket, key: jax.Array, inputs: ControlInputs
) -> UntrainedTicket:
    """Return the winner with its mask permuted within each layer (Morcos et al. 2019, appendix)."""
    return start._replace(mask=inputs.permute(start.mask, key, "layer"))


def shuffle_global(
    start: UntrainedTicket, key: jax.Array, inputs: ControlInputs
) -> UntrainedTicket:
    """Return the winner with its mask permuted over all layers."""
    return start._replace(mask=inputs.permute(start.mask, key, "global"))


def random(start: UntrainedTicket, key: jax.Array, inputs: ControlInputs) -> UntrainedTicket:
    """Return the random ticket of Morcos et al. (2019): new weights, a mask permuted over all layers.

    All weights are drawn anew, so that none at the mask's new places is a zero from the old mask.
    """
    weights_key, mask_key = jax.random.split(key)
    return reinit(shuffle_global(start, mask_key, inputs), weights_key, inputs)


def random_preserved(
    start: UntrainedTicket, key: jax.Array, inputs: ControlInputs
) -> UntrainedTicket:
    """Return new weights under a mask permuted within each layer, which keeps layers' densities."""
    weights_key, mask_key = jax.random.split(key)
    return reinit(shuffle_layers(start, mask_key, inputs), weights_key, inputs)


def init(start: UntrainedTicket, key: jax.Array, inputs: ControlInputs) -> UntrainedTicket:
    """Return the winning mask on the weights of step 0 instead of those of the rewind point."""
    return UntrainedTicket(start.mask, inputs.initial, 0)


def dense_sign(start: UntrainedTicket, key: jax.Array, inputs: ControlInputs) -> UntrainedTicket:
    """Return the winner with one magnitude a layer for its weights, signs kept (Zhou et al. 2019).

    The magnitude is the standard deviation of the layer's kernel at the rewind point, pruned
    places included. Biases and BatchNorm are the winner's.
    """

    def constant(kernel: Any) -> Any:
        kernel = np.asarray(kernel)
        return np.where(np.signbit(kernel), -kernel.std(), kernel.std())

    params = start.variables["params"]
    kernels = masks.kernels(params, prunable=inputs.prunable)
    signs = {name: constant(kernel) for name, kernel in kernels.items()}
    params = masks.with_kernels(params, signs, prunable=inputs.prunable)
    return start._replace(variables={**start.variables, "params": params})


def unaligned(start: UntrainedTicket, key: jax.Array, inputs: ControlInputs) -> UntrainedTicket:
    """Return the winning mask on another initialisation, at its own rewind point (Adnan et al. 2025)."""
    assert inputs.other is not None
    return start._replace(variables=inputs.other.variables)


def aligned(start: UntrainedTicket, key: jax.Array, inputs: ControlInputs) -> UntrainedTicket:
    """Return `unaligned` with the units of the mask permuted to match (Adnan et al. 2025)."""
    assert inputs.other is not None
    return unaligned(start._replace(mask=inputs.other.align(start.mask)), key, inputs)


# Names that a level's directory has for something else.
_RESERVED = ("state", "ticket", "winning")
# Controls that train the weights of a rewind point, or their signs, from there on.
FROM_REWIND_POINT = {"shuffle_layers", "shuffle_global", "dense_sign", "aligned", "unaligned"}
# Controls on another initialisation; the first is also the name of that one's dense training.
ALIGNED = "aligned"
ON_OTHER_INITIALISATION = (ALIGNED, "unaligned")
CONTROLS: dict[str, Control] = {
    "reinit": reinit,
    "shuffle_layers": shuffle_layers,
    "shuffle_global": shuffle_global,
    "random": random,
    "random_preserved": random_preserved,
    "init": init,
    "dense_sign": dense_sign,
    ALIGNED: aligned,
    "unaligned": unaligned,
}


def register_control(name: str, control: Control, *, from_rewind_point: bool = False) -> None:
    """Make a control available in `config.controls`.

    The name is known in this process only: register it before `run_ladder`, and in the script
    itself if other processes (workers of a sweep, several hosts) run it. A run that is resumed
    must find the same function under the name, since only the name is recorded.

    Args:
        name: a new name, which becomes a directory's.
        control: from (winning ticket, typed PRNG key, `ControlInputs`) to a ticket with exactly as
            many weights.
        from_rewind_point: whether it trains the winner's weights, or their signs, from the rewind
            point on; with `config.ladder.optimizer_state='restored'` it then gets the optimizer's
            state too.

    Raises:
        ValueError: the name is in use or is no name of a directory.

    >>> def negated(start, key, inputs):
    ...     minus = jax.tree.map(lambda w: -w, start.variables["params"])
    ...     return start._replace(variables={**start.variables, "params": minus})
    >>> register_control("negated", negated, from_rewind_point=True)
    >>> del CONTROLS["negated"]
    """
    if name in CONTROLS:
        raise ValueError(f"there is a control named {name!r} already; choose another name")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in _RESERVED:
        raise ValueError(
            f"a control's name is a directory's: lower-case letters, digits and _, and none of "
            f"{', '.join(_RESERVED)}; not {name!r}"
        )
    CONTROLS[name] = control
    if from_rewind_point:
        FROM_REWIND_POINT.add(name)
