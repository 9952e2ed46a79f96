r"""ResNet50 tickets of one data set trained on another, at every level of the source's ladder.

    python -m lottery_jax.main --config=configs/recipe.py:resnet50_cifar100 --workdir=runs/resnet50_cifar100
    python -m lottery_jax.main --config=configs/transfer_resnet50.py:cifar100_to_cifar10 \
        --workdir=runs/resnet50_cifar100_to_cifar10

After the colon: SOURCE_to_TARGET, of cifar10, cifar100, svhn, fashion_mnist and halves of these.

Recipe of cifar100_to_cifar10: batch 512, 90 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, times
0.1 after epochs 50, 65, 80; 30 levels of 20 % by iterative global magnitude; rewound to 1ep.

Cost: 31 trainings of 90 epochs, and those of the source: for a GPU or TPU.

Expected, accuracy on CIFAR-10 in %:

    % pruned                 0   48.8   89.3   97.2  98.85  99.88
    CIFAR-100 to CIFAR-10  79.55  78.01  77.51  81.19  81.15  10

Source: Gohil et al., "One ticket to win them all: generalizing lottery ticket initializations
across datasets and optimizers" (replication), ReScience C 6.2 #4, 2020; one run each.
"""

from lottery_jax import recipes


def get_config(pair="cifar100_to_cifar10"):
    return recipes.transfer("resnet50", pair)
