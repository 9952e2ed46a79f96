"""AlexNet on CIFAR-100: 30 levels of 20 %, one seed, late reset after one epoch.

    python -m lottery_jax.main --config=configs/alexnet_cifar100.py --workdir=runs/alexnet_cifar100

Cost: 31 trainings of 500 epochs, 2.9e17 FLOP (6 x multiply-adds x images; an estimate, not a
measurement): for a GPU or TPU. For the six replicates and the random control of the paper add
--config.seeds=0,1,2,3,4,5 --config.controls=random.

Expected: no figures for this pair are at hand; the published pairs of this network and of this
data set are in Gohil et al., ReScience C 6.2 #4, 2020, the replication of Morcos et al. (2019).
"""

from lottery_jax import recipes


def get_config():
    return recipes.alexnet("cifar100")
