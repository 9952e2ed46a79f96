"""Distances between the weights of two networks of the same structure."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from lottery_jax.types import PyTree


def l2(a: PyTree, b: PyTree) -> float:
    """Return the Euclidean distance between two trees, all leaves taken as one vector.

    >>> l2({"w": np.array([3.0, 1.0])}, {"w": np.array([0.0, 5.0])})
    5.0
    """
    return math.sqrt(
        sum(float(np.sum((x - y) ** 2)) for x, y in zip(_arrays(a), _arrays(b), strict=True))
    )


def cosine(a: PyTree, b: PyTree) -> float:
    """Return one less the cosine of the angle between two trees, 0 to 2; NaN if one is all zeros.

    >>> cosine({"w": np.array([1.0, 0.0])}, {"w": np.array([0.0, 2.0])})
    1.0
    """
    product = _product(a, b)
    norms = math.sqrt(_product(a, a) * _product(b, b))
    return max(0.0, 1.0 - product / norms) if norms else math.nan


def _product(a: PyTree, b: PyTree) -> float:
    return sum(float(np.vdot(x, y)) for x, y in zip(_arrays(a), _arrays(b), strict=True))


def _arrays(tree: PyTree) -> list[Any]:
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
