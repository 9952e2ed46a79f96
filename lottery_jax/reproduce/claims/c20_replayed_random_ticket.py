"""Claim 20: the replication's random ticket is an artefact."""

from lottery_jax.reproduce.claim import HIGHER, READ, Check, Claim, less

CLAIM = Claim(
    statement=(
        "A random ticket whose mask is permuted over the zeros of the level before is worse "
        "than one whose weights are all drawn anew."
    ),
    source="Gohil et al. 2020, result sheets and code",
    access=READ,
    published="their random ticket is at chance (10 %) from 79 % pruned on",
    expected="far above 0; from reading their code",
    checks=(
        Check("honest less replayed", "sparse extreme", HIGHER,
              less("imp/random", "imp/replayed_random")),
    ),
    runs=("imp",),
)  # fmt: skip
