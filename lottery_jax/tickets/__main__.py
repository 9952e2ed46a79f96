"""Look at tickets, check and compare them, and take them elsewhere.

    python -m lottery_jax.tickets list runs/quickstart
    python -m lottery_jax.tickets show runs/quickstart/seed_0/level_09/ticket
    python -m lottery_jax.tickets verify runs/quickstart
    python -m lottery_jax.tickets compare runs/quickstart/seed_{0,1}/level_09/ticket
    python -m lottery_jax.tickets export runs/quickstart/seed_0/level_09/ticket ticket.safetensors
    python -m lottery_jax.tickets export runs/quickstart/seed_0/level_09/ticket a.safetensors --dense
    python -m lottery_jax.tickets export runs/quickstart/seed_0/level_09/ticket mine.pth --format=prune
    python -m lottery_jax.tickets import ticket.safetensors tickets/mine
    python -m lottery_jax.tickets import vgg19.pth tickets/theirs --model=vgg19 --data=cifar10
    python -m lottery_jax.tickets compact ticket.safetensors small.safetensors
    python -m lottery_jax.tickets zoo
    python -m lottery_jax.tickets push runs/quickstart/seed_0/level_09/ticket USER/REPO

A TICKET is a ticket directory, a portable file (.safetensors), zoo://NAME or hf://USER/REPO.

Exit status: 0 done; 1 list or verify found a bad ticket; 2 a mistake, explained in one line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lottery_jax.errors import TicketError, one_line
from lottery_jax.system.command_line import CommandParser, exit_status, path_argument
from lottery_jax.system.files import is_clutter, is_temporary
from lottery_jax.system.terminal import print_plain
from lottery_jax.tickets import compare, display, portable, store
from lottery_jax.tickets.addresses import is_address, ticket_argument
from lottery_jax.tickets.commands import compact, export, import_, share, zoo


def find(paths: Sequence[Path]) -> list[Path]:
    """List the tickets at and below `paths`, each once, directories and files in name order.

    A `.safetensors` file without a ticket is passed over; one that can't be read is listed.

    Raises:
        TicketError: there are none at or below one of the paths.
    """
    found: dict[Path, None] = {}
    for path in paths:
        is_one = is_address(path) or path.is_file() or store.is_complete(path)
        here = [path] if is_one else _below(path)
        if not here:
            raise TicketError(f"{path}: no ticket is there or below")
        found.update(dict.fromkeys(here))
    return list(found)


def _below(folder: Path) -> list[Path]:
    """List the tickets below a folder, each once, following symbolic links to folders.

    Each real folder is looked into once, so that links in a circle end. Links within a ticket are
    not followed, because a stranger may have made it.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    folders = [folder]  # a list, because folders can be deeper than Python's stack
    while folders:
        here = folders.pop()
        try:
            status = here.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            inside = sorted(path for path in here.iterdir() if not _is_passed_over(path))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise TicketError(f"{here}: can't be looked into: {error.strerror}") from error
        is_ticket = store.is_complete(here)
        found += [here] if is_ticket else []
        found += [p for p in inside if p.suffix == portable.SUFFIX and _may_be_portable(p)]
        folders += [p for p in inside if p.is_dir() and not (is_ticket and p.is_symlink())]
    return sorted(found)


def _is_passed_over(path: Path) -> bool:
    """Return whether a killed process left it unfinished, or a desktop or file system made it."""
    return is_temporary(path) or is_clutter(path.name)


def _may_be_portable(file: Path) -> bool:
    if file.is_dir():
        return False
    try:
        return portable.is_portable(file)
    except TicketError:
        return True


def list_tickets(paths: Sequence[Path]) -> bool:
    """Print a table of the tickets below `paths`; return whether all could be read."""
    rows, errors = [], []
    for path in find(paths):
        try:
            rows.append(display.row(path, store.read_metadata(path)))
        except TicketError as error:
            errors.append(error)
    print_plain(display.listing(rows))
    for message in errors:
        print(f"error: {one_line(message)}", file=sys.stderr)
    return not errors


def verify(paths: Sequence[Path], *, allow_nonfinite: bool = False) -> bool:
    """Load each ticket below `paths` and print what is wrong with it; return whether all are good."""
    good = True
    for path in find(paths):
        try:
            store.load_ticket(path, allow_nonfinite=allow_nonfinite)
        except TicketError as error:
            print(f"bad  {one_line(error)}")
            good = False
        else:
            print(f"ok   {one_line(path)}")
    return good


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m lottery_jax.tickets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, says: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")

    def allow_nonfinite(of: argparse.ArgumentParser) -> None:
        of.add_argument("--allow_nonfinite", action="store_true",
                        help="load weights that are infinite or NaN")  # fmt: skip

    a = command("list", "print a table of all tickets below folders")
    a.add_argument("paths", nargs="+", type=path_argument, metavar="RUN_OR_FOLDER")
    a = command("show", "show what a ticket is and where it came from")
    a.add_argument("ticket", type=ticket_argument, metavar="TICKET")
    a = command("verify", "load tickets and check all that can be checked")
    a.add_argument("paths", nargs="+", type=ticket_argument, metavar="TICKET_OR_FOLDER")
    allow_nonfinite(a)
    a = command("compare", "compare the overlap of two tickets of a network with that of chance")
    a.add_argument("a", type=ticket_argument, metavar="A")
    a.add_argument("b", type=ticket_argument, metavar="B")
    allow_nonfinite(a)
    compact.add_parser(command)
    allow_nonfinite(export.add_parser(command))
    allow_nonfinite(import_.add_parser(command))
    zoo.add_parser(command)
    share.add_parsers(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = _parser().parse_args(argv)
    good = True

    def run() -> None:
        nonlocal good
        if args.command == "list":
            good = list_tickets(args.paths)
        elif args.command == "show":
            print_plain(display.card(args.ticket, store.read_metadata(args.ticket)))
        elif args.command == "verify":
            good = verify(args.paths, allow_nonfinite=args.allow_nonfinite)
        elif args.command == "compare":
            a, b = (
                store.load_ticket(path, allow_nonfinite=args.allow_nonfinite)
                for path in (args.a, args.b)
            )
            print_plain(display.comparison(compare.compare_tickets(a, b)))
        elif args.command == "compact":
            print_plain(compact.run(args))
        elif args.command == "export":
            export.run(args)
        elif args.command == "zoo":
            zoo.run(args)
        elif args.command in share.RUN:
            share.RUN[args.command](args)
        else:
            import_.run(args)

    return exit_status(run) or int(not good)


if __name__ == "__main__":
    sys.exit(main())
