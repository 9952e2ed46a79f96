"""ResNet50 on ImageNet: 30 levels of 20 %, one seed, late reset to epoch 6.

    pip install -e '.[streaming,tfds]'
    python -m lottery_jax.datasets prepare imagenet2012
    python -m lottery_jax.main --config=configs/resnet50_imagenet.py --workdir=runs/resnet50_imagenet2012

After a colon the epoch of the reset, configs/resnet50_imagenet.py:3 for 3. The archives of ImageNet
come with an account at image-net.org; `prepare` says where to put them. The images stay on disk:
--config.data.workers processes decode them. On a GPU or TPU --config.model.dtype=bfloat16 is the faster
computation. For another batch size scale --config.optimizer.learning_rate with it.

Recipe: batch 1024, 90 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.4 after 5 epochs of warm-up,
times 0.1 after epochs 30, 60, 80; 30 levels of 20 % by iterative global magnitude; rewound to 6ep.

Cost: 31 trainings, 2,610 epochs of 1,281,167 images at 224 pixels in all, 8.2e19 FLOP (6 x
multiply-adds x images; an estimate, not a measurement): for a host with several GPUs, or more. The first
10 levels, to 11 % of the weights: --config.ladder.levels=10.

Expected, rewound to epoch 6 (second-hand figures of Frankle et al. 2020; not made with this file):

    % of weights left    100     50     30     20     10
    accuracy, %        76.14  76.11  75.93  75.50  73.61

Source: Frankle, Dziugaite, Roy & Carbin, "Linear mode connectivity and the lottery ticket hypothesis",
ICML 2020; the recipe is that of their library OpenLTH, which gives 76.1 % for the dense network.
Morcos et al. (2019) too have tickets of ResNet50 on ImageNet, in figures only.
"""

from lottery_jax import recipes


def get_config(rewind_epochs="6"):
    return recipes.resnet50_photographs("imagenet2012", rewind_epochs)
