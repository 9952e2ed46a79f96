"""ResNet-20 on CIFAR-10: 30 levels of 20 %, one seed, rewound to step 500.

    python -m lottery_jax.main --config=configs/resnet20_cifar10.py --workdir=runs/resnet20_cifar10

Cost: 31 trainings of 160 epochs, 6.1e16 FLOP (6 x 41 M multiply-adds x images; an estimate, not a
measurement): hours on one GPU.

Expected: a dense accuracy near the 91.25 % of He et al. (CVPR 2016, table 6). Rewound to
initialisation its tickets fail at this learning rate, rewound to an early step they do not (Frankle
et al., "Linear mode connectivity and the lottery ticket hypothesis", ICML 2020).
"""

from lottery_jax import recipes


def get_config():
    return recipes.resnet20("cifar10")
