"""What is different in a notebook: a line that is updated in place, and Ctrl-C in one line.

IPython is never imported here. Where code runs in it, it is there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

# The time between two updates of a line, in seconds: more would flood the connection to the browser.
_PAUSE = 0.25


def shell() -> Any:
    """Return the IPython shell in which this code runs, in a terminal or a notebook; else None."""
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None else None


def in_notebook() -> bool:
    """Return whether this code runs in a notebook, whose browser shows more than plain text."""
    return hasattr(shell(), "kernel")


class Line:
    """A line of text in the output of a notebook's cell, updated in place.

    It appears with the first text that it is given.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown, self._last = "", -_PAUSE

    def show(self, text: str, *, at_once: bool = False) -> None:
        """Show another text, unless the one before is a fraction of a second old.

        Args:
            text: the text, shown as it is.
            at_once: whether to show it in any case, as for the last one.
        """
        now = time.monotonic()
        if text == self._shown or (now - self._last < _PAUSE and not at_once):
            return
        self._shown, self._last = text, now
        data = {"text/plain": text, "text/html": f"<pre>{escape(text)}</pre>"}
        if self._handle is None:
            self._handle = _display()(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def _display() -> Any:
    return sys.modules["IPython"].display.display


class Stopped(KeyboardInterrupt):
    """A KeyboardInterrupt that IPython shows in one line, without the lines of code that it left."""

    def _render_traceback_(self) -> list[str]:
        return [f"KeyboardInterrupt: {self}"]


@contextmanager
def short_interrupt(message: str) -> Iterator[None]:
    """Have Ctrl-C in the block end in one line in IPython; elsewhere nothing changes.

    It may decorate a function.

    Args:
        message: says what has become of the work.

    Raises:
        Stopped: Ctrl-C was pressed, in IPython.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if type(interrupt) is not KeyboardInterrupt or shell() is None:
            raise
        raise Stopped(message) from None
