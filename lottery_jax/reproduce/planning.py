"""Which runs claims need, where they lie, and what they cost. Claims share runs.

WORKDIR/runs/NAME_FINGERPRINT   run directories, which any number of claims and scales share;
                                their analysis/KIND.json has the rows of an analysis
WORKDIR/SCALE/                  claims.json, claims.md and claims.png
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from lottery_jax.config import fingerprint
from lottery_jax.curve import WINNING
from lottery_jax.errors import ConfigError
from lottery_jax.reproduce.claim import Claim
from lottery_jax.reproduce.protocols import PROTOCOLS, protocol
from lottery_jax.runs.directory import list_trials
from lottery_jax.sweep.grid import PlannedRun

# One image of one epoch of LeNet-300-100 on one core, in seconds, as measured at batch 128.
_LENET_S = 3.3e-5
SHUFFLED = "shuffle_layers"
_IMAGES = {"digits": 1437, "fashion_mnist": 60_000, "cifar10": 50_000, "svhn": 73_257}


def plan(
    claims: Iterable[Claim], scale: str, seeds: tuple[int, ...], workdir: Path
) -> dict[str, PlannedRun]:
    """Return the runs that claims need, by name, each after its source.

    Two names whose configs must give the same results share one run directory.

    Args:
        claims: the claims.
        scale: a key of `protocols.SCALES`.
        seeds: empty: those of the scale.
        workdir: where everything lies; absolute.

    Raises:
        ConfigError: as `protocols.protocol`.
    """
    names = dict.fromkeys(name for claim in claims for name in claim.runs)
    with_sources = {each: None for name in names for each in (PROTOCOLS[name].source, name) if each}
    return {name: _plan_run(name, scale, seeds, workdir) for name in with_sources}


def _plan_run(name: str, scale: str, seeds: tuple[int, ...], workdir: Path) -> PlannedRun:
    config, source = protocol(name, scale, seeds), PROTOCOLS[name].source
    if not source:
        key = fingerprint(config)
        first = next(n for n, other in _fingerprints(scale, seeds).items() if other == key)
        return PlannedRun(f"{first}_{key[:8]}", config)
    after = _plan_run(source, scale, seeds, workdir).name
    with config.unlocked():
        config.source = after  # so that the directory's name does not depend on where it lies
        key = fingerprint(config)
        config.source = str(workdir / "runs" / after)
    return PlannedRun(f"{name}_{key[:8]}", config, (after,))


@functools.cache
def _fingerprints(scale: str, seeds: tuple[int, ...]) -> dict[str, str]:
    found = {}
    for name in PROTOCOLS:
        with contextlib.suppress(ConfigError):
            found[name] = fingerprint(protocol(name, scale, seeds))
    return found


def distinct(runs: Iterable[PlannedRun]) -> tuple[PlannedRun, ...]:
    """Return the runs without those that share the directory of an earlier one."""
    return tuple({run.name: run for run in runs}.values())


def count_trainings(config: ConfigDict) -> int:
    """Return the number of trainings of a run."""
    return len(list_trials(config, Path()))


def stability_choice(config: ConfigDict) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the levels and controls of a run that claims compare in two orders of the data."""
    if SHUFFLED in config.controls:
        return (0, *config.control_levels), (SHUFFLED,)
    return (config.ladder.levels,), ()


def count_branch_trainings(config: ConfigDict) -> int:
    """Return the number of trainings in the other order of the data that `stability` needs."""
    levels, controls = stability_choice(config)
    return sum(
        trial.level in levels and trial.control in (WINNING, *controls)
        for trial in list_trials(config, Path())
    )


def core_seconds(config: ConfigDict, analyses: Collection[str] = ()) -> float | None:
    """Estimate the time of a run on one CPU core; None for networks that were not measured.

    Args:
        config: of the run.
        analyses: those that are made of it; the trainings of `stability` are counted.
    """
    if config.model.name != "lenet_300_100":
        return None
    base, _, part = config.data.name.partition("_1of")
    base, half = (base[:-2], 2) if base.endswith(("_a", "_b")) else (base, 1)
    images = _IMAGES[base] / int(part or 1) / half
    pixels = 64 if base == "digits" and not config.data.input_shape else 784
    # Small networks wait for their steps rather than for their products.
    size = 0.5 + 0.5 * config.model.width**2 * (pixels / 784)
    steps = 0.5 + 0.5 * 128 / config.train.batch_size
    trainings = count_trainings(config)
    trainings += count_branch_trainings(config) if "stability" in analyses else 0
    return trainings * config.train.epochs * images * _LENET_S * size * steps


def claims_core_seconds(
    claims: Collection[Claim], planned: Mapping[str, PlannedRun]
) -> float | None:
    """Estimate the time on one core of planned runs and of what claims train for their analyses."""
    needed: dict[str, tuple[ConfigDict, set[str]]] = {}
    for name, run in planned.items():
        _, kinds = needed.setdefault(run.name, (run.config, set()))
        kinds |= {kind for claim in claims for kind, of in claim.analyses if of == name}
    costs = [core_seconds(config, kinds) for config, kinds in needed.values()]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def in_time(seconds: float | None) -> str:
    """Return a time on one core in words.

    >>> in_time(90.0), in_time(7200.0), in_time(None)
    ('2 min', '2.0 h', 'not measured')
    """
    if seconds is None:
        return "not measured"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(1.0, seconds / 60):.0f} min"
