"""What a contributor runs, and CI with it: `nox -s SESSION [-- ARGUMENTS]`; `nox -l` lists the sessions.

All but `oldest` and `newest` use the environment in which nox itself is installed: after
`pip install -e '.[test]'` nothing more is needed.
"""

from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "none"

# Tests that need no PyTorch and little else, for the oldest versions.
OLDEST = [
    "tests/pruning/test_masks.py",
    "tests/pruning/test_scores.py",
    "tests/training/test_batches.py",
    "tests/training/test_optim.py",
    "tests/tickets/test_compare.py",
    "tests/tickets/test_portable.py",
    "tests/tickets/test_store.py",
    "tests/report/test_report.py",
    "tests/runs/test_directory.py",
]
# The core of the suite, for the newest versions.
NEWEST = [
    "tests/models/test_xla_options.py",
    "tests/parallel",
    "tests/runs/test_ladder.py",
    "tests/tickets/test_portable.py",
    "tests/tickets/test_store.py",
    "tests/training/test_loop.py",
    "tests/faults/test_stops.py",
]
QUICKSTART = ["python", "-m", "lottery_jax.main", "--config=configs/quickstart.py"]


@nox.session
def tests(session: nox.Session) -> None:
    """The tests and doctests that a change is tried with."""
    session.run("pytest", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Several processes, large networks, whole experiments, notebooks."""
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session
def long(session: nox.Session) -> None:
    """Kills, hostile files and long ladders, at length."""
    session.run("pytest", "-m", "long", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """The linter and the formatter."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """The type checker."""
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Links, names and generated pages of the documents."""
    session.run("pytest", "-n", "0", "tests/test_docs.py", "tests/test_architecture.py")


@nox.session
def bench(session: nox.Session) -> None:
    """A benchmark: `nox -s bench -- masks.py`; without a name, all but those that need a TPU."""
    named = session.posargs[:1] or ["masks.py", "train_step.py", "ladder.py", "startup.py"]
    for name in named:
        session.run("python", f"benchmarks/{name}", *session.posargs[1:])


@nox.session(venv_backend="venv")
def oldest(session: nox.Session) -> None:
    """The oldest versions that setup.cfg allows."""
    session.install("--quiet", "-r", ".ci/floors.txt", "-e", ".")
    workdir = Path(session.create_tmp()) / "run"
    session.run(*QUICKSTART, f"--workdir={workdir}", "--config.seeds=0", "--config.ladder.levels=2")
    # Old versions warn of what newer ones have mended.
    session.run("python", "-m", "pytest", "-W", "default", *OLDEST)


@nox.session(venv_backend="venv", python="3.13")
def newest(session: nox.Session) -> None:
    """The newest versions, on a newer Python: the quickstart, and the core of the tests."""
    session.install("--quiet", "-e", ".", "pytest", "pytest-xdist", "hypothesis")
    workdir = Path(session.create_tmp()) / "run"
    session.run(*QUICKSTART, f"--workdir={workdir}")
    session.run("python", "-m", "pytest", "-m", "not long", *NEWEST)
