"""The run directory: what lies where, and which trials are complete."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lottery_jax import tickets
from lottery_jax.curve import ACCURACY, CURVE_COLUMNS, WINNING, metric_of
from lottery_jax.pruning.controls import ALIGNED
from lottery_jax.runs import metrics
from lottery_jax.system import locks
from lottery_jax.system.files import remove, temporary_in

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training of a run: the winning ticket of a seed and level, or a control of it."""

    workdir: Path
    seed: int
    level: int
    control: str  # curve.WINNING for the winning ticket itself

    @property
    def ticket_dir(self) -> Path:
        """The directory of the trained ticket."""
        name = "ticket" if self.control == WINNING else self.control
        return level_dir(self.workdir, self.seed, self.level) / name

    @property
    def checkpoint_dir(self) -> Path:
        """The directory of the trial's checkpoints, until it is complete."""
        return level_dir(self.workdir, self.seed, self.level) / "state" / self.control

    @property
    def is_complete(self) -> bool:
        """Whether the trained ticket was saved to the end, as the disk of this process says."""
        return tickets.is_complete(self.ticket_dir)

    def __str__(self) -> str:
        return f"seed {self.seed}, level {self.level}, {self.control}"


def level_dir(workdir: Path, seed: int, level: int) -> Path:
    """Return the directory of one level of one seed."""
    return workdir / f"seed_{seed}" / f"level_{level:02d}"


def rewind_dir(workdir: Path, seed: int, control: str = WINNING) -> Path:
    """Return the directory of a seed's state at the rewind point, or of another initialisation's."""
    name = "rewind" if control == WINNING else f"rewind_{control}"
    return workdir / f"seed_{seed}" / name


def list_trials(config: ConfigDict, workdir: Path) -> list[Trial]:
    """Return all trials of a run, in the order in which they are trained."""
    return [
        Trial(workdir, seed, level, control)
        for seed in config.seeds
        for level in range(config.ladder.levels + 1)
        for control in (WINNING, *_controls_at(config, level))
    ]


def _controls_at(config: ConfigDict, level: int) -> tuple[str, ...]:
    """Return the controls of a level; at level 0 the dense training that `aligned` needs."""
    if level == 0:
        return (ALIGNED,) if ALIGNED in config.controls else ()
    return tuple(config.controls) if level in (config.control_levels or (level,)) else ()


def is_finished(workdir: Path, config: ConfigDict) -> bool:
    """Return whether every trial of a run is complete."""
    return all(trial.is_complete for trial in list_trials(config, workdir))


def leftovers(config: ConfigDict, workdir: Path) -> list[Path]:
    """Return what killed processes left and nothing needs.

    That is a lock that nobody holds, unfinished files, and checkpoints of complete trials.
    """
    levels: dict[Path, list[Trial]] = {}
    for trial in list_trials(config, workdir):
        levels.setdefault(trial.checkpoint_dir.parent, []).append(trial)
    found = [workdir / locks.NAME, *temporary_in(workdir)]
    for folder, trials in levels.items():
        complete = [trial.checkpoint_dir for trial in trials if trial.is_complete]
        found += [folder] if len(complete) == len(trials) else complete
    return [path for path in found if path.exists()]


def tidy(config: ConfigDict, workdir: Path) -> None:
    """Remove the `leftovers`, but for the lock: the caller holds it."""
    for path in leftovers(config, workdir):
        if path.name != locks.NAME:
            remove(path)


def curve_rows(config: ConfigDict, workdir: Path) -> list[Row]:
    """Return the rows of curve.csv, one for each complete trial, from the metadata of tickets."""
    rows = []
    for trial in list_trials(config, workdir):
        if trial.is_complete:
            metadata = tickets.read_metadata(trial.ticket_dir)
            row = {key: metadata[key] for key in CURVE_COLUMNS if key in metadata}
            rows.append({**row, **metadata["result"]})
    return rows


def write_curve(config: ConfigDict, workdir: Path) -> list[Row]:
    """Write curve.csv anew, and return its rows."""
    rows = curve_rows(config, workdir)
    metric = metric_of(rows[0]) if rows else ACCURACY
    metrics.write_curve_rows(workdir / "curve.csv", rows, metric)
    return rows
