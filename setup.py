"""The packages of the wheel; everything else is in setup.cfg.

The files of `configs/` are in the wheel as `lottery_jax/configs/`, so that `--config=quickstart`
works from anywhere, and a checkout has them once; so is the index of `zoo/`, without its tickets.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["lottery_jax", "lottery_jax.*"]),
        "lottery_jax.configs",
        "lottery_jax.zoo",
    ],
    package_dir={"lottery_jax.configs": "configs", "lottery_jax.zoo": "zoo"},
)
