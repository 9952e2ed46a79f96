"""LeNet-300-100 on Fashion-MNIST: 17 levels of 20 % to 2.25 % of the weights, 3 seeds, both controls.

    python -m lottery_jax.main --config=configs/lenet_fashion_mnist.py --workdir=runs/lenet_fashion_mnist

Recipe: batch 60, 10 epochs; Adam (weight decay 0) at 0.0012, constant; 17 levels of 20 % by iterative
global magnitude; rewound to 0.

Cost: 90 trainings of 10 epochs; about an hour on 2 CPU cores.

Expected: what came out here is in docs/results/. The recipe is that of Frankle & Carbin (ICLR 2019)
for MNIST, with global pruning and fewer epochs.
"""

from lottery_jax import recipes


def get_config():
    return recipes.short_ladder(recipes.lenet("fashion_mnist"))
