"""One of the runs that claims of the literature need, by itself; `python -m lottery_jax.reproduce` runs them.

    python -m lottery_jax.main --config=configs/reproduce.py:small_imp --workdir=runs/small_imp

After the colon: SCALE_RUN. The scales are quick (LeNet-300-100 on digits), small (the same network on
Fashion-MNIST), mid (a narrow ResNet-20), full (VGG19 on CIFAR-10) and full_resnet50. The runs are those of
`python -m lottery_jax.reproduce list --runs`, such as imp, oneshot, snip, grasp, half_a and a_to_b. A run that
trains another's tickets looks for them in runs/SCALE_RUN of that one.

Recipe of quick_imp: batch 64, 20 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, constant; 8 levels of
36 % by iterative global magnitude; rewound to 1ep.

Cost: 135 trainings of 20 epochs for quick_imp; `python -m lottery_jax.reproduce list --runs` has the others.

Expected: what the claims say, in docs/claims.md.
"""

from lottery_jax.reproduce.protocols import alone


def get_config(run="quick_imp"):
    return alone(run)
