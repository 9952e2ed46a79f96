"""Damaged tickets end in one clear line or load as what they were; nothing crashes, hangs or leaks.

A case that fails is seen again with `python -m tests.fuzz.worker SCRATCH LOADER:NUMBER:NUMBER+1`.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import worker

ROOT = Path(__file__).parent.parent.parent
# The number of cases in every run of the tests, and of further ones in the long run.
CASES = {
    "directory": (60, 1000),
    "portable": (60, 2000),
    "portable_1": (20, 2000),
    "metadata": (50, 800),
    "torch": (30, 2000),
    "legacy": (30, 2000),
    "safetensors": (20, 2000),
    "tables": (20, 2000),
    "zoo": (40, 2000),
    "hub": (40, 2000),
}
# PyTorch makes the files of these loaders.
WITH_TORCH = {"torch", "legacy", "safetensors", "tables"}


def run(folder, ranges):
    """Run cases in a child process that finds nothing but empty folders around it."""
    folder.mkdir()
    for name in ("scratch", "cwd", "tmp", "home"):
        (folder / name).mkdir()
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    env |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp"), "HOME": str(folder / "home")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.worker", folder / "scratch", *ranges],
        env=env, cwd=folder / "cwd", capture_output=True, text=True, errors="replace", timeout=900,
    )  # fmt: skip
    last = "\n".join([*done.stdout.splitlines()[-4:], *done.stderr.splitlines()[-30:]])
    assert done.returncode == 0, last
    # Loading leaves nothing behind; the worker itself compares the content of `scratch`.
    assert [path for name in ("cwd", "tmp", "home") for path in (folder / name).iterdir()] == []
    return done.stdout


def check(folder, loaders, first, counts):
    """Run cases of each loader; assert that some are refused and some loaded."""
    ranges = [f"{name}:{first[name]}:{first[name] + counts[name]}" for name in loaders]
    out = run(folder, ranges)
    for name in loaders:
        outcomes = out.split(f"{name} -1: ")[1].split(" -1: ")[0].splitlines()[2:]
        loaded = sum(line.strip() == "loaded" for line in outcomes)
        assert 0.02 < loaded / counts[name] < 0.6, (name, loaded)


@pytest.mark.parametrize("name", ["zoo", "hub"])
def test_a_few_that_are_fetched(tmp_path, monkeypatch, name):
    """In this process; the other tests here have one of their own for many more."""
    for folder in ("scratch", "cwd", "home"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    loader = worker.LOADERS[name](tmp_path / "scratch")
    before = worker.snapshot(tmp_path / "scratch")
    for number in range(25):
        worker.run(loader, name, number, tmp_path / "case")
    assert worker.snapshot(tmp_path / "scratch") == before
    assert not [*(tmp_path / "cwd").iterdir(), *(tmp_path / "home").iterdir()]


@pytest.mark.long
def test_a_few_of_each(tmp_path):
    counts = {name: few for name, (few, _) in CASES.items()}
    assert sum(counts.values()) >= 200
    there = importlib.util.find_spec("torch") is not None
    loaders = [name for name in CASES if there or name not in WITH_TORCH]
    check(tmp_path / "fuzz", loaders, dict.fromkeys(CASES, 0), counts)


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_many_of_each(tmp_path, name, record_property):
    assert sum(many for _, many in CASES.values()) >= 1700 and CASES["portable"][1] >= 2000
    if name in WITH_TORCH:
        pytest.importorskip("torch")
    few, many = CASES[name]
    check(tmp_path / "fuzz", [name], {name: few}, {name: many})
    record_property("measured", f"{many} damaged inputs")
