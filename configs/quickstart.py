"""A winning ticket in under a minute: LeNet-300-100 on 1,797 real handwritten digits, no download.

    python -m lottery_jax.main --config=configs/quickstart.py

Recipe: batch 64, 20 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, constant; 9 levels of 36 % by
iterative global magnitude; rewound to 1ep.

Cost: 57 trainings of 20 epochs; 44 seconds on 2 CPU cores.

Expected (seeds 0, 1, 2, measured with this file): dense 99.0 %; with 1.8 % of the weights the winning
tickets still reach 97.7 %, random tickets of the same density 39 %.
"""

from lottery_jax import recipes


def get_config():
    return recipes.quickstart()
