"""The checks of the project, one session each: `nox -l` lists them, `nox -s lint types` runs two.

    pip install -e '.[test]' torch nox    # and -e '.[docs]' for the session `site`

Most sessions run in the environment that nox was started from, and install nothing. `oldest` tests
the oldest versions in an environment of its own, below `.nox`, and `tpu` another compiler.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["lint", "types", "docs", "tests"]

QUICKSTART = ["-m", "lottery_jax.main", "--config=configs/quickstart.py"]
# Tests of the core, and those that look at what differs between versions: of NumPy, optax and Orbax.
ON_THE_OLDEST = [
    "tests/pruning/test_masks.py", "tests/pruning/test_scores.py", "tests/pruning/test_any_tree.py",
    "tests/pruning/test_transform.py", "tests/pruning/test_permutations.py",
    "tests/pruning/test_connectivity.py",
    "tests/training/test_optim.py", "tests/training/test_batches.py", "tests/training/test_loop.py",
    "tests/runs/test_ladder.py", "tests/runs/test_directory.py", "tests/report/test_figures.py",
    "tests/tickets/test_store.py", "tests/tickets/test_portable.py", "tests/tickets/test_format.py",
    "tests/tickets/test_compare.py", "tests/tickets/test_command.py",
]  # fmt: skip


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the package."""
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Check the documents' links and names, and the examples in docstrings."""
    session.run("pytest", "-n", "0", "tests/test_docs.py", "lottery_jax", *session.posargs)


@nox.session
def site(session: nox.Session) -> None:
    """Build the documentation site into build/site; any warning or broken link fails."""
    session.run("python", "-m", "sphinx", "-E", "-W", "--keep-going", "docs", "build/site")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the fast tests: the core, in a few minutes."""
    session.run("pytest", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the slow tests: several processes, large networks, pages, examples, a notebook."""
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session(name="long")
def at_length(session: nox.Session) -> None:
    """Kill, fuzz, prepare data and train at length: before a release, and after work on what fails."""
    session.run("pytest", "-m", "long", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run each benchmark in small, and hold its two sides against each other."""
    session.run("pytest", "-m", "slow or long or not slow", "tests/benchmarks", *session.posargs)


@nox.session(venv_backend="venv")
def tpu(session: nox.Session) -> None:
    """Compile train steps with the TPU's compiler, and look at the result; needs no TPU."""
    session.install("-e", ".[test,scaling]")
    session.run("python", "-m", "tests.compile_for_tpu", "vgg11", "resnet20")


def python_3_11() -> str:
    """Return where Python 3.11 is: on the path, or one of pyenv's."""
    of_pyenv = sorted(Path.home().glob(".pyenv/versions/3.11*/bin/python"))
    for candidate in (shutil.which("python3.11"), *map(str, of_pyenv)):
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
            return candidate
    return "3.11"  # for nox to look for, and to say if it is missing


@nox.session(venv_backend="venv", python=python_3_11())
def oldest(session: nox.Session) -> None:
    """Train and test with the oldest versions that setup.cfg allows, on Python 3.11."""
    session.install("-r", ".ci/floors.txt", "-e", ".")
    short = ["--config.seeds=0", "--config.ladder.levels=2"]
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", *QUICKSTART, f"--workdir={folder}/run", *short)
    # Old versions warn of what newer ones have mended.
    session.run("python", "-m", "pytest", "-W", "default", *ON_THE_OLDEST)
