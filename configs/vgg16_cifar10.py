"""VGG16 on CIFAR-10: 30 levels of 20 %, one seed, late reset after one epoch.

    python -m lottery_jax.main --config=configs/vgg16_cifar10.py --workdir=runs/vgg16_cifar10

Cost: 31 trainings of 160 epochs, 4.7e17 FLOP (6 x multiply-adds x images; an estimate, not a
measurement): for a GPU or TPU.

Expected: a dense accuracy near 93.5 %. For pruning at initialisation, Tanaka et al. (NeurIPS 2020,
SynFlow; 3 seeds, another recipe) report with 90 / 96.8 / 99 % pruned: magnitude 93.12 / 91.95 / 89.80,
random 91.15 / 87.52 / 79.14; rewound tickets should do no worse than the former.
"""

from lottery_jax import recipes


def get_config():
    return recipes.vgg16("cifar10")
