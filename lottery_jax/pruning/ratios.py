"""Keep-ratios of layers that are set by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping

# The share of the output layer's weights that smart-ratio tickets keep (Su et al. 2020).
OUTPUT_RATIO = 0.3


def smart_ratios(
    sizes: Mapping[str, int], keep: int, *, output: str | None = None
) -> dict[str, int]:
    """Return how many weights of each layer a smart-ratio ticket keeps (Su et al. 2020).

    Layer l of L keeps a share in proportion to (L - l + 1)^2 + (L - l + 1), so later layers are
    sparser. The output layer keeps 30 %, or half of all that is kept where 30 % would be more than
    that. Shares above 1 are cut to 1, and all other layers but the output grow by one common factor
    until the total is met; the authors' code gives the excess to the first layers instead. The
    output layer takes what is left when all others are full.

    Args:
        sizes: the number of weights of each layer, from input to output.
        keep: the number of weights to keep in all of these layers.
        output: the name of the output layer; None: all layers follow the rule.

    Returns:
        Counts that add up to `keep`; fractions of a weight go to the layers with the largest ones.

    Raises:
        ValueError: `keep` is negative or larger than all layers.

    >>> smart_ratios({"a": 1000, "b": 1000, "head": 100}, 480, output="head")
    {'a': 300, 'b': 150, 'head': 30}
    """
    if not 0 <= keep <= sum(sizes.values()):
        raise ValueError(f"can't keep {keep} of {sum(sizes.values())} weights")
    ruled = {name: size for name, size in sizes.items() if name != output}
    fixed = 0
    if output is not None:
        share = min(round(OUTPUT_RATIO * sizes[output]), keep // 2) if ruled else keep
        fixed = max(share, keep - sum(ruled.values()))
    last = len(sizes)
    # The weights that a layer would keep at the factor 1 of the rule.
    quotas = {
        name: ((last - i) ** 2 + (last - i)) * sizes[name]
        for i, name in enumerate(sizes)
        if name in ruled
    }
    counts = _fill(ruled, quotas, keep - fixed)
    return {name: counts.get(name, fixed) for name in sizes}


def _fill(sizes: Mapping[str, int], quotas: Mapping[str, float], keep: int) -> dict[str, int]:
    """Return counts in proportion to `quotas`, none above its size, that add up to `keep`."""
    full: set[str] = set()
    while True:
        left = keep - sum(sizes[name] for name in full)
        rest = sum(quotas[name] for name in sizes if name not in full)
        factor = left / rest if rest else 0.0
        over = {n for n in sizes if n not in full and factor * quotas[n] > sizes[n]}
        if not over:
            break
        full |= over
    exact = {n: float(size) if n in full else factor * quotas[n] for n, size in sizes.items()}
    counts = {n: min(sizes[n], math.floor(value)) for n, value in exact.items()}
    # The largest fractions first; among equals the earlier layer.
    for name in sorted(sizes, key=lambda n: counts[n] - exact[n]):
        counts[name] += int(sum(counts.values()) < keep and counts[name] < sizes[name])
    return counts
