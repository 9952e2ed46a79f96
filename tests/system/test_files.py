"""Temporary files of dead processes are found; all others stay."""

import os
import re
import shutil
import socket

from lottery_jax.system import files
from tests.helpers import dead_pid


def temporary_name(target, pid, host=None):
    host = host or re.sub(r"[^\w.]", "_", socket.gethostname())
    return f".{target}.{host}-{pid}-abcd1234.tmp"


def test_what_dead_processes_left_is_found_and_nothing_else(tmp_path):
    parent = os.getppid()
    gone = temporary_name("curve.csv", dead_pid())
    elsewhere = temporary_name("curve.csv", 1, host="a_machine_that_was_taken_away")
    own = temporary_name("curve.csv", os.getpid())
    kept = [
        temporary_name("curve.png", parent),  # another process of this machine is writing it
        ".syncthing.run-2024-notes.tmp",
        "notes.tmp",
    ]
    inner = tmp_path / "another run"
    inner.mkdir()
    (inner / "config.json").touch()
    (inner / gone).touch()
    for name in (gone, elsewhere, own, *kept):
        (tmp_path / name).touch()
    assert {path.name for path in files.temporary_in(tmp_path)} == {gone, elsewhere, own}
    assert all(path.parent == tmp_path for path in files.temporary_in(tmp_path))


def test_a_temporary_file_that_can_not_be_removed_is_not_in_the_way(tmp_path):
    """Such as another user's in a shared folder; here it is a folder of that name."""
    stuck = tmp_path / temporary_name("mine.npz", dead_pid())
    stuck.mkdir()
    files.write_text(tmp_path / "mine.npz", "whole")
    assert (tmp_path / "mine.npz").read_text() == "whole"
    shutil.rmtree(stuck)
