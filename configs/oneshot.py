"""One-shot magnitude pruning with rewinding, at the five sparsities of the published tables.

    python -m lottery_jax.main --config=configs/oneshot.py:vgg19_cifar10 --workdir=runs/oneshot

After the colon: NETWORK_DATASET, with vgg19, resnet50, alexnet, vgg16, resnet20, lenet or conv2.
The network is trained once, pruned by magnitude to 48.8, 89.3, 97.2, 98.85 and 99.88 %, each put
back to the end of epoch 1 and trained again. One percentage alone:
--config.ladder.sparsities=0.9

Cost: six trainings of the dense network's length: for a GPU or TPU.

Expected: not published at these sparsities. Below IMP where few weights are left (Frankle & Carbin
2019, section 4).
"""

from lottery_jax import recipes


def get_config(recipe="vgg19_cifar10"):
    return recipes.oneshot(recipe)
