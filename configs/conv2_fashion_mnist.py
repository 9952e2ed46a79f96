"""Conv-2 on Fashion-MNIST: 17 levels of 20 % to 2.25 % of the weights, 3 seeds, both controls.

    python -m lottery_jax.main --config=configs/conv2_fashion_mnist.py --workdir=runs/conv2_fashion_mnist

Recipe: batch 60, 10 epochs; Adam (weight decay 0) at 0.0002, constant; 17 levels of 20 % by iterative
global magnitude; rewound to 0.

Cost: 90 trainings of 10 epochs, 1.1e16 FLOP (6 x 33 M multiply-adds x images; an estimate): minutes to
an hour on a GPU; more than a day on 2 CPU cores.

Expected: what came out here, on a part of this ladder, is in docs/results/. The recipe is that of
Frankle & Carbin (ICLR 2019) for CIFAR-10.
"""

from lottery_jax import recipes


def get_config():
    return recipes.short_ladder(recipes.conv2("fashion_mnist"))
