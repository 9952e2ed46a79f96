"""Run what claims need: run directories first, then analyses; all of it can be interrupted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lottery_jax.reproduce.analysis_files import read_rows
from lottery_jax.reproduce.claim import Claim
from lottery_jax.reproduce.planning import distinct, plan
from lottery_jax.runs.directory import is_finished
from lottery_jax.sweep.checks import check
from lottery_jax.sweep.grid import Plan, PlannedRun
from lottery_jax.sweep.jobs import run_command
from lottery_jax.sweep.plan import Sweep, write
from lottery_jax.system import host, locks, signals


def run(
    claims: Sequence[Claim],
    scale: str,
    seeds: tuple[int, ...],
    workdir: Path,
    *,
    jobs: int = 1,
    print_line: Callable[[str], None] = print,
) -> list[str]:
    """Train and analyse what is missing for claims.

    Args:
        claims: the claims.
        scale: a key of `protocols.SCALES`.
        seeds: empty: those of the scale.
        workdir: the directory of `planning`; absolute.
        jobs: how many runs there may be at once. Several are started as those of a sweep.
        print_line: prints a line.

    Returns:
        A line for each run or analysis that failed.

    Raises:
        ConfigError, DataError: a config or its data are wrong, or another process works in the
            directory.
        KeyboardInterrupt: a signal arrived; what was trained is saved.
    """
    planned = plan(claims, scale, seeds, workdir)
    runs = distinct(planned.values())
    folder = workdir / "runs"
    if not all(is_finished(folder / each.name, each.config) for each in runs):
        check(Plan(runs, {}), folder)  # a mistake in the last run is found before the first one
    folder.mkdir(parents=True, exist_ok=True)
    with locks.locked(folder):
        signals.raise_when_asked_to_stop()
        pending = [each for each in runs if not is_finished(folder / each.name, each.config)]
        print_line(f"{len(runs)} runs, {len(runs) - len(pending)} of them finished")
        failures: list[str] = []
        if pending:
            cores = max(1, len(host.cores()) // jobs) if jobs > 1 else 0
            sweep = Sweep(folder, Plan(runs, {}), cores, {"scale": scale})
            write(sweep)
            drive = _drive_several if jobs > 1 else _one_after_another
            failures = drive(sweep, pending, jobs, print_line)
        failures += _analyse(claims, planned, workdir, print_line)
    return failures


def _one_after_another(
    sweep: Sweep, pending: Sequence[PlannedRun], jobs: int, print_line: Callable[[str], None]
) -> list[str]:
    failures: dict[str, str] = {}
    for each in pending:
        if missing := [source for source in each.after if source in failures]:
            failures[each.name] = f"{each.name}: not started, since {missing[0]} is not finished"
            continue
        print_line(f"--- {each.name}")
        status = _child(run_command(sweep.config_file(each), sweep.folder(each)))
        if status:
            failures[each.name] = f"{each.name}: ended with exit status {status}"
    return list(failures.values())


def _drive_several(
    sweep: Sweep, pending: Sequence[PlannedRun], jobs: int, print_line: Callable[[str], None]
) -> list[str]:
    from lottery_jax.sweep import drive
    from lottery_jax.sweep import jobs as cluster
    from lottery_jax.sweep.states import State

    cluster.check("local", {})
    driver = drive.Driver(
        sweep,
        cluster.Jobs("local", sweep.workdir / "jobs" / ".submitit"),
        drive.make_slots(jobs, sweep.cores),
        retries=0,
        print_line=print_line,
    )
    statuses = driver.run(lambda statuses: None)
    return [
        f"{each.name}: not finished (logs: {sweep.job_folder(each)})"
        for each in pending
        if statuses[each.name].state != State.FINISHED
    ]


def _analyse(
    claims: Sequence[Claim],
    planned: dict[str, PlannedRun],
    workdir: Path,
    print_line: Callable[[str], None],
) -> list[str]:
    failures = []
    for kind, name in dict.fromkeys(pair for claim in claims for pair in claim.analyses):
        each = planned[name]
        run_dir = workdir / "runs" / each.name
        if not is_finished(run_dir, each.config) or read_rows(run_dir, kind) is not None:
            continue
        print_line(f"--- {kind} of {each.name}")
        module = (sys.executable, "-m", "lottery_jax.reproduce")
        if status := _child((*module, "analyse", kind, str(run_dir))):
            failures.append(f"{kind} of {each.name}: ended with exit status {status}")
    return failures


def _child(command: Sequence[str]) -> int:
    """Run a command to its end and return its exit status; a signal lets it save and end first."""
    # In a session of its own it gets a terminal's Ctrl-C once, from here.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise
