"""Claim 13: random masks with good layer ratios match SNIP and GraSP."""

from lottery_jax.reproduce.claim import EQUAL, PROBE, SECOND_HAND, Check, Claim, less

CLAIM = Claim(
    statement=(
        "A random mask that keeps as many weights in each layer as SNIP or GraSP trains as well."
    ),
    source="Su et al. 2020, Sanity-checking pruning methods",
    access=SECOND_HAND,
    published="a gap of about 0",
    expected=f"a gap below 0.5 points, {PROBE}",
    checks=(
        Check("random in SNIP's ratios less SNIP", "sparse extreme", EQUAL,
              less("snip/random_preserved", "snip"), published=0.0),
        Check("random in GraSP's ratios less GraSP", "sparse", EQUAL,
              less("grasp/random_preserved", "grasp"), published=0.0),
    ),
    runs=("snip", "grasp"),
)  # fmt: skip
