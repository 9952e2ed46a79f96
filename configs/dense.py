"""A dense network and its late-reset weights: what every ladder begins with, alone.

    python -m lottery_jax.main --config=configs/dense.py:vgg19_cifar10 --workdir=runs/dense

After the colon: NETWORK_DATASET, with vgg19, resnet50, alexnet, vgg16, resnet20, lenet or conv2.

Recipe of vgg19_cifar10: batch 512, 160 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, times 0.1
after epochs 80, 120; the dense network alone; rewound to 1ep.

Cost: one training of 160 epochs for VGG19, 90 for ResNet50, 500 for AlexNet: for a GPU or TPU.

Expected: level 0 of the table in the network's own config.
"""

from lottery_jax import recipes


def get_config(recipe="vgg19_cifar10"):
    c = recipes.named(recipe)
    c.ladder.levels = 0
    return c
