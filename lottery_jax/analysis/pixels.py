"""Pixels that tickets look at: the weights of the first layer that remain at each of its inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lottery_jax.analysis.opening import NOT_COMPLETE, choose_trials, load, open_run
from lottery_jax.curve import WINNING
from lottery_jax.errors import ConfigError
from lottery_jax.pruning import masks
from lottery_jax.runs.directory import Trial, list_trials
from lottery_jax.tickets import Ticket
from lottery_jax.types import Array

__all__ = ["first_layer", "pixels"]


def first_layer(ticket: Ticket) -> Array | None:
    """Return how many weights of the first layer remain at each of its inputs, float `[H, W]`.

    Channels are added up. For a layer that reads the whole image H and W are those of the image, for
    a convolution those of its kernel. None: the layer reads something else.
    """
    kernel = np.asarray(masks.kernels(ticket.mask)[ticket.metadata["layer_order"][0]])
    counts = np.count_nonzero(kernel, axis=-1)
    if counts.ndim == 1:
        shape = tuple(ticket.metadata["input_shape"])
        if len(shape) != 3 or counts.size != math.prod(shape):
            return None
        counts = counts.reshape(shape)
    return counts.sum(axis=-1, dtype=np.float64) if counts.ndim == 3 else None
