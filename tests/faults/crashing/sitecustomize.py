"""On PYTHONPATH: the run whose directory CRASH_RUN names crashes once, when its first ticket is kept.

CRASH_RUN=folder; the file folder.crashed says that it has.
"""

import os
import sys
from pathlib import Path


def _crash_once(run, event, arguments):
    if (
        event == "os.mkdir"
        and f"{run}/seed_" in str(arguments[0])
        and ".ticket" in str(arguments[0])
    ):
        marker = Path(f"{run}.crashed")
        if not marker.exists():
            marker.touch()
            raise RuntimeError("a crash on purpose")


if (_run := os.environ.get("CRASH_RUN")) and f"--workdir={_run}" in sys.orig_argv:
    sys.addaudithook(lambda event, arguments: _crash_once(_run, event, arguments))
