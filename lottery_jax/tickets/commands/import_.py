"""Make a ticket directory of a portable file or of a PyTorch file."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from lottery_jax.errors import ConfigError
from lottery_jax.system.command_line import check_free, path_argument
from lottery_jax.tickets import portable, store, torch_options


def add_parser(command: Callable[[str, str], argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the subcommand; `command` takes its name and what it does."""
    parser = command("import", "make a ticket directory of a portable or a PyTorch file")
    parser.add_argument("file", type=path_argument, metavar="FILE")
    parser.add_argument("ticket", type=path_argument, metavar="TICKET_DIR")
    parser.add_argument("--force", action="store_true", help="replace the ticket in TICKET_DIR")
    group = parser.add_argument_group(
        "for a PyTorch file (state dict or checkpoint); images are by default 32x32 pixels of three "
        "channels, from 0 to 1"
    )
    group.add_argument("--model", help="the network, such as vgg19 or package.module:Class")
    group.add_argument("--data", help="what it was trained on, such as cifar10")
    group.add_argument(
        "--start", type=path_argument, help="the weights to start from; default: FILE's own"
    )
    torch_options.add_options(group)
    return parser


def run(args: argparse.Namespace) -> None:
    """Write TICKET_DIR.

    Raises:
        ConfigError: the options do not fit the file, or TICKET_DIR is there already.
        TicketError: the file can't be read or does not fit the network.
    """
    check_free(args.ticket, args.force)
    is_ticket = args.file.suffix == portable.SUFFIX and portable.is_portable(args.file)
    given = [n for n in ("model", "data") if getattr(args, n)] + torch_options.given(args)
    if is_ticket and given:
        raise ConfigError(f"--{given[0]}: is for PyTorch files; {args.file} is a whole ticket")
    if not is_ticket and not (args.model and args.data):
        raise ConfigError(
            f"{args.file}: is not a portable ticket; for a PyTorch file give --model and --data"
        )
    if is_ticket:
        ticket = store.load_ticket(args.file, allow_nonfinite=args.allow_nonfinite)
    else:
        ticket = torch_options.read(args.file, args, allow_nonfinite=args.allow_nonfinite)
    store.save_ticket(args.ticket, ticket)
    kept, total, left_out = torch_options.counts(ticket)
    print(f"wrote {args.ticket}, {kept / total:.2%} of the prunable weights{left_out}")
    if not is_ticket:
        source = "assumed, for pixels from 0 to 1 as they are"
        print(f"images are {torch_options.normalisation(args, ticket, source)}")
