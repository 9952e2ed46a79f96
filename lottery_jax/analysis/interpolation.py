"""Networks on the straight line between two, and the barrier of error along it.

Two networks are linearly connected if the error does not rise along the line (Frankle, Dziugaite,
Roy & Carbin, "Linear mode connectivity and the lottery ticket hypothesis", ICML 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lottery_jax.errors import ConfigError
from lottery_jax.types import PyTree


def interpolate(a: PyTree, b: PyTree, alpha: Any) -> PyTree:
    """Return `(1 - alpha) * a + alpha * b`, leaf by leaf: exactly `a` at 0 and `b` at 1.

    >>> interpolate({"w": 1.0}, {"w": 3.0}, 0.25)
    {'w': 1.5}
    """
    return jax.tree.map(lambda x, y: (1 - alpha) * x + alpha * y, a, b)


def line(count: int) -> Any:
    """Return `count` values of alpha, evenly spaced from 0 to 1, as float32 `[count]`.

    Raises:
        ConfigError: there are fewer than 3, so that none lies between the ends.
    """
    if count < 3:
        raise ConfigError(f"alphas: {count} leave none between the ends; use 3 or more")
    return np.linspace(0.0, 1.0, count, dtype=np.float32)


def barrier(errors: Sequence[float]) -> float:
    """Return how far the error rises along a line: its maximum less the mean of the two ends.

    Args:
        errors: along the line, from one end to the other.

    >>> barrier([0.1, 0.5, 0.2])
    0.35
    """
    return float(max(errors)) - (float(errors[0]) + float(errors[-1])) / 2
