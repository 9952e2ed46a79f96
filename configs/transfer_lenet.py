"""A transfer matrix over the halves of Fashion-MNIST and digits: LeNet-300-100, 3 seeds.

    python -m lottery_jax.main --config=configs/transfer_lenet.py --workdir=runs/transfer_lenet

Cost: three ladders with their random tickets and six transfers of 8 levels, 315 trainings of 10
epochs; about 40 minutes on one CPU core.

Expected: what came out here is in docs/results/. Digits are padded to 28 pixels.
"""

from lottery_jax import recipes


def get_config():
    return recipes.transfer_lenet()
