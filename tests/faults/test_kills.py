"""A run killed at any moment and started again is the run that was never disturbed."""

import random
import signal
import subprocess
import time

import numpy as np
import pytest

from lottery_jax.datasets import read_npz
from lottery_jax.system.files import is_temporary
from tests import forks
from tests.faults import runs
from tests.helpers import some_arrays

# Just before what a run of LADDER does to files, in the order in which it does them.
MOMENTS = [
    "open */.lock 1",  # nothing is there yet
    "os.rename */.config.json.* 1",
    "open */rewind/.0*/_METADATA 1",  # in a save: the arrays are there, and not their list
    "os.rename */rewind/.0* 1",  # at its end
    "open */level_00/state/winning/.0*/* 3",
    "os.remove */level_00/state/*/0000* 2",  # while an old checkpoint is being removed
    "open */level_00/.ticket.*/arrays/* 2",
    "open */level_00/.ticket.*/metadata.json 1",  # the arrays are there
    "os.rename */level_00/.ticket.* 1",  # it has everything but its name
    "shutil.rmtree */level_00/state/* 1",  # the ticket is there, and its checkpoint too
    "os.rename */.curve.csv.* 1",
    "os.rename */level_02/.random.* 1",
    "os.rename */report/.curve.png.* 1",
    "open */report/.table.md.* 1",
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """By the overrides: what a run that nothing happens to finds out, and its environment."""
    folder = tmp_path_factory.mktemp("undisturbed")
    env, known = runs.environment(folder / "cache"), {}

    def of(overrides):
        name = overrides.get("model.name", "lenet")
        if name not in known:
            done = forks.run(runs.command(folder / name, overrides), env, folder)
            assert done.returncode == 0, done.stderr
            known[name] = runs.outcome(folder / name)
        return known[name], env

    return of


def killed_at(moment, workdir, overrides, env, cwd):
    """Runs until that moment; whether the run was killed before it came to its end."""
    command = runs.command(workdir, overrides, under=(runs.KILLED, "lottery_jax.main"))
    done = forks.run(command, env, cwd, KILL_AT=moment, KILL_BELOW=str(workdir))
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def finish(workdir, overrides, env, cwd):
    done = forks.run(runs.command(workdir, overrides), env, cwd)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return runs.outcome(workdir)


@pytest.mark.long
def test_killed_at_the_moments_that_matter(tmp_path, undisturbed, record_property):
    """One run, killed at one moment after another; each is reached, in each process."""
    expected, env = undisturbed({})
    assert len(expected.tickets) == 10
    # Level 0 and the controls of a seed have four epochs; its two other tickets begin in the
    # second, at step 30.
    assert len(expected.rows) == 2 * (3 * 4 + 2 * 3)
    for moment in MOMENTS:
        assert killed_at(moment, tmp_path / "run", {}, env, tmp_path), moment
    assert finish(tmp_path / "run", {}, env, tmp_path) == expected
    record_property("measured", f"{len(MOMENTS)} kills survived")


def kill_after_lines(lines, workdir, overrides, env, cwd):
    process = runs.start(runs.command(workdir, overrides), env, cwd)
    runs.wait_for_lines(process, workdir, lines)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was finished before it could be killed"


@pytest.mark.long
def test_killed_within_steps(tmp_path, undisturbed):
    """On the way to the rewind point, within levels, late in a seed."""
    expected, env = undisturbed({})
    for lines in (1, 6, 31):
        kill_after_lines(lines, tmp_path / "run", {}, env, tmp_path)
    assert finish(tmp_path / "run", {}, env, tmp_path) == expected


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_killed_before_any_change_of_a_file(tmp_path, undisturbed, seed, record_property):
    """Again and again, after so many changes to files that 12 kills are about a run."""
    expected, env = undisturbed({})
    count = tmp_path / "count"
    command = runs.command(tmp_path / "counted", {}, under=(runs.KILLED, "lottery_jax.main"))
    counting = {"KILL_AT": "any * 1000000", "KILL_BELOW": str(tmp_path), "KILL_COUNT": str(count)}
    assert forks.run(command, env, tmp_path, **counting).returncode == 0
    changes, chance = int(count.read_text()), random.Random(seed)
    kills = 0
    while killed_at(
        f"any * {chance.randint(1, changes // 6)}", tmp_path / "run", {}, env, tmp_path
    ):
        kills += 1
        assert kills < 60, "it does not get on"
    assert kills >= 6
    assert finish(tmp_path / "run", {}, env, tmp_path) == expected
    record_property(
        "measured", f"{kills} kills survived, of a run that changes files {changes} times"
    )


@pytest.mark.long
@pytest.mark.parametrize("overrides", [{}, runs.WITH_BATCHNORM], ids=["lenet", "batchnorm"])
def test_killed_at_any_time(tmp_path, undisturbed, overrides, record_property):
    """After random times, also within the code of libraries that changes files unseen."""
    expected, env = undisturbed(overrides)
    chance, kills, last = random.Random(7), 0, -1
    while True:
        process = runs.start(runs.command(tmp_path / "run", overrides), env, tmp_path)
        # A process that has got nothing done would be killed just there for ever.
        runs.wait_for_lines(process, tmp_path / "run", last + 1)
        last = runs.lines_of(tmp_path / "run")
        time.sleep(chance.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
        assert kills < 100
    assert kills >= 5
    assert finish(tmp_path / "run", overrides, env, tmp_path) == expected
    record_property("measured", f"{kills} kills survived")


@pytest.mark.parametrize("kind", ["open", "os.rename"])
def test_killed_while_data_are_kept(tmp_path, kind):
    """An npz is whole or not there, and what the killed process left is gone after the next."""
    arrays = some_arrays()
    for split, stem in (("train", "train"), ("test", "t10k")):
        for letter, file in (("x", "images-idx3"), ("y", "labels-idx1")):
            array = arrays[f"{letter}_{split}"].astype(np.uint8)
            header = (
                b"\0\0\x08" + bytes([array.ndim]) + b"".join(n.to_bytes(4) for n in array.shape)
            )
            (tmp_path / f"{stem}-{file}-ubyte").write_bytes(header + array.tobytes())
    data = tmp_path / "data"
    command = ["lottery_jax.datasets", f"--data_dir={data}", "from-idx", str(tmp_path), "mine"]
    env = {**runs.environment(tmp_path / "cache"), "KILL_BELOW": str(data)}
    killing = {**env, "KILL_AT": f"{kind} *mine.npz* 1"}
    under = [runs.command("")[0], str(runs.KILLED)]
    assert runs.run([*under, *command], killing, tmp_path).returncode == -signal.SIGKILL
    assert [p for p in data.iterdir() if not is_temporary(p)] == []
    done = subprocess.run(
        [under[0], "-m", *command], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [p.name for p in data.iterdir()] == ["mine.npz"]
    read = read_npz(data / "mine.npz")
    for key, array in arrays.items():
        np.testing.assert_array_equal(read[key], array)
