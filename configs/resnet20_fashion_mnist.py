r"""Half-width ResNet-20 on Fashion-MNIST: 10 levels of 30 % to 2.82 % of the weights, 3 seeds, both controls.

    python -m lottery_jax.main --config=configs/resnet20_fashion_mnist.py:100st \
        --workdir=runs/resnet20_fashion_mnist_100st

After the colon: the rewind point, a step such as 100st (the default), or 0.

Recipe of 100st: batch 128, 2 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1 after 0.25 epochs of
warm-up, cosine; 10 levels of 30 % by iterative global magnitude; rewound to 100st.

Cost: 51 trainings of 936 steps; about two hours on 2 CPU cores.

Expected: a network with BatchNorm and shortcuts at a large learning rate is where Frankle et al. (ICML
2020) found that tickets rewound to their initialisation fail, and those rewound to an early step do not.
This is the smallest such training that two cores finish; two epochs are far fewer than the paper's.
"""

from lottery_jax import recipes


def get_config(rewind="100st"):
    c = recipes.resnet20("fashion_mnist")
    c.model.width = 0.5
    c.data.input_shape = ()
    c.data.augment = "none"
    c.seeds = (0, 1, 2)
    c.controls = ("reinit", "random")
    c.control_levels = (4, 7, 10)
    c.train.epochs = 2
    c.train.eval_every_epochs = 2
    c.optimizer.schedule = "cosine"
    c.optimizer.milestones = ()
    c.optimizer.warmup_epochs = 0.25
    c.ladder.levels = 10
    c.ladder.prune_fraction = 0.3
    c.ladder.rewind = rewind
    return c
