"""VGG19 on half a of CIFAR-10's training set: 30 levels of 20 %, one seed, late reset.

    python -m lottery_jax.main --config=configs/vgg19_cifar10a.py --workdir=runs/vgg19_cifar10a

The halves are stratified, disjoint and together all of the training set; the test set is whole.

Recipe: batch 512, 160 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, times 0.1 after epochs 80,
120; 30 levels of 20 % by iterative global magnitude; rewound to 1ep.

Cost: 31 trainings of 160 epochs of 25,000 images, 3.0e17 FLOP (6 x multiply-adds x images; an
estimate, not a measurement): for a GPU or TPU.

Expected: below the whole set's 92.58 % (dense; Gohil et al., ReScience C 6.2 #4, 2020), with winning
tickets that keep up with their dense network (Morcos et al., NeurIPS 2019).
"""

from lottery_jax import recipes


def get_config():
    return recipes.vgg19("cifar10_a")
