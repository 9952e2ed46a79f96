"""Signals that ask to stop: what was trained is saved, to the step, and nothing differs in the end."""

import faulthandler
import gc
import os
import pty
import random
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from importlib.machinery import ExtensionFileLoader, ModuleSpec

import pytest

from lottery_jax.runs import checkpoints
from lottery_jax.system import signals
from lottery_jax.system.signals import defer_signals
from tests import forks
from tests.faults import runs

# Epochs of 1438 steps, so that a signal comes within one.
SLOW = {
    "seeds": "0",
    "controls": "",
    "train.batch_size": "1",
    "optimizer.learning_rate": "0.001",
    "train.checkpoint_every_epochs": "0",
    "train.epochs": "3",
    "ladder.levels": "1",
}
STEPS = 1438
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129, signal.SIGUSR1: 138}


@pytest.fixture(autouse=True)
def nothing_is_ignored():
    """Ignore no signal in these tests, wherever they run: under nohup a hangup is ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT)}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return runs.undisturbed(tmp_path_factory.mktemp("undisturbed"), SLOW)


def stop(number, lines, workdir, env, cwd, after=0.02):
    """Sends a signal when metrics.jsonl has so many lines; (exit status, stdout, stderr)."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = runs.start(runs.command(workdir, SLOW), env, cwd, **pipes)
    runs.wait_for_lines(process, workdir, lines)
    time.sleep(after)
    process.send_signal(number)
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error


@pytest.mark.slow
@pytest.mark.parametrize(
    "stops",
    [
        [(signal.SIGTERM, 4)],
        pytest.param(
            [(signal.SIGUSR1, 1), (signal.SIGINT, 2), (signal.SIGTERM, 4), (signal.SIGHUP, 5)],
            marks=pytest.mark.long,
        ),
    ],
    ids=["once", "again and again"],
)
def test_a_stopped_run_is_saved_within_the_epoch_and_goes_on_bit_for_bit(
    tmp_path, undisturbed, stops
):
    """In the dense network, in a ticket; the epoch's mean loss is of both parts."""
    expected, env = undisturbed
    assert len(expected.rows) == 3 + 3
    workdir = tmp_path / "run"
    for number, lines in stops:
        status, out, error = stop(number, lines, workdir, env, tmp_path)
        assert status == STATUS[number]
        assert error == "stopped; run the same command again to resume\n"
        where, step = re.search(r"seed 0, (level \d), winning: saved at step (\d+)", out).groups()
        assert int(step) % STEPS != 0 and where == f"level {(lines - 1) // 3}"
        assert checkpoints.latest_step(
            workdir / "seed_0" / where.replace(" ", "_0") / "state/winning"
        ) == int(step)
        assert not (workdir / ".lock").exists()
    done = forks.run(runs.command(workdir, SLOW), env, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert runs.outcome(workdir) == expected


@pytest.mark.slow
def test_a_run_whose_terminal_is_closed_is_saved(tmp_path, undisturbed):
    """What it then says reaches nobody, which is no failure of its own."""
    _, env = undisturbed
    workdir = tmp_path / "run"
    ours, theirs = pty.openpty()
    take = "import fcntl as f, os, sys; f.ioctl(0, %d, 0); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", take % termios.TIOCSCTTY, *runs.command(workdir, SLOW)],
        env=env, cwd=tmp_path, start_new_session=True, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    runs.wait_for_lines(process, workdir, 1)
    os.close(ours)
    assert process.wait(timeout=60) == 129
    assert checkpoints.latest_step(workdir / "seed_0/level_00/state/winning") >= STEPS


@pytest.mark.long
def test_in_a_program_of_ones_own_sigterm_saves_and_then_ends_it_as_always(tmp_path, undisturbed):
    """No handler is needed: `run_ladder` puts the signal off until the state is on the disk."""
    expected, env = undisturbed
    workdir = tmp_path / "run"
    own = (
        "import sys; import lottery_jax as lj; from lottery_jax.recipes import quickstart\n"
        "c = quickstart(); c.update_from_flattened_dict(dict("
        "seeds=(0,), controls=()) | {'train.batch_size': 1, 'train.checkpoint_every_epochs': 0,"
        "'optimizer.learning_rate': 0.001,"
        "'train.epochs': 3, 'ladder.levels': 1, 'ladder.rewind': '30st', 'data.augment': 'crop'})\n"
        "lj.run_ladder(c, sys.argv[1])"
    )
    process = runs.start([sys.executable, "-c", own, str(workdir)], env, tmp_path)
    runs.wait_for_lines(process, workdir, 1)
    time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    assert checkpoints.latest_step(workdir / "seed_0" / "level_00" / "state" / "winning") % STEPS
    done = forks.run(runs.command(workdir, SLOW), env, tmp_path)
    assert done.returncode == 0, done.stderr
    assert runs.outcome(workdir) == expected


@pytest.mark.long
def test_with_one_step_an_epoch_a_stop_does_not_wait_for_the_end(tmp_path, undisturbed):
    _, env = undisturbed
    whole_set = {**SLOW, "train.batch_size": "1438", "train.epochs": "400"}
    whole = forks.run(runs.command(tmp_path / "whole", whole_set), env, tmp_path)
    assert whole.returncode == 0, whole.stderr
    workdir = tmp_path / "run"
    process = runs.start(
        runs.command(workdir, whole_set), env, tmp_path, stdout=subprocess.PIPE, text=True
    )
    runs.wait_for_lines(process, workdir, 50)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    step = int(re.search(r"level 0, winning: saved at step (\d+)", out)[1])
    assert 50 <= step == runs.lines_of(workdir) < 400
    done = forks.run(runs.command(workdir, whole_set), env, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert runs.outcome(workdir) == runs.outcome(tmp_path / "whole")


@pytest.mark.long
@pytest.mark.parametrize(
    "moment, kept",
    [
        ("os.mkdir */.ticket.* 1", "seed_0/level_00/ticket"),
        ("open */level_01/.ticket.*/arrays/* 2", "seed_0/level_01/ticket"),
        ("os.mkdir */rewind/* 1", "seed_0/rewind/000000030"),
    ],
)
def test_what_is_being_kept_when_a_signal_comes_is_kept(tmp_path, undisturbed, moment, kept):
    """Without checkpoints: a training whose ticket were dropped would have to be done again."""
    expected, env = undisturbed
    workdir = tmp_path / "run"
    stopping = {"KILL_AT": moment, "KILL_BELOW": str(workdir), "KILL_BY": "SIGTERM"}
    killed = runs.ROOT / "tests" / "faults" / "killed.py"
    command = runs.command(workdir, SLOW, under=(killed, "lottery_jax.main"))
    assert forks.run(command, env, tmp_path, **stopping).returncode == 143
    assert (workdir / kept).is_dir()
    done = forks.run(runs.command(workdir, SLOW), env, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert runs.outcome(workdir) == expected


@pytest.mark.long
def test_stopped_at_any_time(tmp_path, undisturbed, record_property):
    """Also while Python starts, where nothing is there yet that could answer in another way."""
    _, env = undisturbed
    longer = {"seeds": "0,1,2", "ladder.levels": "3"}
    began = time.perf_counter()
    whole = forks.run(runs.command(tmp_path / "whole", {**SLOW, **longer}), env, tmp_path)
    assert whole.returncode == 0, whole.stderr
    longest = max(5, (time.perf_counter() - began) / 2)  # or a busy machine gets nothing done
    chance, workdir, stops = random.Random(3), tmp_path / "run", 0
    while True:
        number = chance.choice([signal.SIGTERM, signal.SIGINT])
        command = runs.command(workdir, {**SLOW, **longer})
        pipe = {"stderr": subprocess.PIPE, "text": True}
        process = runs.start(command, env, tmp_path, **pipe)
        time.sleep(chance.uniform(0, longest))
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        known = (STATUS[number], -number, 1 if number == signal.SIGINT else None)
        assert process.returncode in known, said
        stops += 1
        assert stops < 60
    assert stops >= 3
    record_property("measured", f"{stops} stops by Ctrl-C or SIGTERM survived")
    done = forks.run(runs.command(workdir, {**SLOW, **longer}), env, tmp_path)
    assert done.returncode == 0, done.stderr
    assert runs.outcome(workdir) == runs.outcome(tmp_path / "whole")


def test_signals_are_put_off_to_the_end_of_the_outermost_block():
    seen = []
    with pytest.raises(KeyboardInterrupt):
        with defer_signals() as outer:
            with defer_signals() as inner:
                signal.raise_signal(signal.SIGINT)
                seen.append("inner")
            assert inner == outer == [signal.SIGINT]
            seen.append("outer")
        seen.append("never")
    assert seen == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_went_wrong_is_not_hidden_by_a_signal():
    """A disk that is full when Ctrl-C has the state saved."""
    with pytest.raises(OSError, match="No space left"), defer_signals():
        signal.raise_signal(signal.SIGINT)
        raise OSError(28, "No space left on device")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_of_two_signals_the_one_that_ends_more_is_obeyed():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with defer_signals():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def handlers():
    """Puts the handlers back that a test changes."""
    before = {number: signal.getsignal(number) for number in signals.ASK_TO_STOP}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_ignored(handlers, number):
    """As Ctrl-C is in what a shell runs in the background, and SIGHUP under nohup."""
    signal.signal(number, signal.SIG_IGN)
    signals.raise_when_asked_to_stop()
    with defer_signals() as arrived:
        signal.raise_signal(number)
    assert arrived == []


@pytest.mark.parametrize(
    "name, status",
    [("SIGHUP", 129), ("SIGINT", 130), ("SIGUSR1", 138), ("SIGUSR2", 140), ("SIGTERM", 143)],
)
def test_each_signal_is_put_off_and_then_ends_the_command_with_its_status(handlers, name, status):
    """A second one, as both a shell and the system send when a terminal is closed, changes nothing."""
    signals.raise_when_asked_to_stop()
    number, after = signal.Signals[name], []
    with pytest.raises(KeyboardInterrupt) as stopped, defer_signals() as arrived:
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert arrived == [number, number]
        after.append("saved")
    assert after == ["saved"]
    assert signals.exit_status(stopped.value) == status == 128 + number
    if name not in ("SIGINT", "SIGTERM"):
        signal.raise_signal(number)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_while_garbage_is_collected_is_not_lost(handlers, name):
    """Python drops what is raised there, and JAX is there often while modules are imported."""
    signals.raise_when_asked_to_stop()
    number = signal.Signals[name]

    def callback(phase, info):
        if phase == "start":
            signal.raise_signal(number)

    gc.callbacks.append(callback)
    with pytest.raises(KeyboardInterrupt) as stopped:
        gc.collect()
        gc.callbacks.remove(callback)
        time.sleep(5)
    assert signals.exit_status(stopped.value) == 128 + number


@pytest.mark.parametrize("method", ["create_module", "exec_module"])
def test_a_signal_while_a_module_written_in_c_is_set_up_waits_for_it(handlers, monkeypatch, method):
    """Some of JAX's crash if they are interrupted there, others say that they can't be imported."""
    import _imp

    signals.raise_when_asked_to_stop()
    steps = []

    def set_up(module, *_):
        steps.append("begun")
        signal.raise_signal(signal.SIGTERM)
        steps.append("done")

    name = {"create_module": "create_dynamic", "exec_module": "exec_dynamic"}[method]
    monkeypatch.setattr(_imp, name, set_up)
    with pytest.raises(signals.Terminated):
        getattr(ExtensionFileLoader("a", "a"), method)(ModuleSpec("a", None))
        time.sleep(5)
    assert steps == ["begun", "done"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_users_own_handler_is_called_and_put_back(handlers, name):
    """In a notebook. SIGUSR1 and SIGUSR2 are not for us to read anything into."""
    number, seen = signal.Signals[name], []

    def own(number, frame):
        seen.append(number)

    signal.signal(number, own)
    with defer_signals() as arrived:
        signal.raise_signal(number)
        within = list(seen)
    assert seen == [number] and signal.getsignal(number) is own
    assert (arrived, within) == (([], seen) if name.startswith("SIGUSR") else ([number], []))


def test_a_handler_that_python_does_not_know_of_is_left_in_place(tmp_path):
    """faulthandler's, by which people look into a process that hangs."""
    with (tmp_path / "stacks").open("w+") as file:
        faulthandler.register(signal.SIGUSR1, file, all_threads=False)
        try:
            with defer_signals() as arrived:
                signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGUSR1)
        finally:
            faulthandler.unregister(signal.SIGUSR1)
        file.seek(0)
        assert arrived == [] and file.read().count("most recent call first") == 2


def test_other_threads_are_left_alone():
    found = []

    def work():
        with defer_signals() as arrived:
            found.append(list(arrived))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[]]
