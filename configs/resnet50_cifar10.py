"""ResNet50 on CIFAR-10: 30 levels of 20 %, one seed, late reset after one epoch.

    python -m lottery_jax.main --config=configs/resnet50_cifar10.py --workdir=runs/resnet50_cifar10

Recipe: batch 512, 90 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, times 0.1 after epochs 50, 65,
80; 30 levels of 20 % by iterative global magnitude; rewound to 1ep.

Cost: 31 trainings of 90 epochs, 7.0e16 FLOP (6 x multiply-adds x images; an estimate, not a
measurement): for a GPU or TPU. For the six replicates and the random control of the paper add
--config.seeds=0,1,2,3,4,5 --config.controls=random.

Expected, from the authors' result sheets (one run each):

    % pruned             0   48.8   89.3   97.2  98.85  99.88
    accuracy, %      75.02   78.1   76.1  79.47  78.05     10

Source: Gohil et al., "One ticket to win them all: generalizing lottery ticket initializations
across datasets and optimizers" (replication), ReScience C 6.2 #4, 2020.
"""

from lottery_jax import recipes


def get_config():
    return recipes.resnet50("cifar10")
