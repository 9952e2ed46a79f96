"""JAX's settings that can change a result: the program fixes some and records the others.

Such a setting reaches a program from outside: from an environment variable, from `XLA_FLAGS` or
from a notebook's `jax.config.update`. Two commands of one run may not compute under different ones.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import jax

# The implementation of all random keys of a run.
PRNG = "threefry2x32"

# Users may have a reason to change these, such as more precision on a GPU.
_RECORDED = (
    "jax_default_matmul_precision",
    "jax_disable_jit",
    "jax_disable_most_optimizations",
    "jax_exec_time_optimization_effort",
    "jax_optimization_level",
    "jax_use_shardy_partitioner",
)
_ENVIRONMENT = ("LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE", "TF_CUDNN_DETERMINISTIC")
# Flags of XLA that can change no result: the number of devices, and where files are written.
_HARMLESS = re.compile(r"--xla_(force_host_platform_device_count|dump_\w+|\w+_cache_dir)(=.*)?")


@contextlib.contextmanager
def fixed() -> Iterator[None]:
    """Compute in the block with the settings of this program: float32 and threefry keys.

    The user's settings for 64-bit numbers, for the kind and the offset of random keys, and for the
    promotion of dtypes and ranks have no effect in the block. It may decorate a function.

    >>> with jax.default_prng_impl("rbg"), fixed():
    ...     print(jax.random.key_impl(jax.random.key(0)))
    threefry2x32
    """
    offset = jax.config.values["jax_random_seed_offset"]
    with contextlib.ExitStack() as stack:
        for setting in (
            jax.enable_x64(False),
            jax.default_prng_impl(PRNG),
            jax.threefry_partitionable(True),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
        ):
            stack.enter_context(setting)
        stack.callback(jax.config.update, "jax_random_seed_offset", offset)
        jax.config.update("jax_random_seed_offset", 0)
        yield


def recorded() -> dict[str, str]:
    """Return, by name, the settings that are left to the user and can change a result.

    Flags of XLA are listed one by one; an environment variable that is not set is left out.
    """
    known = jax.config.values
    found = {
        name: str(getattr(jax.config, name, known[name])) for name in _RECORDED if name in known
    }
    found |= {name: os.environ[name] for name in _ENVIRONMENT if os.environ.get(name)}
    return found | _xla_flags(os.environ.get("XLA_FLAGS", "").strip())


def _xla_flags(text: str) -> dict[str, str]:
    if text and not text.startswith("-"):  # XLA takes such a text for the name of a file
        with contextlib.suppress(OSError, ValueError):
            text = Path(text).read_text(encoding="utf-8")
    flags = [flag for flag in text.split() if not _HARMLESS.fullmatch(flag)]
    return {name: value or "true" for name, _, value in (flag.partition("=") for flag in flags)}
