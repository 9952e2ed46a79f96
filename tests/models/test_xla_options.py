"""No compiler switch of ours may end a user's process, whatever the version of jaxlib is."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lottery_jax.models import xla_options
from lottery_jax.models.xla_options import compiler_options

SCRIPT = Path(__file__).parent.parent / "compile_everything.py"


def compile_all(*arguments):
    """Compile in another process, since a failed check within the compiler ends its process."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent)},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-300:]}\n{done.stderr[-2000:]}"
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_every_kind_of_program_compiles_with_the_switches_that_users_get():
    last = compile_all("--small")
    assert "all compiled" in last
    assert last.endswith(", ".join(compiler_options("cpu")) or "none")


@pytest.mark.long
def test_every_network_compiles_with_the_switches_that_users_get():
    assert "all compiled" in compile_all()


@pytest.fixture
def other_jaxlib(monkeypatch):
    monkeypatch.setattr(xla_options, "TESTED_JAXLIB", frozenset({"0.0.1"}))
    xla_options.is_tested.cache_clear()
    yield
    xla_options.is_tested.cache_clear()


def test_a_jaxlib_that_was_not_tested_gets_no_switch(other_jaxlib):
    assert compiler_options("cpu") == compiler_options("cpu", run_once=True) == {}


@pytest.fixture
def this_jaxlib(monkeypatch):
    monkeypatch.setattr(xla_options, "TESTED_JAXLIB", frozenset({jax.lib.__version__}))
    xla_options.is_tested.cache_clear()
    yield
    xla_options.is_tested.cache_clear()


def test_barriers_hold_until_operations_are_fused(this_jaxlib):
    function = jax.jit(
        lambda x: jax.lax.optimization_barrier(x * 2) + 1, compiler_options=compiler_options("cpu")
    )
    assert "opt-barrier" in function.lower(jnp.ones(4)).compile().as_text()


def test_the_options_leave_alone_what_the_user_chose(this_jaxlib, monkeypatch):
    first, second = compiler_options("cpu")
    monkeypatch.setenv("XLA_FLAGS", f"--{first}=LIBRARY_FUSION_TYPE_REDUCE")
    assert set(compiler_options("cpu")) == {second}
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=false")
    assert compiler_options("gpu") == {}
