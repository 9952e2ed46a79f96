"""Claim 13b: random masks with hand-made layer ratios match SNIP."""

from lottery_jax.reproduce.claim import NOT_WORSE, SECOND_HAND, Check, Claim, less

CLAIM = Claim(
    statement=(
        "A random mask whose layers' densities follow a fixed formula trains as well as SNIP."
    ),
    source="Su et al. 2020, Sanity-checking pruning methods",
    access=SECOND_HAND,
    published="a gap of about 0 or above",
    expected="no worse than SNIP; from the paper alone",
    checks=(
        Check("smart ratios less SNIP", "sparse extreme", NOT_WORSE,
              less("smart/smart_ratio", "smart")),
    ),
    runs=("smart",),
)  # fmt: skip
