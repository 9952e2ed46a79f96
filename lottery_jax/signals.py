"""Ctrl-C and SIGTERM: a run that is asked to stop saves what it has first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_ASK_TO_STOP = (signal.SIGINT, signal.SIGTERM)
_elsewhere: set[int] = set()  # handlers are a process's, and so is this


class Terminated(KeyboardInterrupt):
    """SIGTERM, as schedulers send it before they take a machine away."""


def exit_status(interrupt: KeyboardInterrupt) -> int:
    """128 and the signal's number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


def raise_on_sigterm() -> None:
    """From now on SIGTERM raises `Terminated` in the main thread, as Ctrl-C does its own."""

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)


def handled_elsewhere(number: int) -> None:
    """From now on `postponed` leaves a signal alone: it has a handler that Python does not know of."""
    _elsewhere.add(number)


@contextmanager
def postponed() -> Iterator[list[int]]:
    """Puts Ctrl-C and SIGTERM off until the block has ended; then they have their usual effect.

    Gives the list of those that have arrived, for a block that can end early. An error of the
    block's own goes before them. A signal that is ignored stays ignored. In other threads than the
    main one, where signals never arrive, nothing is changed.

    >>> try:
    ...     with postponed() as arrived:
    ...         signal.raise_signal(signal.SIGINT)
    ...         print("still here, having seen", arrived)
    ... except KeyboardInterrupt:
    ...     print("stopped")
    still here, having seen [2]
    stopped
    """
    arrived: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield arrived
        return
    usual = {n: signal.getsignal(n) for n in _ASK_TO_STOP if n not in _elsewhere}
    # A handler that was not set from Python is None: it can't be put back, so it is left alone.
    usual = {n: h for n, h in usual.items() if h is not None and h != signal.SIG_IGN}
    failed = False
    try:
        with _blocked():
            for number in usual:
                signal.signal(number, lambda number, _: arrived.append(int(number)))
        yield arrived
    except Exception:
        failed = True
        raise
    finally:
        with _blocked():
            for number, handler in usual.items():
                signal.signal(number, handler)
        if arrived and not failed:
            signal.raise_signal(max(arrived))  # SIGTERM, if both came


@contextmanager
def _blocked() -> Iterator[None]:
    """Has signals wait while their handlers are changed, so that all are or none is."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ASK_TO_STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
