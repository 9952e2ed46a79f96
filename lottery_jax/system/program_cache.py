"""Compiled programs that JAX keeps for the next run: what can't be read is replaced, and said once."""

from __future__ import annotations

import contextlib
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lottery_jax.errors import one_line

_JAXS = r"Error (reading|writing) persistent compilation cache entry for '(.+?)': (.*)"


def mend_when_read(folder: Callable[[], str | None]) -> None:
    """From now on what JAX warns of in its compilation cache is mended and said in one line.

    JAX would warn of a damaged entry in each run, since it never replaces one. All entries of that
    program's name are removed, for JAX does not say which one it was; they are compiled again.

    Args:
        folder: gives the cache's directory.
    """
    said: set[str] = set()
    usual = warnings.showwarning

    def show(message: Warning | str, *more: Any, **also: Any) -> None:
        found = re.match(_JAXS, str(message), re.DOTALL)
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
    # Each time, and never as an error, whatever PYTHONWARNINGS says.
    warnings.filterwarnings("always", "Error (reading|writing) persistent compilation cache")


def _remove(folder: Path, name: str) -> None:
    with contextlib.suppress(OSError):  # another user's
        for entry in folder.iterdir():
            if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]+-(cache|atime)", entry.name):
                entry.unlink(missing_ok=True)
