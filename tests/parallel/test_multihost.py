"""Several processes that run one program, on this machine: what they find, and when one is lost."""

import json
import os
import signal
import sys
import time

import jax
import numpy as np
import pytest

from lottery_jax import tickets
from tests import forks
from tests.faults import runs
from tests.parallel.pairs import devices, ends, said, start_processes

# Four trainings, with a checkpoint an epoch and a rewind point within one.
SMALL = {
    "seeds": "0",
    "train.epochs": "3",
    "train.together": "1",
    "ladder.levels": "1",
    "ladder.rewind": "30st",
    "optimizer.learning_rate": "0.02",
}


def all_tickets(workdir):
    return {
        str(file.parent.relative_to(workdir)): tickets.load_ticket(file.parent)
        for file in sorted(workdir.rglob("metadata.json"))
    }


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize("each", [2, pytest.param(4, marks=pytest.mark.long)])
def test_two_processes_are_one_of_all_their_devices_and_one_of_one(tmp_path, cache, each):
    """A batch over all devices of both: the same masks, and metrics but for the order of sums."""
    narrow = {**SMALL, "model.width": "0.1"}
    both = start_processes(tmp_path / "both", narrow, devices(cache, each), tmp_path)
    assert ends(both) == [0, 0], said(tmp_path / "both", tmp_path, 0)
    for name, count in (("all", 2 * each), ("one", 1)):
        flags = devices(cache, count)["XLA_FLAGS"]
        env, command = runs.environment(cache), runs.command(tmp_path / name, narrow)
        done = forks.run(command, env, tmp_path, XLA_FLAGS=flags)
        assert done.returncode == 0, done.stderr
        record = json.loads((tmp_path / name / "config.json").read_text())
        assert record["machine"]["devices"].startswith(f"{count} of cpu")
    expected = all_tickets(tmp_path / "one")
    assert len(expected) == 3
    for name in ("both", "all"):
        found = all_tickets(tmp_path / name)
        assert found.keys() == expected.keys()
        for which, ticket in found.items():
            same = jax.tree.map(np.array_equal, ticket.mask, expected[which].mask)
            assert all(jax.tree.leaves(same)), which
        for row, other in zip(rows(tmp_path / name), rows(tmp_path / "one"), strict=True):
            for key in set(other) - {"seconds", "images_per_s"}:
                if key.endswith("loss"):
                    assert row[key] == pytest.approx(other[key], rel=1e-3)
                elif key.endswith("accuracy"):
                    assert row[key] == pytest.approx(other[key], abs=0.006)  # two of 359 images
                else:
                    assert row[key] == other[key]
    # One process alone speaks and writes.
    assert "level  1" in said(tmp_path / "both", tmp_path, 0)
    assert said(tmp_path / "both", tmp_path, 1) == ""


@pytest.mark.long
def test_asked_to_stop_all_stop_at_the_same_step_and_one_process_can_go_on(tmp_path, cache):
    """Replicates on the devices of two processes; the signal comes to the second one."""
    together = {**SMALL, "seeds": "0,1", "train.together": "0", "train.batch_size": "2"}
    alone = devices(cache, 1)
    whole = tmp_path / "whole"
    done = runs.run(runs.command(whole, together), alone, tmp_path)
    assert done.returncode == 0, done.stderr
    workdir = tmp_path / "run"
    processes = start_processes(workdir, together, devices(cache, 1), tmp_path)
    runs.wait_for_lines(processes[0], workdir, 2)
    processes[1].send_signal(signal.SIGTERM)
    assert ends(processes) == [143, 143], said(workdir, tmp_path, 0)
    assert "stopped; run the same command again to resume" in said(workdir, tmp_path, 0)
    saved = [path for path in workdir.rglob("state/winning/*") if path.name.isdigit()]
    assert len(saved) == 2 and len({path.name for path in saved}) == 1, saved
    done = runs.run(runs.command(workdir, together), alone, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert runs.outcome(workdir) == runs.outcome(whole)


@pytest.mark.long
@pytest.mark.parametrize("lost", [0, 1])
def test_when_one_is_killed_the_other_ends_and_both_can_go_on(
    tmp_path, cache, lost, record_property
):
    """Within half a minute, with one line; what the pair then finds is what it would have found."""
    longer = {**SMALL, "train.epochs": "4", "train.batch_size": "16"}
    env = devices(cache, 2)
    assert ends(start_processes(tmp_path / "whole", longer, env, tmp_path)) == [0, 0]
    workdir = tmp_path / "run"
    processes = start_processes(workdir, longer, env, tmp_path)
    runs.wait_for_lines(processes[0], workdir, 5)
    processes[lost].kill()
    killed = time.monotonic()
    statuses = ends(processes)
    record_property("measured", f"the other process ended after {time.monotonic() - killed:.0f} s")
    assert statuses[lost] == -signal.SIGKILL and statuses[1 - lost] == 75
    assert time.monotonic() - killed < 60  # half a minute, on a machine that does other things too
    *_, last = said(workdir, tmp_path, 1 - lost).splitlines()
    assert last.startswith("error: another process of this run has ended or can't be reached")
    assert last.endswith("start all of them again to resume")
    assert ends(start_processes(workdir, longer, env, tmp_path)) == [0, 0]
    assert runs.outcome(workdir) == runs.outcome(tmp_path / "whole")


@pytest.mark.long
def test_when_one_answers_no_more_the_other_ends(tmp_path, cache, record_property):
    """A machine that is cut off: no connection is closed, there is just silence."""
    workdir = tmp_path / "run"
    longer = {**SMALL, "train.epochs": "4", "train.batch_size": "16"}
    processes = start_processes(workdir, longer, devices(cache, 2), tmp_path)
    runs.wait_for_lines(processes[0], workdir, 2)
    processes[1].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        assert processes[0].wait(timeout=120) == 75
        after = time.monotonic() - stopped
        record_property("measured", f"the other process ended after {after:.0f} s")
        assert after < 60  # half a minute, on a machine that does other things too
    finally:
        for process in processes:
            process.kill()
            process.wait()
    *_, last = said(workdir, tmp_path, 0).splitlines()
    assert last.startswith("error: another process of this run has ended or can't be reached")


@pytest.mark.slow
def test_tasks_of_slurm_find_each_other(tmp_path, cache):
    short = {**SMALL, "train.epochs": "2", "controls": "()", "model.width": "0.1"}
    workdir = tmp_path / "run"
    tasks = start_processes(workdir, short, devices(cache, 1), tmp_path, slurm=True)
    assert ends(tasks) == [0, 0], said(workdir, tmp_path, 0)
    assert len(all_tickets(workdir)) == 2 and said(workdir, tmp_path, 1) == ""


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_one_process_of_one_stops_too(tmp_path, cache, number):
    """As on a cluster's single node, with the command for several, where all count as SIGTERM."""
    # The runtime looks for a signal once a second, so the run has to last longer than that.
    workdir, small = tmp_path / "run", {**SMALL, "train.batch_size": "2", "train.epochs": "200"}
    (process,) = start_processes(workdir, [small], devices(cache, 1), tmp_path)
    runs.wait_for_lines(process, workdir, 1)
    process.send_signal(number)
    assert ends([process]) == [143], said(workdir, tmp_path, 0)
    assert "saved at step" in said(workdir, tmp_path, 0)


@pytest.mark.long
def test_while_the_processes_wait_for_each_other_a_signal_ends_them(tmp_path, cache):
    first, second = start_processes(tmp_path / "run", SMALL, devices(cache, 1), tmp_path)
    second.kill()
    time.sleep(3)  # the first waits for it by now, or is still starting
    first.send_signal(signal.SIGTERM)
    assert ends([first, second], timeout=10)[0] in (-signal.SIGTERM, 143)


@pytest.mark.long
def test_the_run_directory_need_be_on_the_first_machine_only(tmp_path, cache):
    """A transfer matrix, whose sources are in its own directory."""
    matrix = {
        **SMALL, "transfer.sources": "digits_a", "transfer.targets": "digits_b", "train.epochs": "2",
        "ladder.rewind": "5st",
    }  # fmt: skip
    workdir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    pair = start_processes(workdir, matrix, devices(cache, 1), tmp_path, elsewhere=elsewhere)
    assert ends(pair) == [0, 0], said(workdir, tmp_path, 0) + said(workdir, tmp_path, 1)
    assert not elsewhere.exists() and (workdir / "report" / "heatmap.png").is_file()
    done = runs.run(runs.command(tmp_path / "one", matrix), devices(cache, 2), tmp_path)
    assert done.returncode == 0, done.stderr
    for cell in ("digits_a", "digits_b", "digits_a_to_digits_b"):
        ours, theirs = all_tickets(workdir / cell), all_tickets(tmp_path / "one" / cell)
        assert ours.keys() == theirs.keys() and ours
        for name, ticket in ours.items():
            same = jax.tree.map(np.array_equal, ticket.mask, theirs[name].mask)
            assert all(jax.tree.leaves(same)), name


def test_a_mistake_in_the_first_process_ends_all_and_is_said_once(tmp_path, cache):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "notes.txt").write_text("mine")
    processes = start_processes(workdir, SMALL, devices(cache, 1), tmp_path)
    assert ends(processes) == [2, 2]
    assert "is neither empty nor a run" in said(workdir, tmp_path, 0)
    assert said(workdir, tmp_path, 1) == ""


@pytest.mark.long
def test_a_mistake_in_another_process_ends_all_and_is_said_there(tmp_path, cache):
    """Its data are not there."""
    workdir = tmp_path / "run"
    data = tmp_path / "data"
    data.mkdir()
    np.savez(data / "mine.npz", **some_images())
    mine = {**SMALL, "data.name": "mine", "train.batch_size": "2"}
    started = start_processes(
        workdir,
        [{**mine, "data.dir": str(folder)} for folder in (data, tmp_path / "nowhere")],
        devices(cache, 1),
        tmp_path,
    )
    assert ends(started) == [2, 2]
    assert said(workdir, tmp_path, 0) == ""
    assert "nowhere" in said(workdir, tmp_path, 1)
    assert not workdir.exists()


@pytest.mark.long
def test_another_config_on_one_machine_is_noticed(tmp_path, cache):
    workdir = tmp_path / "run"
    other = [SMALL, {**SMALL, "train.together": "2"}]
    assert ends(start_processes(workdir, other, devices(cache, 1), tmp_path)) == [2, 2]
    assert "the config, the versions or the settings of process 1 differ" in said(
        workdir, tmp_path, 1
    )
    assert not workdir.exists()


def some_images():
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (32, 8, 8, 1)).astype(np.uint8),
        "y_train": np.arange(32) % 4,
        "x_test": rng.integers(0, 256, (8, 8, 8, 1)).astype(np.uint8),
        "y_test": np.arange(8) % 4,
    }


def test_flags_of_several_processes_are_checked(tmp_path):
    for flags, expected in [
        (["--process=1"], "--process: is for --distributed"),
        (["--distributed", "--process=1"], "--coordinator: is missing beside --process"),
        (["--distributed", "--process=2", "--processes=2", "--coordinator=a:1"],
         "--process: 2 must be from 0 to 1, for 2 processes"),
        (["--distributed", "--process=0", "--processes=2", "--coordinator=a"],
         "--coordinator: 'a' is not HOST:PORT"),
    ]:  # fmt: skip
        command = [sys.executable, "-m", "lottery_jax.main", f"--config={runs.QUICKSTART}", *flags]
        done = runs.run(command, dict(os.environ), tmp_path)
        assert done.returncode == 2 and done.stderr.startswith(f"error: {expected}"), done.stderr
