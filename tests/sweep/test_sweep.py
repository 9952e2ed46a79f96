"""Sweeps: which runs a command means, what is known of them, what is said of mistakes.

How they run, and what disturbs them, is in `faults/test_sweeps.py`.
"""

import csv
import dataclasses
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from lottery_jax.config import flatten
from lottery_jax.errors import ConfigError
from lottery_jax.report.curves import pooled, read_run
from lottery_jax.runs import directory, matrix
from lottery_jax.runs.ladder import run_ladder
from lottery_jax.runs.matrix import run_matrix
from lottery_jax.sweep import __main__ as command
from lottery_jax.sweep import attempts, drive, grid, jobs, plan, report, states
from lottery_jax.sweep.states import State
from lottery_jax.sweep.tables import Overview
from lottery_jax.system import locks
from tests.helpers import ROOT

QUICKSTART = str(ROOT / "configs" / "quickstart.py")
MATRIX = str(ROOT / "configs" / "transfer_quickstart.py")
METHODS = str(ROOT / "configs" / "lenet_fashion_mnist_methods.py")


def expand(*texts, files=(QUICKSTART,), workdir=Path("/sweeps/x"), **overrides):
    return grid.expand(files, overrides, grid.parse_grid(texts), workdir)


def names(planned):
    return [run.name for run in planned.runs]


def test_a_grid_is_a_run_for_each_combination_whatever_order_it_is_given_in():
    planned = expand("seeds=0,1", "ladder.scores=magnitude,snip")
    assert names(planned) == [
        f"ladder.scores={scores},seeds={seed}" for scores in ("magnitude", "snip") for seed in "01"
    ]
    assert set(names(expand("ladder.scores=magnitude,snip", "seeds=0,1"))) == set(names(planned))
    for run in planned.runs:
        assert run.name == f"ladder.scores={run.config.ladder.scores},seeds={run.config.seeds[0]}"
        assert len(run.config.seeds) == 1 and run.after == ()


@pytest.mark.parametrize(
    "text, values",
    [
        ("seeds=0,(1,2)", [(0,), (1, 2)]),
        ("controls=(),random,(init,reinit),('init',)", [(), ("random",), ("init", "reinit"), ("init",)]),
        ("ladder.rewind=0,1ep,500st", [0, "1ep", "500st"]),
        ("optimizer.learning_rate=1e-3,0.1", [1e-3, 0.1]),
        ("optimizer.nesterov=true,false", [True, False]),
        ("data.input_shape=(16,16,1),()", [(16, 16, 1), ()]),
        ("ladder.sparsities=(0.5,0.9),(0.8,)", [(0.5, 0.9), (0.8,)]),
        ("optimizer.name='sgd',\"adam\"", ["sgd", "adam"]),
        ("config.train.epochs=2,3", [2, 3]),
    ],
)  # fmt: skip
def test_values_are_those_of_the_command_line_of_a_run(text, values):
    key = text.partition("=")[0].removeprefix("config.")
    runs = expand(text).runs
    assert [flatten(run.config)[key] for run in runs] == values
    assert len({run.name for run in runs}) == len(values)
    for run in runs:  # no quotes are needed in a shell
        assert not set(run.name) & set(" ()'\"\\/;$*?[]{}")


def test_several_config_files_are_told_apart_by_their_names():
    planned = expand("seeds=0,1", files=(f"{METHODS}:snip", f"{METHODS}:imp"))
    stem = "lenet_fashion_mnist_methods"
    assert names(planned) == [f"{stem}_{m},seeds={s}" for m in ("snip", "imp") for s in (0, 1)]
    assert planned.runs[0].config.ladder.scores == "snip"


def test_a_matrix_is_its_cells_each_after_its_source(tmp_path):
    planned = expand(files=(MATRIX,), workdir=tmp_path)
    (config,) = planned.matrices.values()
    expected = {folder: cell for _, folder, cell in matrix.cells(config, tmp_path)}
    assert {tmp_path / run.name: flatten(run.config) for run in planned.runs} == {
        folder: flatten(cell) for folder, cell in expected.items()
    }
    assert {run.name: run.after for run in planned.runs if run.after} == {
        "digits_a_to_digits_b": ("digits_a",),
        "digits_b_to_digits_a": ("digits_b",),
    }


def test_a_grid_of_matrices_has_each_in_its_directory(tmp_path):
    planned = expand("ladder.levels=1,2", files=(MATRIX,), workdir=tmp_path)
    assert set(planned.matrices) == {"ladder.levels=1", "ladder.levels=2"}
    transfers = {run.name: run.after for run in planned.runs if run.after}
    assert transfers["ladder.levels=1/digits_a_to_digits_b"] == ("ladder.levels=1/digits_a",)


def test_a_run_waits_for_the_run_whose_directory_is_its_source(tmp_path):
    """By name, or by path as the command of a single run has it; whatever comes first."""
    (tmp_path / "target.py").write_text(
        f"import runpy\ndef get_config():\n"
        f"    c = runpy.run_path({QUICKSTART!r})['get_config']()\n"
        f"    c.source = {str(tmp_path / 'quickstart')!r}\n    return c\n"
    )
    planned = expand(files=(str(tmp_path / "target.py"), QUICKSTART), workdir=tmp_path)
    assert [(run.name, run.after) for run in planned.runs] == [
        ("quickstart", ()), ("target", ("quickstart",))
    ]  # fmt: skip
    planned = expand("source=,seeds=1", "seeds=1", workdir=tmp_path)
    assert [(run.name, run.after) for run in planned.runs] == [
        ("seeds=1,source=none", ()), ("seeds=1,source=seeds=1", ())
    ]  # fmt: skip
    planned = expand("source=,source=none", workdir=tmp_path)
    assert planned.runs[1].after == ("source=none",)
    assert planned.runs[1].config.source == str(tmp_path / "source=none")


@pytest.mark.parametrize(
    "texts, says",
    [
        (["seed=0"], "unknown key 'seed' (did you mean 'seeds'?)"),
        (["ladder=0"], "config.ladder: is a group of keys"),
        (["seeds"], "is not KEY=VALUE,VALUE"),
        (["seeds=0", "seeds=1"], "seeds is there twice"),
        (["seeds=0,0"], "seeds has a value twice"),
        (["seeds=(0,1"], "a bracket or a quote is not closed"),
        (["seeds=a"], "config.seeds: ('a',) is not a tuple"),
        (["train.epochs=1,many"], "config.train.epochs=many"),
        (["ladder.scope=global,everything"], "unknown value 'everything'"),
        (["train.checkpoint_every_epochs=0,1"], "must give the same results"),
        (["seeds=1,01"], "config.seeds"),
    ],
)
def test_a_wrong_grid_is_a_line_that_says_what(texts, says):
    with pytest.raises(ConfigError) as error:
        expand(*texts)
    assert says in str(error.value) or says in str(error.value.__cause__)


def test_runs_that_wait_for_each_other_are_refused(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.py").write_text(
            f"import runpy\ndef get_config():\n"
            f"    c = runpy.run_path({QUICKSTART!r})['get_config']()\n"
            f"    c.source = {other!r}\n    c.seeds = ({ord(name)},)\n    return c\n"
        )
    files = (str(tmp_path / "a.py"), str(tmp_path / "b.py"))
    with pytest.raises(ConfigError, match="wait for each other: a, b"):
        expand(files=files, workdir=tmp_path)
    with pytest.raises(ConfigError, match="quickstart is its own source"):
        expand(source="quickstart")


def sweep_of(planned, workdir, cores=1):
    return plan.Sweep(workdir, planned, cores, {})


def test_a_sweep_is_read_as_it_was_written_and_its_runs_have_config_files(tmp_path):
    texts = ("seeds=0,1", "ladder.rewind=0,2ep", "controls=(),(random,reinit)")
    written = sweep_of(expand(*texts, workdir=tmp_path), tmp_path)
    plan.write(written)
    read = plan.read(tmp_path)
    assert read.cores == 1 and names(read.plan) == names(written.plan)
    for there, here in zip(read.plan.runs, written.plan.runs, strict=True):
        assert flatten(there.config) == flatten(here.config) and there.after == here.after
        config = runpy.run_path(str(written.config_file(here)))["get_config"]()
        assert flatten(config) == flatten(here.config)
    plan.check_contains(written, read)


def test_a_sweep_that_was_moved_finds_its_sources(tmp_path):
    plan.write(sweep_of(expand(files=(MATRIX,), workdir=tmp_path / "a"), tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    read = plan.read(tmp_path / "b")
    sources = {run.name: run.config.source for run in read.plan.runs if run.after}
    assert sources["digits_a_to_digits_b"] == str(tmp_path / "b" / "digits_a")
    here = sweep_of(expand(files=(MATRIX,), workdir=tmp_path / "b"), tmp_path / "b")
    plan.check_contains(here, read)


def test_runs_may_be_added_but_none_changed_or_dropped(tmp_path):
    there = sweep_of(expand("seeds=0,1", workdir=tmp_path), tmp_path)
    plan.check_contains(sweep_of(expand("seeds=2,1,0", workdir=tmp_path), tmp_path), there)
    with pytest.raises(ConfigError, match="has the run seeds=1, which this command has not"):
        plan.check_contains(sweep_of(expand("seeds=0", workdir=tmp_path), tmp_path), there)
    other = expand("seeds=0,1", workdir=tmp_path, **{"train.epochs": "7"})
    with pytest.raises(ConfigError, match="seeds=0 has another config.*config.train.epochs: 20, 7"):
        plan.check_contains(sweep_of(other, tmp_path), there)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny):
    """A sweep of two seeds and two learning rates, one of them with half of its seeds' runs left."""
    workdir = tmp_path_factory.mktemp("sweep")
    planned = expand("seeds=0,1", "optimizer.learning_rate=0.1,0.02", workdir=workdir, **tiny)
    sweep = sweep_of(planned, workdir)
    plan.write(sweep)
    for run in planned.runs[:3]:
        # As in the command, where one seed is on one device: devices that share a batch add it up
        # in another order, and the last bits differ from those of a run of several seeds.
        run_ladder(run.config, sweep.folder(run), devices=jax.devices()[:1])
    return sweep


@pytest.fixture(scope="module")
def tiny():
    return {"train.epochs": "2", "ladder.levels": "1", "controls": "random"}


def statuses(sweep):
    """The status of each run of a sweep that has submitted no job."""
    return {run.name: states.inspect(sweep, run, lambda *job: False) for run in sweep.plan.runs}


def test_what_is_known_comes_from_the_disk(finished):
    assert [status.state for status in statuses(finished).values()] == [State.FINISHED] * 3 + [
        State.WAITING
    ]
    done, left = finished.plan.runs[2:]
    progress = states.progress(finished, done)
    rows = directory.write_curve(done.config, finished.folder(done))
    winner = rows[1]
    assert winner["level"] == 1 and winner["control"] == "winning"
    assert progress == states.Progress(
        done=3, total=3, level=1, levels=1, seed=0, density=winner["density"],
        accuracy=winner["test_accuracy"], seconds=pytest.approx(sum(r["seconds"] for r in rows)),
        seconds_left=0.0,
    )  # fmt: skip
    assert states.progress(finished, left).seconds_left is None
    table = Overview(finished).table(statuses(finished))
    assert table.row_count == 4 and "3 of 4 runs finished" in str(table.title)


def copied(finished, tmp_path):
    sweep = dataclasses.replace(finished, workdir=tmp_path / "sweep")
    shutil.copytree(finished.workdir, sweep.workdir)
    return sweep


def attempt(sweep, run, number, status, **more):
    made = attempts.Attempt(
        number=number, job_id=f"{number}", host="here", pid=1, cores=(), reached=(0, -1), since=0.0,
        status=status, said="what it said", log="log",
    )  # fmt: skip
    attempts.write_attempt(sweep.job_folder(run), dataclasses.replace(made, **more))


@pytest.mark.parametrize(
    "status, state, says",
    [
        (143, State.STOPPED, "attempt 2 was stopped, with all saved"),
        (-9, State.FAILED, "attempt 2 was killed by SIGKILL"),
        (1, State.FAILED, "attempt 2 ended with status 1: what it said"),
        (None, State.FAILED, "attempt 2 was killed together with its job"),
    ],
)
def test_how_the_last_attempt_ended(finished, tmp_path, status, state, says):
    sweep = copied(finished, tmp_path)
    run = sweep.plan.runs[3]
    attempt(sweep, run, 1, 0)
    attempt(sweep, run, 2, status)
    by_name = statuses(sweep)
    assert by_name[run.name].state == state
    assert Overview(sweep).describe(run, by_name).endswith(says)
    # Whatever the notes say, a run whose tickets are there is finished.
    attempt(sweep, sweep.plan.runs[0], 1, status)
    assert statuses(sweep)[sweep.plan.runs[0].name].state == State.FINISHED


def test_a_run_is_running_while_somebody_holds_its_lock(finished, tmp_path):
    """The job's, before the run itself has begun; or the run's, whoever runs it."""
    sweep = copied(finished, tmp_path)
    run = sweep.plan.runs[3]
    for folder, ours in ((sweep.job_folder(run), True), (sweep.folder(run), False)):
        with locks.locked(folder):
            found = statuses(sweep)[run.name]
            assert found.state == State.RUNNING and found.is_ours == ours
            assert found.holder["pid"] == os.getpid()
        assert statuses(sweep)[run.name].state == State.WAITING


def test_nobody_holds_the_lock_of_a_process_that_is_gone_or_has_another_number_now(tmp_path):
    assert locks.holder(tmp_path) is None
    code = "import sys, os, pathlib; from lottery_jax.system.locks import locked\n"
    code += "with locked(pathlib.Path(sys.argv[1])): os._exit(1)"
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert locks.holder(tmp_path) is None
    owner = json.loads((tmp_path / locks.NAME).read_text())
    (tmp_path / locks.NAME).write_text(json.dumps({**owner, "pid": os.getpid()}))
    assert locks.holder(tmp_path) is None
    with locks.locked(tmp_path):  # asking has not taken it
        assert locks.holder(tmp_path)


def test_the_report_draws_seeds_as_one_curve_and_has_a_row_for_each_run(finished, tmp_path):
    files = report.write(finished, statuses(finished), tmp_path)
    assert {file.name for file in files} >= {"sweep.csv", "curve.png", "table.md"}
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["finished"] * 3 + ["waiting"]
    assert [row["seeds"] for row in rows] == ["0", "1", "0", "1"]
    assert [float(row["optimizer.learning_rate"]) for row in rows] == [0.1, 0.1, 0.02, 0.02]
    accuracy = states.progress(finished, finished.plan.runs[0]).accuracy
    assert float(rows[0]["test_accuracy"]) == pytest.approx(accuracy, rel=1e-5)
    table = (tmp_path / "table.md").read_text()
    first = "learning rate 0.1, 2 seeds"
    assert f"{first} | learning rate 0.02, 1 seed |" in table


@pytest.mark.slow
def test_runs_of_a_seed_each_are_drawn_as_one_run_of_all_seeds(finished, tmp_path, tiny):
    one, other = (run for run in finished.plan.runs if run.config.optimizer.learning_rate == 0.1)
    (both,) = expand("seeds=(0,1)", workdir=tmp_path, **tiny).runs
    run_ladder(both.config, tmp_path / "both", devices=jax.devices()[:2])
    expected = read_run(tmp_path / "both")
    (pooled_run,) = pooled([read_run(finished.folder(run)) for run in (one, other)])
    assert pooled_run.seeds == expected.seeds == (0, 1)
    assert pooled_run.series.keys() == {"winning", "random"}
    assert (pooled_run.dense, pooled_run.series) == (expected.dense, expected.series)
    apart = [read_run(finished.folder(run)) for run in finished.plan.runs[1:3]]
    assert pooled(apart) == apart


@pytest.mark.long
def test_a_matrix_of_a_sweep_is_one_for_the_command_of_matrices(tmp_path, tiny, quiet):
    planned = expand(files=(MATRIX,), workdir=tmp_path, **{**tiny, "seeds": "0"})
    sweep = sweep_of(planned, tmp_path)
    from lottery_jax.sweep import checks

    checks.check(planned, tmp_path)
    assert not list(tmp_path.iterdir())
    checks.record_matrices(planned, tmp_path)
    plan.write(sweep)
    run_matrix(planned.matrices[""], tmp_path, console=quiet)
    assert {status.state for status in statuses(sweep).values()} == {State.FINISHED}
    files = report.write(sweep, statuses(sweep))
    assert {file.name for file in files} >= {"sweep.csv", "matrix.png", "heatmap.png"}


def test_local_jobs_get_cores_of_their_own():
    there = sorted(os.sched_getaffinity(0))
    one = drive.make_slots(len(there), 1)
    if len(there) > 1:
        assert [cores for (cores,) in one.cores] == there
    assert drive.make_slots(2, 0).cores == drive.make_slots(2, len(there)).cores == ()


def main(*arguments, capsys):
    """(exit status, what it says on stderr) of a command that is to fail."""
    status = command.main([str(a) for a in arguments])
    return status, capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_says_where_the_keys_are_listed(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "python -m lottery_jax.main --help" in shown and "docs/config.md" in shown


@pytest.mark.parametrize(
    "arguments, says",
    [
        (
            ["--grid", "model.name=vgg91"],
            "model.name=vgg91: config.model.name: unknown value 'vgg91'",
        ),
        (["--grid", "optimizer.name=sgd,sdg"], "optimizer.name=sdg: "),
        (["--grid", "data.name=digits,nowhere"], "data.name=nowhere: "),
        (["--grid", "ladder.levels=2,100"], "ladder.levels=100: config.ladder."),
        (["--config.seed=3"], "unknown key 'seed'"),
        (["--config.seeds"], "has no value"),
        (["--config.seeds=1", "--grid", "seeds=0,1"], "seeds is set by --config.seeds too"),
        (["--config", "nowhere.py"], "can't be loaded: nowhere.py"),
        (["--config.source=nowhere"], "nowhere is not a run directory"),
        (["--cores=-1"], "--cores: -1 is not 0 or more"),
        (
            ["--grid", "seeds=0,1", "--config.model.name=lenet5"],
            "seeds=0: config.model.name: unknown",
        ),
        (
            [
                "--config.model.name=lenet_300_100",
                "--grid",
                "source=,'model.width=1.0,source=none'",
                "--grid",
                "model.width=1.0,2.0",
            ],
            "source=none has config.model.width 1.0, this config 2.0",
        ),
        (
            [
                "--config.model.name=tests.own:MLP",
                "--grid",
                "source=,'model.options=_hidden__8_,source=none'",
                "--grid",
                """model.options={"hidden": 8},{"hidden": 9}""",
            ],
            """has config.model.options '{"hidden": 8}', this config '{"hidden": 9}'""",
        ),
        (
            [
                "--config.optimizer.name=adam",
                "--grid",
                "source=,'seeds=0,source=none'",
                "--grid",
                "seeds=0,1",
            ],
            "config.source: seeds=0,source=none has no seed 1; it has 0",
        ),
        (["--gpus=0", "--at_once=2"], "--gpus: 1 for 2 runs at once"),
        (["--slurm=partition=gpu"], "--slurm: is for --cluster=slurm"),
        (["--slurm=partition"], "'partition' is not OPTION=VALUE"),
        (["--cluster=slurm"], 'Could not detect "srun"'),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_touched(
    tmp_path, capsys, monkeypatch, arguments, says
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    files = [] if "--config" in arguments else ["--config", QUICKSTART]
    status, said = main("run", *files, "--workdir=sweep", *arguments, capsys=capsys)
    assert status == 2 and says in said and said.count("\n") == 1 and said.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_no_sweep_or_a_run(finished, tmp_path, capsys):
    status, said = main("status", tmp_path, capsys=capsys)
    assert status == 2 and "is not a sweep" in said
    run = finished.folder(finished.plan.runs[0])
    status, said = main("run", "--config", QUICKSTART, "--workdir", run, capsys=capsys)
    assert status == 2 and "is a run; choose another --workdir" in said


def test_without_submitit_one_line_says_how_to_get_it(tmp_path):
    """In a process in which it can't be found, and which can't have imported it before."""
    code = (
        "import sys; sys.modules['submitit'] = None\n"
        "from lottery_jax.sweep.__main__ import main\n"
        f"sys.exit(main(['run', '--config={QUICKSTART}', '--workdir=sweep']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "pip install -e '.[cluster]'" in done.stderr
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_sweep_keeps_the_cores_it_began_with(finished, capsys):
    status, said = main(
        "run", "--config", QUICKSTART, "--workdir", finished.workdir, "--cores=3", capsys=capsys
    )
    assert status == 2 and "was begun with 1" in said


def test_options_of_slurm_reach_its_batch_file_and_unknown_ones_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{ROOT}/tests/faults/slurm:{os.environ['PATH']}")
    texts = ["partition=gpu", "time=90", "gpus-per-node=1", "mem=32GB", "account=tickets"]
    options = jobs.parse_options(texts)
    jobs.check("slurm", options)
    executor = jobs._executor("slurm", tmp_path, options)
    script = executor._make_submission_file_text("command", "0")
    for text in texts:
        assert f"#SBATCH --{text}\n" in script
    assert "#SBATCH --signal=USR2@90\n" in script and "#SBATCH --job-name=lottery_jax\n" in script
    with pytest.raises(ConfigError, match="unknown option 'partiton'; legal: account, "):
        jobs.check("slurm", {"partiton": "gpu"})


def test_status_and_report_answer_while_nobody_drives(finished, tmp_path, capsys):
    assert command.main(["status", str(finished.workdir)]) == 0
    out = capsys.readouterr().out
    assert "3 of 4 runs finished" in out and "run the same command again" in out
    assert command.main(["report", str(finished.workdir), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "curve.svg").is_file()


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("runs"),
        lambda record: record.update(format_version=0),
        lambda record: record.update(runs=[]),
        lambda record: record["runs"].update(more=None),
        lambda record: record["runs"]["seeds=0"].update(after=3),
        lambda record: record["runs"]["seeds=0"]["config"].update(seeds="a"),
    ],
)
def test_a_damaged_sweep_is_one_line(tmp_path, capsys, change):
    plan.write(sweep_of(expand("seeds=0", workdir=tmp_path), tmp_path))
    record = json.loads((tmp_path / plan.NAME).read_text())
    change(record)
    (tmp_path / plan.NAME).write_text(json.dumps(record))
    status, said = main("status", tmp_path, capsys=capsys)
    assert status == 2 and said.startswith(f"error: {tmp_path}: is not a sweep")
    assert said.count("\n") == 1


def test_notes_of_attempts_that_can_not_be_read_are_passed_over(finished, tmp_path):
    sweep = copied(finished, tmp_path)
    run = sweep.plan.runs[3]
    attempt(sweep, run, 1, -9)
    for text in ("", "{", "[]", '{"number": 2}'):
        (sweep.job_folder(run) / "attempt_2.json").write_text(text)
        (sweep.job_folder(run) / "submitted.json").write_text(text)
        assert [a.number for a in statuses(sweep)[run.name].attempts] == [1]
        assert statuses(sweep)[run.name].submission is None
