"""A transfer matrix over the halves of Fashion-MNIST and digits: LeNet-300-100, 3 seeds.

    python -m lottery_jax.main --config=configs/transfer_lenet.py --workdir=runs/transfer_lenet

Recipe: batch 60, 10 epochs; Adam (weight decay 0) at 0.0012, constant; 8 levels of 36 % by iterative global
magnitude; rewound to 1ep.

Cost: three ladders with their random tickets and six transfers of 8 levels, 315 trainings of 10
epochs; about 40 minutes on one CPU core.

Expected: what came out here is in docs/results/. Digits are padded to 28 pixels.
"""

from lottery_jax import recipes


def get_config():
    c = recipes.lenet("fashion_mnist")
    c.seeds = (0, 1, 2)
    c.controls = ("random",)
    c.transfer.sources = ("fashion_mnist_a", "fashion_mnist_b", "digits")
    c.transfer.targets = c.transfer.sources
    c.data.input_shape = (28, 28, 1)
    c.train.epochs = 10
    c.ladder.levels = 8
    c.ladder.prune_fraction = 0.36
    # Not to the initialisation: the initial weights of a seed are the same on all data sets.
    c.ladder.rewind = "1ep"
    return c
