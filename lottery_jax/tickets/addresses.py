"""Addresses of tickets that are not paths: `zoo://NAME` and `hf://USER/REPO`."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath

from lottery_jax.system.command_line import path_argument
from lottery_jax.system.files import local_path
from lottery_jax.tickets import hub, zoo

# `Path` makes one slash of two, so that an address may come with one.
_ADDRESS = re.compile(r"(?P<scheme>zoo|hf):/{1,2}(?P<name>[^/].*?)/*", re.DOTALL)


def split_address(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """Return the scheme, `zoo` or `hf`, and the name of an address; None if it is none.

    >>> split_address("zoo://lenet_digits/imp/"), split_address("runs/zoo")
    (('zoo', 'lenet_digits/imp'), None)
    """
    text = path.as_posix() if isinstance(path, PurePath) else os.fspath(path)
    match = _ADDRESS.fullmatch(text)
    return (match["scheme"], match["name"]) if match else None


def is_address(path: str | os.PathLike[str]) -> bool:
    """Return whether a ticket is named by an address."""
    return split_address(path) is not None


def local_ticket(path: str | os.PathLike[str]) -> Path:
    """Return where a ticket is on this machine, after fetching it if it is named by an address.

    Raises:
        ConfigError: the path is a URL of another kind.
        TicketError: nothing is at the address, or it can't be fetched.
    """
    address = split_address(path)
    if address is None:
        return local_path(path)
    scheme, name = address
    return zoo.fetch(name) if scheme == "zoo" else hub.fetch(name)


def ticket_argument(text: str) -> str | Path:
    """Return the path or the address that names a ticket on the command line.

    An address stays text, because a path would show it with one slash.
    """
    return text if is_address(text) else path_argument(text)
