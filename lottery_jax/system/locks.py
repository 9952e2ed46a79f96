"""One process at a time in a run directory.

The lock is the operating system's (`flock`), which a process that dies gives back, however it
died; the file that it is on says who holds it. Where a file system has no locks, the file alone
decides: it is taken over if its process was on this machine and is gone. Two that come in the same
instant can then both take it.
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

from lottery_jax.errors import ConfigError
from lottery_jax.system.files import is_alive

NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds `folder`, which is made if it is not there, while the block runs.

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
        # While it is still ours: whoever opened it meanwhile notices that it is gone.
        with contextlib.suppress(OSError):  # the next one to come takes it over
            file.unlink()
        os.close(handle)


def holder(folder: Path) -> dict[str, Any] | None:
    """Who holds `folder`: `host`, `pid` and `since`; None if nobody does.

    It is asked without waiting. Of a process on another machine, where the file system has no
    locks, the file is believed.

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
    except OSError:  # nobody does, or whoever does is another user
        return None
    try:
        owner = _owner(handle)
        # The lock itself is tried only if its owner seems to be there, so that it is free for one
        # who is about to take it.
        if not owner or (owner["host"] == socket.gethostname() and not is_alive(owner["pid"])):
            return None
        return None if _try_lock(handle) else owner
    finally:
        os.close(handle)


def _acquire(file: Path) -> int:
    """An open handle of the lock's file, with the lock."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            free = _try_lock(handle)
            owner = _owner(handle)
            if free is None:  # no locks here
                free = not owner or (
                    owner["host"] == socket.gethostname() and not is_alive(owner["pid"])
                )
            if not free:
                raise ConfigError(_refusal(file, owner))
            if _is_still(file, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its last owner removed it between our opening and locking it


def _try_lock(handle: int) -> bool | None:
    """Whether the lock is ours now; None where there are no locks."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows
        return None
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno in (
            errno.ENOSYS,
            errno.ENOLCK,
            errno.EOPNOTSUPP,
            errno.ENOTSUP,
            errno.EINVAL,
        ):
            return None
        raise
    return True


def _is_still(file: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _owner(handle: int) -> dict[str, Any]:
    """Who wrote the file last; empty if nobody did, or was killed while writing it."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        owner = json.loads(os.read(handle, 4096))
        return {"host": str(owner["host"]), "pid": int(owner["pid"]), "since": str(owner["since"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _refusal(file: Path, owner: dict[str, Any]) -> str:
    who = "process {pid} on {host} (since {since})".format(**owner) if owner else "another process"
    return (
        f"{file.parent}: is in use by {who}; wait for it or choose another --workdir (if that "
        f"process is gone, remove {file})"
    )
