"""Disks that are full, read-only or gone, and a clock that jumps: one line, and nothing is lost."""

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest

from lottery_jax.datasets import write_npz
from lottery_jax.datasets.in_memory import read_digits
from tests import forks
from tests.faults import runs
from tests.helpers import COMPILE_QUICKLY

FAULTS = runs.ROOT / "tests" / "faults"
# One seed of a narrow network, with one level and its control.
NARROW = {"seeds": "0", "ladder.levels": "1", "model.width": "0.1"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return runs.undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def begun(tmp_path, undisturbed):
    """A run killed in the first ticket after the dense one: (workdir, environment, the outcome)."""
    expected, env = undisturbed
    killing = {"KILL_AT": "os.rename */level_01/.ticket.* 1", "KILL_BELOW": str(tmp_path)}
    command = runs.command(tmp_path / "run", under=(runs.KILLED, "lottery_jax.main"))
    assert forks.run(command, env, tmp_path, **killing).returncode == -signal.SIGKILL
    return tmp_path / "run", env, expected


def contents(folder):
    """All files but the lock, which a killed process has left."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {p: p.read_bytes() for p in files}


def assert_one_line(done, *says):
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    for text in says:
        assert text in done.stderr


def assert_resumes(workdir, env, expected, cwd, overrides=None):
    done = forks.run(runs.command(workdir, overrides), env, cwd)
    assert (done.returncode, done.stderr) == (0, "")
    assert runs.outcome(workdir) == expected


def without_privileges(command):
    """Permissions bind root only if it has given its privileges up."""
    if os.geteuid() != 0:
        return command
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]


@pytest.mark.long
@pytest.mark.parametrize("blocks", [1, 100])
def test_files_that_may_not_grow(begun, tmp_path, blocks):
    """A limit of the shell's, in KiB: at first no row can be written, then no array."""
    workdir, env, expected = begun
    dense = contents(workdir / "seed_0" / "level_00")
    limited = ["bash", "-c", f'ulimit -f {blocks}; exec "$@"', "bash", *runs.command(workdir)]
    done = runs.run(limited, env, tmp_path)
    assert_one_line(done, str(workdir), "File too large", "run the same command again to resume")
    assert contents(workdir / "seed_0" / "level_00") == dense
    assert_resumes(workdir, env, expected, tmp_path)


@pytest.mark.long
def test_a_full_disk(begun, tmp_path, record_property):
    """A small file system that grows until the run fits: each time it gets on, or says why not."""
    workdir, env, expected = begun
    disk = tmp_path / "disk"
    disk.mkdir()
    # In a mount namespace of its own, so that nothing is left mounted whatever happens.
    script = """
        set -eu; disk=$1; begun=$2; here=$3; shift 3
        mount -t tmpfs -o size=4m none "$disk"
        cp -a "$begun" "$disk/run"; cp -a "$begun/seed_0/level_00" "$here/dense"
        for size in 600 700 800 1000 1300 1700 2200 3000 4000 50000; do
            mount -o remount,size="$size"k "$disk" 2> "$here/refused" || continue  # it has more
            status=0; "$@" > "$here/stdout" 2> "$here/stderr" || status=$?
            echo "$size $status $(wc -l < "$here/stderr") $(cat "$here/stderr")"
            diff -r "$disk/run/seed_0/level_00" "$here/dense"
        done
        cp -a "$disk/run" "$here/kept"
    """
    unshare = ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",))]
    arguments = [disk, workdir, tmp_path, *runs.command(disk / "run")]
    done = runs.run([*unshare, "bash", "-c", script, "bash", *map(str, arguments)], env, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(" ", 3) for line in done.stdout.splitlines()]
    assert lines[-1][1:3] == ["0", "0"]
    failed = [line for line in lines if line[1] != "0"]
    assert len(failed) >= 2, done.stdout
    for _, status, count, message in failed:
        assert (status, count) == ("2", "1"), done.stdout
        assert message.startswith(f"error: {disk}") and "No space left on device" in message
    assert runs.outcome(tmp_path / "kept") == expected
    record_property("measured", f"a full disk met {len(failed)} times in one run")


@pytest.mark.long
def test_a_directory_that_may_not_be_written_to(begun, tmp_path):
    workdir, env, expected = begun
    before = contents(workdir)
    folders = [workdir, *(p for p in workdir.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        done = runs.run(without_privileges(runs.command(workdir)), env, tmp_path)
        assert_one_line(done, str(workdir), "Permission denied")
        assert contents(workdir) == before
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert_resumes(workdir, env, expected, tmp_path)


@pytest.mark.long
def test_a_place_where_no_run_can_begin(tmp_path, undisturbed):
    _, env = undisturbed
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o500)
    done = runs.run(without_privileges(runs.command(place / "deep" / "run")), env, tmp_path)
    assert_one_line(done, str(place / "deep"), "Permission denied")
    assert list(place.iterdir()) == []


@pytest.mark.long
def test_data_that_are_gone_when_a_run_goes_on(tmp_path, undisturbed):
    _, env = undisturbed
    data, workdir = tmp_path / "data", tmp_path / "run"
    write_npz(data / "mine.npz", read_digits())
    mine = {"data.name": "mine", "data.dir": str(data), "data.augment": "none", "seeds": "0"}
    whole = forks.run(runs.command(tmp_path / "whole", mine), env, tmp_path)
    assert whole.returncode == 0, whole.stderr

    process = runs.start(runs.command(workdir, mine), env, tmp_path)
    runs.wait_for_lines(process, workdir, 6)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    data.rename(tmp_path / "elsewhere")
    before = contents(workdir)
    done = forks.run(runs.command(workdir, mine), env, tmp_path)
    assert_one_line(done, "config.data.name: unknown value 'mine'", str(data / "mine.npz"))
    assert contents(workdir) == before

    # Where data are does not matter.
    moved = {**mine, "data.dir": str(tmp_path / "elsewhere")}
    done = forks.run(runs.command(workdir, moved), env, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert runs.outcome(workdir) == runs.outcome(tmp_path / "whole")


@pytest.mark.long
def test_data_that_have_changed_when_a_run_goes_on(tmp_path, undisturbed):
    """One label is enough; with the old data back the run goes on."""
    _, env = undisturbed
    data, workdir = tmp_path / "data", tmp_path / "run"
    arrays = read_digits()
    write_npz(data / "mine.npz", arrays)
    mine = {"data.name": "mine", "data.dir": str(data), "data.augment": "none", "seeds": "0"}
    killing = {"KILL_AT": "os.rename */level_01/.ticket.* 1", "KILL_BELOW": str(workdir)}
    command = runs.command(workdir, mine, under=(runs.KILLED, "lottery_jax.main"))
    assert forks.run(command, env, tmp_path, **killing).returncode == -signal.SIGKILL

    changed = arrays["y_test"].copy()
    changed[0] = (changed[0] + 1) % 10
    write_npz(data / "mine.npz", {**arrays, "y_test": changed})
    before = contents(workdir)
    done = forks.run(runs.command(workdir, mine), env, tmp_path)
    assert_one_line(done, str(workdir), "was begun with other data of this name")
    assert contents(workdir) == before

    write_npz(data / "mine.npz", arrays)
    done = forks.run(runs.command(workdir, mine), env, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.long
def test_a_clock_that_jumps_back(begun, tmp_path):
    """What is there is from the future, and the clock goes back a day every second."""
    workdir, env, expected = begun
    future = time.time() + 86400 * 365
    for path in [workdir, *workdir.rglob("*")]:
        os.utime(path, (future, future))
    done = runs.run(
        runs.command(workdir, under=(FAULTS / "jumping_clock.py", "lottery_jax.main")),
        env,
        tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert runs.outcome(workdir) == expected


@pytest.mark.slow
def test_a_checkpoint_that_is_damaged_is_named_and_can_be_removed(tmp_path):
    (tmp_path / "undisturbed").mkdir()
    quickly = {"XLA_FLAGS": COMPILE_QUICKLY}
    expected, env = runs.undisturbed(tmp_path / "undisturbed", NARROW, **quickly)
    workdir = tmp_path / "run"
    killing = {"KILL_AT": "os.rename */level_01/.ticket.* 1", "KILL_BELOW": str(workdir)}
    command = runs.command(workdir, NARROW, under=(runs.KILLED, "lottery_jax.main"))
    assert forks.run(command, env, tmp_path, **killing).returncode == -signal.SIGKILL
    (checkpoint,) = (workdir / "seed_0" / "level_01" / "state" / "winning").iterdir()
    largest = max(checkpoint.rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    damaged = bytearray(largest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    largest.write_bytes(damaged)
    done = forks.run(runs.command(workdir, NARROW), env, tmp_path)
    assert_one_line(done, f"error: {checkpoint}: remove it", "it can't be used")
    shutil.rmtree(checkpoint)
    assert_resumes(workdir, env, expected, tmp_path, NARROW)


@pytest.mark.long
@pytest.mark.parametrize(
    "moment",
    [
        "os.rename */seed_0/level_00/state/winning/.0* 3",  # a checkpoint beyond it is there
        "os.rename */level_01/.ticket.* 1",  # level 0 is complete
    ],
)
def test_a_rewind_point_that_was_removed_is_made_again(tmp_path, undisturbed, moment):
    """The very same, whatever of the dense network is there; and no row is doubled."""
    expected, env = undisturbed
    workdir = tmp_path / "run"
    killing = {"KILL_AT": moment, "KILL_BELOW": str(tmp_path)}
    command = runs.command(workdir, under=(runs.KILLED, "lottery_jax.main"))
    assert forks.run(command, env, tmp_path, **killing).returncode == -signal.SIGKILL
    (rewind,) = (workdir / "seed_0" / "rewind").iterdir()
    shutil.rmtree(rewind)
    assert_resumes(workdir, env, expected, tmp_path)
    assert rewind.is_dir()


@pytest.mark.long
def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(tmp_path, undisturbed):
    """Weight decay so strong that with a rising rate weights grow, from epoch to epoch faster."""
    _, env = undisturbed
    overrides = {
        "optimizer.learning_rate": "1.0",
        "optimizer.weight_decay": "10.0",
        "optimizer.warmup_epochs": "4.0",
        "optimizer.schedule": "constant",
        "train.epochs": "5",
        "seeds": "0",
        "controls": "",
        "ladder.rewind": "0",
    }
    workdir = tmp_path / "run"
    done = forks.run(runs.command(workdir, overrides), env, tmp_path)
    assert_one_line(done, "seed 0, level 0, winning", "step ", "learning rate ", "a lower config.")
    checkpoints = workdir / "seed_0" / "level_00" / "state" / "winning"
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [path.name for path in checkpoints.iterdir()] == [f"{rows[-1]['step']:09}"]
    assert all(np.isfinite(row["train_loss"]) for row in rows)
    assert not (workdir / "seed_0" / "level_00" / "ticket").exists()
