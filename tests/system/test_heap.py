"""The heap that a process keeps: memory that was freed is used again without the system's help."""

import json
import os
import subprocess
import sys

import pytest

from lottery_jax.system import heap

# The program asks for a kept heap under one environment after another. After the first request, and
# after each that succeeds, it makes and frees large arrays three times, and counts the page faults of
# the last two.
PROGRAM = """
import json, os, resource, sys
import numpy as np
from lottery_jax.system import heap
from lottery_jax.system.heap import keep_heap
def step():
    arrays = [np.ones(size * 2**18, np.float32) for size in (1, 3, 40, 80)]  # MiB
    return sum(float(array[-1]) for array in arrays)
def faults():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(), step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
found = []
for environment in json.loads(sys.argv[1]):
    # A file that is there stands for an accelerator's.
    heap._ACCELERATORS = (sys.executable,) if environment.pop("accelerator", "") else ()
    os.environ.update(environment)
    done = keep_heap()
    found.append([done, faults() if done or not found else None])
    for name in environment:
        del os.environ[name]
print(json.dumps(found))
"""
PAGES = 2 * 124 * 2**20 / os.sysconf("SC_PAGESIZE")


def has_glibc():
    return sys.platform == "linux" and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")


def run(environments):
    """Whether the heap was kept under each environment, and the page faults before and after."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    for name in ("GLIBC_TUNABLES", "JAX_PLATFORMS", heap.SWITCH):
        kept.pop(name, None)
    kept["NUMPY_MADVISE_HUGEPAGE"] = "0"  # or NumPy asks for them by itself
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(environments)],
        env=kept, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(child.stdout)


def test_freed_memory_is_used_again_unless_the_user_has_said_how_memory_is_taken():
    left_alone = [
        {heap.SWITCH: "0"},
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {heap.SWITCH: "1", "MALLOC_ARENA_MAX": "4"},
        {heap.SWITCH: "1", "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"},
        {"accelerator": "1"},
    ]
    *alone, (done, faults) = run([*left_alone, {}])
    assert not any(done for done, _ in alone) and len(alone) == len(left_alone)
    assert done == has_glibc()
    if done:
        (_, before), *_ = alone
        assert before > PAGES / 4  # glibc's own defaults, which this is about
        assert faults < PAGES / 20


def test_beside_an_accelerator_it_is_kept_if_the_user_says_so_or_jax_is_to_use_the_cpu():
    asked = [{"accelerator": "1", heap.SWITCH: "1"}, {"accelerator": "1", "JAX_PLATFORMS": "cpu"}]
    assert [done for done, _ in run(asked)] == [has_glibc()] * 2


@pytest.mark.parametrize("module", ["main", "analyse", "reproduce.__main__"])
def test_commands_keep_it_before_jax_is_imported(module, tmp_path):
    """That each does so, and that none of what it imports before has started JAX."""
    program = (
        "import runpy, sys\n"
        "from lottery_jax.system import heap\n"
        "heap.keep_heap = lambda: sys.exit('jax' in sys.modules and 7 or 5)\n"
        f"sys.argv = ['x', '--help']\n"
        f"runpy.run_module('lottery_jax.{module}', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True)
    assert done.returncode == 5, done.stderr
