"""A long ladder: memory, open files and the disk do not grow with it."""

import contextlib
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults import runs

LEVELS = 30
# Epochs enough that a level lasts long enough to be looked at.
OVERRIDES = {
    "seeds": "0",
    "controls": "",
    "train.epochs": "20",
    "train.checkpoint_every_epochs": "5",
    "ladder.levels": str(LEVELS),
    "ladder.prune_fraction": "0.2",
}


def resident(pid):
    """Bytes of memory that a process has."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def open_files(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def bytes_below(folder):
    """On the disk, whatever vanishes while it is counted."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(parent) / name).stat().st_size
    return total


@pytest.mark.long
def test_a_ladder_of_31_levels(tmp_path, record_property):
    workdir, env = tmp_path / "run", runs.environment()
    process = runs.start(runs.command(workdir, OVERRIDES), env, tmp_path, stderr=subprocess.PIPE)
    memory, files, disk = {}, {}, {}
    while process.poll() is None:
        done = sorted(workdir.glob("seed_0/level_*/ticket"))
        level = len(done)  # the one that is being trained
        try:
            memory[level] = max(memory.get(level, 0), resident(process.pid))
            files[level] = max(files.get(level, 0), open_files(process.pid))
        except (OSError, ValueError):  # it has just ended
            break
        tickets = sum(map(bytes_below, done))
        rest = bytes_below(workdir) - tickets
        disk[level] = max(disk.get(level, 0), rest)
        time.sleep(0.05)
    assert process.wait() == 0, process.stderr.read()
    process.stderr.close()
    assert len(list(workdir.glob("seed_0/level_*/ticket"))) == LEVELS + 1
    assert memory.keys() >= set(range(3, LEVELS + 1)), "a level was over before it was looked at"
    record_property(
        "measured",
        f"{memory[3] / 2**20:.0f} MiB of memory at level 3, {memory[LEVELS] / 2**20:.0f} at {LEVELS}; "
        f"{files[3]} and {files[LEVELS]} open files; beside the tickets at most "
        f"{max(disk.values()) / 2**20:.2f} MiB on the disk",
    )
    assert memory[LEVELS] <= 1.1 * memory[3]
    assert files[LEVELS] <= files[3]
    # The rewind point and a checkpoint being written beside the one before it, none of which is
    # larger than a dense ticket (weights twice, mask); and the logs.
    dense = bytes_below(workdir / "seed_0" / "level_00" / "ticket")
    logs = 2**18
    assert max(disk.values()) <= 4 * dense + logs
