"""Eight fake CPU devices, and small configs that train in seconds."""

import os

# Programs here run for milliseconds and take seconds to compile, so optimise them less. (Not at
# level 0, where XLA's CPU code was seen to compute wrong sums on several devices.)
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
)

# Nobody reads from which lines of Python an operation came; to note them takes a twentieth of the time.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"

import ctypes
import gc
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

# Many tests train the same network: it is compiled once, as for a user's second run, in whichever of
# pytest's processes. The first one makes the directory, and the others inherit its name.
_OWN = "LOTTERY_JAX_TESTS_CACHE" not in os.environ
_CACHE = os.environ.get("LOTTERY_JAX_TESTS_CACHE") or tempfile.mkdtemp(prefix="lottery_jax_tests_")
os.environ["LOTTERY_JAX_TESTS_CACHE"] = _CACHE

MUCH = 800 * 2**20  # bytes of a process; no file compiles as much again

# A file is run by one process: those that take longest come first, the very longest before all.
_LONGEST = (
    "test_notebooks",
    "test_streams",
    "test_stops",
    "test_disk",
    "test_kills",
    "test_replicates",
    "test_ladder",
    "test_mistakes",
    "test_draws",
    "test_parts",
    "test_transfer",
    "test_models",
    "test_loop",
    "test_layers",
    "test_strangers",
    "test_sweep",
    "test_main",
    "test_pytorch",
    "test_store",
)


def pytest_configure(config):
    """Set up signals, JAX and hypothesis where tests run: not in the process that only hands them out."""
    if config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput"):
        return
    # A script's background jobs ignore Ctrl-C, and so would all they start; tests raise it on purpose.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import hypothesis
    import jax

    jax.config.update("jax_compilation_cache_dir", _CACHE)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # These machines are noisy: no deadlines. The same examples each time, so that red is red again.
    hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
    hypothesis.settings.load_profile("repeatable")
    # Tracing makes many small objects that live for long, and seldom garbage.
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def shared_programs():
    """Let runs of this process share the compiled steps that they would each make alike.

    `make_program` is a function of its arguments, and a config's optimizer one of few keys; so what
    was made of equal ones serves again, as it does for the seeds of one run.
    """
    from lottery_jax.runs import experiment, parts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "make_optimizer", shared_optimizer(parts.make_optimizer))
        patch.setattr(experiment, "make_program", shared_program(experiment.make_program))
        yield


def shared_optimizer(make):
    from lottery_jax.training import optim

    made = {}

    def shared(config, steps_per_epoch, given):
        keys = config.optimizer
        functions = optim.OPTIMIZERS.get(keys.name), optim.SCHEDULES.get(keys.schedule)
        if given.optimizer is not None or None in functions:
            return make(config, steps_per_epoch, given)
        key = functions, keys.to_json(), config.train.epochs, steps_per_epoch
        if key not in made:
            made[key] = make(config, steps_per_epoch, given)
        return made[key]

    return shared


def shared_program(make):
    made = {}

    def shared(*args, **options):
        key = args, tuple(options.items())
        try:
            hash(key)
        except TypeError:
            return make(*args, **options)
        if key not in made:
            made[key] = make(*args, **options)
        return made[key]

    return shared


@pytest.fixture
def tiny_config():
    from tests.helpers import make_tiny_config

    return make_tiny_config


@pytest.fixture
def one_device():
    """The first of the fake devices, for tests that need not be sharded."""
    import jax

    return jax.devices()[:1]


@pytest.fixture
def sole_device(monkeypatch, one_device):
    """The first of the fake devices, which is all that a test finds."""
    import jax

    monkeypatch.setattr(jax, "devices", lambda: one_device)
    return one_device


@pytest.fixture(scope="module")
def alone():
    """One of the fake devices is all there is, for runs as for the analyses that follow them."""
    import jax

    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: first)
        yield


def pytest_collection_finish(session):
    """Leave what was imported out of every later search for garbage: it is never garbage."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config):
    if _OWN:
        shutil.rmtree(_CACHE, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Put first what takes longest, so that no process of pytest has it left at the end.

    A test with both marks, from its function and from its parameters, is long and not slow.
    """
    for item in items:
        if item.get_closest_marker("long"):
            item.own_markers = [mark for mark in item.own_markers if mark.name != "slow"]
    place = {name: i for i, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Free what files have compiled when it is much: the programs of all would fill gigabytes.

    Until then the next file need not trace the same small operations again.
    """
    yield
    import jax

    from tests import forks

    forks.close()
    if resident_bytes() > MUCH:
        jax.clear_caches()
        gc.collect()
        if sys.platform == "linux":  # what is freed goes back to the system
            ctypes.CDLL(None).malloc_trim(0)


def resident_bytes():
    """Return the memory that this process has now, or infinity where that is not known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("inf")
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def quiet():
    from rich.console import Console

    return Console(quiet=True)


def pytest_terminal_summary(terminalreporter):
    """What long tests have measured, beside their having passed: `record_property("measured", ...)`."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(
                    f"measured: {report.nodeid.rpartition('::')[2]}: {value}"
                )
