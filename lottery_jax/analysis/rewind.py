"""The earliest rewind step from which tickets are stable and match the dense network.

Frankle, Dziugaite, Roy & Carbin (ICML 2020) find that a ticket matches the dense network exactly if
it is stable to the order of the data. The search takes it that what is stable at one step is so at
later ones, and halves the list of steps with each probe. A probe is a ladder of its own, rewound to
its step, and a branch of it in another order.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console

from lottery_jax.analysis import interpolation
from lottery_jax.analysis.levels import MATCHING, matches, measured_error
from lottery_jax.analysis.opening import make_console, open_run
from lottery_jax.analysis.stability import check_branches, stability
from lottery_jax.curve import WINNING
from lottery_jax.errors import ConfigError
from lottery_jax.runs.directory import Row, Trial
from lottery_jax.runs.experiment import set_up
from lottery_jax.runs.ladder import run_ladder
from lottery_jax.runs.parts import NOTHING_GIVEN, Parts
from lottery_jax.system.files import local_path, write_text

STABLE = 0.02  # a barrier below 2 points of error


@dataclasses.dataclass(frozen=True)
class RewindSearch:
    """The result of a search.

    Attributes:
        step: the earliest step that was found; None if no step of the list will do.
        rows: one for each probe, by step.
    """

    step: int | None
    rows: list[Row]

    @property
    def config_line(self) -> str:
        """The line of a config file that sets the step; a comment if there is none."""
        if self.step is None:
            return f"# no rewind step up to {max(row['step'] for row in self.rows)} will do"
        return f"config.ladder.rewind = {rewind_value(self.step)!r}"


def rewind_value(step: int) -> str | int:
    """Return the value of `config.ladder.rewind` for a step.

    >>> rewind_value(500), rewind_value(0)
    ('500st', 0)
    """
    return f"{step}st" if step else 0


def rewind(
    run: str | Path | ConfigDict,
    *,
    level: int,
    steps: Sequence[int] = (),
    workdir: str | Path | None = None,
    stable_below: float = STABLE,
    within: float | None = MATCHING,
    orders: int = 1,
    alphas: int = 30,
    console: Console | None = None,
    given: Parts = NOTHING_GIVEN,
) -> RewindSearch:
    """Search for the earliest rewind step at which the tickets of a level are stable and match.

    Args:
        run: a run, whose config is used with other rewind steps; or a config.
        level: the level whose tickets are looked at.
        steps: the steps to choose from; default: 0, and from an eighth of an epoch on each twice
            the one before, up to half of the training.
        workdir: where the probes are, each in `level_LEVEL/STEPst`; default: `analysis/rewind` in
            the run.
        stable_below: a ticket is stable if the mean barrier over seeds and orders is below this.
        within: a ticket matches if its mean error over seeds is at most this above the dense
            network's; None: it need not match.
        orders: the number of other orders.
        alphas: the number of networks on each line.
        console: where progress is shown; default: the terminal.
        given: the objects that the run was given in place of those that its config names.

    Raises:
        ConfigError: the run is a transfer or can't be branched, or the level or a step is none of
            its ladder. Nothing is trained then.
    """
    console = make_console(console)
    if isinstance(run, ConfigDict):
        if workdir is None:
            raise ConfigError("workdir: name a directory for the probes of a config")
        name, config = "rewind", run
    else:
        folder, config = open_run(run)
        name, workdir = str(folder), workdir or folder / "analysis" / "rewind"
    if config.source:
        raise ConfigError(
            "rewind: a transfer run has the rewind point of its source; name that one"
        )
    if level < 1:
        raise ConfigError(f"level: {level} is the dense network; name a level from 1 on")
    check_branches(name, config, orders)
    interpolation.line(alphas)  # raises where there is no line
    chosen = _choose_steps(config, steps, level, given)
    probes_dir = local_path(workdir) / f"level_{level:02d}"
    probes: dict[int, Row] = {}
    low, high = 0, len(chosen)  # whatever is before `low` fails, whatever is from `high` on will do
    while low < high:
        middle = (low + high) // 2
        step = chosen[middle]
        row: Row = {"step": step, "level": level}
        row |= _probe(
            _probe_config(config, step, level),
            probes_dir / f"{step}st",
            orders,
            alphas,
            console,
            given,
        )
        row["stable"] = row["barrier"] < stable_below
        row["matches"] = within is None or matches(row["gap"], 0.0, within)
        probes[step] = row
        will_do = row["stable"] and row["matches"]
        console.print(
            f"rewind step {step}: barrier {row['barrier']:.2%}, error above the dense network's "
            f"{row['gap']:+.2%}: {'' if row['stable'] else 'not '}stable, "
            f"{'' if row['matches'] else 'not '}matching",
            markup=False, highlight=False,
        )  # fmt: skip
        low, high = (low, middle) if will_do else (middle + 1, high)
    found = chosen[low] if low < len(chosen) else None
    search = RewindSearch(found, [probes[step] for step in sorted(probes)])
    write_text(probes_dir / "rewind.txt", f"{search.config_line}\n")
    return search


def _choose_steps(config: ConfigDict, steps: Sequence[int], level: int, given: Parts) -> list[int]:
    """Return the steps to choose from, after setting up the probe of the last one as a check."""
    if min(steps, default=0) < 0:
        raise ConfigError(f"steps: {min(steps)} is not 0 or more")
    experiment = set_up(_probe_config(config, max(steps, default=0), level), given=given)
    if (levels := experiment.config.ladder.levels) < level:
        raise ConfigError(
            f"level: {level} is beyond the {levels} levels of config.ladder.sparsities; name one of "
            "them"
        )
    if steps:
        return sorted(set(steps))
    last = experiment.end_step // 2
    chosen, step = [0], max(1, experiment.program.steps_per_epoch // 8)
    while step <= last:
        chosen.append(step)
        step *= 2
    return chosen


def _probe_config(config: ConfigDict, step: int, level: int) -> ConfigDict:
    """Return the config of a ladder to a level with a rewind step, without controls."""
    probe = config.copy_and_resolve_references()
    with probe.unlocked(), probe.ignore_type():  # a step is text or 0
        probe.ladder.rewind = rewind_value(step)
        probe.ladder.levels = level
        probe.controls = probe.control_levels = ()
    return probe


def _probe(
    probe: ConfigDict, workdir: Path, orders: int, alphas: int, console: Console, given: Parts
) -> Row:
    """Run a probe's ladder, and a branch of it; return what is found at its last level."""
    level = probe.ladder.levels
    run_ladder(probe, workdir, console=console, **given._asdict())
    rows = stability(
        workdir, levels=(level,), orders=orders, alphas=alphas, console=console, given=given
    )
    gaps = [
        measured_error(Trial(workdir, seed, level, WINNING))
        - measured_error(Trial(workdir, seed, 0, WINNING))
        for seed in probe.seeds
    ]
    barriers = [row["barrier"] for row in rows]
    return {
        "density": statistics.fmean(row["density"] for row in rows),
        "seeds": len(gaps),
        "barrier": statistics.fmean(barriers),
        "barrier_std": statistics.stdev(barriers) if len(barriers) > 1 else 0.0,
        "gap": statistics.fmean(gaps),
        "gap_std": statistics.stdev(gaps) if len(gaps) > 1 else 0.0,
    }
