"""SNIP in nested rounds: 30 levels, each prunes 20 % of what the level before left, at initialisation.

    python -m lottery_jax.main --config=configs/iterative_snip.py:vgg19_cifar10 --workdir=runs/iterative_snip

After the colon: NETWORK_DATASET, with vgg19, resnet50, alexnet, vgg16, resnet20, lenet or conv2.
Sparsities are those of the IMP ladder, to the weight. To train at some of them only and score in more
rounds: --config.ladder.sparsities=0.9,0.99 --config.ladder.rounds=10

Recipe of vgg19_cifar10: batch 512, 160 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, times 0.1
after epochs 80, 120; 30 levels of 20 % by init_nested global snip; rewound to 0.

Cost: 31 trainings of the dense network's length: for a GPU or TPU.

Expected: no published numbers at hand.
"""

from lottery_jax import recipes


def get_config(recipe="vgg19_cifar10"):
    c = recipes.named(recipe)
    c.ladder.draw = "init_nested"
    c.ladder.scores = "snip"
    c.ladder.score_batch_size = 128
    c.ladder.rewind = 0
    return c
