"""How much memory there is: what can't fit is refused before any of it is taken."""

from __future__ import annotations

import math
import os


def of_this_machine() -> float:
    """Bytes of physical memory; infinite where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf


def in_words(size: float) -> str:
    """A number of bytes for a message.

    >>> in_words(2_345_678_900_000)
    '2,345.7 GB'
    """
    return f"{size / 1e9:,.1f} GB"
