"""VGG19 on Fashion-MNIST: 30 levels of 20 %, one seed, late reset after one epoch.

    python -m lottery_jax.main --config=configs/vgg19_fashion_mnist.py --workdir=runs/vgg19_fashion_mnist

Cost: 31 trainings of 160 epochs, 7.1e17 FLOP (6 x multiply-adds x images; an estimate, not a
measurement): for a GPU or TPU. For the six replicates and the random control of the paper add
--config.seeds=0,1,2,3,4,5 --config.controls=random.

Expected: no figures for this pair are at hand; the published pairs of this network and of this
data set are in Gohil et al., ReScience C 6.2 #4, 2020, the replication of Morcos et al. (2019).
"""

from lottery_jax import recipes


def get_config():
    return recipes.vgg19("fashion_mnist")
