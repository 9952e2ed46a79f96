"""A lock on a directory: one process at a time, and others can see which.

The lock is the operating system's, on a file that says who holds it; a process that dies releases
it, however it died. On a file system without locks the file alone decides: it is taken over if its
process was on this machine and is gone. Two processes that start in the same instant can then both
take it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from lottery_jax.errors import ConfigError
from lottery_jax.system.files import is_alive

NAME = ".lock"
_NO_LOCKS_HERE = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock on `folder`, which is made if it is not there, while the block runs.

    Raises:
        ConfigError: another process holds it; names its host and process number.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with locked(folder):
    ...     (folder / NAME).is_file()
    True
    >>> (folder / NAME).exists()
    False
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / NAME
    handle = _acquire(file)
    try:
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%F %T %z"),
        }
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps(owner).encode())
        yield
    finally:
        # The file goes while the lock is still held; whoever has opened it notices that it is gone.
        with contextlib.suppress(OSError):  # the next process takes it over
            file.unlink()
        os.close(handle)


def holder(folder: Path) -> dict[str, Any] | None:
    """Return the `host`, `pid` and `since` of the process that holds `folder`, or None; don't wait.

    On a file system without locks the file is believed if its process is on another machine.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with locked(folder):
    ...     holder(folder)["pid"] == os.getpid()
    True
    >>> holder(folder) is None
    True
    """
    try:
        handle = os.open(folder / NAME, os.O_RDWR)
    except OSError:  # nobody holds it, or a process of another user
        return None
    try:
        owner = _owner(handle)
        # The lock is tried only if its owner seems to be there: a process that is about to take it
        # must find it free.
        return None if _is_gone(owner) or _try_lock(handle) else owner
    finally:
        os.close(handle)


def _acquire(file: Path) -> int:
    """Return an open handle of the lock's file that has the lock."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            free, owner = _try_lock(handle), _owner(handle)
            if not (_is_gone(owner) if free is None else free):
                raise ConfigError(_refusal(file, owner))
            if _is_still(file, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its last owner removed it between our opening and locking it


def _try_lock(handle: int) -> bool | None:
    """Return whether the lock is ours now; None where there are no locks."""
    if os.name == "nt":  # a lock there would keep others from reading who holds it
        return None
    try:
        return lock_descriptor(handle, blocking=False)
    except OSError as error:
        if error.errno in _NO_LOCKS_HERE:
            return None
        raise


def _is_still(file: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _owner(handle: int) -> dict[str, Any]:
    """Return who wrote the file last; empty if nobody did, or was killed while writing it."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        owner = json.loads(os.read(handle, 4096))
        return {"host": str(owner["host"]), "pid": int(owner["pid"]), "since": str(owner["since"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _is_gone(owner: dict[str, Any]) -> bool:
    """Return whether the owner is known to hold nothing: nobody, or a dead process of this machine."""
    return not owner or (owner["host"] == socket.gethostname() and not is_alive(owner["pid"]))


def _refusal(file: Path, owner: dict[str, Any]) -> str:
    who = "process {pid} on {host} (since {since})".format(**owner) if owner else "another process"
    return (
        f"{file.parent}: is in use by {who}; wait for it or choose another --workdir (if that "
        f"process is gone, remove {file})"
    )
