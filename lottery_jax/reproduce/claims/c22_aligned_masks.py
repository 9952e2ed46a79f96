"""Claim 22: a mask fits another initialisation once it is permuted to match it."""

from collections.abc import Callable

from lottery_jax.reproduce.claim import HIGHER, SECOND_HAND, Check, Claim, Evidence, PerSeed, less


def _gain(run: str) -> Callable[[Evidence, float], PerSeed]:
    return less(f"{run}/aligned", f"{run}/unaligned")


CLAIM = Claim(
    statement=(
        "A ticket's mask trains better from another initialisation if its units are permuted "
        "to match that one's, and the gain grows with the width."
    ),
    source="Adnan et al. 2025, arXiv 2505.05143",
    access=SECOND_HAND,
    published=(
        "clearly positive for ResNet20, VGG11 and ResNet50, nearly the ticket's own when wide"
    ),
    expected="above 0, more for four times the width; from the paper alone",
    checks=(
        Check("aligned less unaligned", "extreme", HIGHER, _gain("aligned")),
        Check("the same, four times as wide", "extreme", HIGHER, _gain("aligned_wide")),
        Check("gain of width", "extreme", HIGHER,
              lambda e, d: _gain("aligned_wide")(e, d) - _gain("aligned")(e, d)),
    ),
    runs=("aligned", "aligned_wide"),
)  # fmt: skip
