"""Small ladders as real child processes, to be disturbed, and what must be the same in the end."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from lottery_jax import tickets
from lottery_jax.system.files import is_temporary
from tests import forks

ROOT = Path(__file__).parent.parent.parent
KILLED = ROOT / "tests" / "faults" / "killed.py"
QUICKSTART = ROOT / "configs" / "quickstart.py"
# Two seeds, two levels and a control; a checkpoint an epoch; a rewind point within an epoch.
LADDER = {
    "seeds": "0,1",
    "controls": "random",
    "train.epochs": "4",
    "train.checkpoint_every_epochs": "1",
    "ladder.levels": "2",
    "ladder.rewind": "30st",
    "data.augment": "crop",
}
# The same with BatchNorm, whose statistics are a part of what is saved.
WITH_BATCHNORM = {
    **LADDER,
    "seeds": "0",
    "model.name": "vgg11",
    "model.width": "0.05",
    "data.input_shape": "(16,16,1)",
    "train.epochs": "3",
}


def command(workdir, overrides=None, *, under=()):
    """The command of a run; `under` is a script to run it under."""
    run = under or ("-m", "lottery_jax.main")
    return [
        sys.executable, *map(str, run), f"--config={QUICKSTART}", f"--workdir={workdir}",
        *(f"--config.{key}={value}" for key, value in {**LADDER, **(overrides or {})}.items()),
    ]  # fmt: skip


def environment(cache=None, **more):
    """A process like a user's: one device, and a compilation cache that the runs share.

    By default all tests share it. A test that kills processes has one of its own: what a process
    was just writing there may be cut short.
    """
    cache = cache or os.environ["LOTTERY_JAX_TESTS_CACHE"]
    own = ("XLA_FLAGS", "TF_CPP_MIN_LOG_LEVEL")  # what this process and its JAX have set
    env = {key: value for key, value in os.environ.items() if key not in own}
    return {**env, "JAX_COMPILATION_CACHE_DIR": str(cache), **more}


def run(command, env, cwd, timeout=300, **options):
    """Runs a command to its end, whatever that is."""
    return subprocess.run(
        command, env=env, cwd=cwd, timeout=timeout, capture_output=True, text=True, **options
    )


def start(command, env, cwd, **options):
    """Starts a command whose output does not matter."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=env, cwd=cwd, **{**quiet, **options})


def lines_of(workdir):
    """How many lines metrics.jsonl has."""
    file = workdir / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def wait_for_lines(process, workdir, lines, timeout=120):
    """Waits until metrics.jsonl has so many lines, or the process has ended."""
    deadline = time.monotonic() + timeout
    while lines_of(workdir) < lines and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """All that a run has found out, without the times; two runs are the same if these are equal."""

    tickets: dict
    rows: list
    curve: list
    files: list


def outcome(workdir):
    """The outcome of a finished run, every array read and compared with its hash."""
    found = {}
    for file in sorted(workdir.rglob("metadata.json")):
        metadata = tickets.load_ticket(file.parent).metadata  # verified: its arrays have the hashes
        del metadata["result"]["seconds"]
        metadata["sha256"].pop("metadata", None)
        found[str(file.parent.relative_to(workdir))] = metadata
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"], row["images_per_s"]
    # Replicates that train together write side by side, unless one of them is behind.
    rows.sort(key=lambda row: (row["seed"], row["level"], row["control"], row["step"]))
    curve = [line.rpartition(",")[0] for line in (workdir / "curve.csv").read_text().splitlines()]
    paths = sorted(path.relative_to(workdir) for path in workdir.rglob("*"))
    left = [p for p in paths if is_temporary(p) or (p.name == "state" and "rewind" not in str(p))]
    assert [p for p in left if "arrays" not in p.parts] == []
    return Outcome(
        found, rows, curve, [str(p) for p in paths if not {"arrays", "rewind"} & {*p.parts}]
    )


def undisturbed(folder, overrides=None, **more):
    """What a run finds out to which nothing happens, and the environment with its compiled programs."""
    env = environment(**more)
    done = forks.run(command(folder / "run", overrides), env, folder)
    assert done.returncode == 0, done.stderr
    return outcome(folder / "run"), env
