"""Compiler options that make XLA's CPU backend fast, passed to programs of this package only.

An option that is safe in one version of XLA can end the process in another: a failed check within
the compiler is not a Python exception. So options are passed only to versions of jaxlib for which
`tests/compile_everything.py` has compiled every kind of program; other versions get XLA's
defaults. docs/performance.md says what that costs.
"""

from __future__ import annotations

import functools
import os
import platform as machine
from importlib.metadata import version

# On 64-bit x86; `python tests/compile_everything.py --with_switches` tests whether to add a version.
TESTED_JAXLIB = frozenset({"0.10.0", "0.10.1", "0.10.2", "0.12.0", "0.12.0.1"})

_ON_CPU = {
    # YNNPACK computes matrix products and reductions, as by default, but not convolutions.
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    ),
    # Without the first pass, optimization barriers hold until operations are fused: an array that
    # several matrix products read is computed once, not once for each. The second pass makes one
    # kernel of a small loop, with an emitter that aborts the process on a barrier.
    "xla_disable_hlo_passes": "cse_barrier_expander,small-while-loop-hoisting",
}


# Fewer of LLVM's passes halve the time to compile a program that runs once.
_RUN_ONCE_ON_CPU = {"xla_backend_optimization_level": "1"}


def compiler_options(platform: str, *, run_once: bool = False) -> dict[str, str]:
    """Return the `compiler_options` of `jax.jit` for a platform such as `cpu`, `gpu` or `tpu`.

    They change the speed of a program, and its results by no more than rounding. An option that
    the user has set in `XLA_FLAGS` is left out. A jaxlib that was not tested gets none.

    Args:
        platform: the platform for which a program is compiled.
        run_once: whether the program takes longer to compile than to run, as an initialisation
            does.

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
    """Return whether the installed jaxlib was tested with the options, on this kind of machine."""
    return version("jaxlib") in TESTED_JAXLIB and machine.machine() in ("x86_64", "AMD64")
