"""Write a ticket to a portable file, or its arrays to a plain safetensors or a PyTorch file."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from lottery_jax.errors import ConfigError
from lottery_jax.system.command_line import check_free, path_argument
from lottery_jax.tickets import plain, portable, pytorch, store, torch_options
from lottery_jax.tickets.addresses import ticket_argument
from lottery_jax.tickets.ticket import is_own_network


def add_parser(command: Callable[[str, str], argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the subcommand; `command` takes its name and what it does."""
    parser = command(
        "export", "write a ticket to a portable file, or its arrays for other programs"
    )
    parser.add_argument("ticket", type=ticket_argument, metavar="TICKET")
    parser.add_argument(
        "file", type=path_argument, metavar="FILE", help="ends in .safetensors, .pth or .pt"
    )
    parser.add_argument(
        "--dense", action="store_true", help="whole arrays, for any reader of .safetensors"
    )
    parser.add_argument("--weights", choices=pytorch.WEIGHTS,
                        help="for --dense and PyTorch; default: trained")  # fmt: skip
    torch_options.add_export_options(parser)
    parser.add_argument("--force", action="store_true", help="replace FILE")
    return parser


def run(args: argparse.Namespace) -> None:
    """Write FILE.

    Raises:
        ConfigError: the options do not fit together, or FILE is there already.
        TicketError: the ticket can't be loaded.
    """
    is_pytorch = args.file.suffix in torch_options.SUFFIXES
    if not is_pytorch and args.file.suffix != portable.SUFFIX:
        raise ConfigError(
            f"{args.file}: must end in .safetensors (portable, or whole arrays with --dense), or "
            ".pth or .pt (PyTorch)"
        )
    if args.dense and is_pytorch:
        raise ConfigError("--dense is for .safetensors; .pth and .pt have whole arrays anyway")
    if args.weights and not (args.dense or is_pytorch):
        raise ConfigError(
            "--weights is for --dense, .pth and .pt; a portable file has all of a ticket"
        )
    for_pytorch = torch_options.for_export(args)
    if for_pytorch and not is_pytorch:
        raise ConfigError("--format, --names and --flatten are for .pth and .pt")
    check_free(args.file, args.force)
    ticket = store.load_ticket(args.ticket, allow_nonfinite=args.allow_nonfinite)
    if is_pytorch:
        pytorch.export_pytorch(args.file, ticket, args.weights or "trained", **for_pytorch)
        if is_own_network(ticket.metadata) and "layer_kinds" not in ticket.metadata:
            print("the ticket does not say of which kind its layers are: taken for Dense and Conv")
    elif args.dense:
        plain.export_safetensors(args.file, ticket, args.weights or "trained")
    else:
        portable.save_portable(args.file, ticket)
    print(f"wrote {args.file}, {args.file.stat().st_size} bytes")
