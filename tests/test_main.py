"""The command line, as a user's process: one line for a mistake, status 2, nothing touched."""

import os
import subprocess
import sys

import pytest

from lottery_jax import evaluate, main, report
from tests.faults.runs import ROOT

QUICKSTART = f"--config={ROOT / 'configs' / 'quickstart.py'}"


def run(*arguments, cwd, module="lottery_jax.main", **env):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=120,
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | env,
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "--config is missing"),
        (["--config=nowhere.py"], "nowhere.py"),
        ([QUICKSTART, "--config.seed=1"], "unknown key 'seed' (did you mean 'seeds'?)"),
        ([QUICKSTART, "--config.train.epochs=many"], "config.train.epochs"),
        ([QUICKSTART, "--config.train.epochs=0"], "config.train.epochs: 0 is not a whole number"),
        ([QUICKSTART, "--config.data.name=digitz"], "did you mean 'digits'"),
        ([QUICKSTART, "--config.model.name=lenet"], "config.model.name: unknown value 'lenet'"),
        ([QUICKSTART, "--wrkdir=x"], "workdir"),
        ([f"--config={ROOT / 'setup.cfg'}"], "--config: can't be loaded"),
        ([QUICKSTART, "more"], "unexpected argument 'more'"),
        ([QUICKSTART, "--config.data.name=cifar10", "--config.data.dir=empty"], "cifar-10-binary"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path, arguments, says):
    result = run(*arguments, cwd=tmp_path, TFDS_DATA_DIR=str(tmp_path / "data"))
    assert result.returncode == 2
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: ") and says in lines[0], result.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_says_how_to_use_it_and_lists_the_flags(tmp_path):
    result = run("--help", cwd=tmp_path)
    for text in (
        "--config=configs/quickstart.py",
        "--config.KEY=VALUE",
        "--workdir",
        "Exit status",
    ):
        assert text in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


SHORT = ["--config.seeds=0", "--config.train.epochs=2", "--config.ladder.levels=1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run by the command line, without --workdir."""
    cwd = tmp_path_factory.mktemp("cwd")
    result = run(QUICKSTART, *SHORT, cwd=cwd, COLUMNS="100")
    assert result.returncode == 0, result.stderr
    return cwd, result


def test_a_run_ends_with_a_table_and_files(finished):
    cwd, result = finished
    (workdir,) = (cwd / "runs").iterdir()
    assert workdir.name.startswith("quickstart-")
    assert "winning ticket" in result.stdout and "64.00" in result.stdout
    for name in ("config.json", "curve.csv", "metrics.jsonl", "report/curve.png",
                 "report/curve.svg", "report/layers.png", "report/table.md",
                 "seed_0/level_01/ticket/metadata.json"):  # fmt: skip
        assert (workdir / name).stat().st_size > 0, name


def test_the_same_command_again_finds_the_finished_run(finished):
    cwd, _ = finished
    result = run(QUICKSTART, *SHORT, cwd=cwd)
    assert result.returncode == 0 and "complete, nothing to do" in result.stdout
    assert len(list((cwd / "runs").iterdir())) == 1


def test_another_config_in_the_same_directory_is_refused(finished):
    cwd, _ = finished
    (workdir,) = (cwd / "runs").iterdir()
    before = sorted(workdir.rglob("*"))
    result = run(
        QUICKSTART, *SHORT, "--config.train.batch_size=50", f"--workdir={workdir}", cwd=cwd
    )
    assert result.returncode == 2
    assert "config.train.batch_size: 64, 50;" in result.stderr and result.stderr.count("\n") == 1
    assert sorted(workdir.rglob("*")) == before


def test_a_transfer_matrix_is_one_command(tmp_path):
    config = f"--config={ROOT / 'configs' / 'transfer_quickstart.py'}"
    result = run(config, *SHORT, "--workdir=run", cwd=tmp_path, COLUMNS="100")
    assert result.returncode == 0, result.stderr
    assert "[4/4] tickets of digits_a on digits_b" in result.stdout
    assert "random ticket" in result.stdout
    for name in ("matrix.png", "heatmap.png", "matrix.csv", "table.md"):
        assert (tmp_path / "run" / "report" / name).stat().st_size > 0, name
    again = run(config, *SHORT, "--workdir=run", cwd=tmp_path, COLUMNS="100")
    assert again.stdout.count("complete, nothing to do") == 4


def test_evaluate_prints_what_training_measured(finished, capsys):
    cwd, _ = finished
    (ticket,) = (cwd / "runs").glob("*/seed_0/level_01/ticket")
    measured = evaluate.evaluate_ticket(evaluate.load_ticket(ticket))
    expected = evaluate.load_ticket(ticket).metadata["result"]
    assert measured.accuracy == pytest.approx(expected["test_accuracy"])
    assert measured.loss == pytest.approx(expected["test_loss"], rel=1e-4)
    assert evaluate.main([f"--ticket={ticket}", "--layers"]) == 0
    out = capsys.readouterr().out
    assert "36.00% of the prunable weights (18072 of 50200)" in out
    assert f"{measured.accuracy:.2%}" in out and "dense2" in out


def test_evaluate_on_data_with_other_classes_is_an_error(finished, tmp_path, capsys):
    from lottery_jax.datasets import write_npz
    from tests.test_datasets import some_arrays

    write_npz(tmp_path / "four.npz", some_arrays())
    (ticket,) = (finished[0] / "runs").glob("*/seed_0/level_01/ticket")
    status = evaluate.main([f"--ticket={ticket}", "--data=four", f"--data_dir={tmp_path}"])
    assert status == 2
    assert "four has 4 classes, the ticket 10" in capsys.readouterr().err


@pytest.mark.parametrize("module", [evaluate.main, report.main])
def test_what_is_not_there_is_one_line_and_status_2(module, tmp_path, capsys):
    argument = f"--ticket={tmp_path}" if module is evaluate.main else str(tmp_path)
    assert module([argument]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_default_directories_are_told_apart():
    a, b = (main.default_workdir("configs/x.py", f) for f in ("0" * 16, "1" * 16))
    assert str(a) == "runs/x-00000000" and a != b


def test_wandb_offline_records_the_run(tmp_path):
    result = run(
        QUICKSTART, *SHORT, "--config.wandb.mode=offline", "--workdir=run", cwd=tmp_path,
        HOME=str(tmp_path),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))


def test_wandb_that_fails_does_not_stop_the_run(tmp_path):
    """Online, with no key and nobody to ask for one."""
    env = {"HOME": str(tmp_path), "WANDB_API_KEY": "", "NETRC": str(tmp_path / "netrc")}
    result = run(
        QUICKSTART, *SHORT, "--config.wandb.mode=online", "--workdir=run", cwd=tmp_path, **env
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("the run goes on without it") == 1
    assert (tmp_path / "run" / "report" / "curve.png").is_file()
