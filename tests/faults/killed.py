"""A command of lottery_jax that gets a signal just before something that it does to files.

    KILL_AT="os.rename *metadata.json 2" KILL_BELOW=folder python killed.py MODULE ARGUMENTS...

kills it before the second renaming, below the folder, of a path of that pattern; by SIGKILL, or by
the signal that KILL_BY names. KILL_COUNT names a file to which the number of such things is
written at the end, if it gets that far.
"""

import atexit
import fnmatch
import os
import runpy
import signal
import sys
import threading
from pathlib import Path

CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")


def watch(kinds, pattern, number, below, count_file):
    lock, seen = threading.Lock(), 0

    def path_of(event, arguments):
        path = arguments[0]
        if not isinstance(path, (str, bytes, os.PathLike)):
            return None  # an open file
        path = os.fspath(path)
        path = os.fsdecode(path)
        folder = {"os.remove": 1, "os.rmdir": 1, "os.mkdir": 2, "shutil.rmtree": 1}.get(event)
        if folder and isinstance(arguments[folder], int) and arguments[folder] >= 0:
            path = f"{Path(f'/proc/self/fd/{arguments[folder]}').readlink()}/{path}"
        return str(Path(path).absolute())

    def hook(event, arguments):
        nonlocal seen
        if event not in kinds:
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        path = path_of(event, arguments)
        if path is None or not path.startswith(below) or not fnmatch.fnmatch(path, pattern):
            return
        with lock:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.Signals[os.environ.get("KILL_BY", "SIGKILL")])

    def report():
        Path(count_file).write_text(str(seen))

    sys.addaudithook(hook)
    if count_file:
        atexit.register(report)


if __name__ == "__main__":
    kind, pattern, number = os.environ["KILL_AT"].split()
    watch(
        CHANGES if kind == "any" else (kind,), pattern, int(number),
        os.path.realpath(os.environ["KILL_BELOW"]), os.environ.get("KILL_COUNT"),
    )  # fmt: skip
    module, *sys.argv[1:] = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
