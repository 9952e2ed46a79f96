"""Checkpoints of trials that are not complete: the state, and the progress within an epoch."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from lottery_jax.errors import TicketError, TrainingError
from lottery_jax.leaves import by_path
from lottery_jax.system.files import remove
from lottery_jax.tickets.orbax_io import load_arrays, save_arrays
from lottery_jax.tickets.ticket import tree_digest
from lottery_jax.training.state import EpochProgress, MetricSums, TrainState
from lottery_jax.types import PyTree

_CHECKPOINT = re.compile(r"\d{9,10}")  # the step is its name


class Checkpoint(NamedTuple):
    """A trial that is not complete: its state, and its progress within the epoch."""

    state: TrainState
    progress: EpochProgress


def save_state(
    folder: str | os.PathLike[str],
    state: TrainState,
    progress: EpochProgress | None = None,
    *,
    zero: MetricSums | None = None,
) -> None:
    """Save a checkpoint. An older one is removed only when this one is on disk.

    Args:
        folder: of the checkpoints of one trial.
        state: the state to resume from.
        progress: within the epoch; None at its end.
        zero: the task's sums over no examples; default: those of classification.

    Raises:
        TrainingError: a value is not finite. The older checkpoint stays.
        OSError: it can't be written. The older checkpoint stays.
    """
    arrays = jax.device_get(
        _as_dict(Checkpoint(state, progress or EpochProgress(zero or MetricSums.zero(), 0.0)))
    )
    for path, leaf in by_path(arrays).items():
        if leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
            raise TrainingError(f"{path} is not finite at step {int(state.step)}")
    new = Path(folder) / f"{int(state.step):09}"
    save_arrays(new, {**arrays, "sha256": tree_digest(arrays)})
    for old in new.parent.iterdir():
        if old != new and _CHECKPOINT.fullmatch(old.name):
            remove(old)


def latest_step(folder: str | os.PathLike[str]) -> int:
    """Return the step of the latest complete checkpoint in `folder`, or -1."""
    # A checkpoint gets its name when it is whole; an unfinished one has a longer name.
    names = (path.name for path in Path(folder).glob("*"))
    return max((int(name) for name in names if _CHECKPOINT.fullmatch(name)), default=-1)


def load_state(
    folder: str | os.PathLike[str], template: TrainState, *, zero: MetricSums | None = None
) -> Checkpoint | None:
    """Return the latest complete checkpoint in `folder` as NumPy arrays, or None.

    Args:
        folder: as given to `save_state`.
        template: a state of the same structure, shapes and dtypes.
        zero: as given to `save_state`.

    Raises:
        TicketError: it is damaged or of another structure.
    """
    if (step := latest_step(folder)) < 0:
        return None
    path = Path(folder) / f"{step:09}"
    abstract = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype),
        _as_dict(Checkpoint(template, EpochProgress(zero or MetricSums.zero(), 0.0))),
    )
    try:
        arrays = load_arrays(path, {**abstract, "sha256": tree_digest({})})
        if not np.array_equal(arrays.pop("sha256"), tree_digest(arrays)):
            raise TicketError(f"{path}: is damaged (its SHA-256 is not the recorded one)")
    except TicketError as error:
        # What to do comes first: a message that is too long is cut at its end.
        raise TicketError(
            f"{path}: remove it to train from an earlier point again; it can't be used: {error}"
        ) from error
    opt_state = jax.tree.unflatten(
        jax.tree.structure(template.opt_state), jax.tree.leaves(arrays["opt_state"])
    )
    progress = EpochProgress(MetricSums(**arrays.pop("totals")), float(arrays.pop("seconds")))
    return Checkpoint(TrainState(**{**arrays, "opt_state": opt_state}), progress)


def _as_dict(checkpoint: Checkpoint) -> dict[str, PyTree]:
    # The optimizer's state is a nest of tuples. Orbax gives back a plain dict of its leaves,
    # whatever the types of these tuples are called in another version of optax.
    state, (sums, seconds) = checkpoint
    opt_state = {f"{i:04}": leaf for i, leaf in enumerate(jax.tree.leaves(state.opt_state))}
    return {
        "step": state.step,
        "params": state.params,
        "batch_stats": state.batch_stats,
        "opt_state": opt_state,
        "mask": state.mask,
        "totals": {"loss": sums.loss, "correct": sums.correct, "count": sums.count},
        "seconds": np.array(seconds, np.float64),
    }
