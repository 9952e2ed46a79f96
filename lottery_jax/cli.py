"""The command `lottery-jax`, or `python -m lottery_jax`: all commands of the package by one name.

    lottery-jax run --config=quickstart
    lottery-jax run --config=vgg19_cifar100 --workdir=runs/vgg19_cifar100 --dry_run
    lottery-jax report runs/vgg19_cifar100

Each subcommand is one of the package's modules, such as `lottery_jax.main` for `run`, and behaves
as `python -m` of it does.
"""

from __future__ import annotations

import argparse
import difflib
import runpy
import sys
from collections.abc import Sequence

from lottery_jax import __version__
from lottery_jax.system import command_line

# A subcommand -> its module and what it does.
COMMANDS = {
    "run": ("main", "find winning tickets: train a ladder of ever sparser networks"),
    "evaluate": ("evaluate", "measure a saved ticket on its test set"),
    "tickets": ("tickets", "list, show, verify, compare, export and import tickets"),
    "datasets": ("datasets", "list data sets and bring them into place"),
    "analyse": (
        "analyse",
        "measure why tickets win: stability, connectivity, rewind points, masks",
    ),
    "report": ("report", "draw figures and tables of finished runs"),
    "sweep": ("sweep", "run a grid of runs, some at once, here or on SLURM"),
    "reproduce": ("reproduce", "check published claims with runs of your own"),
    "list": ("", "list the configs, networks, data sets, scores and controls"),
}


def main(program: str = "lottery-jax") -> int:
    """Run the subcommand that the command line names, and return the exit status.

    Args:
        program: how the user has called this command.
    """
    command, *rest = sys.argv[1:] or ["--help"]
    if command == "list":
        return _list(program, rest)
    if command in COMMANDS:
        module = f"lottery_jax.{COMMANDS[command][0]}"
        command_line.called_as = {
            f"lottery_jax.{name}": f"{program} {typed}" for typed, (name, _) in COMMANDS.items()
        }
        sys.argv[1:] = rest
        # As `python -m` does it: exit statuses, signals and worker processes are those of the module.
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return 0
    parser = _parser(program)
    if not command.startswith("-"):
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        parser.error(f"unknown command {command!r}{hint}; there are {', '.join(COMMANDS)}")
    parser.parse_args([command, *rest])
    parser.error("name a command")


def _parser(program: str) -> command_line.CommandParser:
    width = max(map(len, COMMANDS))
    parser = command_line.CommandParser(
        prog=program,
        usage=f"{program} COMMAND ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Find, compare, transfer and keep winning lottery tickets.\n\ncommands:\n"
        + "\n".join(f"  {name:{width}}  {what}" for name, (_, what) in COMMANDS.items()),
        epilog=f"`{program} COMMAND --help` says more about a command.\n"
        f"Begin with `{program} run --config=quickstart`: one minute, no download.",
    )
    parser.add_argument("--version", action="version", version=f"lottery_jax {__version__}")
    return parser


def _list(program: str, argv: Sequence[str]) -> int:
    parser = command_line.CommandParser(
        prog=f"{program} list", description="List what a config can name, one line each."
    )
    kinds = ("configs", "networks", "datasets", "scores", "controls")
    parser.add_argument("kind", nargs="?", choices=kinds, help="list one kind only; default: all")
    chosen = parser.parse_args(argv).kind

    def command() -> None:
        from lottery_jax import catalogue

        for kind in [chosen] if chosen else kinds:
            lines = catalogue.KINDS[kind]()
            if not chosen:
                print(f"{kind}:")
            width = max(map(len, lines))
            for name, text in lines.items():
                print(f"{'' if chosen else '  '}{name:{width}}  {text}")

    return command_line.exit_status(command)
