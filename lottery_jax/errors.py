"""Errors that a user can mend: each is one line that says what is wrong and what to do."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class LotteryError(Exception):
    """An expected failure; the command line prints it as one line and exits with status 2.

    Attributes:
        reported: whether it happened in another process, which prints it.
    """

    reported = False


class ConfigError(LotteryError):
    """A config key, a command-line flag or a run directory is wrong or does not fit."""


class EnvironmentFault(LotteryError):
    """The machine or the installation is not able to do it; for example, JAX finds no device."""


class DataError(LotteryError):
    """A data set is missing, unreadable or of the wrong shape."""


class FigureError(LotteryError):
    """Figures can't be drawn; tables have been written."""


class TicketError(LotteryError):
    """A ticket is missing, damaged or made for another model."""


class TrainingError(LotteryError):
    """A training can't continue; for example, its loss is no longer finite.

    Attributes:
        replicate: the number of the replicate among those that train together, from 0; None where
            the message names it.
    """

    def __init__(self, message: str, replicate: int | None = None) -> None:
        super().__init__(message)
        self.replicate = replicate


# Without permission errors and bad disks, which concern the one file.
_OF_THE_MACHINE = {
    number
    for name in ("EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EDQUOT")
    if (number := getattr(errno, name, None)) is not None
}


def raise_if_environment(error: Exception) -> None:
    """Raise an `EnvironmentFault` for an error that says nothing about the file that is being read.

    Such an error means that memory, open files, threads or disk space ran out, or that a package
    can't be imported. Call this where whatever a library raises is taken for damage in a file.

    >>> raise_if_environment(ValueError("a damaged header"))
    >>> raise_if_environment(OSError(24, "Too many open files", "a.npz"))
    Traceback (most recent call last):
    lottery_jax.errors.EnvironmentFault: the file can't be judged on this machine: OSError: [Errno 24] ...
    """
    code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore writes the errno so
    number = error.errno if isinstance(error, OSError) else int(code[1]) if code else None
    if (
        isinstance(error, (EnvironmentFault, ImportError, MemoryError))
        or number in _OF_THE_MACHINE
        or "can't start new thread" in str(error)
    ):
        cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise EnvironmentFault(f"the file can't be judged on this machine: {cause}") from error


def first_line(error: BaseException, *, with_type: bool = False) -> str:
    r"""Return the first line of an error's message, or its type where it has no message.

    >>> first_line(ValueError("\na damaged header\nat byte 7")), first_line(MemoryError())
    ('a damaged header', 'MemoryError')
    >>> first_line(ValueError("a damaged header"), with_type=True)
    'ValueError: a damaged header'
    """
    kind = type(error).__name__
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{kind}: {line}" if with_type and line else line or kind


def one_line(message: object, limit: int = 600) -> str:
    r"""Return a message as one line of printable text, whatever file or name it quotes.

    Control characters, such as those that move a terminal's cursor, are written as escapes.

    >>> one_line("bad \x1b[2J name\nand more")
    'bad \\x1b[2J name and more'
    """
    text = " ".join(str(message).split())
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def describe_unknown(kind: str, name: object, legal: Iterable[str], *, noun: str = "value") -> str:
    """Return one line about a misspelt name: the nearest match, then the legal values.

    >>> describe_unknown("config.model.name", "vgg91", ["vgg19", "resnet50"])
    "config.model.name: unknown value 'vgg91' (did you mean 'vgg19'?); legal: resnet50, vgg19"
    """
    options = sorted(legal)
    close = difflib.get_close_matches(str(name), options, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{kind}: unknown {noun} {name!r}{hint}; legal: {', '.join(options)}"


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """Return `table[name]`.

    Raises:
        ConfigError: the table has no such name; names `kind` and the legal values.
    """
    if name not in table:
        raise ConfigError(describe_unknown(kind, name, table))
    return table[name]
