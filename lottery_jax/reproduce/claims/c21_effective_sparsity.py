"""Claim 21: direct and effective sparsity part at the extreme."""

import math
from collections.abc import Callable

from lottery_jax.reproduce.claim import SECOND_HAND, Check, Claim, Evidence, PerSeed
from lottery_jax.reproduce.verdict import Rule


def _ratio(run: str) -> Callable[[Evidence, float], PerSeed]:
    """Return the quantity log10(kept / effective); a mask without a path counts as one weight."""

    def value(e: Evidence, density: float) -> PerSeed:
        kept = e.analysis("paths", run, "kept", density)
        effective = e.analysis("paths", run, "effective", density)
        return (kept / effective.map(lambda n: n if n != 0 else 1.0)).map(math.log10)

    return value


CLAIM = Claim(
    statement=(
        "With 0.1 % of the weights kept, nearly all weights of a random mask lie on no path "
        "from input to output; nearly all of those of SynFlow's mask lie on one."
    ),
    source="Vysogorets & Kempe 2023, Connectivity matters",
    access=SECOND_HAND,
    published="orders of magnitude apart for random masks of LeNet-300-100",
    expected=(
        "above a factor of 10 (1 in logarithms) for random masks, about 1 (0) for SynFlow's; "
        "from the paper"
    ),
    checks=(
        Check("kept over effective, random", "vanishing", Rule(low=1.0),
              _ratio("paths_random"), unit="log10"),
        Check("kept over effective, SynFlow", "vanishing", Rule(high=0.3),
              _ratio("paths_synflow"), unit="log10", published=0.0),
    ),
    runs=("paths_random", "paths_synflow"),
    analyses=(("paths", "paths_random"), ("paths", "paths_synflow")),
    scales=("quick", "small"),
)  # fmt: skip
