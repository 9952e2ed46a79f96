"""Commands of the package in forks of one process that has imported JAX: most of a start is imports.

A fork runs a command's module as `python -m` does, and ends as a process does. The process that is
forked has used no device, and so has none of JAX's threads.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from jax._src import xla_bridge

import lottery_jax
from tests.helpers import ROOT

SECONDS = 120


class Result(NamedTuple):
    """What a command leaves: its exit status, what it wrote, the processor time it took."""

    returncode: int
    stdout: str
    stderr: str
    cpu_seconds: float


class ForkServer:
    """The process that is forked; `run` is `subprocess.run` of a command of the package."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        """Starts it with an environment; what commands write goes through files in `folder`."""
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"],
            cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(self, module: str, arguments: list[str], cwd: Path, env: dict[str, str]) -> Result:
        """Runs `python -m lottery_jax.MODULE ARGUMENTS...` with more environment variables."""
        outputs = [self._folder / name for name in ("stdout", "stderr")]
        request = [module, list(arguments), str(cwd), env, *map(str, outputs)]
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status, used = json.loads(self._process.stdout.readline())
        return Result(status, *(file.read_text() for file in outputs), used)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate(timeout=10)
        assert self._process.returncode == 0


def _become(module, arguments, cwd, env, stdout, stderr):
    """Runs the command in this process, a fork, up to where Python ends."""
    signal.alarm(SECONDS)
    os.chdir(cwd)
    os.environ.update(env)
    for number, file in enumerate((os.devnull, stdout, stderr)):
        opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    sys.path[0] = cwd
    sys.argv = [module, *arguments]
    runpy.run_module(f"lottery_jax.{module}", run_name="__main__", alter_sys=True)


def main():
    # What commands import, but for the modules that are commands themselves.
    importlib.import_module("sklearn.datasets")
    for name in {*lottery_jax.__all__} - {"evaluate_ticket"}:
        getattr(lottery_jax, name)
    assert not xla_bridge.backends_are_initialized(), "JAX has threads, which a fork would lack"
    gc.collect()
    gc.freeze()  # or each fork looks for garbage in all that was imported, and copies it

    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(*request)
            return
        _, status, used = os.wait4(pid, 0)
        answer = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
