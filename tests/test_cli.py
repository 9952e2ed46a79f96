"""Configs by name, and the command `lottery-jax`, in a checkout and from a wheel."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lottery_jax import __version__, cli
from lottery_jax.config import find_config, fingerprint, named_configs, run_name, with_config_file
from lottery_jax.datasets import BUILT_IN
from lottery_jax.errors import ConfigError
from lottery_jax.models import MODELS
from lottery_jax.pruning.controls import CONTROLS
from lottery_jax.pruning.scores import SCORES
from lottery_jax.sweep.grid import load_config
from tests.faults import runs
from tests.helpers import COMPILE_QUICKLY, CONFIG_FILES, ROOT


def call(monkeypatch, *arguments):
    """The status of `lottery-jax ARGUMENTS`, in this process."""
    monkeypatch.setattr(sys, "argv", ["lottery-jax", *arguments])
    try:
        return cli.main()
    except SystemExit as ended:
        return ended.code


def child(*arguments, cwd, **env):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True,
        timeout=180, env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | env,
    )  # fmt: skip


def test_each_config_file_has_a_name():
    assert named_configs() == {path.stem: path for path in CONFIG_FILES}
    for path in CONFIG_FILES:
        assert find_config(path.stem) == str(path)


@pytest.mark.parametrize("name", ["quickstart", "vgg19_cifar100", "recipe:alexnet_svhn"])
def test_a_name_means_the_same_run_as_its_file(name, tmp_path, monkeypatch):
    stem, colon, argument = name.partition(":")
    file = f"configs/{stem}.py{colon}{argument}"
    monkeypatch.chdir(ROOT)
    by_file, directory = fingerprint(load_config(file, {})), run_name(file)
    monkeypatch.chdir(tmp_path)
    assert fingerprint(load_config(name, {})) == by_file
    assert run_name(name) == run_name(find_config(name)) == directory
    assert load_config(name, {"seeds": "7"}).seeds == (7,)


def test_a_file_of_the_users_own_comes_before_a_name_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adam").write_text("")
    (tmp_path / "quickstart").mkdir()  # such as a run directory
    assert find_config("adam") == "adam"
    assert find_config("quickstart") == str(named_configs()["quickstart"])


@pytest.mark.parametrize(
    "value, near",
    [
        ("quickstrt", "quickstart"),
        ("vgg19_cifar1000", "vgg19_cifar100"),
        ("configs/vgg19_cifar100.py", "vgg19_cifar100"),
        ("recipes:lenet_digits", "recipe"),
    ],
)
def test_a_name_of_nothing_is_told_the_nearest_one(value, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        find_config(value)
    assert f"{value.partition(':')[0]!r} is neither a file nor the name" in str(raised.value)
    assert f"did you mean {near}" in str(raised.value)


def test_names_are_found_in_every_form_of_the_flag():
    file = find_config("adam")
    given = ["main", "--config", "adam", "-config=adam", "--config.seeds=1", "--workdir=adam"]
    expected = ["main", "--config", file, f"-config={file}", "--config.seeds=1", "--workdir=adam"]
    assert with_config_file(given) == expected
    assert with_config_file(["main", "--config"]) == ["main", "--config"]


@pytest.mark.parametrize(
    "kind, names",
    [("configs", named_configs()), ("networks", MODELS), ("datasets", BUILT_IN),
     ("scores", SCORES), ("controls", CONTROLS)],
)  # fmt: skip
def test_list_has_a_line_for_each_name(kind, names, monkeypatch, capsys):
    assert call(monkeypatch, "list", kind) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert sorted(name for name, _ in lines) == sorted(names)
    assert all(text.endswith(".") and not text.startswith("Return") for _, text in lines)


def test_list_alone_lists_all_kinds(monkeypatch, capsys):
    assert call(monkeypatch, "list") == 0
    out = capsys.readouterr().out
    assert re.findall(r"^(\w+):$", out, re.MULTILINE) == [
        "configs", "networks", "datasets", "scores", "controls",
    ]  # fmt: skip
    assert call(monkeypatch, "list", "nets") == 2


def test_mistakes_of_the_command_itself_are_one_line(monkeypatch, capsys):
    assert call(monkeypatch, "reprot") == 2
    assert "unknown command 'reprot' (did you mean 'report'?)" in capsys.readouterr().err
    assert call(monkeypatch, "--nonsense") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_version_and_every_command_are_told(monkeypatch, capsys):
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"lottery_jax {__version__}\n"
    for arguments in ([], ["--help"]):
        assert call(monkeypatch, *arguments) == 0
        out = capsys.readouterr().out
        assert all(re.search(rf"^  {name} +\w", out, re.MULTILINE) for name in cli.COMMANDS)


def test_help_imports_nothing_that_is_slow(tmp_path):
    code = (
        "import sys\nfrom lottery_jax import cli\nsys.argv = ['lottery-jax', '--help']\n"
        "try:\n    cli.main()\nfinally:\n"
        "    slow = {'jax', 'flax', 'numpy', 'rich', 'absl', 'matplotlib'} & set(sys.modules)\n"
        "    assert not slow, slow"
    )
    done = child("-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_subcommand_says_how_it_was_called(command, tmp_path):
    done = child("-m", "lottery_jax", command, "--help", cwd=tmp_path)
    assert f"python -m lottery_jax {command} " in done.stdout
    assert f"python -m lottery_jax.{cli.COMMANDS[command][0]}" not in done.stdout
    assert done.returncode == {"run": 1, "sweep": 0}[command]  # as that of the module itself


def test_a_mistake_in_a_subcommand_is_one_line_with_status_2(tmp_path):
    done = child("-m", "lottery_jax", "report", "nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nowhere: is not a run") and done.stderr.count("\n") == 1


@pytest.mark.long
def test_a_stopped_subcommand_saves_and_has_the_signals_status(tmp_path):
    under = ("-m", "lottery_jax", "run")
    env, workdir = runs.environment(), tmp_path / "run"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = runs.start(runs.command(workdir, {"seeds": "0"}, under=under), env, tmp_path, **pipes)
    runs.wait_for_lines(process, workdir, 3)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 143
    assert error == "stopped; run the same command again to resume\n"
    assert list(workdir.glob("seed_0/*")) and not (workdir / "report").exists()


@pytest.mark.slow
def test_a_wheel_has_all_that_a_run_needs(tmp_path):
    """Built from a copy, installed outside the checkout, and used from somewhere else."""
    source, target, cwd = (tmp_path / name for name in ("source", "target", "cwd"))
    for folder in ("lottery_jax", "configs", "zoo"):
        shutil.copytree(ROOT / folder, source / folder,
                        ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    for file in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    cwd.mkdir()
    pip = ("-m", "pip", "--disable-pip-version-check", "--quiet")
    options = ("--no-deps", "--no-build-isolation", f"--wheel-dir={tmp_path}")
    built = child(*pip, "wheel", source, *options, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("lottery_jax-*.whl")
    made = child(*pip, "install", "--no-deps", f"--target={target}", wheel, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert {p.stem for p in (target / "lottery_jax/configs").glob("*.py")} == set(named_configs())
    kinds = ("*.py", "*.csv", "py.typed", "assets/*")
    files = {p.relative_to(ROOT) for kind in kinds for p in (ROOT / "lottery_jax").rglob(kind)}
    assert {p for p in files if not (target / p).is_file()} == set()

    assert (target / "lottery_jax/zoo/index.json").is_file()
    assert [p.name for p in (target / "lottery_jax/zoo").iterdir()] == ["index.json"]
    assert not list(target.rglob("*.safetensors"))

    env = {"PYTHONPATH": str(target), "XDG_CACHE_HOME": str(tmp_path / "cache"),
           "XLA_FLAGS": COMPILE_QUICKLY}  # fmt: skip
    name = "zoo://lenet_digits/imp/seed_0/level_08"
    show = ("-m", "lottery_jax", "tickets", "show", name)
    shown = child(*show, cwd=cwd, LOTTERY_JAX_ZOO=str(ROOT / "zoo"), **env)
    assert shown.returncode == 0 and "lenet_300_100" in shown.stdout, shown.stderr
    where = child("-c", "import lottery_jax; print(lottery_jax.__file__)", cwd=cwd, **env)
    assert Path(where.stdout.strip()) == target / "lottery_jax" / "__init__.py"
    listed = child("-m", "lottery_jax", "list", cwd=cwd, **env)
    assert listed.returncode == 0 and "  vgg19_cifar100 " in listed.stdout, listed.stderr
    script = child(target / "bin" / "lottery-jax", "--version", cwd=cwd, **env)
    assert script.stdout == f"lottery_jax {__version__}\n", script.stderr
    short = ("--config.seeds=0", "--config.train.epochs=2", "--config.ladder.levels=1")
    run = child("-m", "lottery_jax", "run", "--config=quickstart", *short, cwd=cwd, **env)
    assert run.returncode == 0, run.stderr
    (workdir,) = (cwd / "runs").iterdir()
    assert workdir.name.startswith("quickstart-") and (workdir / "report/table.md").is_file()
    grid = ("--workdir=sweep", "--grid=seeds=0,1", "--dry_run")
    swept = child("-m", "lottery_jax", "sweep", "run", "--config=quickstart", *grid, cwd=cwd, **env)
    assert (swept.returncode, swept.stdout) == (0, "seeds=0\nseeds=1\n"), swept.stderr
