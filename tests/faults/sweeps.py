"""Sweeps as real child processes, to be disturbed, and what must be the same in the end."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from lottery_jax.sweep import attempts
from tests.faults import runs

# Long enough to be killed in the middle: epochs of 179 steps.
SLOW = {
    "controls": "()",
    "train.batch_size": "8",
    "optimizer.learning_rate": "0.01",
    "train.epochs": "4",
    "train.checkpoint_every_epochs": "1",
    "ladder.levels": "1",
}

# Every run of a sweep by itself, in one process, held to as many cores.
_BY_ITSELF = """
import os, runpy, sys
from pathlib import Path
if sys.argv[3]:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[3])])
from lottery_jax.runs.ladder import run_ladder
for file in sorted(Path(sys.argv[1], "jobs").glob("*/config.py")):
    run_ladder(runpy.run_path(str(file))["get_config"](), Path(sys.argv[2], file.parent.name))
"""


def command(workdir, *more, config=runs.QUICKSTART, overrides=None):
    """The command that runs a sweep."""
    return [
        sys.executable, "-m", "lottery_jax.sweep", "run", f"--config={config}",
        f"--workdir={workdir}", *map(str, more),
        *(f"--config.{k}={v}" for k, v in (SLOW if overrides is None else overrides).items()),
    ]  # fmt: skip


def start(command, env, cwd, **options):
    """Starts a sweep in a process group of its own, as a shell does."""
    with (cwd / "sweep.log").open("ab") as log:
        return subprocess.Popen(
            command, env=env, cwd=cwd, stdout=log, stderr=log, start_new_session=True, **options
        )


def by_themselves(workdir, cores, env, cwd):
    """The outcome of each run of a sweep, to which nothing happens."""
    alone = runs.run(
        [sys.executable, "-c", _BY_ITSELF, str(workdir), str(cwd / "alone"), str(cores or "")],
        env,
        cwd,
    )
    assert alone.returncode == 0, alone.stderr
    return {folder.name: found(folder) for folder in sorted((cwd / "alone").iterdir())}


def found(workdir):
    """What a run has found out: tickets, every epoch, the curve."""
    outcome = runs.outcome(workdir)
    return outcome.tickets, outcome.rows, outcome.curve


def statuses(workdir):
    """How each attempt ended, by run."""
    return {
        folder.name: [attempt.status for attempt in attempts.read_attempts(folder)]
        for folder in sorted((workdir / "jobs").iterdir())
        if not folder.name.startswith(".")
    }


def wait_until(condition, process, timeout=120):
    """Waits until something is so; the process must not end before."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, "the sweep has ended"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def holder(folder):
    """The process that works on a run directory; 0 if there is none."""
    try:
        return json.loads((folder / ".lock").read_text())["pid"]
    except (OSError, ValueError, KeyError):
        return 0


def is_there(pid):
    """Whether a process runs: not one that has ended and is not yet waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def crashing(env, run, times=1):
    """The environment in which a run crashes the first times."""
    path = os.pathsep.join([str(Path(__file__).parent / "crashing"), env.get("PYTHONPATH", "")])
    return {**env, "PYTHONPATH": path, "CRASH_RUN": str(run), "CRASHES": str(times)}
