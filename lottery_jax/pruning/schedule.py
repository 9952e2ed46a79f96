"""The number of weights that each level keeps, and pruning to that number in rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lottery_jax.pruning import masks
from lottery_jax.types import PyTree

# Layers that are ranked together, as `masks.ranking_groups` names them -> a number of weights.
KeptCounts = Mapping[tuple[str, ...], int]


def kept_at_level(
    sizes: KeptCounts, level: int, *, prune_fraction: float, sparsities: Sequence[float] = ()
) -> dict[tuple[str, ...], int]:
    """Return how many weights each group keeps at a level.

    Args:
        sizes: the number of weights of each group in the dense network.
        level: 0 keeps everything.
        prune_fraction: the share of the remaining weights that each level prunes.
        sparsities: if given, the share of all weights that is pruned at level 1, 2, ...

    >>> kept_at_level({("a",): 1000}, 2, prune_fraction=0.2)
    {('a',): 640}
    >>> kept_at_level({("a",): 1000}, 2, prune_fraction=0.2, sparsities=(0.5, 0.97))
    {('a',): 30}
    """
    counts = dict(sizes)
    if level and sparsities:
        return {g: masks.kept_count(n, sparsities[level - 1]) for g, n in counts.items()}
    for _ in range(level):
        counts = {g: masks.kept_count(n, prune_fraction) for g, n in counts.items()}
    return counts


def prune_iteratively(
    score: Callable[[PyTree, int], PyTree],
    mask: PyTree,
    kept_counts: KeptCounts,
    rounds: int,
    *,
    prunable: masks.Prunable = masks.is_kernel,
) -> PyTree:
    """Prune `mask` to `kept_counts`, with new scores in each of `rounds` rounds.

    The density falls by the same factor in each round, as in Tanaka et al. (2020). Each mask is a
    subset of the one before, and the last one has exactly the stated counts.

    Args:
        score: from (the mask so far, the round's number from 0) to a tree of scores.
        mask: the mask to begin with.
        kept_counts: for each group of layers, how many weights remain.
        rounds: 1 or more.
        prunable: as in `masks.kernels`.

    Raises:
        ValueError: no weight would remain, or scores have NaN.
    """
    alive = masks.layer_counts(mask, prunable=prunable)
    before = {group: sum(alive[name][0] for name in group) for group in kept_counts}
    for done in range(rounds):
        share = (done + 1) / rounds
        now = {
            group: round(before[group] * (count / max(1, before[group])) ** share)
            for group, count in kept_counts.items()
        }
        target = kept_counts if done == rounds - 1 else now
        mask = masks.prune_to(score(mask, done), mask, target, prunable=prunable)
    return mask
