"""The command line of reports.

python -m lottery_jax.report WORKDIR [WORKDIR ...] [--out DIR] [--reference NAME] [--density D]

A directory whose config sets `transfer.sources` and `transfer.targets` is a transfer matrix; the
report covers all its runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from lottery_jax.report.write import write_report
from lottery_jax.system.command_line import CommandParser, exit_status, path_argument


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = CommandParser(
        prog="python -m lottery_jax.report",
        description="Draw accuracy over weights remaining for one or more run directories, or the "
        "figures of a transfer matrix.",
    )
    parser.add_argument("workdirs", nargs="+", type=path_argument, metavar="WORKDIR")
    parser.add_argument("--out", type=path_argument, help="default: report/ in the first directory")
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="NAME",
        help="draw published curves behind the runs: gohil2020, tanaka2020, or one of them with "
        "network and data, such as gohil2020:vgg19_cifar10; may be repeated",
    )
    parser.add_argument(
        "--density",
        type=float,
        help="compare the tickets of a transfer matrix at this fraction of weights",
    )
    args = parser.parse_args(argv)

    def command() -> None:
        for file in write_report(
            args.workdirs, args.out, reference=args.reference, density=args.density
        ):
            print(file)

    return exit_status(command)
