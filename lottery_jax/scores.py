"""Scores: how important each weight is. Pure functions from arrays to a score pytree.

A score tree has the structure of the params; `masks.prune` ranks its kernels, larger is more
important.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def magnitude(params: PyTree) -> PyTree:
    """|w| of every weight, as iterative magnitude pruning ranks them (Frankle & Carbin 2019).

    The values are compared as they are: no normalisation by layer.
    """
    return jax.tree.map(jnp.abs, params)


SCORES: dict[str, Callable[[PyTree], PyTree]] = {"magnitude": magnitude}
