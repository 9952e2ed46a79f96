"""The compiled programs that JAX keeps for later runs: damaged ones are replaced and reported once."""

from __future__ import annotations

import contextlib
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lottery_jax.errors import one_line

_WARNING = r"Error (reading|writing) persistent compilation cache entry for '(.+?)': (.*)"


def mend_when_read(folder: Callable[[], str | None]) -> None:
    """Replace damaged entries of JAX's compilation cache from now on, with one line for the user.

    JAX would warn of a damaged entry in each run, since it never replaces one. All entries of that
    program's name are removed, because JAX does not say which of them is damaged; they are compiled
    again.

    Args:
        folder: a function that returns the cache's directory, or None.
    """
    said: set[str] = set()
    usual = warnings.showwarning

    def show(message: Warning | str, *more: Any, **also: Any) -> None:
        found = re.match(_WARNING, str(message), re.DOTALL)
        if found is None:
            usual(message, *more, **also)
            return
        doing, name, error = found.groups()
        where = folder()
        if doing == "reading" and where:
            _remove(Path(where), name)
        if doing not in said:
            said.add(doing)
            what = (
                "a compiled program can't be read and is compiled anew"
                if doing == "reading"
                else "compiled programs can't be kept, so the next run compiles them again"
            )
            print(f"warning: {where}: {what} ({one_line(error, 200)})", file=sys.stderr)

    warnings.showwarning = show
    # JAX must warn each time, and never raise an error, whatever PYTHONWARNINGS says.
    warnings.filterwarnings("always", "Error (reading|writing) persistent compilation cache")


def _remove(folder: Path, name: str) -> None:
    with contextlib.suppress(OSError):  # they are another user's
        for entry in folder.iterdir():
            if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]+-(cache|atime)", entry.name):
                entry.unlink(missing_ok=True)
