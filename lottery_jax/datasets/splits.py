"""Stratified splits: every class is divided in the same proportion."""

from __future__ import annotations

import numpy as np

from lottery_jax.datasets.checks import Array
from lottery_jax.errors import DataError

# Splits belong to a data set, not to a run: every run and every replicate sees the same ones.
SPLIT_SEED = 0


def stratified_split(labels: Array, fraction: float, seed: int) -> tuple[Array, Array]:
    """Split examples into `fraction` and the rest of each class, as two sorted index arrays.

    Where a class does not divide evenly, the odd examples are dealt out so that the first part has
    `round(n * fraction)` entries in total.

    >>> first, second = stratified_split(np.array([0, 0, 1, 1, 1, 1]), 0.5, seed=0)
    >>> len(first), len(second), np.concatenate([first, second]).sum()
    (3, 3, np.int64(15))
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # Position i is taken where the running quota passes a whole number: evenly within each class.
    quota = np.floor(np.arange(len(labels) + 1) * fraction + 0.5).astype(np.int64)
    taken = np.diff(quota) > 0
    return np.sort(by_class[taken]), np.sort(by_class[~taken])


def hold_out(labels: Array, fraction: float, what: str) -> tuple[Array, Array]:
    """Return the indices of the validation set and of the rest, for labels `[n]` or targets.

    Integer labels are split class by class, float targets at random.

    Raises:
        DataError: one side would be empty; the message begins with `what`.
    """
    classes = labels if labels.dtype.kind in "iu" else np.zeros(len(labels), np.int32)
    held_out, rest = stratified_split(classes, fraction, SPLIT_SEED + 1)
    if not len(rest) or (fraction and not len(held_out)):
        raise DataError(
            f"{what}: {fraction:g} of {len(labels)} training examples "
            f"is {len(held_out)} of them; one at least must be on each side"
        )
    return held_out, rest
