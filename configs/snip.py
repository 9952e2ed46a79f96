"""SNIP (Lee et al. 2019): prune at initialisation by |gradient x weight|, then train those weights.

    python -m lottery_jax.main --config=configs/snip.py:vgg19_cifar10 --workdir=runs/snip
    python -m lottery_jax.main --config=configs/snip.py:vgg16_cifar10 --config.ladder.scores=synflow

After the colon: NETWORK_DATASET, with vgg19, resnet50, alexnet, vgg16, resnet20, lenet or conv2.
The sparsities are those of the published tables; one alone: --config.ladder.sparsities=0.9.
Likewise --config.ladder.scores=grasp, synflow, magnitude_at_init, random, erk.

Recipe of vgg19_cifar10: batch 512, 160 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, times 0.1
after epochs 80, 120; levels at 48.8, 89.26, 97.19, 98.85, 99.88 % by init global snip; rewound to 0.

Cost: the dense network and five tickets, trained once each: for a GPU or TPU.

Expected, for VGG16 on CIFAR-10 (Tanaka et al., NeurIPS 2020; 3 seeds; dense 93.5), accuracy in %;
the numbers are second-hand:

    % pruned               90   96.8     99   99.9
    random              91.15  87.52  79.14  10.00
    magnitude at init   93.12  91.95  89.80  10.00
    SNIP                92.26  91.08  89.15  76.25
    GraSP               91.84  90.17  87.49  70.93
    SynFlow             93.26  92.12  90.08  80.39
"""

from lottery_jax import recipes


def get_config(recipe="vgg19_cifar10"):
    c = recipes.named(recipe)
    c.ladder.draw = "init"
    c.ladder.scores = "snip"
    c.ladder.score_batch_size = 128  # one batch, as the paper has it for CIFAR
    c.ladder.rewind = 0
    # Levels 3, 10, 16, 20 and 30 of 20 %: where Gohil et al. give numbers.
    c.ladder.sparsities = tuple(1 - 0.8**k for k in (3, 10, 16, 20, 30))
    return c
