"""Load damaged tickets in a process of its own, so that a crash or a hang ends nothing else.

python -m tests.fuzz.worker SCRATCH LOADER:FIRST:LAST …
"""

import faulthandler
import random
import resource
import shutil
import sys
from pathlib import Path

from lottery_jax.errors import TicketError, one_line
from tests.fuzz import cases, fetched

LOADERS = cases.LOADERS | fetched.LOADERS
SECONDS = 20  # that a case may take; most take a fiftieth of one
MEMORY = 2**30  # that all cases together may take; the tickets have some kilobytes


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def limit_memory():
    """Limit memory to more than anything here needs, so that a request for more fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 8 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def snapshot(folder):
    """Return every path below a folder with its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = path.readlink()
        else:
            found[str(path)] = path.read_bytes() if path.is_file() else path.lstat().st_mode
    return found


def run(loader, name, number, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    damage = loader.damage(random.Random(f"{name} {number}"), folder)
    print(f"{name} {number}: {damage.says!a}", flush=True)
    before = snapshot(folder)
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        loaded = loader.load(damage.path)
    except TicketError as error:
        assert str(damage.path) in str(error), error
        one_line(error).encode()
        print(f"    {one_line(error, 300)}")
    else:
        assert not damage.refused
        loader.check(loaded, damage)
        print("    loaded")
    faulthandler.cancel_dump_traceback_later()
    assert snapshot(folder) == before


def main(scratch, *ranges):
    faulthandler.enable()
    sys.stdout.reconfigure(errors="backslashreplace")
    for i, text in enumerate(ranges):
        name, first, last = text.split(":")
        originals = scratch / name
        originals.mkdir()
        loader = LOADERS[name](originals)
        before = snapshot(originals)
        run(loader, name, -1, scratch / "case")  # the set-up of a first call is not a leak
        if i == 0:
            limit_memory()
            base = peak()
        for number in range(int(first), int(last)):
            run(loader, name, number, scratch / "case")
            assert peak() < base + MEMORY, "too much memory"
        assert snapshot(originals) == before
    print(f"peak above that of the beginning: {(peak() - base) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
