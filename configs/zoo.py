"""The ladders of the zoo: LeNet-300-100 on digits and on Fashion-MNIST, five seeds, four methods.

    python -m lottery_jax.main --config=configs/zoo.py:digits_imp --workdir=runs/zoo/digits_imp

After the colon: digits or fashion_mnist, and imp, snip, grasp or synflow. The recipes are those of
configs/reproduce.py:quick_imp and small_imp, with four more levels and two controls alone, and of
quick_snip and small_snip without controls. So Fashion-MNIST's tickets of SNIP, of GraSP and of IMP to level
8 are, to the bit, those that the claims of docs/claims.md were measured with.

Recipe of digits_imp: batch 64, 20 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, constant; 12 levels
of 36 % by iterative global magnitude; rewound to 1ep.

Cost: on digits 85 trainings of 20 epochs for imp and 15 for each other method, two minutes on one CPU core
together; on Fashion-MNIST as many of 5 epochs, 20 minutes on one CPU core.

Expected: what came out here is in zoo/index.json, ticket by ticket; docs/zoo.md says how to load them.
"""

from lottery_jax import recipes
from lottery_jax.reproduce.protocols import protocol

_SCALES = {"digits": "quick", "fashion_mnist": "small"}


def get_config(run="digits_imp"):
    data, _, method = run.rpartition("_")
    if method != "imp":
        c = recipes.with_method(protocol("snip", _SCALES[data]), method)
        c.controls = ()
        return c
    c = protocol("imp", _SCALES[data])
    c.ladder.levels = 12
    c.controls, c.control_levels = ("random", "reinit"), (6, 8)
    return c
