"""The command line, as a user's process. What it says of mistakes is in `test_mistakes.py`."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from lottery_jax import evaluate, main, tickets
from lottery_jax.config import GROUPS, KEYS
from tests.helpers import COMPILE_QUICKLY, ROOT

QUICKSTART = f"--config={ROOT / 'configs' / 'quickstart.py'}"
# Where other tests have the programs of the same short run, or will find them.
COMPILED = {"JAX_COMPILATION_CACHE_DIR": os.environ["LOTTERY_JAX_TESTS_CACHE"]}


def run(*arguments, cwd, module="lottery_jax.main", **env):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=120,
        env={**os.environ, "XLA_FLAGS": COMPILE_QUICKLY, **env},
    )  # fmt: skip


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


def test_help_lists_every_key_with_its_default_and_meaning_without_jax(tmp_path):
    code = (
        "import runpy, sys\nsys.argv = ['main', '--help']\n"
        "try:\n    runpy.run_module('lottery_jax.main', run_name='__main__', alter_sys=True)\n"
        "finally:\n    assert not {'jax', 'flax'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.stderr == ""
    shown = " ".join(result.stdout.split())
    for text in ("--config.seeds=0 Seeds of", "--config.train.epochs=20 Epochs of the dense",
                 "--config.wandb.entity='' The"):  # fmt: skip
        assert text in shown
    for name, key in KEYS.items():
        assert re.search(rf"--config\.{name}=\S+ {re.escape(key.meaning)}", shown), name
    positions = [shown.index(f" {title} --config.") for title in GROUPS]
    assert positions == sorted(positions)


SHORT = ["--config.seeds=0", "--config.train.epochs=2", "--config.ladder.levels=1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run by the command line, without --workdir."""
    cwd = tmp_path_factory.mktemp("cwd")
    result = run(QUICKSTART, *SHORT, cwd=cwd, COLUMNS="100", **COMPILED)
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


@pytest.mark.long
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
    from tests.helpers import some_arrays

    write_npz(tmp_path / "four.npz", some_arrays())
    (ticket,) = (finished[0] / "runs").glob("*/seed_0/level_01/ticket")
    status = evaluate.main([f"--ticket={ticket}", "--data=four", f"--data_dir={tmp_path}"])
    assert status == 2
    assert "four has 4 classes, the ticket 10" in capsys.readouterr().err


@pytest.mark.long
def test_a_training_goes_on_when_nobody_reads_what_it_prints(tmp_path):
    """`| head -1`: it is trained and reported on to the end, with status 0; so end short commands."""
    for module, *arguments in (
        ("main", QUICKSTART, *SHORT, "--workdir=run"),
        ("tickets", "list", "run"),
        ("tickets", "--help"),
    ):
        reads, writes = os.pipe()
        os.close(reads)
        with os.fdopen(writes, "wb") as nobody:
            done = subprocess.run(
                [sys.executable, "-m", f"lottery_jax.{module}", *arguments],
                cwd=tmp_path, stdout=nobody, stderr=subprocess.PIPE, text=True, timeout=120,
            )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), module
    assert (tmp_path / "run" / "report" / "table.md").is_file()


_COMMANDS = """
import sys
from lottery_jax import evaluate, report
from lottery_jax.tickets.__main__ import main as tickets
ticket, portable, run = sys.argv[1:]
statuses = [
    tickets(["verify", run]), tickets(["compare", ticket, ticket]),
    tickets(["export", ticket, "new.safetensors"]), tickets(["import", portable, "new"]),
    evaluate.main(["--ticket", ticket]), evaluate.main(["--ticket", portable]),
]
assert statuses == [2] * 6, statuses
statuses = [tickets(["list", run]), tickets(["show", ticket]), report.main([run])]
assert statuses == [0] * 3, statuses
"""


@pytest.mark.long
def test_where_jax_finds_no_device_each_command_says_so_and_judges_no_file(finished, tmp_path):
    """A cluster's setting on a laptop. What needs no device works."""
    (workdir,) = (finished[0] / "runs").iterdir()
    ticket, portable = workdir / "seed_0/level_01/ticket", tmp_path / "ticket.safetensors"
    tickets.save_portable(portable, tickets.load_ticket(ticket))
    says = "error: JAX can't be used: "
    todo = "; JAX_PLATFORMS is 'cuda': unset it or set cpu"
    done = subprocess.run(
        [sys.executable, "-c", _COMMANDS, ticket, portable, workdir],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "JAX_PLATFORMS": "cuda"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *lines, nothing = done.stderr.split("\n")
    assert len(lines) == 6 and not nothing
    assert all(line.startswith(says) and line.endswith(todo) for line in lines), lines
    assert "bad" not in done.stdout and not list(tmp_path.glob("new*"))
    for module, *more in (("lottery_jax.main",), ("lottery_jax.sweep", "run")):
        result = run(*more, QUICKSTART, *SHORT, "--workdir=no", cwd=tmp_path, module=module,
                     JAX_PLATFORMS="cuda")  # fmt: skip
        assert result.returncode == 2 and result.stdout == ""
        assert result.stderr.startswith(says) and result.stderr.endswith(f"{todo}\n")
        assert result.stderr.count("\n") == 1 and not (tmp_path / "no").exists()


def in_a_container(command):
    """A command under a user number without a name; where that is not allowed, without its lookup."""
    other = ("unshare", "--user", "--map-user=12345")
    allowed = shutil.which("unshare") and not subprocess.run([*other, "true"]).returncode
    if allowed:
        return [*other, sys.executable, "-m", *command]
    code = (
        "import pwd, runpy, sys\n"
        "def nobody(number): raise KeyError('getpwuid(): uid not found')\n"
        "pwd.getpwuid = nobody; sys.argv = sys.argv[1:]\n"
        "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
    )
    return [sys.executable, "-c", code, *command]


@pytest.mark.long
def test_a_user_without_a_name_and_a_home_can_run_everything_that_needs_neither(tmp_path):
    """As in containers. What is bundled needs no directory of data."""
    apart = ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "XLA_FLAGS", "MPLCONFIGDIR")
    env = {key: value for key, value in os.environ.items() if key not in apart}
    for module, *arguments in (
        ("lottery_jax.main", QUICKSTART, *SHORT, "--workdir=run"),
        ("lottery_jax.tickets", "verify", "run"),
        ("lottery_jax.datasets", "--data_dir=.", "list"),
    ):
        done = subprocess.run(
            in_a_container([module, *arguments]), cwd=tmp_path, env=env, capture_output=True,
            text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "report" / "curve.png").is_file()


def test_default_directories_are_told_apart():
    a, b = (main.default_workdir("configs/x.py", f) for f in ("0" * 16, "1" * 16))
    assert str(a) == "runs/x-00000000" and a != b
    named = [
        str(main.default_workdir(f"configs/x.py:{name}", "0" * 16)) for name in ("a_b", "a/b c")
    ]
    assert named == ["runs/x_a_b-00000000", "runs/x_a_b_c-00000000"]


@pytest.mark.slow
def test_wandb_offline_records_the_run(tmp_path):
    result = run(
        QUICKSTART, *SHORT, "--config.wandb.mode=offline", "--workdir=run", cwd=tmp_path,
        HOME=str(tmp_path), **COMPILED,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))


@pytest.mark.long
def test_wandb_is_set_up_by_its_environment_and_a_resumed_run_goes_on_in_its_run(tmp_path):
    """What wandb wrote is read as bytes: names are in it as they are."""
    (tmp_path / "elsewhere").mkdir()
    env = {"HOME": str(tmp_path), "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path / "elsewhere"),
           "WANDB_PROJECT": "a_project_of_mine", "WANDB_RUN_GROUP": "a_group_of_mine"}  # fmt: skip
    result = run(QUICKSTART, *SHORT, "--workdir=run", cwd=tmp_path, **env)
    assert result.returncode == 0, result.stderr
    (tmp_path / "run" / "seed_0" / "level_01" / "ticket" / "metadata.json").unlink()
    result = run(
        QUICKSTART, *SHORT, "--workdir=run", "--config.wandb.project=of_the_config", cwd=tmp_path,
        **env,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    first, second = sorted(tmp_path.glob("elsewhere/wandb/offline-run-*/*.wandb"))
    number = (tmp_path / "run" / "wandb_id").read_text().strip()
    assert {first.name, second.name} == {f"run-{number}.wandb"}
    assert b"a_project_of_mine" in first.read_bytes() and b"a_group_of_mine" in first.read_bytes()
    assert b"of_the_config" in second.read_bytes()
    assert not (tmp_path / "run" / "wandb").exists()


@pytest.mark.long
def test_wandb_that_fails_does_not_stop_the_run(tmp_path):
    """Online, with no key and nobody to ask for one."""
    env = {"HOME": str(tmp_path), "WANDB_API_KEY": "", "NETRC": str(tmp_path / "netrc")}
    result = run(
        QUICKSTART, *SHORT, "--config.wandb.mode=online", "--workdir=run", cwd=tmp_path, **env
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("the run goes on without it") == 1
    assert (tmp_path / "run" / "report" / "curve.png").is_file()


@pytest.mark.long
def test_a_damaged_cache_of_compiled_programs_is_mended_and_said_once(tmp_path):
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONWARNINGS": "error"}
    said = []
    for number in range(3):
        result = run(QUICKSTART, *SHORT, f"--workdir=run_{number}", cwd=tmp_path, **env)
        assert result.returncode == 0, result.stderr
        said.append(result.stderr)
        entries = list(tmp_path.glob("cache/lottery_jax/xla/*-cache"))
        assert len(entries) > 5
        for entry in entries if number == 0 else ():
            entry.write_bytes(entry.read_bytes()[:50])
    assert said[0] == said[2] == ""
    assert said[1].startswith(f"warning: {tmp_path}/cache/lottery_jax/xla: a compiled program")
    assert said[1].count("\n") == 1


@pytest.mark.slow
def test_figures_that_can_not_be_drawn_cost_no_table(finished, tmp_path):
    """A matplotlibrc that is no text ends Matplotlib's import."""
    (tmp_path / "matplotlibrc").write_bytes(b"font.family: \xff")
    (there,) = (finished[0] / "runs").iterdir()
    shutil.copytree(there, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    result = run(QUICKSTART, *SHORT, "--workdir=run", cwd=tmp_path, COLUMNS="100")
    assert result.returncode == 0 and "winning ticket" in result.stdout
    assert result.stderr.startswith("warning: run/report: the figures can't be drawn (Matplotlib: ")
    assert result.stderr.count("\n") == 1
    (tmp_path / "run" / "report" / "table.md").unlink()
    result = run("run", cwd=tmp_path, module="lottery_jax.report")
    assert result.returncode == 2 and result.stderr.startswith("error: run/report: the figures")
    assert result.stderr.count("\n") == 1
    assert (tmp_path / "run" / "report" / "table.md").is_file()


def test_a_warning_that_is_made_an_error_is_named_with_its_place(tmp_path):
    (tmp_path / "mine.py").write_text("import warnings\nwarnings.warn('old', UserWarning)\n")
    result = run("--config=mine.py", cwd=tmp_path, PYTHONWARNINGS="error")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "UserWarning: old (at " in result.stderr and "mine.py:2; PYTHONWARNINGS" in result.stderr
