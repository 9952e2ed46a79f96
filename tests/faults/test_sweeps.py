"""Sweeps whose runs crash and are killed, and that are killed themselves: nothing is lost or repeated."""

import os
import signal
from pathlib import Path

import pytest

from lottery_jax.system import locks
from tests.faults import runs, sweeps


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where all keep their compiled programs."""
    return tmp_path_factory.mktemp("cache")


def disturbed(folder, cache, grid, names):
    """Runs a sweep of which the first run crashes, the second is killed, and then the sweep.

    Returns the sweep's directory, the environment and the command.
    """
    workdir, env = folder / "sweep", runs.environment(cache)
    first, second = (workdir / name for name in names[:2])
    command = sweeps.command(workdir, *grid, "--at_once=2", "--cores=1")
    driver = sweeps.start(command, sweeps.crashing(env, first), folder)
    sweeps.wait_until(lambda: runs.lines_of(second) >= 3, driver)
    os.kill(sweeps.holder(second), signal.SIGKILL)

    def second_attempts():
        attempts = sweeps.statuses(workdir)
        return attempts[names[0]][:1] == [1] and attempts[names[1]] == [-9, None]

    sweeps.wait_until(second_attempts, driver)
    driver.kill()
    driver.wait()
    job = locks.holder(workdir / "jobs" / names[1])
    assert job and sweeps.is_there(job["pid"]), "the job has ended with the sweep"
    return workdir, env, command


def check_same_as_by_themselves(workdir, env, folder, cores=1):
    alone = sweeps.by_themselves(workdir, cores, env, folder)
    assert alone == {name: sweeps.found(workdir / name) for name in alone}


@pytest.mark.long
def test_a_run_that_crashes_a_run_that_is_killed_and_the_sweep_killed(tmp_path, cache):
    names = [f"seeds={seed}" for seed in range(3)]
    workdir, env, command = disturbed(tmp_path, cache, ["--grid", "seeds=0,1,2"], names)
    done = runs.run(command, env, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sweeps.statuses(workdir) == {"seeds=0": [1, 0], "seeds=1": [-9, 0], "seeds=2": [0]}
    check_same_as_by_themselves(workdir, env, tmp_path)
    assert (workdir / "report" / "curve.png").is_file()

    again = runs.run(command, env, tmp_path)  # finished runs are never repeated
    assert again.returncode == 0 and again.stdout.count("finished before") == 3
    assert sum(map(len, sweeps.statuses(workdir).values())) == 5


@pytest.mark.long
def test_what_keeps_failing_is_given_up_and_named_and_the_rest_goes_on(tmp_path, cache):
    """`b` crashes each time, `c` needs it, the loss of `d` is not finite."""
    for name, settings in {
        "a": {},
        "b": {"source": "a"},
        "c": {"source": "b"},
        "d": {"optimizer.learning_rate": 1e30},
    }.items():
        (tmp_path / f"{name}.py").write_text(
            f"import runpy\ndef get_config():\n"
            f"    c = runpy.run_path({str(runs.QUICKSTART)!r})['get_config']()\n"
            f"    c.update_from_flattened_dict({settings!r})\n    return c\n"
        )
    workdir, env = tmp_path / "sweep", runs.environment(cache)
    files = [f"--config={tmp_path / name}.py" for name in "acd"]
    short = {"controls": "()", "seeds": "0", "train.epochs": "2", "ladder.levels": "1"}
    command = sweeps.command(
        workdir, *files, "--retries=1", config=tmp_path / "b.py", overrides=short
    )
    done = runs.run(command, sweeps.crashing(env, workdir / "b", times=2), tmp_path)
    assert done.returncode == 1
    assert sweeps.statuses(workdir) == {"a": [0], "b": [1, 1], "c": [], "d": [2]}
    b, c, d = sorted(done.stderr.splitlines())
    assert b.startswith("error: b: attempt 2 ended with status 1: RuntimeError: a crash on purpose")
    assert str(workdir / "jobs" / "b" / "attempt_2.log") in b
    assert c == "error: c: not started, since b is not finished"
    assert d.startswith(
        "error: d: attempt 1 ended with status 2: error: seed 0, level 0, winning: "
    )
    # The command again is a new chance for each; `b` does not crash a third time.
    again = runs.run(command, env, tmp_path)
    assert again.returncode == 1 and again.stderr.startswith("error: d: attempt 2 ended with")
    assert sweeps.statuses(workdir) == {"a": [0], "b": [1, 1, 0], "c": [0], "d": [2, 2]}


@pytest.mark.long
def test_ctrl_c_has_the_runs_save_and_the_same_command_goes_on(tmp_path, cache):
    """As in a terminal: it is sent to all the processes that were started from there."""
    workdir, env = tmp_path / "sweep", runs.environment(cache)
    # One training that nothing but a stop ends soon: a stop between two trainings saves nothing.
    long = {**sweeps.SLOW, "train.epochs": "40", "ladder.levels": "0"}
    command = sweeps.command(
        workdir, "--grid", "seeds=0,1", "--at_once=2", "--cores=1", overrides=long
    )
    driver = sweeps.start(command, env, tmp_path)
    both = [workdir / "seeds=0", workdir / "seeds=1"]
    sweeps.wait_until(lambda: min(map(runs.lines_of, both)) >= 1, driver)
    processes = list(map(sweeps.holder, both))
    os.killpg(driver.pid, signal.SIGINT)
    assert driver.wait(timeout=60) == 130
    assert not any(map(sweeps.is_there, processes))
    said = (tmp_path / "sweep.log").read_text()
    assert said.endswith("stopped; run the same command again to resume\n")
    assert "Traceback" not in said
    assert sweeps.statuses(workdir) == {"seeds=0": [143], "seeds=1": [143]}
    for run in both:
        assert list(run.glob("seed_*/level_*/state/winning/[0-9]*")), "nothing was saved"
    done = runs.run(command, env, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sweeps.statuses(workdir) == {"seeds=0": [143, 0], "seeds=1": [143, 0]}
    check_same_as_by_themselves(workdir, env, tmp_path)


@pytest.mark.long
def test_eight_ladders(tmp_path, cache, record_property):
    """The same with 8, the sweep killed once more, its terminal closed, and stopped."""
    names = [f"ladder.scores={s},seeds={n}" for s in ("magnitude", "random") for n in range(4)]
    grid = ["--grid", "seeds=0,1,2,3", "--grid", "ladder.scores=magnitude,random"]
    workdir, env, command = disturbed(tmp_path, cache, grid, names)
    for number, finished in ((signal.SIGKILL, 3), (signal.SIGHUP, 4), (signal.SIGTERM, 5)):
        driver = sweeps.start(command, env, tmp_path)

        def so_many(finished=finished):
            ended = [attempts[-1:] for attempts in sweeps.statuses(workdir).values()]
            return ended.count([0]) >= finished and [None] in ended

        sweeps.wait_until(so_many, driver)
        if number == signal.SIGHUP:  # which all get that were started from there
            os.killpg(driver.pid, number)
        else:
            driver.send_signal(number)
        driver.wait(timeout=60)
    done = runs.run(command, env, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = sweeps.statuses(workdir)
    assert list(statuses) == names
    assert statuses[names[0]] == [1, 0] and statuses[names[1]] == [-9, 0]
    # One each, unless it was stopped; some when all was trained, or when Python was about to end.
    for attempts in statuses.values():
        within = [s for s in attempts if s not in (1, -9)]
        assert within in ([0], [143], [-15], [143, 0], [-15, 0])
    stopped = sum(s in (143, -15) for attempts in statuses.values() for s in attempts)
    record_property("measured", f"8 ladders: 1 crashed, 1 killed, {stopped} stopped, none repeated")
    check_same_as_by_themselves(workdir, env, tmp_path)


@pytest.mark.long
def test_on_a_cluster_a_run_that_is_preempted_saves_and_is_requeued(tmp_path, cache):
    """SLURM warns every process of the job; the job outlives the sweep; it is submitted once."""
    workdir, jobs = tmp_path / "sweep", tmp_path / "slurm"
    jobs.mkdir()
    commands = os.pathsep.join([str(Path(__file__).parent / "slurm"), os.environ["PATH"]])
    env = runs.environment(cache, PATH=commands, SLURM_STAND_IN=str(jobs))
    options = ["--cluster=slurm", "--slurm=partition=gpu", "--slurm=time=120"]
    command = sweeps.command(workdir, "--grid", "seeds=0,1", *options)
    driver = sweeps.start(command, env, tmp_path)
    run = workdir / "seeds=0"
    sweeps.wait_until(lambda: runs.lines_of(run) >= 1, driver)
    os.killpg(int((jobs / "1.step").read_text()), signal.SIGUSR2)
    sweeps.wait_until(lambda: sweeps.statuses(workdir)["seeds=0"] == [143, None], driver)
    assert list(run.glob("seed_*/level_*/state/winning/[0-9]*")), "nothing was saved"
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=30) == 130
    assert sweeps.statuses(workdir)["seeds=0"][0] == 143
    done = runs.run(command, env, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sweeps.statuses(workdir) == {"seeds=0": [143, 0], "seeds=1": [0]}
    assert len(list(jobs.glob("*.state"))) == 2, "a job was submitted again"
    script = (jobs / "1.sh").read_text()
    assert "#SBATCH --partition=gpu\n" in script and "#SBATCH --time=120\n" in script
    check_same_as_by_themselves(workdir, env, tmp_path, cores=None)
