"""ResNet50 on Places365: 30 levels of 20 %, one seed, late reset to epoch 6.

    pip install -e '.[streaming,tfds]'
    python -m lottery_jax.datasets prepare places365_small
    python -m lottery_jax.main --config=configs/resnet50_places365.py --workdir=runs/resnet50_places365_small

After a colon the epoch of the reset, configs/resnet50_places365.py:3 for 3. The recipe is that of ImageNet,
configs/resnet50_imagenet.py; the images, 256 x 256 pixels, are those of the "small" Places365-Standard,
which `prepare` downloads.

Recipe: batch 1024, 90 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.4 after 5 epochs of warm-up,
times 0.1 after epochs 30, 60, 80; 30 levels of 20 % by iterative global magnitude; rewound to 6ep.

Cost: 31 trainings, 2,610 epochs of 1,803,460 images at 224 pixels in all, 1.2e20 FLOP (6 x multiply-adds
x images; an estimate, not a measurement): for a host with several GPUs, or more.

Expected: no figures for tickets with this recipe are at hand. Morcos et al. (2019), "One ticket to win them
all", have tickets of ResNet50 on Places365 in figures only.
"""

from lottery_jax import recipes


def get_config(rewind_epochs="6"):
    return recipes.resnet50_photographs("places365_small", rewind_epochs)
