r"""Tickets found by Adam, trained by SGD.

    python -m lottery_jax.main --config=configs/adam.py:vgg19_cifar10 --workdir=runs/vgg19_cifar10_adam
    python -m lottery_jax.main --config=configs/transfer_adam_to_sgd.py:vgg19_cifar10 \
        --workdir=runs/vgg19_cifar10_adam_to_sgd

After the colon: NETWORK_DATASET, with vgg19, resnet50, alexnet, vgg16, resnet20, lenet or conv2.
The data are the same, so the output layer is kept.

Recipe of vgg19_cifar10: batch 512, 160 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, times 0.1
after epochs 80, 120; 30 levels of 20 % by iterative global magnitude; rewound to 1ep.

Cost: 31 trainings of 160 epochs, and those of the source: for a GPU or TPU.

Expected, VGG19 on CIFAR-10, accuracy in %:

    % pruned       0   48.8   89.3   97.2  98.85  99.88
    accuracy   91.12  92.62  91.75  92.32  92.16  81.19

Source: Gohil et al., "One ticket to win them all: generalizing lottery ticket initializations
across datasets and optimizers" (replication), ReScience C 6.2 #4, 2020; one run each.
"""

from lottery_jax import recipes


def get_config(recipe="vgg19_cifar10"):
    c = recipes.named(recipe)
    c.source = f"runs/{recipe}_adam"
    return c
