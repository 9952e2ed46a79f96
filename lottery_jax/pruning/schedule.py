"""Drawing masks: how many weights each level keeps, and reaching that in rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lottery_jax.pruning import masks

PyTree = Any
# Layers that are ranked together, as `masks.ranking_groups` names them -> a number of weights.
KeptCounts = Mapping[tuple[str, ...], int]


def kept_per_level(
    sizes: KeptCounts, level: int, *, prune_fraction: float, sparsities: Sequence[float] = ()
) -> dict[tuple[str, ...], int]:
    """How many weights each group keeps at a level.

    Args:
        sizes: the weights of each group in the dense network.
        level: 0 keeps everything.
        prune_fraction: of what is left, pruned from one level to the next.
        sparsities: if given, the share of all weights that is pruned at level 1, 2, ...

    >>> kept_per_level({("a",): 1000}, 2, prune_fraction=0.2)
    {('a',): 640}
    >>> kept_per_level({("a",): 1000}, 2, prune_fraction=0.2, sparsities=(0.5, 0.97))
    {('a',): 30}
    """
    counts = dict(sizes)
    if level and sparsities:
        return {g: masks.kept_count(n, sparsities[level - 1]) for g, n in counts.items()}
    for _ in range(level):
        counts = {g: masks.kept_count(n, prune_fraction) for g, n in counts.items()}
    return counts


def prune_iteratively(
    score: Callable[[PyTree, int], PyTree], mask: PyTree, keep: KeptCounts, rounds: int
) -> PyTree:
    """Prunes `mask` to the counts of `keep`, scoring anew in each of `rounds` rounds.

    The density falls by the same factor in each round, as in Tanaka et al. (2020); masks nest from
    round to round, and the last one has exactly the counts asked for.

    Args:
        score: from (the mask so far, the round's number from 0) to a score tree.
        mask: what is left so far.
        keep: for each group of layers, how many weights are to remain.
        rounds: 1 or more.

    Raises:
        ValueError: no weight would remain, or scores have NaN.
    """
    names = [name for group in keep for name in group]
    alive = {name: kept for name, (kept, _) in masks.layer_counts(mask).items() if name in names}
    begin = {group: sum(alive[name] for name in group) for group in keep}
    for done in range(rounds):
        share = (done + 1) / rounds
        now = {
            group: round(begin[group] * (count / max(1, begin[group])) ** share)
            for group, count in keep.items()
        }
        mask = masks.prune_to(score(mask, done), mask, keep if done == rounds - 1 else now)
    return mask
