"""Claim 19: tickets transfer between optimizers."""

from lottery_jax.reproduce.claim import EQUAL, READ, Check, Claim, less

CLAIM = Claim(
    statement=(
        "A ticket that was found with one optimizer trains as well with another as that one's"
        " own ticket."
    ),
    source="Morcos et al. 2019; numbers of Gohil et al. 2020, VGG19 at 98.85 % pruned",
    access=READ,
    published="Adam on SGD's ticket 89.74 against 89.75; SGD on Adam's 92.16 against 92.58",
    expected="about 0; from the papers alone",
    checks=(
        Check("Adam on SGD's ticket less its own", "sparse", EQUAL,
              less("adam_on_sgd", "adam"), published=-0.01),
        Check("SGD on Adam's ticket less its own", "sparse", EQUAL,
              less("sgd_on_adam", "sgd"), published=-0.42),
    ),
    runs=("sgd", "adam", "adam_on_sgd", "sgd_on_adam"),
)  # fmt: skip
