"""`tickets zoo`: list the tickets that come with the package."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fnmatch import fnmatchcase

from rich import box
from rich.table import Table

from lottery_jax.errors import TicketError
from lottery_jax.system.terminal import print_plain
from lottery_jax.tickets import zoo

Add = Callable[[str, str], argparse.ArgumentParser]


def add_parser(command: Add) -> None:
    """Add the subcommand."""
    a = command("zoo", "list the tickets that come with the package, as zoo://NAME")
    a.add_argument("pattern", nargs="?", default="*", metavar="PATTERN",
                   help="only names like this one, such as 'lenet_digits/*'")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Print a table of the tickets whose names match.

    Raises:
        TicketError: there are none.
    """
    pattern = args.pattern.removeprefix("zoo://").rstrip("/")
    chosen = {name: entry for name, entry in zoo.index().items() if fnmatchcase(name, pattern)}
    chosen = chosen or {
        name: entry for name, entry in zoo.index().items() if name.startswith(f"{pattern}/")
    }
    if not chosen:
        raise TicketError(f"{args.pattern}: the zoo has no ticket of such a name")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True)
    for heading in ("control", "density", "accuracy", "KiB"):
        justify = "left" if heading == "control" else "right"
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("found by", no_wrap=True)
    for name, entry in chosen.items():
        table.add_row(f"zoo://{name}", entry.control, f"{entry.density:.2%}",
                      f"{entry.accuracy:.2%}", str(-(-entry.bytes // 1024)), entry.config)  # fmt: skip
    print_plain(table)
