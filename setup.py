"""The packages of the wheel; everything else is in setup.cfg.

The files of `configs/` are in the wheel as `lottery_jax/configs/`, so that `--config=quickstart`
works from anywhere, and a checkout has them once; so is the index of `zoo/`, without its tickets and
without the program that makes them.
"""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildPackages(build_py):
    """Build all packages without `zoo/build.py`, which works in a checkout alone."""

    def find_package_modules(self, package, package_dir):
        """Return the modules of a package, each with its package, name and file."""
        modules = super().find_package_modules(package, package_dir)
        return [module for module in modules if module[:2] != ("lottery_jax.zoo", "build")]


setup(
    cmdclass={"build_py": BuildPackages},
    packages=[
        *find_packages(include=["lottery_jax", "lottery_jax.*"]),
        "lottery_jax.configs",
        "lottery_jax.zoo",
    ],
    package_dir={"lottery_jax.configs": "configs", "lottery_jax.zoo": "zoo"},
)
