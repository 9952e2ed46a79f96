"""Results do not depend on what is around a run: hash seed, locale, time zone, folder, devices, JAX."""

import jax
import pytest
from rich.console import Console

from lottery_jax import run_ladder, tickets
from tests.faults import runs
from tests.helpers import make_tiny_config

SMALL = {
    "seeds": "0",
    "train.epochs": "2",
    "ladder.levels": "1",
    "controls": "random,shuffle_layers",
}


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return runs.undisturbed(tmp_path_factory.mktemp("usual"), SMALL)


def at_length(**around):
    return pytest.param(around, marks=pytest.mark.long)


@pytest.mark.long
@pytest.mark.parametrize(
    "around",
    [
        at_length(PYTHONHASHSEED="1", TZ="Pacific/Chatham"),
        at_length(PYTHONHASHSEED="2", TZ="America/St_Johns", LC_ALL="C.UTF-8"),
        # No UTF-8 anywhere: what is not ASCII can't be printed as it is.
        at_length(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0"),
        at_length(PYTHONIOENCODING="latin-1", LC_ALL="POSIX", PYTHONUTF8="0"),
        {
            "JAX_DEFAULT_PRNG_IMPL": "rbg",
            "JAX_THREEFRY_PARTITIONABLE": "0",
            "JAX_RANDOM_SEED_OFFSET": "7",
            "JAX_ENABLE_X64": "1",
            "JAX_NUMPY_DTYPE_PROMOTION": "strict",
            "JAX_NUMPY_RANK_PROMOTION": "raise",
        },
        at_length(OMP_NUM_THREADS="1", COLUMNS="40", PYTHONDONTWRITEBYTECODE="1"),
    ],
    ids=lambda around: "-".join(around),
)
def test_what_is_around_does_not_matter(tmp_path, usual, around):
    """Nor does the working directory, here one with blanks, and where there are any other letters."""
    expected, env = usual
    cwd = tmp_path / ("a dir, plain" if around.get("PYTHONUTF8") == "0" else "a dir, Größe")
    cwd.mkdir()
    done = runs.run(runs.command("run", SMALL), {**env, **around}, cwd)
    assert (done.returncode, done.stderr) == (0, "")
    assert runs.outcome(cwd / "run") == expected


@pytest.mark.long
def test_the_order_of_devices_does_not_matter(tmp_path):
    """Of eight: masks and counts are the same, weights and rows to the bit."""
    devices = jax.devices()
    assert len(devices) == 8
    found = []
    for name, order in (
        ("one", devices),
        ("other", devices[::-1]),
        ("third", devices[3:] + devices[:3]),
    ):
        rows = run_ladder(
            make_tiny_config(**{"controls": ("random",)}), tmp_path / name, devices=order,
            console=Console(quiet=True),
        )  # fmt: skip
        hashes = {
            str(file.parent.relative_to(tmp_path / name)): tickets.load_ticket(
                file.parent
            ).metadata["sha256"]
            for file in sorted((tmp_path / name).rglob("metadata.json"))
        }
        for part in hashes.values():
            part.pop("metadata", None)  # has times in it
        found.append((hashes, [{**row, "seconds": 0} for row in rows]))
    assert found[0] == found[1] == found[2]
