"""The memory, cores and devices of this machine, so that what can't fit is refused early."""

from __future__ import annotations

import math
import os
import platform
from collections import Counter
from typing import TYPE_CHECKING

from lottery_jax.errors import EnvironmentFault

if TYPE_CHECKING:  # `devices` imports it when it is called
    import jax


def memory() -> float:
    """Return the bytes of physical memory; infinity where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf


def cores() -> list[int]:
    """Return the numbers of the processor's cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def devices() -> list[jax.Device]:
    """Return all devices that JAX computes on, of all processes.

    A command that needs a device calls this before it judges a file.

    Raises:
        EnvironmentFault: JAX can't be used, for example because JAX_PLATFORMS names a platform that
            this machine does not have.
    """
    import jax

    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise no_device(error) from error


def description() -> dict[str, str]:
    """Return this machine in words, for the record of a run; its name and its user are not in it."""
    found = Counter(f"{device.platform}: {device.device_kind}" for device in devices())
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(len(cores())),
        "memory": f"{memory() / 2**30:.0f} GiB",
        "devices": ", ".join(f"{count} of {kind}" for kind, count in sorted(found.items())),
    }


def is_no_device(error: Exception) -> bool:
    """Return whether an error of JAX means that it has no device to compute on."""
    # For a platform that needs another jaxlib it raises an AssertionError without a text.
    return isinstance(error, AssertionError) or "Unable to initialize backend" in str(error)


def no_device(error: Exception) -> EnvironmentFault:
    """Return the error for the user where JAX finds no device, with what to do."""
    named = os.environ.get("JAX_PLATFORMS")
    said = f" ({error})" if str(error).strip() else ""
    todo = f"JAX_PLATFORMS is {named!r}: unset it or set cpu" if named else "set JAX_PLATFORMS=cpu"
    return EnvironmentFault(f"JAX can't be used: it finds no device to compute on{said}; {todo}")


def in_words(size: float) -> str:
    """Return a number of bytes as text for a message.

    >>> in_words(2_345_678_900_000)
    '2,345.7 GB'
    """
    return f"{size / 1e9:,.1f} GB"
