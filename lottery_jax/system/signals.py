"""Signals that ask a run to stop: Ctrl-C, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2. It saves first.

A closed terminal sends SIGHUP; batch systems send SIGUSR1 or SIGUSR2 before they take a machine
away.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
ASK_TO_STOP = tuple(
    signal.Signals[name] for name in _NAMES if hasattr(signal, name)
)  # on Windows 2
# Signals that mean nothing by themselves.
_USERS_OWN = tuple(number for number in ASK_TO_STOP if number.name.startswith("SIGUSR"))
_EXTENSION_SET_UP = {
    ExtensionFileLoader.create_module.__code__,
    ExtensionFileLoader.exec_module.__code__,
}
_elsewhere: set[int] = set()  # handlers are a process's, and so is this


class Terminated(KeyboardInterrupt):
    """A signal other than Ctrl-C that asks to stop, such as schedulers' SIGTERM.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.number = number


def exit_status(interrupt: KeyboardInterrupt) -> int:
    """128 and the signal's number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (interrupt.number if isinstance(interrupt, Terminated) else signal.SIGINT)


def raise_when_asked_to_stop(*, hangup: bool = True) -> None:
    """From now on the signals raise `Terminated` in the main thread, as Ctrl-C does its own.

    One that is ignored, such as SIGHUP under nohup, stays ignored, but for SIGTERM. Without
    `hangup` SIGHUP, of a closed terminal, is left as it is.
    """
    for number in not_ignored():
        if hangup or number.name != "SIGHUP":
            signal.signal(number, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    if _can_not_be_raised(frame):  # asked again in a moment, when that is over
        threading.Timer(0.02, os.kill, (os.getpid(), number)).start()
        return
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number != signal.SIGTERM:  # a closed terminal may say so twice; SIGTERM hurries
        signal.signal(number, signal.SIG_IGN)
    raise Terminated(number)


def _can_not_be_raised(frame: FrameType | None) -> bool:
    """Whether an error that is raised here would be dropped, or would end the process without a word.

    Python drops it in a destructor and while it collects garbage: JAX has a callback for that, in
    which a signal often arrives while modules are imported. A module written in C can crash if its
    set-up is cut short, or turns the error into one of its own.
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
    """The signals that a program may handle: SIGTERM, and those that whoever started it let through."""
    return [
        number
        for number in ASK_TO_STOP
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN
    ]


def handled_elsewhere(number: int) -> None:
    """From now on `defer_signals` leaves a signal alone: it has a handler that Python does not know of."""
    _elsewhere.add(number)


@contextmanager
def defer_signals() -> Iterator[list[int]]:
    """Puts signals that ask to stop off until the block has ended; then they have their usual effect.

    Gives the list of those that have arrived, for a block that can end early. An error of the
    block's own goes before them. A signal that is ignored stays ignored, and SIGUSR1 or SIGUSR2
    with a handler of the user's own, who alone knows what it means, goes to that handler at once.
    In other threads than the main one, where signals never arrive, nothing is changed.

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
    usual = {n: signal.getsignal(n) for n in ASK_TO_STOP if _can_be_put_off(n)}
    failed = False
    try:
        with _blocked():
            for number in usual:
                signal.signal(number, arrived)
        yield arrived
    except (Exception, GeneratorExit):  # the latter where a generator yields within the block
        failed = True
        raise
    finally:
        with _blocked():
            for number, handler in usual.items():
                signal.signal(number, handler)
        if arrived and not failed:
            signal.raise_signal(max(arrived))  # SIGTERM, if both came


class _Arrived(list[int]):
    """Signals that have arrived; a handler that notes them."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.append(int(number))


def _can_be_put_off(number: int) -> bool:
    handler = signal.getsignal(number)
    if number in _elsewhere or handler in (None, signal.SIG_IGN):
        return False  # a handler that was not set from Python can't be put back
    if handler == signal.SIG_DFL:
        return not _is_caught_outside_python(number)
    ours = handler is _terminate or isinstance(handler, _Arrived)
    return ours or number not in _USERS_OWN


def _is_caught_outside_python(number: int) -> bool:
    """Whether there is a handler that Python does not know of, as faulthandler's; asked on Linux."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


@contextmanager
def _blocked() -> Iterator[None]:
    """Has signals wait while their handlers are changed, so that all are or none is."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASK_TO_STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
