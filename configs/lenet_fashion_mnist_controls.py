"""Every control of LeNet-300-100's winning tickets on Fashion-MNIST: 16 levels, 3 seeds.

    python -m lottery_jax.main --config=configs/lenet_fashion_mnist_controls.py --workdir=runs/controls

Recipe: batch 60, 10 epochs; Adam (weight decay 0) at 0.0012, constant; 16 levels of 20 % by iterative
global magnitude; rewound to 1ep.

Cost: 135 trainings of 10 epochs; 45 minutes on one CPU core.

Expected: what came out here is in docs/results/. Rewound to the end of epoch 1, unlike
configs/lenet_fashion_mnist.py: the control `init` would otherwise be the winning ticket itself.
"""

from lottery_jax import recipes


def get_config():
    c = recipes.lenet("fashion_mnist")
    c.seeds = (0, 1, 2)
    c.controls = (
        "reinit",
        "shuffle_layers",
        "shuffle_global",
        "random",
        "random_preserved",
        "init",
        "dense_sign",
    )
    c.control_levels = (5, 9, 13, 16)
    c.train.epochs = 10
    c.ladder.levels = 16
    c.ladder.rewind = "1ep"  # to the initialisation `init` would be the winning ticket itself
    return c
