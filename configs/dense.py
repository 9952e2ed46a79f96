"""A dense network and its late-reset weights: what every ladder begins with, alone.

    python -m lottery_jax.main --config=configs/dense.py:vgg19_cifar10 --workdir=runs/dense

After the colon: NETWORK_DATASET, with vgg19, resnet50, alexnet, vgg16, resnet20, lenet or conv2.

Cost: one training of 160 epochs for VGG19, 90 for ResNet50, 500 for AlexNet: for a GPU or TPU.

Expected: level 0 of the table in the network's own config.
"""

from lottery_jax import recipes


def get_config(recipe="vgg19_cifar10"):
    return recipes.dense(recipe)
