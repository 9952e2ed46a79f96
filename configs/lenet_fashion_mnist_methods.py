r"""Seven ways to draw a ticket and two plain ones, on LeNet-300-100 and Fashion-MNIST, 3 seeds.

    python -m lottery_jax.main --config=configs/lenet_fashion_mnist_methods.py:snip \
        --workdir=runs/methods/snip

After the colon: imp, oneshot, snip, iterative_snip, grasp, synflow, magnitude_at_init, random or
erk. The recipe is that of configs/lenet_fashion_mnist.py, for all of them: the same data, optimizer,
learning rate, epochs and seeds; only what is scored, and by what, differs. IMP at these densities is
a level each of that file's ladder.

    python -m lottery_jax.report runs/lenet_fashion_mnist runs/methods/* --out=runs/methods/report

Recipe of snip: batch 60, 10 epochs; Adam (weight decay 0) at 0.0012, constant; levels at 36, 67.23, 83.22,
91.41, 95.6, 97.19 % by init global snip; rewound to 0.

Cost: 21 trainings of 10 epochs for each method; 7 minutes on one CPU core.

Expected: what came out here is in docs/results/.
"""

from lottery_jax import recipes


def get_config(method="snip"):
    return recipes.lenet_methods(method)
