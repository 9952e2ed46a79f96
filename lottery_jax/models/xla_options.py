"""Compiler options of this package's programs: fast ones on CPU, repeatable ones on GPU.

They are passed to each program and change no other program of the process. On CPU, an option that
is safe in one version of XLA can end the process in another: a failed check within the compiler is
not a Python exception. So these options are passed only to versions of jaxlib for which
`tests/compile_everything.py` has compiled every kind of program; other versions get XLA's defaults.
docs/performance.md says what the options cost and gain.
"""

from __future__ import annotations

import functools
import os
import platform as machine
from importlib.metadata import version

# On 64-bit x86; `python tests/compile_everything.py --with_switches` tests whether to add a version.
TESTED_JAXLIB = frozenset({"0.10.0", "0.10.1", "0.10.2", "0.12.0", "0.12.0.1"})

_ON_CPU: dict[str, str | bool] = {
    # YNNPACK computes matrix products and reductions, as by default, but not convolutions.
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    ),
    # Without the first pass, optimization barriers hold until operations are fused: an array that
    # several matrix products read is computed once, not once for each. The second pass makes one
    # kernel of a small loop, with an emitter that aborts the process on a barrier.
    "xla_disable_hlo_passes": "cse_barrier_expander,small-while-loop-hoisting",
}


# By default XLA adds up the gradients of convolutions in an order that differs from run to run, and
# chooses their algorithms anew in each process: a resumed run would be another one.
_ON_GPU: dict[str, str | bool] = {"xla_gpu_deterministic_ops": True}  # the text "true" is refused

# Fewer of LLVM's passes halve the time to compile a program that runs once.
_RUN_ONCE_ON_CPU: dict[str, str | bool] = {"xla_backend_optimization_level": "1"}


def compiler_options(platform: str, *, run_once: bool = False) -> dict[str, str | bool]:
    """Return the `compiler_options` of `jax.jit` for a platform such as `cpu`, `gpu` or `tpu`.

    On CPU they change the speed of a program, and its results by no more than rounding; a jaxlib
    that was not tested gets none. On GPU the same program computes the same bits each time. An
    option that the user has set in `XLA_FLAGS` is left out.

    Args:
        platform: the platform for which a program is compiled.
        run_once: whether the program takes longer to compile than to run, as an initialisation
            does.

    >>> compiler_options("gpu"), compiler_options("tpu")
    ({'xla_gpu_deterministic_ops': True}, {})
    """
    options: dict[str, str | bool] = {}
    if platform == "gpu":
        options = _ON_GPU
    elif platform == "cpu" and is_tested():
        options = _ON_CPU | (_RUN_ONCE_ON_CPU if run_once else {})
    chosen = os.environ.get("XLA_FLAGS", "")
    return {k: v for k, v in options.items() if k not in chosen}


@functools.cache
def is_tested() -> bool:
    """Return whether the installed jaxlib was tested with the options, on this kind of machine."""
    return version("jaxlib") in TESTED_JAXLIB and machine.machine() in ("x86_64", "AMD64")
