"""The signals that ask a run to save and stop: Ctrl-C, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2.

A closed terminal sends SIGHUP; batch systems send SIGUSR1 or SIGUSR2 before they take a machine
away.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
ASK_TO_STOP = tuple(  # Windows has only the first two
    signal.Signals[name] for name in _NAMES if hasattr(signal, name)
)
# Signals that have no meaning of their own.
_USERS_OWN = tuple(number for number in ASK_TO_STOP if number.name.startswith("SIGUSR"))
_EXTENSION_SET_UP = {
    ExtensionFileLoader.create_module.__code__,
    ExtensionFileLoader.exec_module.__code__,
}
_elsewhere: set[int] = set()  # one for the process, as handlers are


class Terminated(KeyboardInterrupt):
    """A signal other than Ctrl-C that asks to stop, such as SIGTERM from a scheduler.

    Attributes:
        number: the number of the signal.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.number = number


def exit_status(interrupt: KeyboardInterrupt) -> int:
    """Return 128 plus the signal's number, as shells do: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (interrupt.number if isinstance(interrupt, Terminated) else signal.SIGINT)


def raise_when_asked_to_stop(*, hangup: bool = True) -> None:
    """Have the signals raise `Terminated` in the main thread from now on; Ctrl-C KeyboardInterrupt.

    A signal that is ignored, such as SIGHUP under nohup, stays ignored; SIGTERM does not.

    Args:
        hangup: whether SIGHUP, which a closed terminal sends, is handled too.
    """
    for number in not_ignored():
        if hangup or number.name != "SIGHUP":
            signal.signal(number, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    if _would_be_lost(frame):  # send it again in a moment, when that is over
        threading.Timer(0.02, os.kill, (os.getpid(), number)).start()
        return
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number != signal.SIGTERM:  # a closed terminal may send two; a second SIGTERM means haste
        signal.signal(number, signal.SIG_IGN)
    raise Terminated(number)


def _would_be_lost(frame: FrameType | None) -> bool:
    """Return whether an error that is raised here would be dropped, or would crash the process.

    Python drops an error in a destructor and while it collects garbage. JAX has a callback for
    garbage collection, in which a signal often arrives while modules are imported. A module written
    in C can crash if its set-up is cut short, or replaces the error by one of its own.
    """
    callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        if frame.f_code in callbacks or frame.f_code.co_name == "__del__":
            return True
        if frame.f_code in _EXTENSION_SET_UP:
            return True
        frame = frame.f_back
    return False


def not_ignored() -> list[signal.Signals]:
    """Return the signals that a program may handle: SIGTERM, and those that its parent did not ignore."""
    return [
        number
        for number in ASK_TO_STOP
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN
    ]


def handled_elsewhere(number: int) -> None:
    """Have `defer_signals` leave a signal alone from now on, because C code handles it."""
    _elsewhere.add(number)


@contextmanager
def defer_signals() -> Iterator[list[int]]:
    """Defer signals that ask to stop until the block has ended; then they have their usual effect.

    Yields the list of signals that have arrived, for a block that can end early. If the block
    raises an error, the signals are dropped in its favour. A signal that is ignored stays ignored.
    SIGUSR1 or SIGUSR2 with a handler of the user's own goes to that handler at once, because only
    the user knows its meaning. Outside the main thread, where signals never arrive, this does
    nothing.

    >>> try:
    ...     with defer_signals() as arrived:
    ...         signal.raise_signal(signal.SIGINT)
    ...         print("still here, having seen", arrived)
    ... except KeyboardInterrupt:
    ...     print("stopped")
    still here, having seen [2]
    stopped
    """
    arrived = _Arrived()
    if threading.current_thread() is not threading.main_thread():
        yield arrived
        return
    usual = {n: signal.getsignal(n) for n in ASK_TO_STOP if _can_be_deferred(n)}
    failed = False
    try:
        with blocked():  # so that all handlers are changed or none is
            for number in usual:
                signal.signal(number, arrived)
        yield arrived
    except (Exception, GeneratorExit):  # the latter where a generator yields within the block
        failed = True
        raise
    finally:
        with blocked():
            for number, handler in usual.items():
                signal.signal(number, handler)
        if arrived and not failed:
            signal.raise_signal(max(arrived))  # SIGTERM, if both came


class _Arrived(list[int]):
    """A list of the signals that have arrived, and the handler that appends them."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.append(int(number))


def _can_be_deferred(number: int) -> bool:
    handler = signal.getsignal(number)
    if number in _elsewhere or handler in (None, signal.SIG_IGN):
        return False  # Python can't put a handler back that it did not set
    if handler == signal.SIG_DFL:
        return not _is_caught_outside_python(number)
    ours = handler is _terminate or isinstance(handler, _Arrived)
    return ours or number not in _USERS_OWN


def _is_caught_outside_python(number: int) -> bool:
    """Return whether C code handles the signal, as faulthandler does; only Linux can tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


@contextmanager
def blocked(signals: Collection[signal.Signals] = ASK_TO_STOP) -> Iterator[None]:
    """Have signals wait until the block has ended, and for good in a process that it starts."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
