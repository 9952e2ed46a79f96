"""The entry point of `python -m lottery_jax.report`."""

import sys

from lottery_jax.report import main

if __name__ == "__main__":
    sys.exit(main())
