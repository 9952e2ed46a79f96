"""Controls: tickets to compare a winning ticket with.

A control turns a winning ticket into one with exactly as many weights. If the winning ticket is
better, then what the control replaced mattered: the weights, or the mask.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from lottery_jax.pruning import masks
from lottery_jax.pruning.ratios import smart_ratios
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


def _not_there() -> PyTree:
    raise ValueError("this control needs an input that a run provides: see ControlInputs")


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

    The functions without arguments are called only by the controls that need them.

    Attributes:
        init: from a typed PRNG key to freshly drawn variables of the network.
        initial: the variables of step 0 from which the winning ticket came.
        skip: names of layers that are never pruned.
        prunable: as in `masks.kernels`.
        layers: names of the layers with prunable weights, from input to output; empty: in the order
            of their names.
        worst: returns the mask with as many weights in each group of layers as the winning one,
            those with the lowest scores.
        before: returns the trained variables of the winning ticket of the level before, which are
            0 where that ticket is pruned.
        other: another initialisation, for `aligned` and `unaligned`; None for other controls.
    """

    init: Callable[[jax.Array], PyTree]
    initial: PyTree
    skip: Collection[str] = ()
    prunable: masks.Prunable = masks.is_kernel
    layers: Sequence[str] = ()
    worst: Callable[[], PyTree] = _not_there
    before: Callable[[], PyTree] = _not_there
    other: OtherInitialisation | None = None

    def permute(self, mask: PyTree, key: jax.Array, scope: str) -> PyTree:
        """Return `masks.permute` of the layers that may be pruned."""
        return masks.permute(mask, key, scope=scope, skip=self.skip, prunable=self.prunable)

    def kernels(self, tree: PyTree) -> dict[str, Any]:
        """Return `masks.kernels` of a tree, as NumPy arrays."""
        found = masks.kernels(tree, prunable=self.prunable)
        return {name: np.asarray(kernel) for name, kernel in found.items()}

    def with_weights(self, variables: PyTree, new: Mapping[str, Any]) -> PyTree:
        """Return `variables` with the weights of the layers named in `new` replaced."""
        params = masks.with_kernels(variables["params"], new, prunable=self.prunable)
        return {**variables, "params": params}


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
        return np.where(np.signbit(kernel), -kernel.std(), kernel.std())

    kernels = inputs.kernels(start.variables["params"])
    signs = {name: constant(kernel) for name, kernel in kernels.items()}
    return start._replace(variables=inputs.with_weights(start.variables, signs))


def noise(
    start: UntrainedTicket, key: jax.Array, inputs: ControlInputs, *, sigmas: float = 1.0
) -> UntrainedTicket:
    """Return the winner with Gaussian noise of 1 sigma on its weights; `noise_0.5`: of half a sigma.

    Sigma is the standard deviation of the layer's kernel at the rewind point, pruned places
    included (Frankle & Carbin 2019, appendix F). Any number can stand in the name. Biases and
    BatchNorm are the winner's.

    Args:
        start: the winning ticket.
        key: a typed PRNG key.
        inputs: everything else.
        sigmas: the standard deviation of the noise, in sigmas of each layer.
    """
    rng = masks.host_rng(key)

    def disturbed(kernel: Any) -> Any:
        drawn = rng.standard_normal(kernel.shape) * (sigmas * float(kernel.std()))
        return (kernel + drawn).astype(kernel.dtype)

    kernels = inputs.kernels(start.variables["params"])
    new = {name: disturbed(kernel) for name, kernel in kernels.items()}
    return start._replace(variables=inputs.with_weights(start.variables, new))


def resample(start: UntrainedTicket, key: jax.Array, inputs: ControlInputs) -> UntrainedTicket:
    """Return the winning mask on weights that are drawn from the layer's own surviving ones.

    They are drawn with replacement from the winner's weights at the rewind point (Frankle & Carbin
    2019, appendix F). Biases and BatchNorm are the winner's, and so is a layer with no survivor.
    """
    rng, mask = masks.host_rng(key), inputs.kernels(start.mask)

    def drawn(kernel: Any, kept: Any) -> Any:
        new = kernel.copy()
        if kept.any():
            new[kept] = rng.choice(kernel[kept], np.count_nonzero(kept))
        return new

    kernels = inputs.kernels(start.variables["params"])
    new = {name: drawn(kernel, mask[name]) for name, kernel in kernels.items()}
    return start._replace(variables=inputs.with_weights(start.variables, new))


def rescaled(start: UntrainedTicket, key: jax.Array, inputs: ControlInputs) -> UntrainedTicket:
    """Return the winning mask on new weights, scaled by 1 / sqrt(density) of their layer.

    A layer's outputs then have the variance that they have in the dense network at initialisation.
    The reviewers of Morcos et al. (2019) asked for this control.
    """
    fresh = reinit(start, key, inputs)
    density = {name: kept.mean() for name, kept in inputs.kernels(start.mask).items()}
    new = {
        name: (kernel / np.sqrt(density[name] or 1.0)).astype(kernel.dtype)
        for name, kernel in inputs.kernels(fresh.variables["params"]).items()
    }
    return fresh._replace(variables=inputs.with_weights(fresh.variables, new))


def invert(start: UntrainedTicket, key: jax.Array, inputs: ControlInputs) -> UntrainedTicket:
    """Return the winner's start under the mask of the worst weights (Frankle et al. 2021).

    The weights with the lowest scores are kept instead of the highest, the same number in each group
    that is ranked together. With `draw=iterative` only survivors of the level before are ranked, so
    at 20 % a level the two masks mostly agree. Where a level is pruned in several rounds, the scores
    are those of the first one.
    """
    return start._replace(mask=inputs.worst())


def smart_ratio(start: UntrainedTicket, key: jax.Array, inputs: ControlInputs) -> UntrainedTicket:
    """Return the winner's start under a mask at random places with layer ratios set by hand.

    The ratios are `ratios.smart_ratios` (Su et al. 2020), with the winner's total. Layers that are
    never pruned stay as they are and are not counted.
    """
    rng, mask = masks.host_rng(key), inputs.kernels(start.mask)
    names = [*(inputs.layers or mask)]
    order = [name for name in names if name not in inputs.skip]
    total = sum(int(np.count_nonzero(mask[name])) for name in order)
    output = None if names[-1] in inputs.skip else names[-1]
    counts = smart_ratios({name: mask[name].size for name in order}, total, output=output)
    new = {
        name: rng.permutation(np.arange(mask[name].size) < count).reshape(mask[name].shape)
        for name, count in counts.items()
    }
    return start._replace(mask=masks.with_kernels(start.mask, new, prunable=inputs.prunable))


def replayed_random(
    start: UntrainedTicket, key: jax.Array, inputs: ControlInputs
) -> UntrainedTicket:
    """Return the "random ticket" of Gohil et al. (2020): a mistake, to compare with their figures.

    It is not random: the weights are the trained ones of the winning ticket of the level before.
    The winner's mask, permuted over all layers, falls on the zeros that pruning left among them, and
    fewer and fewer weights are left with each level. For an honest one take `random`.
    """
    return UntrainedTicket(inputs.permute(start.mask, key, "global"), inputs.before(), start.step)


def _other(inputs: ControlInputs) -> OtherInitialisation:
    return _not_there() if inputs.other is None else inputs.other


def unaligned(start: UntrainedTicket, key: jax.Array, inputs: ControlInputs) -> UntrainedTicket:
    """Return the winning mask on another initialisation, at its own rewind point (Adnan et al. 2025)."""
    return start._replace(variables=_other(inputs).variables)


def aligned(start: UntrainedTicket, key: jax.Array, inputs: ControlInputs) -> UntrainedTicket:
    """Return `unaligned` with the units of the mask permuted to match (Adnan et al. 2025)."""
    return unaligned(start._replace(mask=_other(inputs).align(start.mask)), key, inputs)


# Names that a level's directory has for something else.
_RESERVED = ("epochs", "state", "ticket", "winning")
# Controls that train from the rewind point on.
FROM_REWIND_POINT = {
    "shuffle_layers",
    "shuffle_global",
    "dense_sign",
    "noise",
    "resample",
    "invert",
    "smart_ratio",
    "replayed_random",
    "aligned",
    "unaligned",
}
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
    "noise": noise,
    "resample": resample,
    "rescaled": rescaled,
    "invert": invert,
    "smart_ratio": smart_ratio,
    "replayed_random": replayed_random,
    ALIGNED: aligned,
    "unaligned": unaligned,
}
# `noise_0.5`: the control `noise` with half a sigma.
_NOISE = re.compile(r"noise_(\d{1,4}(?:\.\d{1,6})?)")


def find_control(name: str) -> Control:
    """Return the control of a name in `config.controls`, such as `reinit` or `noise_0.5`.

    Raises:
        KeyError: there is none.

    >>> find_control("noise_0.5").keywords
    {'sigmas': 0.5}
    """
    if name in CONTROLS:
        return CONTROLS[name]
    match = _NOISE.fullmatch(name)
    if match is None or not float(match[1]):
        raise KeyError(name)
    return partial(noise, sigmas=float(match[1]))


def is_from_rewind_point(name: str) -> bool:
    """Return whether a control trains from the rewind point on, rather than from step 0."""
    return name in FROM_REWIND_POINT or _NOISE.fullmatch(name) is not None


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
    if name in CONTROLS or _NOISE.fullmatch(name):
        raise ValueError(f"there is a control named {name!r} already; choose another name")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in _RESERVED:
        raise ValueError(
            f"a control's name is a directory's: lower-case letters, digits and _, and none of "
            f"{', '.join(_RESERVED)}; not {name!r}"
        )
    CONTROLS[name] = control
    if from_rewind_point:
        FROM_REWIND_POINT.add(name)
