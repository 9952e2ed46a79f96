"""Stratified splits and parts: every class is divided in the same proportion."""

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


def part_of(labels: Array, part: str) -> Array:
    """Return the sorted indices of a part of a training set.

    The halves `a` and `b` are stratified, disjoint and together the whole. `1of2` is the half `a`,
    and each smaller part `1of4`, `1of8`, ... is the first stratified half of the one before. So
    each is contained in the next larger one, has n / N examples, rounded up, and the share of each
    class is that of the whole, to within one example.

    Args:
        labels: integers `[n]`.
        part: one of `registry.PARTS`.

    >>> labels = np.arange(40) % 2
    >>> nested = [part_of(labels, part) for part in ("1of2", "1of4", "1of8")]
    >>> [len(part) for part in nested], set(nested[2]) < set(nested[1]) < set(nested[0])
    ([20, 10, 5], True)
    """
    if part == "b":
        return stratified_split(labels, 0.5, SPLIT_SEED)[1]
    chosen = np.arange(len(labels))
    divisor = 2 if part == "a" else int(part.removeprefix("1of"))
    while divisor > 1:
        chosen = chosen[stratified_split(labels[chosen], 0.5, SPLIT_SEED)[0]]
        divisor //= 2
    return chosen
