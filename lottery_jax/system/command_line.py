"""The parts that all commands share: their parser, their arguments, their exit status."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lottery_jax.errors import ConfigError, LotteryError, one_line
from lottery_jax.system import signals
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


def exit_status_of_runs(command: Callable[[], None], failures: Sequence[str] = ()) -> int:
    """Return the exit status of a command that can be stopped and resumed.

    Args:
        command: as for `exit_status`; a signal raises KeyboardInterrupt in it.
        failures: filled by the command: a line for each run that failed, which are printed.

    Returns:
        128 plus the number of a signal; else that of `exit_status`, or 1 if a run failed.
    """
    with may_be_closed():
        try:
            status = exit_status(command)
        except KeyboardInterrupt as interrupt:
            print("stopped; run the same command again to resume", file=sys.stderr)
            return signals.exit_status(interrupt)
        for line in failures:
            print(f"error: {one_line(line)}", file=sys.stderr)
        return status or int(bool(failures))


def path_argument(text: str) -> Path:
    """Return `local_path` of an argument, with an error that argparse completes by its name."""
    try:
        return local_path(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def check_free(path: Path, force: bool) -> None:
    """Check that a command may write `path`: nothing is there, or it may be replaced.

    Raises:
        ConfigError: a file or a folder that is not empty is there, and `force` is not given.
    """
    taken = any(path.iterdir()) if path.is_dir() else path.exists()
    if taken and not force:
        raise ConfigError(f"{path}: is there already; --force replaces it")
