r"""Check claims of the lottery-ticket literature with runs of your own.

    python -m lottery_jax.reproduce list
    python -m lottery_jax.reproduce run quick
    python -m lottery_jax.reproduce run 1 2 14 --scale=small --jobs=2
    python -m lottery_jax.reproduce run all --scale=small --seeds=0,1,2,3,4 --workdir=reproduce
    python -m lottery_jax.reproduce report --workdir=reproduce

Run the same command again to resume, whatever happened: what is trained stays trained. Results are
in WORKDIR/SCALE: claims.json, claims.md and claims.png. docs/claims.md says how to read them.

Exit status: 0 when all is measured, whatever the verdicts are; 1 when a run failed, which a line
names; 2 after a mistake, which one line explains; 128 plus the signal's number when a signal stopped
it and what was trained was saved (130 for Ctrl-C, 143 for SIGTERM).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lottery_jax.errors import ConfigError, lookup
from lottery_jax.system import heap
from lottery_jax.system.command_line import CommandParser, exit_status_of_runs, path_argument

if TYPE_CHECKING:
    from lottery_jax.reproduce.claim import Claim

_WORKDIR = "reproduce"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = _parser().parse_args(argv)
    failures: list[str] = []

    def command() -> None:
        if args.command == "list":
            _list(args)
        elif args.command == "run":
            failures.extend(_run(args))
        elif args.command == "report":
            _report(args.workdir.absolute())
        else:
            _analyse(args)

    return exit_status_of_runs(command, failures)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m lottery_jax.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listed = commands.add_parser("list", help="list the claims: statement, source, scales, time")
    listed.add_argument("--runs", action="store_true", help="list the runs of a scale instead")
    listed.add_argument("--published", action="store_true", help="list published series instead")
    run = commands.add_parser("run", help="run claims and print their verdicts")
    run.add_argument(
        "claims", nargs="+", metavar="CLAIM",
        help="numbers or names; all: those of the scale; quick: three claims on digits",
    )  # fmt: skip
    for each in (listed, run):
        each.add_argument(
            "--scale", default="small", help="quick, small, mid, full or full_resnet50"
        )
    run.add_argument("--seeds", type=_seeds, default=(), help="such as 0,1,2,3,4 (the default)")
    run.add_argument("--jobs", type=int, default=1, help="the largest number of runs at once")
    report = commands.add_parser("report", help="decide again from what is on the disk")
    for each in (run, report):
        each.add_argument("--workdir", type=path_argument, default=Path(_WORKDIR))
    analyse = commands.add_parser("analyse", help="make one analysis of a finished run by itself")
    analyse.add_argument("kind")
    analyse.add_argument("run_dir", type=path_argument)
    return parser


def _list(args: argparse.Namespace) -> None:
    from rich.console import Console

    from lottery_jax.report import published
    from lottery_jax.reproduce import tables
    from lottery_jax.reproduce.claims import all_claims
    from lottery_jax.reproduce.planning import plan
    from lottery_jax.reproduce.protocols import SCALES

    lookup(SCALES, args.scale, "--scale")
    console = Console(width=None if sys.stdout.isatty() else 140)
    if args.published:
        for curve in published.CURVES:
            print(f"{curve.key:34} {curve.ticket}  ({len(curve.points)} levels)")
        return
    there = [claim for claim in all_claims().values() if args.scale in claim.scales]
    plans = {}
    for claim in there:
        with contextlib.suppress(ConfigError):  # it needs what this version lacks; `run` says what
            plans[claim.key] = plan([claim], args.scale, (), Path.cwd())
    if args.runs:
        runs = {name: run for planned in plans.values() for name, run in planned.items()}
        console.print(tables.runs_table(there, runs, args.scale))
        return
    console.print(tables.claims_table(all_claims().values(), plans))
    console.print(f"one core: at --scale={args.scale}; claims share runs, so together take less")


def _run(args: argparse.Namespace) -> list[str]:
    from lottery_jax.reproduce import claims, results, running
    from lottery_jax.reproduce.protocols import SCALES

    scale, names = args.scale, list(args.claims)
    if claims.QUICK in names:
        if len(names) > 1:
            raise ConfigError(f"claim {claims.QUICK!r}: stands alone; leave the others out")
        scale, names = claims.QUICK, ["all"]
    lookup(SCALES, scale, "--scale")
    if args.jobs < 1:
        raise ConfigError(f"--jobs: {args.jobs} is not 1 or more")
    chosen, workdir = claims.select(names, scale), args.workdir.absolute()
    if not chosen:
        raise ConfigError(f"--scale: no claim is there at {scale}")
    results.recorded(workdir / scale)  # a damaged file is found before anything is trained
    asked_for = [(claim, args.seeds) for claim in chosen]
    try:
        failures = running.run(
            chosen, scale, args.seeds, workdir, jobs=args.jobs, print_line=_print_line
        )
    except KeyboardInterrupt:
        if (workdir / "runs").is_dir():  # so that `report` finds what was trained
            _write(workdir, scale, asked_for)
        raise
    _write(workdir, scale, asked_for)
    return failures


def _report(workdir: Path) -> None:
    from lottery_jax.reproduce.protocols import SCALES
    from lottery_jax.reproduce.results import NAME

    scales = [scale for scale in SCALES if (workdir / scale / NAME).is_file()]
    if not scales:
        raise ConfigError(f"--workdir: {workdir} has no results; `run` claims first")
    for scale in scales:
        _write(workdir, scale, [])


def _write(workdir: Path, scale: str, asked_for: list[tuple[Claim, tuple[int, ...]]]) -> None:
    from rich.console import Console

    from lottery_jax.reproduce import tables, writing

    found, files, notes = writing.write(workdir, scale, asked_for)
    Console(width=None if sys.stdout.isatty() else 140).print(tables.results_table(found))
    for line in (*notes, *files):
        print(line)


def _analyse(args: argparse.Namespace) -> None:
    from lottery_jax.reproduce.analyses import analyse
    from lottery_jax.runs.process import set_up_process
    from lottery_jax.runs.record import read_config

    set_up_process(read_config(args.run_dir))
    analyse(args.kind, args.run_dir)


def _print_line(line: str) -> None:
    print(line, flush=True)


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError as error:
        message = f"{text!r} is not a list of whole numbers, such as 0,1,2"
        raise argparse.ArgumentTypeError(message) from error


if __name__ == "__main__":
    heap.keep_heap()
    sys.exit(main())
