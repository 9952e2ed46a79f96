"""`python -m lottery_jax` is the command `lottery-jax`."""

import sys

from lottery_jax.cli import main

if __name__ == "__main__":
    sys.exit(main("python -m lottery_jax"))
