"""How programs are compiled: what makes XLA's CPU backend fast, for our own programs alone."""

from __future__ import annotations

import functools
import os

import jax
import jax.numpy as jnp

# docs/performance.md has what each is worth.
_ON_CPU = {
    # Matrix products and reductions by YNNPACK, as is XLA's default, but not convolutions.
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    ),
    # Optimization barriers hold until operations are fused: what several matrix products read is
    # then computed once, and not once for each of them.
    "xla_disable_hlo_passes": "cse_barrier_expander",
}


# Fewer of LLVM's passes: half the time to compile, for what takes longer to compile than to run.
_RUN_ONCE_ON_CPU = {"xla_backend_optimization_level": "1"}


def compiler_options(platform: str, *, run_once: bool = False) -> dict[str, str]:
    """The `compiler_options` of `jax.jit` for a platform such as `cpu`, `gpu` or `tpu`.

    `run_once` is for programs that take longer to compile than to run, such as an initialisation.
    An option that the user has set in `XLA_FLAGS`, or that the installed XLA does not know, is left
    out: they change how long a program takes, and results by no more than rounding.

    >>> compiler_options("tpu")
    {}
    """
    if platform != "cpu":
        return {}
    chosen = os.environ.get("XLA_FLAGS", "")
    options = _ON_CPU | (_RUN_ONCE_ON_CPU if run_once else {})
    return {k: v for k, v in options.items() if k not in chosen and _is_known(k, v)}


@functools.cache
def _is_known(option: str, value: str) -> bool:
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.default_device(cpu):
        try:
            jax.jit(jnp.negative, compiler_options={option: value}).lower(0.0).compile()
        except jax.errors.JaxRuntimeError:
            return False
    return True
