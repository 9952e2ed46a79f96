"""The zoo: trained tickets that come with the package, by names such as `lenet_digits/imp/seed_0/level_06`.

`index.json` lists them, with what each was measured to do and the SHA-256 of its file. A source
checkout has the files in `zoo/`. An installed package has the index alone; it takes files from the
folder or URL that the environment variable LOTTERY_JAX_ZOO names and checks them against the index.
Those of a URL are kept in a cache.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any, NamedTuple, get_type_hints

from lottery_jax.errors import TicketError, raise_if_environment
from lottery_jax.system.files import atomic_write
from lottery_jax.tickets.metadata import parse_json
from lottery_jax.tickets.portable import SUFFIX

PLACE = "LOTTERY_JAX_ZOO"  # the environment variable that names a folder or URL with the files
VERSION = 1
_TIMEOUT = 30  # seconds without an answer
_MOST_BYTES = 10**8  # of a file; no more is read of what a server sends
# A name becomes a path in the cache, so that no part of one may begin with a dot.
_NAME = re.compile(r"(?:[a-z0-9_-]+/)+seed_(?P<seed>\d+)/level_(?P<level>\d\d)", re.ASCII)
# Not file://: a folder is named by its path. Not ftp://: urllib would look for credentials.
_URL = re.compile(r"https?://", re.IGNORECASE)


class Entry(NamedTuple):
    """A ticket of the zoo, as `index.json` lists it.

    Attributes:
        network: the name of its network.
        data: the data set that it was found and trained on.
        method: how its mask was drawn: imp, snip, grasp or synflow.
        control: `winning`, or the name of the control.
        seed: the seed of its training.
        level: the level of its run; 0 is the dense network.
        density: the share of the prunable weights that its mask keeps.
        accuracy: the share of the test set that its trained weights classify correctly.
        config: the config that found it, as `--config` takes it.
        commit: the commit of this project that trained it.
        bytes: the size of its file.
        sha256: the hash of its file.
    """

    network: str
    data: str
    method: str
    control: str
    seed: int
    level: int
    density: float
    accuracy: float
    config: str
    commit: str
    bytes: int
    sha256: str


_TYPES = get_type_hints(Entry)


def folder() -> Path:
    """Return the folder of the index: in an installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed, checkout = package / "zoo", package.parent / "zoo"
    return installed if installed.is_dir() else checkout


@functools.cache
def _content() -> dict[str, Any]:
    content = parse_json((folder() / "index.json").read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it is not a table")
    return content


@functools.cache
def index() -> Mapping[str, Entry]:
    """Return the tickets of the zoo by name, in the order of the index.

    Raises:
        TicketError: the index is missing or damaged.
    """
    try:
        return parse_index(_content())
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise_if_environment(error)
        raise TicketError(
            f"{folder() / 'index.json'}: the index of the zoo can't be read: {error}"
        ) from error


def parse_index(content: Any) -> dict[str, Entry]:
    """Return the tickets of a parsed index by name.

    Raises:
        ValueError, KeyError, TypeError: it is not an index of this version, or a name or a value in it is
            not that of a ticket.
    """
    if content["version"] != VERSION:
        raise ValueError(f"version {short_repr(content['version'])}; this package reads {VERSION}")
    if not isinstance(content["tickets"], dict):
        raise TypeError("its tickets are not a table")
    return {name: _entry(name, values) for name, values in content["tickets"].items()}


def _entry(name: str, values: Any) -> Entry:
    """Return an entry of the index, after a check of its name and values.

    Raises:
        ValueError, TypeError: they are not those of a ticket of the zoo.
    """
    entry, match = Entry(**values), _NAME.fullmatch(name)
    if not (
        match
        and all(type(v) is kind for v, kind in zip(entry, _TYPES.values(), strict=True))
        and all(value.isprintable() for value in entry if isinstance(value, str))
        and (int(match["seed"]), int(match["level"])) == (entry.seed, entry.level)
        and 0 <= entry.density <= 1
        and 0 <= entry.accuracy <= 1
        and 0 < entry.bytes <= _MOST_BYTES
    ):
        raise ValueError(f"{short_repr(name)}: its name or a value is not that of a ticket")
    return entry


def config_of(entry: Entry) -> dict[str, Any]:
    """Return the config that found a ticket, as its run directory has it.

    Raises:
        TicketError: the index is damaged.
    """
    configs = _content().get("configs")
    if not isinstance(configs, dict) or not isinstance(configs.get(entry.config), dict):
        raise TicketError(f"the index of the zoo lacks the config {entry.config}")
    return dict(configs[entry.config])


def find(name: str) -> Entry:
    """Return what the index says of a ticket.

    Raises:
        TicketError: the zoo has no such ticket; names the nearest ones.
    """
    tickets = index()
    if name not in tickets:
        near = difflib.get_close_matches(name, tickets, n=1)
        hint = f"did you mean zoo://{near[0]}? " if near else ""
        raise TicketError(
            f"zoo://{name}: the zoo has no such ticket; {hint}"
            "'python -m lottery_jax.tickets zoo' lists all"
        )
    return tickets[name]


def fetch(name: str) -> Path:
    """Return the file of a ticket, with the content that the index states.

    Args:
        name: such as `lenet_digits/imp/seed_0/level_06`.

    Raises:
        TicketError: the zoo has no such ticket, its file can't be found, or what is there differs.
        OSError: the cache can't be written.
    """
    entry, place = find(name), os.environ.get(PLACE, "").strip()
    if _is_file(folder() / f"{name}{SUFFIX}"):
        return _checked(folder(), name, entry)
    if place and not _URL.match(place):
        return _checked(place, name, entry)
    cached = _cache(name)
    if _is_file(cached) and hashlib.sha256(cached.read_bytes()).hexdigest() == entry.sha256:
        return cached
    if not place:
        raise TicketError(
            f"zoo://{name}: the files of the zoo are not installed; set {PLACE} to the folder zoo/ "
            "of a checkout, or to a URL that has its files"
        )
    address = f"{place.rstrip('/')}/{name}{SUFFIX}"
    with _explained(name, place), urllib.request.urlopen(address, timeout=_TIMEOUT) as answer:
        # If more comes than the index states, it is not the file, and the rest need not be read.
        content = answer.read(entry.bytes + 1)
    _check(content, entry, name, address)
    with atomic_write(cached) as temporary:
        temporary.write_bytes(content)
    return cached


def _checked(place: str | Path, name: str, entry: Entry) -> Path:
    """Return a ticket's file in a folder, which is read where it is, after a check of its content."""
    with _explained(name, place):
        path = Path(place).expanduser() / f"{name}{SUFFIX}"
        with path.open("rb") as file:
            content = file.read(entry.bytes + 1)
    _check(content, entry, name, path)
    return path


@contextmanager
def _explained(name: str, place: str | Path) -> Iterator[None]:
    try:
        yield
    # Errors of urllib and time-outs are OSErrors, too.
    except (OSError, ValueError, RuntimeError, http.client.HTTPException) as error:
        raise_if_environment(error)
        reason = getattr(error, "reason", None) or error
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is the server's answer, too, and keeps the connection open
            reason = error
        raise TicketError(
            f"zoo://{name}: can't be fetched from {place} ({reason}); {PLACE} names the folder or URL"
        ) from error


def _check(content: bytes, entry: Entry, name: str, where: str | Path) -> None:
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise TicketError(
            f"zoo://{name}: {where} is not the file that the index of this version lists (its "
            f"SHA-256 differs); it is damaged, or {PLACE} names the zoo of another version"
        )


def _cache(name: str) -> Path:
    """Return where the file of a ticket is kept.

    Raises:
        TicketError: the system knows no home directory.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        place = Path(base) if base else Path.home() / ".cache"
    except RuntimeError as error:
        raise TicketError(
            f"zoo://{name}: fetched files can't be kept ({error}); set XDG_CACHE_HOME to a folder for "
            f"them, or {PLACE} to a folder that has the files of the zoo"
        ) from error
    return place / "lottery_jax" / "zoo" / f"{name}{SUFFIX}"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False
