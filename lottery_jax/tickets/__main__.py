"""Look at tickets, check and compare them, and take them elsewhere.

    python -m lottery_jax.tickets list runs/quickstart
    python -m lottery_jax.tickets show runs/quickstart/seed_0/level_09/ticket
    python -m lottery_jax.tickets verify runs/quickstart
    python -m lottery_jax.tickets compare runs/quickstart/seed_{0,1}/level_09/ticket
    python -m lottery_jax.tickets export runs/quickstart/seed_0/level_09/ticket ticket.safetensors
    python -m lottery_jax.tickets import ticket.safetensors tickets/mine
    python -m lottery_jax.tickets import vgg19.pth tickets/theirs --model=vgg19 --data=cifar10
    python -m lottery_jax.tickets compact ticket.safetensors small.safetensors

A TICKET is a ticket directory or a portable file (.safetensors).

Exit status: 0 done; 1 list or verify found a bad ticket; 2 a mistake, explained in one line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console, RenderableType

from lottery_jax.errors import ConfigError, TicketError, one_line
from lottery_jax.system.command_line import CommandParser, exit_status, path_argument
from lottery_jax.system.files import is_clutter, is_temporary
from lottery_jax.tickets import compare, display, portable, pytorch, store
from lottery_jax.tickets.commands import compact as compact_command
from lottery_jax.tickets.ticket import Ticket

_PYTORCH = (".pth", ".pt")


def find(paths: Sequence[Path]) -> list[Path]:
    """List the tickets at and below `paths`, each once, directories and files in name order.

    A `.safetensors` file without a ticket is passed over; one that can't be read is listed.

    Raises:
        TicketError: there are none at or below one of the paths.
    """
    found: dict[Path, None] = {}
    for path in paths:
        here = [path] if path.is_file() or store.is_complete(path) else _below(path)
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
    _print(display.listing(rows))
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


def export(
    path: Path, file: Path, weights: str | None, *, force: bool, allow_nonfinite: bool = False
) -> None:
    """Write a ticket to a portable file, or its weights to a PyTorch file."""
    if file.suffix not in (portable.SUFFIX, *_PYTORCH):
        raise ConfigError(f"{file}: must end in .safetensors (portable), or .pth or .pt (PyTorch)")
    if weights and file.suffix not in _PYTORCH:
        raise ConfigError("--weights is for .pth and .pt; a portable file has all of a ticket")
    _check_free(file, force)
    ticket = store.load_ticket(path, allow_nonfinite=allow_nonfinite)
    if file.suffix in _PYTORCH:
        pytorch.export_pytorch(file, ticket, weights or "trained")
    else:
        portable.save_portable(file, ticket)
    print(f"wrote {file}, {file.stat().st_size} bytes")


def import_(args: argparse.Namespace) -> None:
    """Make a ticket directory of a portable file or of a PyTorch file."""
    _check_free(args.ticket, args.force)
    is_ticket = args.file.suffix == portable.SUFFIX and portable.is_portable(args.file)
    given = [n for n in ("model", "data", "stem", "start", "mean", "std") if getattr(args, n)]
    if is_ticket and given:
        raise ConfigError(f"--{given[0]}: is for PyTorch files; {args.file} is a whole ticket")
    if not is_ticket and not (args.model and args.data):
        raise ConfigError(f"{args.file}: is no portable ticket; of others say --model and --data")
    if is_ticket:
        ticket = store.load_ticket(args.file, allow_nonfinite=args.allow_nonfinite)
    else:
        ticket = _from_pytorch(args)
    store.save_ticket(args.ticket, ticket)
    print(f"wrote {args.ticket}, {ticket.density:.2%} of the prunable weights")


def _from_pytorch(args: argparse.Namespace) -> Ticket:
    shape = tuple(args.input_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ConfigError("--input_shape must be height,width,channels")
    mean, std = args.mean or [0.0] * shape[2], args.std or [1.0] * shape[2]
    if not len(mean) == len(std) == shape[2] or min(std) <= 0:
        raise ConfigError(f"--mean and --std must be {shape[2]} numbers each, std above 0")
    model = {"name": args.model} | ({"stem": args.stem} if args.stem else {})
    return pytorch.import_pytorch(
        args.file,
        model,
        data=args.data,
        input_shape=shape,
        mean=mean,
        std=std,
        start=args.start,
        allow_nonfinite=args.allow_nonfinite,
    )


def _check_free(path: Path, force: bool) -> None:
    taken = any(path.iterdir()) if path.is_dir() else path.exists()
    if taken and not force:
        raise ConfigError(f"{path}: is there already; --force replaces it")


def _print(what: RenderableType) -> None:
    width = None if sys.stdout.isatty() else 240  # a pipe folds no paths
    Console(markup=False, highlight=False, emoji=False, width=width).print(what)


def _numbers(kind: Callable[[str], float]) -> Callable[[str], list[float]]:
    def parse(text: str) -> list[float]:
        return [kind(part) for part in text.split(",")]

    parse.__name__ = "numbers, with commas between"  # argparse puts it into its message
    return parse


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
    a.add_argument("ticket", type=path_argument, metavar="TICKET")
    a = command("verify", "load tickets and check all that can be checked")
    a.add_argument("paths", nargs="+", type=path_argument, metavar="TICKET_OR_FOLDER")
    allow_nonfinite(a)
    a = command("compare", "compare the overlap of two tickets of a network with that of chance")
    a.add_argument("a", type=path_argument, metavar="A")
    a.add_argument("b", type=path_argument, metavar="B")
    allow_nonfinite(a)
    a = command("export", "write a ticket to a portable file or its weights to a PyTorch file")
    a.add_argument("ticket", type=path_argument, metavar="TICKET")
    a.add_argument(
        "file", type=path_argument, metavar="FILE", help="ends in .safetensors, .pth or .pt"
    )
    a.add_argument("--weights", choices=pytorch.WEIGHTS, help="for PyTorch; default: trained")
    a.add_argument("--force", action="store_true", help="replace FILE")
    allow_nonfinite(a)
    a = command("import", "make a ticket directory of a portable or a PyTorch file")
    a.add_argument("file", type=path_argument, metavar="FILE")
    a.add_argument("ticket", type=path_argument, metavar="TICKET_DIR")
    a.add_argument("--force", action="store_true", help="replace the ticket in TICKET_DIR")
    allow_nonfinite(a)
    b = a.add_argument_group("for a PyTorch file (state dict or checkpoint)")
    b.add_argument("--model", help="the network, such as vgg19")
    b.add_argument("--stem", help="the stem of a ResNet: cifar or imagenet")
    b.add_argument("--data", help="what it was trained on, such as cifar10")
    b.add_argument(
        "--start", type=path_argument, help="the weights to start from; default: FILE's own"
    )
    b.add_argument(
        "--mean", type=_numbers(float), help="the means it was normalised with; default: 0 each"
    )
    b.add_argument("--std", type=_numbers(float), help="the standard deviations; default: 1 each")
    b.add_argument("--input_shape", type=_numbers(int), default=[32, 32, 3],
                   help="height,width,channels; default: 32,32,3")  # fmt: skip
    compact_command.add_parser(command)
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
            _print(display.card(args.ticket, store.read_metadata(args.ticket)))
        elif args.command == "verify":
            good = verify(args.paths, allow_nonfinite=args.allow_nonfinite)
        elif args.command == "compare":
            a, b = (
                store.load_ticket(path, allow_nonfinite=args.allow_nonfinite)
                for path in (args.a, args.b)
            )
            _print(display.comparison(compare.compare_tickets(a, b)))
        elif args.command == "compact":
            _print(compact_command.run(args))
        elif args.command == "export":
            export(
                args.ticket,
                args.file,
                args.weights,
                force=args.force,
                allow_nonfinite=args.allow_nonfinite,
            )
        else:
            import_(args)

    return exit_status(run) or int(not good)


if __name__ == "__main__":
    sys.exit(main())
