"""The heap that a process keeps: memory that was freed is used again without the system's help."""

import json
import os
import subprocess
import sys

from lottery_jax.system import heap

# Asks for a kept heap under one environment after another, which is False until the last one; before
# and after that, a step's worth of large arrays is made and freed three times. Page faults of two.
PROGRAM = """
import json, os, resource, sys
import numpy as np
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


def test_freed_memory_is_used_again_unless_the_user_has_said_how_memory_is_taken():
    left_alone = [
        {heap.SWITCH: "0"},
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {heap.SWITCH: "1", "MALLOC_ARENA_MAX": "4"},
        {heap.SWITCH: "1", "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"},
    ]
    environments = json.dumps([*left_alone, {"JAX_PLATFORMS": "cpu"}])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    for name in ("GLIBC_TUNABLES", "JAX_PLATFORMS", heap.SWITCH):
        kept.pop(name, None)
    kept["NUMPY_MADVISE_HUGEPAGE"] = "0"  # or NumPy asks for them by itself
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM, environments],
        env=kept, capture_output=True, text=True, check=True,
    )  # fmt: skip
    *alone, (done, faults) = json.loads(child.stdout)
    assert not any(done for done, _ in alone) and len(alone) == len(left_alone)
    assert done == has_glibc()
    if done:
        (_, before), *_ = alone
        assert before > PAGES / 4  # glibc's own defaults, which this is about
        assert faults < PAGES / 20


def test_beside_an_accelerator_it_is_left_as_it_is(tmp_path, monkeypatch):
    """Unless JAX is told to use the CPU: only then are large arrays in this process's memory."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(heap, "_ACCELERATORS", (f"{tmp_path}/nvidia[0-9]*",))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert heap._has_accelerator()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert not heap._has_accelerator()
    monkeypatch.delenv("JAX_PLATFORMS")
    (tmp_path / "nvidia0").rename(tmp_path / "nvidiactl")
    assert not heap._has_accelerator()
