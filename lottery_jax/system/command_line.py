"""The parts that all commands share: their parser, their arguments, their exit status."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from lottery_jax.errors import ConfigError, LotteryError, one_line
from lottery_jax.system.files import local_path
from lottery_jax.system.terminal import may_be_closed

# A module that was called by another name -> how the user has called it.
called_as: dict[str, str] = {}


def as_called(text: str) -> str:
    """Return a text with commands as the user types them: `python -m MODULE` or a subcommand."""
    return re.sub(r"python -m (lottery_jax[.]\w+)", lambda m: called_as.get(m[1], m[0]), text)


class CommandParser(argparse.ArgumentParser):
    """An argparse parser that reports a mistake in one line; --help shows the usage."""

    def format_help(self) -> str:
        """Return the help, with commands as the user types them."""
        return as_called(super().format_help())

    def print_help(self, file: Any = None) -> None:
        """Print the help; a closed pipe is no error."""
        with may_be_closed():
            super().print_help(file)

    def error(self, message: str) -> NoReturn:
        """Print the mistake and end the process with status 2."""
        self.exit(2, f"error: {one_line(message)}; --help says more\n")


def exit_status(command: Callable[[], None]) -> int:
    """Run a command; print a mistake that the user can mend as one line on stderr, with status 2."""
    with may_be_closed():
        try:
            command()
        except (LotteryError, OSError) as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            return 2
        return 0


def path_argument(text: str) -> Path:
    """Return `local_path` of an argument, with an error that argparse completes by its name."""
    try:
        return local_path(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
