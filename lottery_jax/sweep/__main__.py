r"""Run a grid or a transfer matrix, some of its runs at once; look at it; draw it.

    python -m lottery_jax.sweep run --config=configs/quickstart.py --workdir=sweeps/seeds \
        --grid seeds=0,1,2,3 --grid ladder.scores=magnitude,random
    python -m lottery_jax.sweep run --config=configs/transfer_quickstart.py --workdir=sweeps/matrix
    python -m lottery_jax.sweep status sweeps/seeds
    python -m lottery_jax.sweep report sweeps/seeds

Run the same command again to go on, after whatever happened; with more values, to add runs.

Exit status: 0 done; 1 a run failed, which is named; 2 a mistake, said in one line; 128 and the
signal's number (130 for Ctrl-C, 143 for SIGTERM) stopped by a signal, with what local runs had
trained saved.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

from lottery_jax.config import misspelt_override
from lottery_jax.errors import ConfigError, EnvironmentFault, one_line
from lottery_jax.runs import record
from lottery_jax.system import host, signals
from lottery_jax.system.command_line import CommandParser, exit_status, path_argument
from lottery_jax.system.terminal import may_be_closed

if TYPE_CHECKING:  # what brings in JAX is imported when a command needs it
    from lottery_jax.sweep.plan import Sweep
    from lottery_jax.sweep.states import RunStatus

_AT_ONCE_SLURM = 16


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = _parser()
    argv = list(sys.argv[1:] if argv is None else argv)
    # KEY=VALUE of configs is for the flags of a run, and of any number.
    overrides = [argument for argument in argv if argument.startswith("--config.")]
    args = parser.parse_args([argument for argument in argv if argument not in overrides])
    if overrides and args.command != "run":
        parser.error(f"{overrides[0]} is for run")
    failed: list[str] = []

    def command() -> None:
        if args.command == "run":
            failed.extend(_run(args, overrides))
        elif args.command == "status":
            _status(args.workdir)
        else:
            _report(args.workdir, args.out)

    with may_be_closed():
        try:
            status = exit_status(command)
        except KeyboardInterrupt as interrupt:
            print("stopped; run the same command again to resume", file=sys.stderr)
            return signals.exit_status(interrupt)
        for line in failed:
            print(f"error: {one_line(line)}", file=sys.stderr)
        return status or int(bool(failed))


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m lottery_jax.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="start or resume a sweep")
    run.add_argument(
        "--config",
        action="append",
        required=True,
        metavar="FILE[:ARGUMENT]",
        help="may be repeated: each is combined with the grid; --config.KEY=VALUE is for all runs",
    )
    run.add_argument("--workdir", required=True, type=path_argument, help="the sweep's directory")
    run.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="KEY=VALUE,VALUE,...",
        help="a run for each value; may be repeated, for each combination. A tuple of several "
        "things is in parentheses: --grid 'controls=(),(random,reinit)'",
    )
    run.add_argument("--cluster", default="local", choices=("local", "slurm"))
    run.add_argument(
        "--at_once",
        type=_count,
        help=f"how many runs at most; default: 2 local, {_AT_ONCE_SLURM} on SLURM",
    )
    run.add_argument(
        "--retries",
        type=_retries,
        default=2,
        help="how often in a row a run may end without having got further; default: 2",
    )
    run.add_argument(
        "--cores",
        type=int,
        help="processor cores each local run is held to, as long as the sweep lasts; 0: no limit; "
        "default: an equal share of those there are. Another number of cores can give other last "
        "bits",
    )
    run.add_argument(
        "--gpus",
        metavar="0,1,...",
        default="",
        help="one of these GPUs for each local run; default: all runs see all",
    )
    run.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="an option of sbatch: partition, time (minutes), gpus_per_node, cpus_per_task, mem, "
        "account, qos, ...; may be repeated",
    )
    run.add_argument("--dry_run", action="store_true", help="check, list the runs, start none")
    status = commands.add_parser("status", help="what each run is doing")
    status.add_argument("workdir", type=path_argument)
    report = commands.add_parser("report", help="draw the whole sweep")
    report.add_argument("workdir", type=path_argument)
    report.add_argument(
        "--out", type=path_argument, help="default: report/ in the sweep's directory"
    )
    return parser


def _count(text: str, least: int = 1) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {least} or more")
    return number


def _retries(text: str) -> int:
    return _count(text, least=0)


def _run(args: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """Drives a sweep; returns a line for each run that failed."""
    from lottery_jax.sweep import checks, drive, jobs, plan
    from lottery_jax.system.locks import locked

    gpus = [gpu for gpu in args.gpus.split(",") if gpu]
    at_once = args.at_once or (
        _AT_ONCE_SLURM if args.cluster == "slurm" else len(gpus) or min(2, len(host.cores()))
    )
    if gpus and at_once > len(gpus):
        raise ConfigError(f"--gpus: {len(gpus)} for {at_once} runs at once; name one for each")
    _check_device(args.cluster)
    sweep = _planned(args, overrides, at_once)
    console = _console()
    options = jobs.parse_options(args.slurm)
    jobs.check(args.cluster, options)
    if plan.is_sweep(sweep.workdir):
        plan.assert_equal_across_processes(plan.read(sweep.workdir), sweep)
    checks.check(sweep.plan, sweep.workdir)
    if args.dry_run:
        for run in sweep.plan.runs:
            after = f"  (after {', '.join(run.after)})" if run.after else ""
            console.print(f"{run.name}{after}", markup=False, highlight=False, soft_wrap=True)
        return []
    with locked(sweep.workdir):
        if plan.is_sweep(sweep.workdir):  # what another process may have written meanwhile
            plan.assert_equal_across_processes(plan.read(sweep.workdir), sweep)
        checks.record_matrices(sweep.plan, sweep.workdir)
        plan.write(sweep)
        signals.raise_when_asked_to_stop(hangup=False)  # its runs outlive a closed terminal
        with _progress(sweep, console, at_once) as (show, say):
            driver = drive.Driver(
                sweep,
                jobs.Jobs(args.cluster, _logs(sweep), options),
                drive.share(at_once, sweep.cores, gpus),
                retries=args.retries,
                say=say,
            )
            known = driver.run(show)
    _finish(sweep, known, console)
    return _failures(sweep, known)


def _check_device(cluster: str) -> None:
    """Checks that local runs will find the device that JAX_PLATFORMS names.

    A process of its own asks, which leaves a GPU's memory to the runs.
    """
    if cluster != "local" or not os.environ.get("JAX_PLATFORMS"):
        return
    code = (
        "from lottery_jax.system import command_line, host\n"
        "raise SystemExit(command_line.exit_status(host.devices))"
    )
    asked = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    if asked.returncode:
        said = (asked.stderr.strip().splitlines() or [""])[-1]
        raise EnvironmentFault(said.removeprefix("error: "))


def _planned(args: argparse.Namespace, arguments: Sequence[str], at_once: int) -> Sweep:
    """The sweep that a command means."""
    from lottery_jax.sweep import grid, plan

    overrides: dict[str, str] = {}
    for argument in arguments:
        if message := misspelt_override(argument):
            raise ConfigError(message)
        key, equals, value = argument.removeprefix("--config.").partition("=")
        if not equals:
            raise ConfigError(f"{argument}: has no value; write {argument}=VALUE")
        overrides[key] = value
    workdir = args.workdir.absolute()
    if (workdir / "config.json").is_file() and record.read_config(workdir).transfer.sources == ():
        raise ConfigError(f"{workdir}: is a run; choose another --workdir")
    values = grid.parse_grid(args.grid)
    runs = grid.expand(args.config, overrides, values, workdir)
    given = {"config": args.config, "overrides": overrides, "grid": values}
    return plan.Sweep(workdir, runs, _cores(args, workdir, at_once), given)


def _cores(args: argparse.Namespace, workdir: Path, at_once: int) -> int:
    """How many cores each local run is held to: those with which the sweep began."""
    from lottery_jax.sweep import plan

    if plan.is_sweep(workdir):
        there = plan.read(workdir).cores
        if args.cores not in (None, there):
            raise ConfigError(
                f"--cores: {workdir} was begun with {there}; another number can give other last "
                "bits, so leave it out or choose another --workdir"
            )
        return there
    if args.cores is not None and args.cores < 0:
        raise ConfigError(f"--cores: {args.cores} is not 0 or more")
    if args.cluster == "slurm" and args.cores:
        raise ConfigError("--cores: is for local runs; on SLURM say --slurm=cpus_per_task=N")
    if args.cluster == "slurm" or not hasattr(os, "sched_setaffinity"):
        return 0
    there = len(host.cores())
    cores = max(1, there // at_once) if args.cores is None else args.cores
    return cores if cores < there else 0


def _console() -> Console:
    """The terminal; in a log file tables are wide enough for the names of runs."""
    return Console(width=None if sys.stdout.isatty() else 140)


def _logs(sweep: Sweep) -> Path:
    """Where submitit keeps its files."""
    return sweep.workdir / "jobs" / ".submitit"


@contextlib.contextmanager
def _progress(
    sweep: Sweep, console: Console, at_once: int
) -> Iterator[tuple[Callable[[Mapping[str, RunStatus]], None], Callable[[str], None]]]:
    """What shows the table, on a terminal, and what prints a line above it."""
    from lottery_jax.sweep.tables import Overview

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    if not console.file.isatty():  # in a log file the lines are enough
        yield lambda known: None, say
        return
    overview, shown = Overview(sweep, at_once), 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(known: Mapping[str, RunStatus]) -> None:
            nonlocal shown
            if time.monotonic() - shown >= 1:
                live.update(overview.table(known), refresh=True)
                shown = time.monotonic()

        yield show, say


def _finish(sweep: Sweep, known: Mapping[str, RunStatus], console: Console) -> None:
    """The last table, and the report of what there is."""
    from lottery_jax.sweep import report
    from lottery_jax.sweep.tables import Overview

    console.print(Overview(sweep).table(known))
    with contextlib.suppress(ConfigError):  # nothing to draw yet; what failed is said
        for file in report.write(sweep, known):
            console.print(str(file), markup=False, highlight=False, soft_wrap=True)


def _failures(sweep: Sweep, known: Mapping[str, RunStatus]) -> list[str]:
    """A line for each run that is not finished."""
    from lottery_jax.sweep.drive import describe_end
    from lottery_jax.sweep.states import State

    lines = []
    for run in sweep.plan.runs:
        its = known[run.name]
        waits = [name for name in run.after if known[name].state != State.FINISHED]
        if its.state == State.FINISHED:
            continue
        if waits:
            lines.append(f"{run.name}: not started, since {', '.join(waits)} is not finished")
        elif its.attempts:
            last = its.attempts[-1]
            lines.append(f"{run.name}: {describe_end(last)} (log: {last.log})")
        else:
            lines.append(f"{run.name}: its job ended before the run began (logs: {_logs(sweep)})")
    return lines


def _look(sweep: Sweep) -> dict[str, RunStatus]:
    """What is known of each run, from outside."""
    from lottery_jax.sweep import attempts, jobs, states

    known = {}
    for run in sweep.plan.runs:
        submission = attempts.read_submission(sweep.job_folder(run))
        there = attempts.read_attempts(sweep.job_folder(run))
        pending = submission is not None and jobs.is_pending(submission, there, _logs(sweep))
        known[run.name] = states.inspect(sweep, run, is_pending=pending)
    return known


def _status(workdir: Path) -> None:
    """Prints the table, and whether the sweep is being driven."""
    from lottery_jax.sweep import plan
    from lottery_jax.sweep.states import State
    from lottery_jax.sweep.tables import Overview
    from lottery_jax.system import locks

    sweep = plan.read(workdir.absolute())
    known = _look(sweep)
    console = _console()
    console.print(Overview(sweep).table(known))
    driver = locks.holder(sweep.workdir)
    if driver:
        console.print(
            "driven by process {pid} on {host} since {since}".format(**driver), highlight=False
        )
    elif any(its.state != State.FINISHED for its in known.values()):
        console.print("nothing starts the remaining runs; run the same command again to resume")


def _report(workdir: Path, out: Path | None) -> None:
    """Draws the sweep and prints the files."""
    from lottery_jax.sweep import plan, report

    sweep = plan.read(workdir.absolute())
    for file in report.write(sweep, _look(sweep), out):
        print(file)


if __name__ == "__main__":
    sys.exit(main())
