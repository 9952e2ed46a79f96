"""Claim 14: the signs of a ticket suffice."""

from lottery_jax.reproduce.claim import EQUAL, PROBE, READ, Check, Claim, less

CLAIM = Claim(
    statement=(
        "A ticket whose weights are replaced by one magnitude a layer, with their signs, "
        "trains as well."
    ),
    source="Zhou et al. 2019, Deconstructing lottery tickets",
    access=READ,
    published="trains like the ticket",
    expected=f"a difference of 0.04 points (88.91 against 88.95), {PROBE}",
    checks=(
        Check("signs alone less ticket", "moderate sparse", EQUAL,
              less("imp/dense_sign", "imp"), published=0.0),
    ),
    runs=("imp",),
)  # fmt: skip
