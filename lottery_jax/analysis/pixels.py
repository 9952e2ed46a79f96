"""Pixels that tickets look at: the weights of the first layer that remain at each of its inputs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from lottery_jax.analysis.opening import load, open_run
from lottery_jax.curve import WINNING
from lottery_jax.pruning import masks
from lottery_jax.runs.directory import Row, Trial
from lottery_jax.tickets import Ticket


def first_layer(ticket: Ticket) -> Any:
    """Return how many weights of the first layer remain at each of its inputs, float `[H, W]`.

    Channels are added up. For a layer that reads the whole image, H and W are those of the image; for
    a convolution they are those of its kernel. None: the layer reads something else.
    """
    counts = np.count_nonzero(_first_kernel(ticket), axis=-1)
    if counts.ndim == 1:
        shape = tuple(ticket.metadata["input_shape"])
        if len(shape) != 3 or counts.size != math.prod(shape):
            return None
        counts = counts.reshape(shape)
    return counts.sum(axis=-1, dtype=np.float64) if counts.ndim == 3 else None


def _first_kernel(ticket: Ticket) -> Any:
    """Return the mask of the first layer's kernel, whose last axis is that of the outputs."""
    return np.asarray(masks.kernels(ticket.mask)[ticket.metadata["layer_order"][0]])


def pixels(run_dir: str | Path, most: int = 5) -> list[Row]:
    """Count the weights of the first layer at each input, for the winning tickets of some levels.

    Args:
        run_dir: the run.
        most: the largest number of levels, evenly chosen among those that are complete, the dense
            network apart.

    Returns:
        A row for each level: `level`, `density`, `seeds` (how many there are), `is_kernel` (whether
        H and W are those of a convolution's kernel), and the means over seeds of `weights`, float
        `[H, W]`, and of `unread`, the share of inputs of which a seed keeps no weight. Empty if the
        first layer does not read pixels.

    Raises:
        ConfigError: the directory is not a run.
        TicketError: a ticket is damaged.
    """
    workdir, config = open_run(run_dir)
    complete: dict[int, list[Trial]] = {}
    for level in range(1, config.ladder.levels + 1):
        trials = [Trial(workdir, seed, level, WINNING) for seed in config.seeds]
        if there := [trial for trial in trials if trial.is_complete]:
            complete[level] = there
    levels = list(complete)
    if len(levels) > most:
        levels = [levels[round(i * (len(levels) - 1) / (most - 1))] for i in range(most)]
    rows = []
    for level in levels:
        found = [load(trial) for trial in complete[level]]
        counts = [first_layer(ticket) for ticket in found]
        if any(count is None for count in counts):
            return []
        rows.append(
            {
                "level": level,
                "density": float(np.mean([ticket.density for ticket in found])),
                "seeds": len(found),
                "is_kernel": _first_kernel(found[0]).ndim > 2,
                "weights": np.mean(counts, axis=0),
                "unread": float(np.mean([count == 0 for count in counts])),
            }
        )
    return rows
