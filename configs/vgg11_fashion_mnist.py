r"""Quarter-width VGG11 on Fashion-MNIST: 10 levels of 30 % to 2.82 % of the weights, 3 seeds, both controls.

    python -m lottery_jax.main --config=configs/vgg11_fashion_mnist.py:100st \
        --workdir=runs/vgg11_fashion_mnist_100st

After the colon: the rewind point, a step such as 100st (the default), or 0, which has no controls.

Recipe of 100st: batch 128, 2 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, cosine; 10 levels of
30 % by iterative global magnitude; rewound to 100st.

Cost: 51 trainings of 936 steps (33 without controls); about an hour on one idle CPU core.

Expected: a network with BatchNorm at a large learning rate without warm-up is where Frankle & Carbin
(ICLR 2019) found that tickets rewound to their initialisation fail, and Frankle et al. (ICML 2020) that
tickets rewound to an early step do not. Two epochs are far fewer than the papers'.
"""

from lottery_jax import recipes


def get_config(rewind="100st"):
    c = recipes.vgg16("fashion_mnist")
    c.model.name = "vgg11"
    c.model.width = 0.25
    c.data.input_shape = ()
    c.data.augment = "none"
    c.seeds = (0, 1, 2)
    if str(rewind) != "0":
        c.controls = ("reinit", "random")
        c.control_levels = (4, 7, 10)
    c.train.batch_size = 128
    c.train.epochs = 2
    c.train.eval_every_epochs = 2
    c.optimizer.schedule = "cosine"
    c.optimizer.milestones = ()
    c.ladder.levels = 10
    c.ladder.prune_fraction = 0.3
    c.ladder.rewind = rewind
    return c
