"""Addresses of tickets that are not paths: `zoo://NAME` and `hf://USER/REPO`."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath

from lottery_jax.system.command_line import path_argument
from lottery_jax.system.files import local_path
from lottery_jax.tickets import hub, zoo

# `Path` makes one slash of two.
_ADDRESS = re.compile(r"(?P<scheme>zoo|hf):/{1,2}(?P<name>[^/].*)", re.DOTALL)


def is_address(path: str | os.PathLike[str]) -> bool:
    """Return whether a ticket is named by an address.

    >>> is_address("zoo://lenet_digits/imp/seed_0/level_06"), is_address("runs/zoo")
    (True, False)
    """
    return _ADDRESS.fullmatch(_text(path)) is not None


def local_ticket(path: str | os.PathLike[str]) -> Path:
    """Return where a ticket is on this machine, after fetching it if it is named by an address.

    Raises:
        ConfigError: the path is a URL of another kind.
        TicketError: nothing is at the address, or it can't be fetched.
    """
    match = _ADDRESS.fullmatch(_text(path))
    if match is None:
        return local_path(path)
    return zoo.fetch(match["name"]) if match["scheme"] == "zoo" else hub.fetch(match["name"])


def ticket_argument(text: str) -> Path:
    """Return the path or address that names a ticket on the command line."""
    return Path(text) if is_address(text) else path_argument(text)


def _text(path: str | os.PathLike[str]) -> str:
    return path.as_posix() if isinstance(path, PurePath) else os.fspath(path)
