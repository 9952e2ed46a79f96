"""Claim 18: masks carry the densities of layers, and more."""

from lottery_jax.reproduce.claim import HIGHER, PROBE, READ, Check, Claim, less

CLAIM = Claim(
    statement=(
        "With new weights, the ticket's mask is better than one that is permuted within "
        "layers, and that is better than one that is permuted over all layers."
    ),
    source="Morcos et al. 2019, appendix",
    access=READ,
    published="in this order; over all layers is the worst by far",
    expected=f"87.29, 86.79 and 80.30 %, {PROBE}",
    checks=(
        Check("preserved less within layers", "extreme", HIGHER,
              less("imp/reinit", "imp/random_preserved")),
        Check("within less over layers", "extreme", HIGHER,
              less("imp/random_preserved", "imp/random")),
    ),
    runs=("imp",),
    scales=("quick", "small", "full", "full_resnet50"),
)  # fmt: skip
