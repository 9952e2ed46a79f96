"""What this machine has: memory, so that what can't fit is refused before any is taken, and cores."""

from __future__ import annotations

import math
import os


def memory() -> float:
    """Bytes of physical memory; infinite where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf


def cores() -> list[int]:
    """The numbers of the processor's cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def in_words(size: float) -> str:
    """A number of bytes for a message.

    >>> in_words(2_345_678_900_000)
    '2,345.7 GB'
    """
    return f"{size / 1e9:,.1f} GB"
