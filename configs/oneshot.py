"""One-shot magnitude pruning with rewinding, at the five sparsities of the published tables.

    python -m lottery_jax.main --config=configs/oneshot.py:vgg19_cifar10 --workdir=runs/oneshot

After the colon: NETWORK_DATASET, with vgg19, resnet50, alexnet, vgg16, resnet20, lenet or conv2.
The network is trained once, pruned by magnitude to 48.8, 89.3, 97.2, 98.85 and 99.88 %, each put
back to the end of epoch 1 and trained again. One percentage alone:
--config.ladder.sparsities=0.9

Recipe of vgg19_cifar10: batch 512, 160 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, times 0.1
after epochs 80, 120; levels at 48.8, 89.26, 97.19, 98.85, 99.88 % by oneshot global magnitude; rewound to
1ep.

Cost: six trainings of the dense network's length: for a GPU or TPU.

Expected: not published at these sparsities. Below IMP where few weights are left (Frankle & Carbin
2019, section 4).
"""

from lottery_jax import recipes


def get_config(recipe="vgg19_cifar10"):
    c = recipes.named(recipe)
    c.ladder.draw = "oneshot"
    c.ladder.scores = "magnitude"
    # Levels 3, 10, 16, 20 and 30 of 20 %: where Gohil et al. give numbers.
    c.ladder.sparsities = tuple(1 - 0.8**k for k in (3, 10, 16, 20, 30))
    return c
