"""Claim 2: new weights under the winning mask are worse."""

from lottery_jax.reproduce.claim import LOWER, PROBE, READ, Check, Claim, less

CLAIM = Claim(
    statement="The mask of a winning ticket on newly drawn weights trains to a lower accuracy.",
    source="Frankle & Carbin 2019, LeNet-300-100 on MNIST",
    access=READ,
    published=(
        "the accuracy drops below the dense one from 21.1 % with new weights, from 2.9 % with"
        " the ticket's"
    ),
    expected=f"-1.7 points at 2.8 %, {PROBE}",
    checks=(Check("new weights less ticket", "sparse extreme", LOWER, less("imp/reinit", "imp")),),
    runs=("imp",),
    scales=("quick", "small", "full", "full_resnet50"),
)
