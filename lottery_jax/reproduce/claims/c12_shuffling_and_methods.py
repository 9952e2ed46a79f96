"""Claim 12: pruning at initialisation survives shuffling and new weights, IMP does not."""

from lottery_jax.reproduce.claim import LOWER, NOT_WORSE, PROBE, SECOND_HAND, Check, Claim, less

CLAIM = Claim(
    statement=(
        "Tickets of SNIP and GraSP lose nothing if their mask is shuffled within layers or "
        "their weights are drawn anew; tickets of IMP do."
    ),
    source="Frankle et al. 2021, Pruning neural networks at initialization",
    access=SECOND_HAND,
    published="no loss for pruning at initialisation, a loss for magnitude after training",
    expected=f"-2.2 to -2.4 points for IMP at 2.8 %, {PROBE}",
    checks=(
        Check("SNIP, shuffled less as drawn", "sparse", NOT_WORSE,
              less("snip/shuffle_layers", "snip")),
        Check("SNIP, new weights less as drawn", "sparse", NOT_WORSE, less("snip/reinit", "snip")),
        Check("GraSP, shuffled less as drawn", "sparse", NOT_WORSE,
              less("grasp/shuffle_layers", "grasp")),
        Check("GraSP, new weights less as drawn", "sparse", NOT_WORSE,
              less("grasp/reinit", "grasp")),
        Check("IMP, shuffled less as found", "sparse", LOWER, less("imp/shuffle_layers", "imp")),
        Check("IMP, new weights less as found", "sparse", LOWER, less("imp/reinit", "imp")),
    ),
    runs=("imp", "snip", "grasp"),
)  # fmt: skip
