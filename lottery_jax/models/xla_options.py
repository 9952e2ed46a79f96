"""How programs are compiled: what makes XLA's CPU backend fast, for our own programs alone.

A switch that is safe in one version of XLA can end the process in another one: a failed check
within the compiler is no Python exception. So switches are passed only to versions of jaxlib for
which `tests/compile_everything.py` has compiled every kind of program; all others get XLA's own
choices. docs/performance.md says what that costs.
"""

from __future__ import annotations

import functools
import os
import platform as machine
from importlib.metadata import version

# On 64-bit x86; `python tests/compile_everything.py --with_switches` says if a version may be added.
TESTED_JAXLIB = frozenset({"0.10.0", "0.10.1", "0.10.2", "0.12.0", "0.12.0.1"})

_ON_CPU = {
    # Matrix products and reductions by YNNPACK, as is XLA's default, but not convolutions.
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    ),
    # Optimization barriers hold until operations are fused: what several matrix products read is
    # then computed once, and not once for each of them. The second pass makes one kernel of a
    # small loop, with an emitter that aborts the process on a barrier.
    "xla_disable_hlo_passes": "cse_barrier_expander,small-while-loop-hoisting",
}


# Fewer of LLVM's passes: half the time to compile, for what takes longer to compile than to run.
_RUN_ONCE_ON_CPU = {"xla_backend_optimization_level": "1"}


def compiler_options(platform: str, *, run_once: bool = False) -> dict[str, str]:
    """Return the `compiler_options` of `jax.jit` for a platform such as `cpu`, `gpu` or `tpu`.

    They change how long a program takes, and results by no more than rounding. An option that the
    user has set in `XLA_FLAGS` is left out; a jaxlib that was not tested gets none.

    Args:
        platform: for which a program is compiled.
        run_once: for a program that takes longer to compile than to run, such as an initialisation.

    >>> compiler_options("tpu")
    {}
    """
    if platform != "cpu" or not is_tested():
        return {}
    chosen = os.environ.get("XLA_FLAGS", "")
    options = _ON_CPU | (_RUN_ONCE_ON_CPU if run_once else {})
    return {k: v for k, v in options.items() if k not in chosen}


@functools.cache
def is_tested() -> bool:
    """Return whether every kind of program was compiled with the switches by the installed jaxlib."""
    return version("jaxlib") in TESTED_JAXLIB and machine.machine() in ("x86_64", "AMD64")
