r"""VGG19 tickets of one data set trained on another, at every level of the source's ladder.

    python -m lottery_jax.main --config=configs/vgg19_cifar100.py --workdir=runs/vgg19_cifar100
    python -m lottery_jax.main --config=configs/transfer_vgg19.py:cifar100_to_cifar10 \
        --workdir=runs/vgg19_cifar100_to_cifar10

After the colon: SOURCE_to_TARGET, of cifar10, cifar100, svhn, fashion_mnist and halves such as
cifar10a. The source's run directory is runs/vgg19_SOURCE (--config.source for another); its masks
and rewound weights are used, the output layer is drawn anew.

Recipe of cifar100_to_cifar10: batch 512, 160 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, times
0.1 after epochs 80, 120; 30 levels of 20 % by iterative global magnitude; rewound to 1ep.

Cost: 31 trainings of 160 epochs, and those of the source: for a GPU or TPU.

Expected, accuracy on the target in %:

    % pruned                 0   48.8   89.3   97.2  98.85  99.88
    CIFAR-100 to CIFAR-10  92.41  92.72  92.93  91.24  89.84  77.87
    CIFAR-10 to CIFAR-100  69.88  69.45  70.13  69.79  63.98  40.87

Source: Gohil et al., "One ticket to win them all: generalizing lottery ticket initializations
across datasets and optimizers" (replication), ReScience C 6.2 #4, 2020; one run each.
"""

from lottery_jax import recipes


def get_config(pair="cifar100_to_cifar10"):
    return recipes.transfer("vgg19", pair)
