"""Every control of LeNet-300-100's winning tickets on Fashion-MNIST: 16 levels, 3 seeds.

    python -m lottery_jax.main --config=configs/lenet_fashion_mnist_controls.py --workdir=runs/controls

Cost: 135 trainings of 10 epochs; 45 minutes on one CPU core.

Expected: what came out here is in docs/results/. Rewound to the end of epoch 1, unlike
configs/lenet_fashion_mnist.py: the control `init` would otherwise be the winning ticket itself.
"""

from lottery_jax import recipes


def get_config():
    return recipes.lenet_controls()
