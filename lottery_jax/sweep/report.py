"""The report of a sweep: its curves in one figure, its matrices in theirs, and a row for each run."""

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
from lottery_jax.sweep.states import RunStatus, config_of, progress
from lottery_jax.system.files import write_text

# Density and accuracy are those of the seed's last complete level.
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


def write(sweep: Sweep, known: Mapping[str, RunStatus], out: Path | None = None) -> list[Path]:
    """Draws what there is of a sweep, and writes a row for each run.

    Runs that differ in their seeds alone are one curve, with its spread.

    Args:
        sweep: the sweep.
        known: of each run.
        out: where to; default: `report/` in the sweep's directory.

    Returns:
        The files: sweep.csv; those of `report.write_report` for the runs that are no cells of a
        matrix; and for each matrix its own, beside its directory's name.

    Raises:
        ConfigError: no run has a complete level yet.
    """
    out = out or sweep.workdir / "report"
    files = [out / "sweep.csv"]
    write_text(files[0], _rows(sweep, known))
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
    """Whether a run is a cell of a matrix."""
    return matrix in ("", str(Path(run.name).parent))


def _has_level(sweep: Sweep, run: PlannedRun) -> bool:
    """Whether there is something to draw; curve.csv is written anew from what is complete."""
    folder = sweep.folder(run)
    if not (folder / "config.json").is_file():
        return False
    config = config_of(sweep, run)
    if not (folder / "curve.csv").is_file() or directory.is_finished(folder, config):
        return bool(directory.write_curve(config, folder))
    return True


def _rows(sweep: Sweep, known: Mapping[str, RunStatus]) -> str:
    """A row for each run: the keys in which runs differ, and how far it is."""
    # A source within the sweep by its name, and not where it is today.
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
        its, of = known[run.name], progress(sweep, run)
        varied = (_cell(configs[run.name][key]) for key in keys)
        numbers = ("" if n is None else f"{n:.6g}" for n in (of.density, of.accuracy, of.seconds))
        level = "" if of.level is None else of.level
        reached = (len(its.attempts), of.done, of.total, of.seed, level)
        writer.writerow((run.name, *varied, its.state, *reached, *numbers))
    return text.getvalue()


def _cell(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value
