"""One process at a time in a run directory; the lock of a dead one is taken over."""

import errno
import fcntl
import json
import os
import signal
import socket

import pytest

from lottery_jax.errors import ConfigError
from lottery_jax.system.locks import NAME, locked
from tests.faults import runs
from tests.helpers import dead_pid

LONG = {"train.epochs": "500", "seeds": "0"}


@pytest.mark.long
def test_the_second_process_is_refused_and_told_by_whom(tmp_path):
    env, workdir = runs.environment(), tmp_path / "run"
    first = runs.start(runs.command(workdir, LONG), env, tmp_path)
    runs.wait_for_lines(first, workdir, 1)
    second = runs.run(runs.command(workdir, LONG), env, tmp_path)
    assert second.returncode == 2 and second.stdout == ""
    assert second.stderr.startswith(f"error: {workdir}: is in use by process {first.pid} on ")
    assert socket.gethostname() in second.stderr and second.stderr.count("\n") == 1
    assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.wait()

    assert json.loads((workdir / NAME).read_text())["pid"] == first.pid  # left by the dead process
    third = runs.start(runs.command(workdir, LONG), env, tmp_path)
    before = runs.lines_of(workdir)
    runs.wait_for_lines(third, workdir, before + 5)
    assert json.loads((workdir / NAME).read_text())["pid"] == third.pid
    third.send_signal(signal.SIGTERM)
    assert third.wait() == 143
    assert not (workdir / NAME).exists()


def test_a_lock_within_one_process_holds_too(tmp_path):
    refused = pytest.raises(ConfigError, match=f"process {os.getpid()} on")
    with locked(tmp_path / "run"), refused, locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"):
        pass


def test_a_lock_removed_while_it_was_opened_is_not_taken_for_the_one_that_is_there(
    tmp_path, monkeypatch
):
    """Between our opening and our locking of the file, its owner releases it and another locks."""
    flock, others = fcntl.flock, []
    (tmp_path / NAME).write_text("")

    def owner_changes(handle, how):
        if not others:
            (tmp_path / NAME).unlink()
            others.append((tmp_path / NAME).open("w"))
            flock(others[0], how)
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", owner_changes)
    with pytest.raises(ConfigError, match="is in use by another process"), locked(tmp_path):
        pass
    others[0].close()


@pytest.mark.parametrize(
    "owner, refused",
    [
        (None, False),
        ({"host": socket.gethostname(), "pid": os.getpid()}, True),
        ({"host": socket.gethostname(), "pid": "dead"}, False),
        ({"host": "elsewhere", "pid": 1}, True),
        ("half of a li", False),
    ],
)
def test_without_locks_of_the_file_system_the_file_decides(tmp_path, monkeypatch, owner, refused):
    def none_here(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none_here)
    if isinstance(owner, dict):
        pid = dead_pid() if owner["pid"] == "dead" else owner["pid"]
        (tmp_path / NAME).write_text(json.dumps({**owner, "pid": pid, "since": "then"}))
    elif owner:
        (tmp_path / NAME).write_text(owner)
    if refused:
        with (
            pytest.raises(ConfigError, match=f"{owner['host']}.*remove .*{NAME}"),
            locked(tmp_path),
        ):
            pass
        assert (tmp_path / NAME).exists()
    else:
        with locked(tmp_path):
            assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
        assert not (tmp_path / NAME).exists()
