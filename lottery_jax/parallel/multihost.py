"""Several processes that run one program: JAX's multi-controller runtime.

Every process runs the same code over the same devices. Only the primary process, number 0, touches
the disk: `broadcast_from_primary` reads there and gives the result to all, `run_on_primary` writes
there, and both raise the primary's error on all. With one process these are plain calls.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, ParamSpec, TypeVar

import jax
import numpy as np
from flax import serialization
from jax.experimental import multihost_utils

from lottery_jax.errors import (
    ConfigError,
    DataError,
    EnvironmentFault,
    LotteryError,
    TicketError,
    TrainingError,
    one_line,
)
from lottery_jax.system import host
from lottery_jax.system.signals import Terminated, defer_signals, handled_elsewhere, not_ignored

T = TypeVar("T")
P = ParamSpec("P")

# The exit status after the loss of another process: sysexits.h's EX_TEMPFAIL, try again.
OTHERS_ARE_GONE = 75
_CHUNK = 1 << 26  # bytes that are sent at once
# Seconds without a sign of life after which a process counts as lost, and seconds between checks.
HEARTBEAT, WATCH = 20, 2

_KNOWN = {
    e.__name__: e for e in (ConfigError, DataError, EnvironmentFault, TicketError, TrainingError)
}
_looks = itertools.count()
_ending, _left = threading.Event(), threading.Event()
_watchers: list[threading.Thread] = []


def start(coordinator: str | None, count: int | None, index: int | None) -> None:
    """Join the other processes, before any other call of JAX.

    What is None is found from the environment, as a TPU slice, SLURM, Open MPI or Kubernetes set it
    up.

    Args:
        coordinator: `host:port` of the primary process.
        count: how many processes there are.
        index: which one this is, from 0.

    Raises:
        ConfigError: the others can't be found or reached.
        EnvironmentFault: JAX finds no device here.
    """
    # While this process waits for the others it has nothing to save, and Python runs no handlers.
    asking = not_ignored()
    for number in asking:
        signal.signal(number, signal.SIG_DFL)
    # Without this JAX would abort the process when another one is lost.
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(coordinator, count, index, heartbeat_timeout_seconds=HEARTBEAT)
        devices = jax.devices()  # of all processes; waits until all have come
    except (ValueError, RuntimeError, AssertionError) as error:
        if host.is_no_device(error):
            raise host.no_device(error) from error
        raise ConfigError(
            f"--distributed: the processes of this run don't come together ({one_line(error)}); give "
            "--coordinator=HOST:PORT, --processes=N and --process=I to each"
        ) from error
    # The runtime has replaced SIGTERM's handler by one of its own, which tells all processes. The
    # other signals are passed on as SIGTERM.
    handled_elsewhere(signal.SIGTERM)
    for number in asking:
        if number != signal.SIGTERM:
            signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    if is_multiprocess():
        _watchers.append(threading.Thread(target=_watch, args=(devices,), daemon=True))
        _watchers[-1].start()


def is_primary() -> bool:
    """Return whether this is the process that reads and writes files: number 0, or the only one."""
    return not is_multiprocess() or jax.process_index() == 0


def is_multiprocess() -> bool:
    """Return whether there is more than one process, without asking a device."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def broadcast_from_primary(action: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run `action` on the primary process; return its result, or raise its error, on all processes.

    Args:
        action: returns a tree of dicts with names as keys, lists, numbers, text, None and NumPy
            arrays.
        *args: its arguments.
        **kwargs: its arguments by name.
    """
    if not is_multiprocess():
        return action(*args, **kwargs)
    result: list[T] = []

    def packed() -> bytes:
        result.append(action(*args, **kwargs))
        return serialization.msgpack_serialize({"result": result[0], "failure": None})

    sent, failure = _attempt(packed) if is_primary() else (None, None)
    if failure is not None:
        described = {"kind": type(failure).__name__, "says": str(failure)}
        sent = serialization.msgpack_serialize({"result": None, "failure": described})
    received = serialization.msgpack_restore(_broadcast(sent or b""))
    if received["failure"] is not None and received["failure"]["kind"] != "TrainingError":
        _ending.set()  # all are about to end, one sooner than the other
    if failure is not None:
        raise failure
    if received["failure"] is not None:
        error = _KNOWN.get(received["failure"]["kind"], LotteryError)(received["failure"]["says"])
        error.reported = True
        raise error
    return result[0] if result else received["result"]


def on_primary(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function with `broadcast_from_primary`; its result is as there."""

    @functools.wraps(function)
    def broadcast(*args: P.args, **kwargs: P.kwargs) -> T:
        return broadcast_from_primary(function, *args, **kwargs)

    return broadcast


def run_on_primary(action: Callable[..., object], *args: Any, **kwargs: Any) -> None:
    """Run `action` on the primary process alone; raise its error on all processes."""
    broadcast_from_primary(_without_result, action, args, kwargs)


def _without_result(
    action: Callable[..., object], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    action(*args, **kwargs)


def run_on_all(action: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run `action` on each process; if it raises on one, raise an error on all."""
    if not is_multiprocess():
        return action(*args, **kwargs)
    result, failure = _attempt(functools.partial(action, *args, **kwargs))
    failed = multihost_utils.process_allgather(np.array(failure is not None))
    if not failed.any():
        return result  # type: ignore[return-value]
    _ending.set()
    if failure is not None:
        raise failure
    error = LotteryError(f"process {int(np.argmax(failed))} failed")
    error.reported = True
    raise error


def assert_equal_across_processes(value: str, what: str) -> None:
    """Check that all processes have the same value.

    Args:
        value: a hash, or another text that has the same length everywhere.
        what: its name, for the message.

    Raises:
        DataError: they differ; names a process.
    """
    if not is_multiprocess():
        return
    all_of_them = multihost_utils.process_allgather(np.frombuffer(value.encode(), np.uint8))
    differ = [i for i, other in enumerate(all_of_them) if not np.array_equal(other, all_of_them[0])]
    if differ:
        raise DataError(f"{what} of process {differ[0]} differ from those of process 0")


@contextmanager
def preemption_guard() -> Iterator[Callable[[], bool]]:
    """Defer signals that ask to stop, and yield the function that says whether one has arrived.

    All processes must call that function at the same points, where they get the same answer. With
    one process the signal is raised at the end of the block; with several, the block calls `stop`.
    """
    if jax.distributed.is_initialized():
        yield lambda: multihost_utils.reached_preemption_sync_point(next(_looks))
    else:
        with defer_signals() as arrived:
            yield lambda: bool(arrived)


def stop() -> NoReturn:
    """Leave a `preemption_guard` that was asked to stop."""
    _ending.set()
    raise Terminated if jax.distributed.is_initialized() else KeyboardInterrupt


def finish() -> None:
    """Wait for the other processes at the end of a run that went well.

    The primary process, to which all are connected, waits until they have left. The others stop
    watching before they leave: a thread that is within the runtime when Python ends would abort the
    process.
    """
    if is_multiprocess():
        multihost_utils.sync_global_devices("finished")
        _ending.set()
        if is_primary():
            _left.wait(timeout=HEARTBEAT)
        for watcher in _watchers:
            watcher.join(timeout=HEARTBEAT)
            if watcher.is_alive():
                leave(0)


def ending() -> None:
    """Say that this process is about to end: that another one ends is no loss any more."""
    _ending.set()


def leave(status: int) -> NoReturn:
    """End the process with an exit status, without waiting for other processes."""
    _ending.set()
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        if is_primary() and is_multiprocess() and status != OTHERS_ARE_GONE:
            _left.wait(timeout=WATCH)  # what was sent may still be on its way
        os._exit(status)
    sys.exit(status)


def is_loss(error: Exception) -> bool:
    """Return whether an error comes from the loss of another process."""
    signs = ("gloo", "nccl", "unavailable", "connection reset", "socket closed", "coordination")
    return is_multiprocess() and any(sign in str(error).lower() for sign in signs)


def leave_after_loss(error: Exception) -> NoReturn:
    """End the process after the loss of another one."""
    print(
        f"error: another process of this run has ended or can't be reached ({one_line(error, 200)}); "
        "what was completed is kept: start all of them again to resume",
        file=sys.stderr,
    )
    leave(OTHERS_ARE_GONE)


def _attempt(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return action(), None
    except Exception as error:
        return None, error


def _broadcast(packed: bytes) -> bytes:
    """Return the primary process's bytes on all processes."""
    size = np.array(divmod(len(packed), _CHUNK), np.int32)
    whole, rest = map(int, multihost_utils.broadcast_one_to_all(size))
    # Chunks of one size, then a power of two: few shapes, so few programs are compiled.
    received = bytearray()
    for length in [_CHUNK] * whole + [1 << max(rest - 1, 1).bit_length()]:
        piece = np.zeros(length, np.uint8)
        own = packed[len(received) : len(received) + length]
        piece[: len(own)] = np.frombuffer(own, np.uint8)
        received += np.asarray(multihost_utils.broadcast_one_to_all(piece)).tobytes()
    return bytes(received[: whole * _CHUNK + rest])


def _watch(devices: list[jax.Device]) -> None:
    """End this process when another one is lost: what it waits for will never come."""
    while is_primary() or not _ending.is_set():
        try:
            with multihost_utils.live_devices(devices):
                time.sleep(0.1 if _ending.is_set() else WATCH)
        except Exception as error:
            if _ending.wait(1):
                _left.set()
                return
            leave_after_loss(error)
