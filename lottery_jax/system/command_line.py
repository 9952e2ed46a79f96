"""What all commands share: their parser, their arguments, their exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from lottery_jax.errors import ConfigError, LotteryError, one_line
from lottery_jax.system.files import local_path
from lottery_jax.system.terminal import may_be_closed


class CommandParser(argparse.ArgumentParser):
    """argparse without the lines on usage that it puts before a mistake; --help has them."""

    def print_help(self, file: Any = None) -> None:
        """Prints the help, to whoever reads it."""
        with may_be_closed():
            super().print_help(file)

    def error(self, message: str) -> NoReturn:
        """Prints the mistake and ends the process with status 2."""
        self.exit(2, f"error: {one_line(message)}; --help says more\n")


def exit_status(command: Callable[[], None]) -> int:
    """Runs a command; a mistake the user can mend becomes one line on stderr and status 2."""
    with may_be_closed():
        try:
            command()
        except (LotteryError, OSError) as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            return 2
        return 0


def path_argument(text: str) -> Path:
    """Return `local_path` of a command's argument; for argparse, which says which argument it is."""
    try:
        return local_path(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
