"""Matching: which hidden unit of one network does what a unit of another one does.

Two networks of one kind see the same examples. Units whose activations are correlated most are
matched with each other, one to one (activation matching: Ainsworth et al., "Git Re-Basin", ICLR
2023; Adnan et al., ICML 2025, permute the masks of lottery tickets so).

A group of units is represented by what the layers that read it are given: activations after the
normalisation, the ReLU and the pooling. Each position of an image counts as an example. Where
several layers read a group, as along a shortcut, their correlations are added up.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lottery_jax.models.network import Network, WiredNetwork
from lottery_jax.models.xla_options import compiler_options
from lottery_jax.pruning.permutations import Permutation, Symmetry
from lottery_jax.types import PyTree

# A unit whose standard deviation is this small beside its mean is constant but for rounding.
_CONSTANT = 1e-5


class _Moments(NamedTuple):
    """The moments of the activations of two networks: means, and sums of products of deviations."""

    count: Any
    mean_a: Any
    mean_b: Any
    square_a: Any
    square_b: Any
    cross: Any  # [units of a, units of b]


def match_units(
    network: Network, symmetry: Symmetry, a: PyTree, b: PyTree, batches: Iterable[Any]
) -> dict[str, Permutation]:
    """Return the permutations of A's units that make them most like B's.

    Args:
        network: the network of both.
        symmetry: `permutations.find_symmetry(network)`.
        a: variables of network A: `params` and `batch_stats`.
        b: variables of network B.
        batches: examples for both, `[batch, ...]` as the network takes them.

    Returns:
        For each group int `[units]`: for each unit of B the unit of A that matches it. So
        `permutations.permute(a, symmetry, ...)` has the units of A in the places of B's. Units
        that are constant match nothing, and get the places that are left.
    """
    wired: Any = network.with_dtype(jnp.float32)
    measure = jax.jit(
        partial(_measure, wired, symmetry),
        compiler_options=compiler_options(jax.default_backend(), run_once=True),
    )
    totals: dict[str, _Moments] = {}
    for inputs in batches:
        for layer, moments in jax.device_get(measure(a, b, inputs)).items():
            exact = _Moments(*(np.asarray(part, np.float64) for part in moments))
            totals[layer] = _merge(totals[layer], exact) if layer in totals else exact
    from scipy.optimize import linear_sum_assignment  # most of an import of SciPy; few runs need it

    matches = {}
    for group, units in symmetry.units.items():
        likeness = np.zeros((units, units))
        for layer, read in symmetry.readers.items():
            if read == group:
                likeness += _correlation(totals[layer])
        _, matches[group] = linear_sum_assignment(likeness.T, maximize=True)
    return matches


def _measure(
    network: WiredNetwork, symmetry: Symmetry, a: PyTree, b: PyTree, inputs: jax.Array
) -> dict[str, _Moments]:
    """Return the moments of a batch, of what each layer reads."""
    read_a, read_b = (
        network.layer_inputs(each["params"], each["batch_stats"], inputs) for each in (a, b)
    )
    return {
        layer: _moments_of(*(x[layer].reshape(-1, symmetry.units[group]) for x in (read_a, read_b)))
        for layer, group in symmetry.readers.items()
    }


def _moments_of(a: jax.Array, b: jax.Array) -> _Moments:
    mean_a, mean_b = a.mean(0), b.mean(0)
    a, b = a - mean_a, b - mean_b
    cross = jnp.matmul(a.T, b, precision=lax.Precision.HIGHEST)
    return _Moments(len(a), mean_a, mean_b, (a * a).sum(0), (b * b).sum(0), cross)


def _merge(x: _Moments, y: _Moments) -> _Moments:
    """Return the moments of two samples together (Chan et al., 1979)."""
    count = x.count + y.count
    step_a, step_b, weight = y.mean_a - x.mean_a, y.mean_b - x.mean_b, x.count * y.count / count
    return _Moments(
        count,
        x.mean_a + step_a * y.count / count,
        x.mean_b + step_b * y.count / count,
        x.square_a + y.square_a + weight * step_a**2,
        x.square_b + y.square_b + weight * step_b**2,
        x.cross + y.cross + weight * np.outer(step_a, step_b),
    )


def _correlation(total: _Moments) -> Any:
    """Return the correlations `[units of a, units of b]`; 0 for units that are constant."""

    def inverse(square: Any, mean: Any) -> Any:
        varies = square > total.count * (_CONSTANT * mean) ** 2
        return np.where(varies, 1 / np.sqrt(np.where(varies, square, 1.0)), 0.0)

    left, right = inverse(total.square_a, total.mean_a), inverse(total.square_b, total.mean_b)
    return left[:, None] * total.cross * right
