"""Checks of all runs of a sweep, before any of them starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from lottery_jax.config import fingerprint
from lottery_jax.errors import LotteryError
from lottery_jax.runs import matrix, record
from lottery_jax.runs.dry_run import missing_data
from lottery_jax.runs.experiment import set_up
from lottery_jax.runs.transfer import check_fits, resolve
from lottery_jax.sweep.grid import Plan, PlannedRun


def check(plan: Plan, workdir: Path, *, writes: bool = True) -> list[str]:
    """Check every run as the run itself will, as far as its source exists.

    Data, network and optimizer are set up once for runs that differ in their seeds only. They are
    set up on the CPU: this process must not take memory of a GPU from the jobs.

    Args:
        plan: the runs of the sweep.
        workdir: the sweep's directory.
        writes: whether data sets may be fetched and converted; if not, runs whose data are not
            here are checked in part.

    Returns:
        A line for each data set that is not here, with the runs that need it.

    Raises:
        ConfigError, DataError: one line that names the run.
    """
    jax.config.update("jax_platforms", "cpu")
    notes = {} if writes else _missing_data(plan)
    for name, config in plan.matrices.items():
        in_matrix = {
            str(cell.relative_to(workdir)) for _, cell, _ in matrix.cells(config, workdir / name)
        }
        if not (workdir / name / "config.json").is_file() and not in_matrix & notes.keys():
            matrix.check_cells(config)
    seen: set[str] = set()
    by_name = {run.name: run for run in plan.runs}
    for run in plan.runs:
        try:
            for source in run.after:
                check_fits(run.config, by_name[source].config, source)
            if (workdir / run.name / "config.json").is_file():
                record.check_workdir(workdir / run.name, resolve(run.config), other_versions=True)
            elif (key := _fingerprint_without_seeds(run)) not in seen:
                seen.add(key)
                if run.name not in notes:
                    set_up(_without_missing_source(run), jax.devices()[:1])
        except LotteryError as error:
            raise type(error)(f"{run.name}: {error}") from error
    lines = dict.fromkeys(notes.values())
    return [f"{_names([n for n in notes if notes[n] == line])}: {line}" for line in lines]


def _names(runs: Sequence[str]) -> str:
    """Return the names of runs as text, or of many how many there are.

    >>> _names(["seeds=0"]), _names(["seeds=0", "seeds=1", "seeds=2"])
    ('seeds=0', '3 runs, the first of them seeds=0')
    """
    return runs[0] if len(runs) == 1 else f"{len(runs)} runs, the first of them {runs[0]}"


def _missing_data(plan: Plan) -> dict[str, str]:
    """Return a line about data that are not here, for each run that needs them."""
    lines = {}
    for run in plan.runs:
        try:
            if line := missing_data(run.config):
                lines[run.name] = line
        except LotteryError as error:
            raise type(error)(f"{run.name}: {error}") from error
    return lines


def record_matrices(plan: Plan, workdir: Path) -> None:
    """Write config.json into the directory of each matrix, as `matrix.run_matrix` does."""
    for name, config in plan.matrices.items():
        folder = workdir / name
        record.check_workdir(folder, config, other_versions=True)
        record.record_config(folder, config)


def _fingerprint_without_seeds(run: PlannedRun) -> str:
    config = _without_missing_source(run)
    config.seeds = (0,)
    return fingerprint(config)


def _without_missing_source(run: PlannedRun) -> ConfigDict:
    """Return a copy of the run's config, without a source that the sweep has yet to make."""
    config = run.config.copy_and_resolve_references().unlock()
    if run.after:
        config.source = ""
    return config
