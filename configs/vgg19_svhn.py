"""VGG19 on SVHN: 30 levels of 20 %, one seed, late reset after one epoch.

    python -m lottery_jax.main --config=configs/vgg19_svhn.py --workdir=runs/vgg19_svhn

Recipe: batch 512, 160 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, times 0.1 after epochs 80,
120; 30 levels of 20 % by iterative global magnitude; rewound to 1ep.

Cost: 31 trainings of 160 epochs, 8.7e17 FLOP (6 x multiply-adds x images; an estimate, not a
measurement): for a GPU or TPU. For the six replicates and the random control of the paper add
--config.seeds=0,1,2,3,4,5 --config.controls=random.

Expected, from the authors' result sheets (one run each):

    % pruned             0   48.8   89.3   97.2  98.85  99.88
    accuracy, %      95.61  95.93  95.95  95.87  95.67  92.32

Source: Gohil et al., "One ticket to win them all: generalizing lottery ticket initializations
across datasets and optimizers" (replication), ReScience C 6.2 #4, 2020.
"""

from lottery_jax import recipes


def get_config():
    return recipes.vgg19("svhn")
