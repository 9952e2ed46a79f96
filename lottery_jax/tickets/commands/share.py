"""`tickets card`, `push` and `pull`: a ticket as others find it, on the Hugging Face hub or elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from lottery_jax.system.command_line import check_free, path_argument
from lottery_jax.tickets import hub, store
from lottery_jax.tickets.addresses import ticket_argument
from lottery_jax.tickets.cards import FILES, LICENSE, write_card_folder

Add = Callable[[str, str], argparse.ArgumentParser]


def add_parsers(command: Add) -> None:
    """Add the subcommands."""
    a = command("card", "write a folder ready for upload: a model card, the ticket and its config")
    _add_ticket(a)
    a.add_argument("folder", type=path_argument, metavar="FOLDER")
    a.add_argument("--force", action="store_true", help=f"replace {', '.join(FILES)} in FOLDER")
    a.add_argument("--name", default="", help="how the card tells readers to load the ticket, such as "
                   "hf://USER/REPO; default: by the name of its file")  # fmt: skip
    a = command("push", "upload a ticket with its card to the Hugging Face hub")
    _add_ticket(a)
    a.add_argument("repo", metavar="USER/REPO")
    a.add_argument("--private", action="store_true", help="make a new repository private")
    a = command("pull", "download a ticket from the Hugging Face hub, check it and save it")
    a.add_argument("repo", metavar="USER/REPO", help="perhaps with @REVISION and /FILE.safetensors")
    a.add_argument("file", type=path_argument, metavar="FILE_OR_DIR",
                   help="a portable file (.safetensors) or a ticket directory")  # fmt: skip
    a.add_argument("--force", action="store_true", help="replace FILE_OR_DIR")


def _add_ticket(a: argparse.ArgumentParser) -> None:
    a.add_argument("ticket", type=ticket_argument, metavar="TICKET")
    a.add_argument("--license", default=LICENSE, help=f"default: {LICENSE}")


def card(args: argparse.Namespace) -> None:
    """Write the folder of a ticket."""
    for file in FILES:
        check_free(args.folder / file, args.force)
    ticket = store.load_ticket(args.ticket)
    write_card_folder(args.folder, ticket, name=args.name, license=args.license)
    print(f"wrote {args.folder}")


def push(args: argparse.Namespace) -> None:
    """Upload a ticket."""
    repo = args.repo.removeprefix("hf://")
    where = hub.push(
        store.load_ticket(args.ticket), repo, private=args.private, license=args.license
    )
    print(f"uploaded hf://{repo}, {where}")


def pull(args: argparse.Namespace) -> None:
    """Download a ticket and save it."""
    check_free(args.file, args.force)
    ticket = store.load_ticket(f"hf://{args.repo.removeprefix('hf://')}")
    store.save_ticket(args.file, ticket)
    print(f"wrote {args.file}, {ticket.density:.2%} of the prunable weights")


RUN = {"card": card, "push": push, "pull": pull}
