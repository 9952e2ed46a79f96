"""wandb unreachable, or dying in the middle of a run: one warning, and the ladder goes on."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.faults import runs


def children_of(pid):
    """(process number, name) of the children of a process."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, rest = stat.read_text().partition(" (")
        except OSError:  # it has ended
            continue
        name, _, fields = rest.rpartition(") ")
        if int(fields.split()[1]) == pid:
            yield int(number), name


def without_wandb(tmp_path, overrides):
    plain = {**overrides, "wandb.mode": "disabled"}
    env = runs.environment()
    done = runs.run(runs.command(tmp_path / "plain", plain), env, tmp_path)
    assert done.returncode == 0, done.stderr
    return runs.outcome(tmp_path / "plain")


def outcome(workdir):
    """Without the files of wandb's own."""
    found = runs.outcome(workdir)
    found.files[:] = [name for name in found.files if not name.startswith("wandb")]
    return found


@pytest.mark.long
def test_its_service_is_killed_in_the_middle(tmp_path):
    overrides = {"wandb.mode": "offline", "train.epochs": "40", "seeds": "0", "controls": ""}
    env = runs.environment(HOME=str(tmp_path))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = runs.start(runs.command(tmp_path / "run", overrides), env, tmp_path, **pipes)
    runs.wait_for_lines(process, tmp_path / "run", 3)
    services = [number for number, name in children_of(process.pid) if name.startswith("wandb")]
    assert services
    for number in services:
        os.kill(number, signal.SIGKILL)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert out.count("the run goes on without it") == 1
    assert "Traceback" not in out + error
    assert outcome(tmp_path / "run") == without_wandb(tmp_path, overrides)


@pytest.mark.long
def test_its_server_can_not_be_reached(tmp_path):
    """With a key, so that it tries: it gives up after half a minute."""
    overrides = {"wandb.mode": "online", "seeds": "0", "controls": ""}
    env = runs.environment(
        HOME=str(tmp_path), WANDB_API_KEY="a" * 40,
        WANDB_BASE_URL="http://127.0.0.1:9",
    )  # fmt: skip
    done = runs.run(runs.command(tmp_path / "run", overrides), env, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the run goes on without it") == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert outcome(tmp_path / "run") == without_wandb(tmp_path, overrides)
