"""What a program that runs ladders sets for its whole process, before JAX computes anything."""

from __future__ import annotations

import os
from pathlib import Path

import jax
from ml_collections import ConfigDict

from lottery_jax.models import FULLY_CONNECTED
from lottery_jax.parallel.replicates import cpu_devices
from lottery_jax.system import host, program_cache


def set_up_process(config: ConfigDict, *, writes: bool = True) -> None:
    """Set what JAX leaves to a program and not to a library.

    Compiled programs are kept for the next run in a directory of the user's own, unless the user
    has named one, or `writes` is False. Where replicates of a small network train together, each
    CPU core is a device, unless the user has said how many there are.
    """
    program_cache.mend_when_read(lambda: jax.config.values["jax_compilation_cache_dir"])
    asked_for = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not asked_for and "JAX_NUM_CPU_DEVICES" not in os.environ:
        devices = cpu_devices(
            len(config.seeds),
            len(host.cores()),
            fully_connected=config.model.name in FULLY_CONNECTED,
            max_stacked=config.train.together,
        )
        jax.config.update("jax_num_cpu_devices", devices)
    if not writes:
        jax.config.update("jax_enable_compilation_cache", False)
    elif not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        try:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            cache = base / "lottery_jax" / "xla"
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # a read-only directory; a user without a home
            return  # compile each time
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        # A small network is dozens of programs that compile in a tenth of a second each.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
