"""Standard output and error that may be closed: a program continues when nobody reads them."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

# Errors that say that the reader of a pipe has ended (`| head`), or that the terminal is closed.
_NOBODY_READS = (errno.EPIPE, errno.EIO)
_WIDTH_OF_PIPES = 240  # columns


class _Output(io.FileIO):
    """A stream of the process that drops what is written after its reader has gone."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _NOBODY_READS:
                raise
            # The descriptor itself, because C code writes there too.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(data)


@contextmanager
def may_be_closed() -> Iterator[None]:
    """Have output in the block dropped, not fail, when the pipe or terminal is closed.

    Streams that have replaced the process's own, as in a notebook, are left alone.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_tolerant, before)
    within = sys.stdout, sys.stderr
    try:
        yield
    finally:
        for stream, old in zip(within, before, strict=True):
            if stream is not old:
                stream.flush()
        sys.stdout, sys.stderr = before


def print_plain(what: RenderableType) -> None:
    """Print a table as it fits the terminal; into a pipe, so wide that names and paths stay whole."""
    from rich.console import Console  # not for commands that print their help

    is_terminal = sys.stdout.isatty()
    width = None if is_terminal else _WIDTH_OF_PIPES
    console = Console(markup=False, highlight=False, emoji=False, width=width)
    if is_terminal:
        console.print(what)
        return
    with console.capture() as captured:
        console.print(what)
    print("\n".join(line.rstrip() for line in captured.get().removesuffix("\n").split("\n")))


def _tolerant(stream: Any) -> Any:
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # `python -u` has no buffer in between
    if type(raw) is not io.FileIO:
        return stream
    stream.flush()
    output = _Output(raw.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        output if buffer is raw else io.BufferedWriter(output),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
