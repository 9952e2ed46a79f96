"""The commands `run`, `status` and `report` of a sweep."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from lottery_jax.config import misspelt_override
from lottery_jax.errors import ConfigError, EnvironmentFault
from lottery_jax.runs import record
from lottery_jax.sweep import checks, drive, grid, jobs, plan, report, states
from lottery_jax.sweep.attempts import describe_end
from lottery_jax.sweep.plan import Sweep
from lottery_jax.sweep.states import RunStatus, State
from lottery_jax.sweep.tables import Overview
from lottery_jax.system import host, locks, signals

_AT_ONCE_LOCAL, _AT_ONCE_SLURM = 2, 16


def run(args: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """Drive a sweep to its end and return a line for each run that is not finished."""
    gpus = [gpu for gpu in args.gpus.split(",") if gpu]
    local = len(gpus) or min(_AT_ONCE_LOCAL, len(host.cores()))
    at_once = args.at_once or (_AT_ONCE_SLURM if args.cluster == "slurm" else local)
    if gpus and at_once > len(gpus):
        raise ConfigError(f"--gpus: {len(gpus)} for {at_once} runs at once; name one for each")
    _check_device(args.cluster)
    sweep = _plan(args, overrides, at_once)
    console = _console()
    options = jobs.parse_options(args.slurm)
    jobs.check(args.cluster, options)
    _check_same_sweep(sweep)
    notes = checks.check(sweep.plan, sweep.workdir, writes=not args.dry_run)
    if args.dry_run:
        for planned in sweep.plan.runs:
            after = f"  (after {', '.join(planned.after)})" if planned.after else ""
            _print(console, f"{planned.name}{after}")
        for line in notes:
            _print(console, line)
        return []
    with locks.locked(sweep.workdir):
        _check_same_sweep(sweep)  # another process may have written it meanwhile
        checks.record_matrices(sweep.plan, sweep.workdir)
        plan.write(sweep)
        signals.raise_when_asked_to_stop(hangup=False)  # its runs outlive a closed terminal
        driver = drive.Driver(
            sweep,
            jobs.Jobs(args.cluster, _submitit_folder(sweep), options),
            drive.make_slots(at_once, sweep.cores, gpus),
            retries=args.retries,
            print_line=lambda line: _print(console, line),
        )
        with _live_table(sweep, console, at_once) as show:
            statuses = driver.run(show)
    console.print(Overview(sweep).table(statuses))
    with contextlib.suppress(ConfigError):  # nothing to draw yet; the lines below say why
        for file in report.write(sweep, statuses):
            _print(console, str(file))
    return _failures(sweep, statuses)


def show_status(workdir: Path) -> None:
    """Print the table of a sweep, and whether a process drives it."""
    sweep = plan.read(workdir.absolute())
    statuses = _inspect(sweep)
    console = _console()
    console.print(Overview(sweep).table(statuses))
    if driver := locks.holder(sweep.workdir):
        console.print(
            "driven by process {pid} on {host} since {since}".format(**driver), highlight=False
        )
    elif any(status.state != State.FINISHED for status in statuses.values()):
        console.print("nothing starts the remaining runs; run the same command again to resume")


def draw_report(workdir: Path, out: Path | None) -> None:
    """Draw a sweep and print the files."""
    sweep = plan.read(workdir.absolute())
    for file in report.write(sweep, _inspect(sweep), out):
        print(file)


def _check_device(cluster: str) -> None:
    """Check that local runs will find the device that JAX_PLATFORMS names.

    A process of its own asks for it, which leaves a GPU's memory to the runs.
    """
    if cluster != "local" or not os.environ.get("JAX_PLATFORMS"):
        return
    code = (
        "from lottery_jax.system import command_line, host\n"
        "raise SystemExit(command_line.exit_status(host.devices))"
    )
    check = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    if check.returncode:
        message = (check.stderr.strip().splitlines() or [""])[-1]
        raise EnvironmentFault(message.removeprefix("error: "))


def _plan(args: argparse.Namespace, arguments: Sequence[str], at_once: int) -> Sweep:
    """Return the sweep that a command means."""
    overrides: dict[str, str] = {}
    for argument in arguments:
        if message := misspelt_override(argument):
            raise ConfigError(message)
        key, equals, value = argument.removeprefix("--config.").partition("=")
        if not equals:
            raise ConfigError(f"{argument}: has no value; write {argument}=VALUE")
        overrides[key] = value
    workdir = args.workdir.absolute()
    is_run_or_matrix = (workdir / "config.json").is_file()
    if is_run_or_matrix and not record.read_config(workdir).transfer.sources:
        raise ConfigError(f"{workdir}: is a run; choose another --workdir")
    values = grid.parse_grid(args.grid)
    runs = grid.expand(args.config, overrides, values, workdir)
    given = {"config": args.config, "overrides": overrides, "grid": values}
    return Sweep(workdir, runs, _cores(args, workdir, at_once), given)


def _cores(args: argparse.Namespace, workdir: Path, at_once: int) -> int:
    """Return the cores of each local run: the number with which the sweep began; 0: all cores."""
    if plan.is_sweep(workdir):
        begun_with = plan.read(workdir).cores
        if args.cores not in (None, begun_with):
            raise ConfigError(
                f"--cores: {workdir} was begun with {begun_with}; another number can give other "
                "last bits, so leave it out or choose another --workdir"
            )
        return begun_with
    if args.cores is not None and args.cores < 0:
        raise ConfigError(f"--cores: {args.cores} is not 0 or more")
    if args.cluster == "slurm" and args.cores:
        raise ConfigError("--cores: is for local runs; on SLURM say --slurm=cpus_per_task=N")
    if args.cluster == "slurm" or not hasattr(os, "sched_setaffinity"):
        return 0
    available = len(host.cores())
    cores = max(1, available // at_once) if args.cores is None else args.cores
    return cores if cores < available else 0


def _check_same_sweep(sweep: Sweep) -> None:
    if plan.is_sweep(sweep.workdir):
        plan.check_contains(sweep, plan.read(sweep.workdir))


def _console() -> Console:
    """Return the terminal; in a log file tables are wide enough for the names of runs."""
    return Console(width=None if sys.stdout.isatty() else 140)


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _submitit_folder(sweep: Sweep) -> Path:
    return sweep.workdir / "jobs" / ".submitit"


@contextlib.contextmanager
def _live_table(
    sweep: Sweep, console: Console, at_once: int
) -> Iterator[Callable[[Mapping[str, RunStatus]], None]]:
    """Yield a function that shows the table on a terminal, below the lines that are printed."""
    if not console.file.isatty():  # in a log file the lines are enough
        yield lambda statuses: None
        return
    overview, shown = Overview(sweep, at_once), 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(statuses: Mapping[str, RunStatus]) -> None:
            nonlocal shown
            if time.monotonic() - shown >= 1:
                live.update(overview.table(statuses), refresh=True)
                shown = time.monotonic()

        yield show


def _failures(sweep: Sweep, statuses: Mapping[str, RunStatus]) -> list[str]:
    """Return a line for each run that is not finished."""
    lines = []
    for planned in sweep.plan.runs:
        status = statuses[planned.name]
        if status.state == State.FINISHED:
            continue
        if sources := states.unfinished_sources(planned, statuses):
            line = f"not started, since {', '.join(sources)} is not finished"
        elif status.attempts:
            last = status.attempts[-1]
            line = f"{describe_end(last)} (log: {last.log})"
        else:
            line = f"its job ended before the run began (logs: {_submitit_folder(sweep)})"
        lines.append(f"{planned.name}: {line}")
    return lines


def _inspect(sweep: Sweep) -> dict[str, RunStatus]:
    """Return the status of each run, for a process that does not drive the sweep."""
    is_pending = functools.partial(jobs.is_pending, folder=_submitit_folder(sweep))
    return {planned.name: states.inspect(sweep, planned, is_pending) for planned in sweep.plan.runs}
