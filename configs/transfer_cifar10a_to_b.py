r"""Tickets of one half of CIFAR-10 on the other half, the cleanest transfer: the same distribution.

    python -m lottery_jax.main --config=configs/vgg19_cifar10a.py --workdir=runs/vgg19_cifar10a
    python -m lottery_jax.main --config=configs/transfer_cifar10a_to_b.py --workdir=runs/vgg19_a_to_b

With :resnet50 behind the file's name the same for ResNet50, after a ladder of its own:

    python -m lottery_jax.main --config=configs/resnet50_cifar10.py --config.data.name=cifar10a \
        --workdir=runs/resnet50_cifar10a

Recipe of vgg19: batch 512, 160 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, times 0.1 after
epochs 80, 120; 30 levels of 20 % by iterative global magnitude; rewound to 1ep.

Cost: 31 trainings on half the data: for a GPU or TPU.

Expected: close to the native tickets of configs/vgg19_cifar10b.py (Morcos et al. 2019, figure 3).
"""

from lottery_jax import recipes


def get_config(network="vgg19"):
    return recipes.transfer(network, "cifar10a_to_cifar10b")
