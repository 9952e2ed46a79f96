"""A ladder of any network on any data set: 30 levels of 20 %, one seed.

    python -m lottery_jax.main --config=configs/recipe.py:resnet50_svhn --workdir=runs/resnet50_svhn

After the colon: NETWORK_DATASET, with vgg19, resnet50, alexnet, vgg16, resnet20, lenet or conv2, and cifar10,
cifar100, svhn, fashion_mnist, digits, a half such as cifar10a, or the name of your own npz file. Pairs with
published numbers have a file of their own, such as configs/vgg19_cifar100.py, with the same recipe.

Recipes on CIFAR-10:

- vgg19: batch 512, 160 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, times 0.1 after epochs 80,
  120; 30 levels of 20 % by iterative global magnitude; rewound to 1ep.
- resnet50: batch 512, 90 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, times 0.1 after epochs 50,
  65, 80; 30 levels of 20 % by iterative global magnitude; rewound to 1ep.
- alexnet: batch 512, 500 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.01, times 0.1 after epochs 450,
  470, 480, 490; 30 levels of 20 % by iterative global magnitude; rewound to 1ep.
- vgg16: batch 512, 160 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, times 0.1 after epochs 80,
  120; 30 levels of 20 % by iterative global magnitude; rewound to 1ep.
- resnet20: batch 128, 160 epochs; SGD (momentum 0.9, weight decay 0.0001) at 0.1, times 0.1 after epochs 80,
  120; 30 levels of 20 % by iterative global magnitude; rewound to 500st.
- lenet: batch 60, 20 epochs; Adam (weight decay 0) at 0.0012, constant; 30 levels of 20 % by iterative global
  magnitude; rewound to 0.
- conv2: batch 60, 20 epochs; Adam (weight decay 0) at 0.0002, constant; 30 levels of 20 % by iterative global
  magnitude; rewound to 0.

Cost: 31 trainings; in FLOP (6 x multiply-adds x images; an estimate, not a measurement) on CIFAR 5.9e17 for
VGG19, 7.0e16 for ResNet50, 2.9e17 for AlexNet, 4.7e17 for VGG16 and 6.1e16 for ResNet-20, on Fashion-MNIST 1.2
and on SVHN 1.5 times as many: for a GPU or TPU. For the six replicates and the random control of Morcos et al.
add --config.seeds=0,1,2,3,4,5 --config.controls=random.

Expected: no figures are at hand for most pairs; Gohil et al. (ReScience C 6.2 #4, 2020) have other pairs of the
same networks and data sets. VGG16 on CIFAR-10: a dense accuracy near 93.5 %, and rewound tickets no worse than
"magnitude at init" in configs/snip.py. ResNet-20 on CIFAR-10: a dense accuracy near the 91.25 % of He et al.
(CVPR 2016, table 6). Rewound to initialisation its tickets fail at this learning rate, rewound to an early step
they do not (Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis", ICML 2020).
"""

from lottery_jax import recipes


def get_config(recipe="vgg19_cifar10"):
    return recipes.named(recipe)
