"""The report of a sweep: one figure of its curves, figures of its matrices, a row for each run."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from lottery_jax.config import flatten
from lottery_jax.errors import ConfigError
from lottery_jax.report import write_report
from lottery_jax.runs import directory
from lottery_jax.sweep.grid import PlannedRun
from lottery_jax.sweep.plan import Sweep
from lottery_jax.sweep.states import RunStatus, current_config, progress
from lottery_jax.system.files import write_text

# Density and accuracy belong to the last complete level of the seed in that row.
_COLUMNS = (
    "state",
    "attempts",
    "trainings_done",
    "trainings",
    "seed",
    "level",
    "density",
    "test_accuracy",
    "seconds",
)


def write(sweep: Sweep, statuses: Mapping[str, RunStatus], out: Path | None = None) -> list[Path]:
    """Draw what there is of a sweep, and write a row for each run.

    Runs that differ in their seeds alone are one curve, with its spread.

    Args:
        sweep: the sweep.
        statuses: the status of each run, by name.
        out: the directory to write into; default: `report/` in the sweep's directory.

    Returns:
        The files: sweep.csv; the files of `report.write_report` for the runs that are no cells of a
        matrix; and those of each matrix, in a folder with the name of its directory.

    Raises:
        ConfigError: no run has a complete level yet.
    """
    out = out or sweep.workdir / "report"
    files = [out / "sweep.csv"]
    write_text(files[0], _rows(sweep, statuses))
    begun = [run for run in sweep.plan.runs if _has_level(sweep, run)]
    if not begun:
        raise ConfigError(f"{sweep.workdir}: no run of the sweep has a complete level yet")
    cells = {run.name for run in begun for name in sweep.plan.matrices if _is_in(run, name)}
    single = [sweep.folder(run) for run in begun if run.name not in cells]
    if single:
        files += write_report(single, out, pool_seeds=True)
    for name in sweep.plan.matrices:
        if any(_is_in(run, name) for run in begun):
            files += write_report([sweep.workdir / name], out / name)
    return files


def _is_in(run: PlannedRun, matrix: str) -> bool:
    """Return whether a run is a cell of a matrix."""
    return matrix in ("", str(Path(run.name).parent))


def _has_level(sweep: Sweep, run: PlannedRun) -> bool:
    """Return whether a run has a complete level; bring its curve.csv up to date."""
    folder = sweep.folder(run)
    if not (folder / "config.json").is_file():
        return False
    config = current_config(sweep, run)
    if not (folder / "curve.csv").is_file() or directory.is_finished(folder, config):
        return bool(directory.write_curve(config, folder))
    return True


def _rows(sweep: Sweep, statuses: Mapping[str, RunStatus]) -> str:
    """Return sweep.csv: for each run the keys in which runs differ, and its progress."""
    # A source within the sweep is given by its name, since a sweep may be moved.
    configs = {
        run.name: flatten(run.config) | ({"source": run.after[0]} if run.after else {})
        for run in sweep.plan.runs
    }
    first = next(iter(configs.values()))
    keys = [key for key in first if any(c[key] != first[key] for c in configs.values())]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("run", *keys, *_COLUMNS))
    for run in sweep.plan.runs:
        status, now = statuses[run.name], progress(sweep, run)
        values = (configs[run.name][key] for key in keys)
        varied = (" ".join(map(str, v)) if isinstance(v, tuple) else v for v in values)
        level = "" if now.level is None else now.level
        reached = (len(status.attempts), now.done, now.total, now.seed, level)
        measured = (now.density, now.accuracy, now.seconds)
        numbers = ("" if number is None else f"{number:.6g}" for number in measured)
        writer.writerow((run.name, *varied, status.state, *reached, *numbers))
    return text.getvalue()
