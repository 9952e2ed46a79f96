"""A heap that the process keeps, so that large arrays take memory which was used before.

XLA on CPU allocates the memory of a program's temporary arrays for each step and gives it back.
With glibc's defaults, allocations of that size come from the system and return to it: in each step
the system clears hundreds of megabytes, page by page. docs/performance.md has measurements.
"""

from __future__ import annotations

import ctypes
import glob
import os
import sys
from pathlib import Path

from lottery_jax.system import host

# Set to 0, it has the commands leave the heap as it is; set to 1, keep it beside an accelerator too.
SWITCH = "LOTTERY_JAX_KEEP_HEAP"

# Devices of NVIDIA, of AMD, of Windows' Linux and of Google, as Linux names them.
_ACCELERATORS = (
    "/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg", "/dev/accel[0-9]*", "/dev/vfio/[0-9]*",
)  # fmt: skip

# mallopt's parameters, from glibc's malloc.h, and madvise's advice, from Linux's mman.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_HUGE_PAGES = 14
_PADDING = 64 * 2**20  # bytes


def keep_heap() -> bool:
    """Have glibc keep freed memory, take all of it from one heap, and ask for huge pages there.

    This is a setting of the whole process, and so for a program and not for a library: the resident
    size of the process stays at its peak. Call it before JAX is imported: a thread that has taken
    memory has a heap of its own.

    Returns:
        Whether it was done: not if `LOTTERY_JAX_KEEP_HEAP=0`, not on systems without glibc, not if
        the user has set one of glibc's variables for that or loads another allocator, and beside
        an accelerator, whose arrays are elsewhere, only if `LOTTERY_JAX_KEEP_HEAP=1`.
    """
    tuned = (
        "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
        or "malloc" in os.environ.get("LD_PRELOAD", "")
        or any(name.startswith("MALLOC_") for name in os.environ)
    )
    wanted = os.environ.get(SWITCH, "0" if _has_accelerator() else "1") == "1"
    if tuned or not wanted or sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not (hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt")):
        return False  # another allocator, as on Alpine
    settings = {_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: _PADDING}
    done = all(library.mallopt(name, value) for name, value in settings.items())
    if done and not _is_charged_for_addresses():
        _ask_for_huge_pages(library, int(min(host.memory(), 2**40)) // 2)
    return done


def _has_accelerator() -> bool:
    """Return whether JAX may find an accelerator; to ask JAX would start its threads."""
    return os.environ.get("JAX_PLATFORMS") != "cpu" and any(map(glob.glob, _ACCELERATORS))


def _is_charged_for_addresses() -> bool:
    """Return whether Linux counts memory as taken before it is written to, or does not say."""
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text(encoding="ascii").strip() == "2"
    except OSError:
        return True


def _ask_for_huge_pages(library: ctypes.CDLL, size: int) -> None:
    """Extend the heap by `size` bytes of addresses, with huge pages where they will be used.

    The addresses take no memory until they are written to.
    """
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = library.malloc(size)
    if start:  # None where the system limits addresses
        page = os.sysconf("SC_PAGESIZE")
        first = -(-start // page) * page
        library.madvise(first, start + size - first, _HUGE_PAGES)
        library.free(start)
