"""On PYTHONPATH: the run whose directory CRASH_RUN names crashes when a ticket is kept, CRASHES times.

Of each time a file beside the directory tells.
"""

import os
import sys
from pathlib import Path


def _crash(run, times, event, arguments):
    if (
        event == "os.mkdir"
        and f"{run}/seed_" in str(arguments[0])
        and ".ticket" in str(arguments[0])
    ):
        for i in range(times):
            marker = Path(f"{run}.crashed_{i}")
            if not marker.exists():
                marker.touch()
                raise RuntimeError("a crash on purpose")


if (_run := os.environ.get("CRASH_RUN")) and f"--workdir={_run}" in sys.orig_argv:
    _times = int(os.environ["CRASHES"])
    sys.addaudithook(lambda event, arguments: _crash(_run, _times, event, arguments))
