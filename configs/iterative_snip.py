"""SNIP in nested rounds: 30 levels, each prunes 20 % of what the level before left, at initialisation.

    python -m lottery_jax.main --config=configs/iterative_snip.py:vgg19_cifar10 --workdir=runs/iterative_snip

After the colon: NETWORK_DATASET, with vgg19, resnet50, alexnet, vgg16, resnet20, lenet or conv2.
Sparsities are those of the IMP ladder, to the weight. To train at some of them only and score in more
rounds: --config.ladder.sparsities=0.9,0.99 --config.ladder.rounds=10

Cost: 31 trainings of the dense network's length: for a GPU or TPU.

Expected: no published numbers at hand.
"""

from lottery_jax import recipes


def get_config(recipe="vgg19_cifar10"):
    return recipes.iterative_snip(recipe)
