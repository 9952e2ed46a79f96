"""A command of lottery_jax whose clock goes back a day every tenth time that it is read.

python jumping_clock.py MODULE ARGUMENTS...
"""

import itertools
import runpy
import sys
import time

real, reads = time.time, itertools.count()


def jumping():
    return real() - 86400 * (next(reads) // 10)


if __name__ == "__main__":
    time.time, time.time_ns = jumping, lambda: int(jumping() * 1e9)
    module, *sys.argv[1:] = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
