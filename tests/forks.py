"""Commands in forks of one process that has imported JAX, since most of a short run is imports.

A fork runs a module or a script as `python` does, and ends as a process does: it can be killed,
fill a disk, print. The process that is forked has used no device, and so has none of JAX's threads.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

from jax._src import xla_bridge

import lottery_jax

ROOT = Path(__file__).parent.parent
SECONDS = 300


class Result(NamedTuple):
    """What a command leaves: its exit status, what it wrote, the processor time it took."""

    returncode: int
    stdout: str
    stderr: str
    cpu_seconds: float


class ForkServer:
    """A process with an environment, which forks itself for each command."""

    def __init__(self, env):
        self._folder = tempfile.TemporaryDirectory(prefix="forks_")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"],
            cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(self, arguments, cwd, more):
        """Runs `python ARGUMENTS...` with more environment variables, to its end."""
        outputs = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        request = [list(map(str, arguments)), str(cwd), more, *map(str, outputs)]
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status, used = json.loads(self._process.stdout.readline())
        return Result(status, *(file.read_text(errors="replace") for file in outputs), used)

    def close(self):
        self._process.communicate(timeout=10)
        self._folder.cleanup()


_servers = {}


def run(command, env, cwd, **more):
    """Runs a command of Python to its end, in a fork of a process with that environment.

    JAX and Python read their variables when they start, which is before the fork. What differs
    from command to command, and is read later, goes into `more`.
    """
    assert command[0] == sys.executable
    env = {name: value for name, value in env.items() if name != "PYTEST_CURRENT_TEST"}
    key = frozenset(env.items())
    if key not in _servers:
        _servers[key] = ForkServer(env)
    return _servers[key].run(command[1:], cwd, more)


def close():
    """Ends the processes that are forked."""
    while _servers:
        _servers.popitem()[1].close()


def _become(arguments, cwd, more, stdout, stderr):
    """Runs the command in this process, a fork, up to where Python ends."""
    signal.alarm(SECONDS)
    os.chdir(cwd)
    os.environ.update(more)
    for number, file in enumerate((os.devnull, stdout, stderr)):
        opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    if arguments[0] == "-m":
        sys.path[0], sys.argv = cwd, arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = str(Path(arguments[0]).parent), arguments
        runpy.run_path(arguments[0], run_name="__main__")


def _exit(status):
    """End this process as Python does, without taking all modules apart, which takes 0.25 s.

    It returns if what was printed can't be written: Python then says so.
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return
    os._exit(status)


def main():
    # What commands import, but for the modules that are commands themselves.
    for name in ("matplotlib.pyplot", "sklearn.datasets"):
        importlib.import_module(name)
    for name in {*lottery_jax.__all__} - {"evaluate_ticket"}:
        getattr(lottery_jax, name)
    assert not xla_bridge.backends_are_initialized(), "JAX has threads, which a fork would lack"
    gc.collect()
    gc.freeze()  # or each fork looks for garbage in all that was imported, and copies it

    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                _become(*request)
            except SystemExit as end:
                if end.code is None or isinstance(end.code, int):
                    _exit(end.code or 0)
                raise
            return
        _, status, used = os.wait4(pid, 0)
        answer = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
