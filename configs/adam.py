"""The IMP ladder found by Adam (3e-4, weight decay 1e-4; Morcos et al. 2019) instead of SGD.

    python -m lottery_jax.main --config=configs/adam.py:vgg19_cifar10 --workdir=runs/vgg19_cifar10_adam

After the colon: NETWORK_DATASET, with vgg19, resnet50, alexnet, vgg16, resnet20, lenet or conv2.

Recipe of vgg19_cifar10: batch 512, 160 epochs; Adam (weight decay 0.0001) at 0.0003, times 0.1 after epochs
80, 120; 30 levels of 20 % by iterative global magnitude; rewound to 1ep.

Cost: 31 trainings, as with SGD: for a GPU or TPU.

Expected: the source of configs/transfer_adam_to_sgd.py.
"""

from lottery_jax import recipes


def get_config(recipe="vgg19_cifar10"):
    return recipes.with_adam(recipes.named(recipe))
