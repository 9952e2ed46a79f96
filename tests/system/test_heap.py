"""The heap that a process keeps: memory that was freed is used again without the system's help."""

import json
import os
import subprocess
import sys

import pytest

from lottery_jax.system import heap

# A step's worth of large arrays, made and freed eight times; the page faults of the last seven.
PROGRAM = """
import json, os, resource, sys
import numpy as np
from lottery_jax.system.heap import keep_heap
done = keep_heap()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(8):
    if step == 1:
        before = faults()
    arrays = [np.ones(size * 2**18, np.float32) for size in (1, 3, 40, 80)]  # MiB
    total = sum(float(array.sum()) for array in arrays)
    del arrays
print(json.dumps([done, faults() - before, total]))
"""
PAGES = 7 * 124 * 2**20 / os.sysconf("SC_PAGESIZE")


def run(**environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    kept.pop("GLIBC_TUNABLES", None)
    kept["NUMPY_MADVISE_HUGEPAGE"] = "0"  # or NumPy asks for them by itself
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def has_glibc():
    return sys.platform == "linux" and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")


def test_freed_memory_is_used_again():
    done, faults, total = run(**{heap.SWITCH: "1"})
    assert done == has_glibc() and total == 124 * 2**18
    if done:
        assert faults < PAGES / 20


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {heap.SWITCH: "0"},
        {heap.SWITCH: "1", "MALLOC_TRIM_THRESHOLD_": "131072"},
        {heap.SWITCH: "1", "MALLOC_ARENA_MAX": "4"},
        {heap.SWITCH: "1", "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"},
    ],
)
def test_it_is_left_as_it_is(environment):
    """By default, and where the user has said how memory is to be taken."""
    done, faults, _ = run(**environment)
    assert not done
    if not environment and has_glibc():  # glibc's own defaults, which this is about
        assert faults > PAGES / 4
