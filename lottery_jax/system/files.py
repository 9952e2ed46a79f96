"""Files that appear whole or not at all, and the paths that users give for them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from lottery_jax.errors import ConfigError
from lottery_jax.system.signals import defer_signals

# A single letter before a colon is a drive of Windows. `Path` has made one slash of two.
URL = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]+):/")


def local_path(place: str | os.PathLike[str], what: str = "") -> Path:
    """Return the path that a user names, with `~` expanded and `file://` removed.

    Args:
        place: the text that the user gave.
        what: the flag or the key whose value it is, for messages.

    Raises:
        ConfigError: it is a URL of another kind, or `~somebody` whom the system does not know.

    >>> local_path("file:///tmp/a%20run").as_posix(), local_path("runs/s3").as_posix()
    ('/tmp/a run', 'runs/s3')
    >>> local_path("gs://bucket/run", "--workdir")
    Traceback (most recent call last):
    lottery_jax.errors.ConfigError: --workdir: gs://bucket/run is a URL of gs; ...
    """
    text = os.fspath(place)
    said = f"{what}: {text}" if what else text
    if match := URL.match(text):
        url = urlsplit(text)
        if match["scheme"].lower() != "file" or url.netloc not in ("", "localhost"):
            raise ConfigError(
                f"{said} is a URL of {match['scheme']}; name a local path: mount what is there, or "
                "copy it (docs/reliability.md)"
            )
        return Path(url2pathname(url.path))
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{said}: {error}") from error


@contextmanager
def name_in_oserror(path: str | os.PathLike[str]) -> Iterator[None]:
    """Have an OSError in the block name `path`, whichever file it names itself.

    >>> with name_in_oserror("runs/curve.csv"):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    OSError: [Errno 28] No space left on device: 'runs/curve.csv'
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it to `path`.

    A reader, or a process started after a crash, sees the old file or the new one, never a part.

    >>> import pathlib, tempfile
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
    >>> with atomic_write(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text(), len(list(target.parent.iterdir()))
    ('whole', 1)
    """
    target = Path(path)
    with name_in_oserror(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        prefix = f".{target.name}.{_host()}-{os.getpid()}-"
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=prefix, suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            # mkstemp's files are private; the published file gets the permissions of open()'s.
            temporary.chmod(0o666 & ~_umask())
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
            sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty temporary directory beside `path`; on success sync it and rename it to `path`.

    A directory that was at `path` is moved aside first and removed last. So there is always one of
    the two, and the old one is put back if the new one can't take its place.
    """
    target = Path(path)
    with name_in_oserror(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{target.name}.{_host()}-{os.getpid()}-"
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix, suffix=".tmp"))
        old = temporary.with_name(f"{temporary.name[: -len('.tmp')]}-old.tmp")
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            _sync_tree(temporary)
            with defer_signals():
                if target.exists():
                    target.replace(old)
                try:
                    temporary.replace(target)
                except OSError:
                    if old.exists():
                        old.replace(target)
                    raise
            sync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to the disk, so that a power failure can't undo a rename."""
    with contextlib.suppress(OSError):  # some network file systems can't do that
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sync_tree(folder: Path) -> None:
    """Flush a folder and everything in it to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with (Path(parent) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))


# .TARGET.HOST-PID-RANDOM.tmp, as `atomic_write` names them
_TEMPORARY = re.compile(r"\..+\.[\w.]+-(?P<pid>\d+)-[a-z0-9_]{8}(-old)?\.tmp")


def is_temporary(path: Path) -> bool:
    """Return whether a path is an unfinished file of `atomic_write` or of Orbax.

    >>> names = (".a.csv.host-7-abcd1234.tmp", "b.orbax-checkpoint-tmp-1", ".c.tmp")
    >>> [is_temporary(Path(name)) for name in names]
    [True, True, False]
    """
    ours = _TEMPORARY.fullmatch(path.name) is not None
    return ours or ".orbax-checkpoint-tmp" in path.name


# Files that desktops, file systems, git and batch systems leave in any folder.
_CLUTTER = re.compile(
    r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|\.nfs.*|lost\+found|\.gitkeep|.*\.(log|out|err)"
)


def is_clutter(name: str) -> bool:
    """Return whether a file of that name is nobody's data, so that its folder counts as empty.

    >>> [is_clutter(name) for name in (".DS_Store", "._a.safetensors", "slurm-17.out", "a.csv")]
    [True, True, True, False]
    """
    return _CLUTTER.fullmatch(name) is not None


def temporary_in(folder: Path) -> list[Path]:
    """List the unfinished files and folders in a run directory that no other process is writing.

    They may be at any depth, but not in another run's directory.
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_temporary(path):
            found += [] if _is_anothers(path) else [path]
        elif path.is_dir() and not path.is_symlink() and not (path / "config.json").exists():
            found += temporary_in(path)
    return found


def _is_anothers(path: Path) -> bool:
    """Return whether another live process of this machine made a temporary file."""
    match = _TEMPORARY.fullmatch(path.name)
    if match is None or f".{_host()}-{match['pid']}-" not in path.name:
        return False
    return int(match["pid"]) != os.getpid() and is_alive(int(match["pid"]))


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Return whether a process of that number runs on this machine; True if that can't be found out."""
    if os.name == "nt":  # os.kill would end the process
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid > 0


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _host() -> str:
    return re.sub(r"[^\w.]", "_", socket.gethostname())


def _remove_abandoned(target: Path) -> None:
    """Remove the temporary files of `target` whose processes on this machine are gone.

    This is for folders that several users share, such as that of the data sets.
    """
    pattern = re.compile(rf"\.{re.escape(target.name)}\.{re.escape(_host())}-(\d+)-[\w-]+\.tmp")
    for path in target.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match and not is_alive(int(match[1])):
            with contextlib.suppress(OSError):  # it is another user's
                path.unlink()
