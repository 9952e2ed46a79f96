"""Tickets that transfer, in about a minute: between two halves of 1,797 handwritten digits.

    python -m lottery_jax.main --config=configs/transfer_quickstart.py

Recipe: batch 64, 20 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, constant; 4 levels of 64 % by
iterative global magnitude; rewound to 1ep.

Cost: two ladders of four levels with their random tickets and two transfers, 84 trainings of 20
epochs; a minute on 2 CPU cores.

Expected (seeds 0, 1, 2, measured with this file): with 1.7 % of the weights tickets of the other half
are as good as the target's own, 95 %, and random tickets have 21 %.
"""

from lottery_jax import recipes


def get_config():
    c = recipes.quickstart()
    c.transfer.sources = ("digits_a", "digits_b")
    c.transfer.targets = c.transfer.sources
    c.ladder.levels = 4
    c.ladder.prune_fraction = 0.64
    return c
