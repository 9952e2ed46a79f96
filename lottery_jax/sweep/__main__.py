r"""Run a grid or a transfer matrix, some of its runs at once; look at it; draw it.

    python -m lottery_jax.sweep run --config=configs/quickstart.py --workdir=sweeps/seeds \
        --grid seeds=0,1,2,3 --grid ladder.scores=magnitude,random
    python -m lottery_jax.sweep run --config=configs/transfer_quickstart.py --workdir=sweeps/matrix
    python -m lottery_jax.sweep status sweeps/seeds
    python -m lottery_jax.sweep report sweeps/seeds

Run the same command again to resume, whatever happened; with more values it adds runs. The keys of
--grid KEY=VALUE,... and --config.KEY=VALUE are those of `python -m lottery_jax.main --help` and
docs/config.md.

Exit status: 0 when all is done; 1 when a run failed, which a line names; 2 after a mistake, which
one line explains; 128 plus the signal's number when a signal stopped the sweep and local runs saved
what they had trained (130 for Ctrl-C, 143 for SIGTERM).
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence

from lottery_jax.system.command_line import CommandParser, exit_status_of_runs, path_argument


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = _parser()
    argv = list(sys.argv[1:] if argv is None else argv)
    # Any number of --config.KEY=VALUE may be given; the flags of a run read them.
    overrides = [argument for argument in argv if argument.startswith("--config.")]
    args = parser.parse_args([argument for argument in argv if argument not in overrides])
    if overrides and args.command != "run":
        parser.error(f"{overrides[0]} is for run")
    failures: list[str] = []

    def command() -> None:
        from lottery_jax.sweep import commands  # which imports JAX

        if args.command == "run":
            failures.extend(commands.run(args, overrides))
        elif args.command == "status":
            commands.show_status(args.workdir)
        else:
            commands.draw_report(args.workdir, args.out)

    return exit_status_of_runs(command, failures)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m lottery_jax.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="start or resume a sweep",
        epilog="`python -m lottery_jax.main --help` and docs/config.md list the keys.",
    )
    run.add_argument(
        "--config",
        action="append",
        required=True,
        metavar="CONFIG[:ARGUMENT]",
        help="a name or a file; may be repeated: each is combined with the grid; "
        "--config.KEY=VALUE is for all runs",
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
        help="the largest number of runs at once; default: 2 local, 16 on SLURM",
    )
    run.add_argument(
        "--retries",
        type=functools.partial(_count, least=0),
        default=2,
        help="how often in a row a run may end without progress; default: 2",
    )
    run.add_argument(
        "--cores",
        type=int,
        help="processor cores of each local run, for as long as the sweep lasts; 0: no limit; "
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
    run.add_argument(
        "--dry_run",
        action="store_true",
        help="check, list the runs, start none; nothing is fetched or written",
    )
    status = commands.add_parser("status", help="show what each run is doing")
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


if __name__ == "__main__":
    sys.exit(main())
