"""What this machine has: memory, so that what can't fit is refused before any is taken, cores, devices."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from lottery_jax.errors import EnvironmentFault

if TYPE_CHECKING:  # imported when it is asked for devices
    import jax


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


def devices() -> list[jax.Device]:
    """All devices that JAX computes on, of all processes.

    A command that needs one asks before it judges a file.

    Raises:
        EnvironmentFault: JAX can't be used, such as where JAX_PLATFORMS names what is not here.
    """
    import jax

    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise no_device(error) from error


def is_no_device(error: Exception) -> bool:
    """Whether JAX says with an error that it has no device to compute on."""
    # Of a platform that needs another jaxlib it says so without a word.
    return isinstance(error, AssertionError) or "Unable to initialize backend" in str(error)


def no_device(error: Exception) -> EnvironmentFault:
    """What JAX raises where it finds no device, and what to do."""
    named = os.environ.get("JAX_PLATFORMS")
    said = f" ({error})" if str(error).strip() else ""
    todo = f"JAX_PLATFORMS is {named!r}: unset it or set cpu" if named else "set JAX_PLATFORMS=cpu"
    return EnvironmentFault(f"JAX can't be used: it finds no device to compute on{said}; {todo}")


def in_words(size: float) -> str:
    """A number of bytes for a message.

    >>> in_words(2_345_678_900_000)
    '2,345.7 GB'
    """
    return f"{size / 1e9:,.1f} GB"
