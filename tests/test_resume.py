"""A run killed at any moment and started again is the run that was never disturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
OVERRIDES = {
    "seeds": "0,1",
    "controls": "random",
    "train.epochs": "4",
    "train.checkpoint_every_epochs": "1",
    "ladder.levels": "2",
    "ladder.rewind": "30st",
    "data.augment": "crop",
}


def command(workdir, **overrides):
    return [
        sys.executable, "-m", "lottery_jax.main",
        f"--config={ROOT / 'configs' / 'quickstart.py'}", f"--workdir={workdir}",
        *(f"--config.{k}={v}" for k, v in {**OVERRIDES, **overrides}.items()),
    ]  # fmt: skip


def environment(tmp_path):
    """A process like a user's: one device, and a compilation cache that the runs share."""
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    return {**env, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}


def lines_of(workdir):
    file = workdir / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def what_matters(workdir):
    """Hashes of all tickets, and all rows without their times."""
    found = {}
    for file in sorted(workdir.rglob("metadata.json")):
        found[str(file.relative_to(workdir))] = json.loads(file.read_text())["sha256"]
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"], row["images_per_s"]
    curve = [line.rpartition(",")[0] for line in (workdir / "curve.csv").read_text().splitlines()]
    return found, rows, curve


def test_kill_and_resume_is_bit_exact(tmp_path):
    env = environment(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), check=True, env=env, cwd=tmp_path, capture_output=True)
    total = lines_of(whole)
    # Level 0 and the two controls of a seed have four epochs; its two other tickets begin in the
    # second, at step 30.
    assert total == 2 * (3 * 4 + 2 * 3)

    # Within the way to the rewind point, within levels, right after a level, late in a seed.
    for lines in (1, 3, 6, 11, 19, 31):
        process = subprocess.Popen(
            command(killed), env=env, cwd=tmp_path,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while lines_of(killed) < lines and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was finished before it could be killed"
    subprocess.run(command(killed), check=True, env=env, cwd=tmp_path, capture_output=True)

    tickets, rows, curve = what_matters(whole)
    assert len(tickets) == 10
    assert what_matters(killed) == (tickets, rows, curve)
