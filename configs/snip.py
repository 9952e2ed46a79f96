"""SNIP (Lee et al. 2019): prune at initialisation by |gradient x weight|, then train those weights.

    python -m lottery_jax.main --config=configs/snip.py:vgg19_cifar10 --workdir=runs/snip
    python -m lottery_jax.main --config=configs/snip.py:vgg16_cifar10 --config.ladder.scores=synflow

After the colon: NETWORK_DATASET, with vgg19, resnet50, alexnet, vgg16, resnet20, lenet or conv2.
The sparsities are those of the published tables; one alone: --config.ladder.sparsities=0.9.
Likewise --config.ladder.scores=grasp, synflow, magnitude_at_init, random, erk.

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
    return recipes.snip(recipe)
