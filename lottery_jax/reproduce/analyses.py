"""Analyses of finished runs, whose rows are kept beside them.

Those that train or interpolate are in `lottery_jax.analysis`; those here read saved tickets alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lottery_jax import tickets
from lottery_jax.analysis.levels import levels as levels_analysis
from lottery_jax.analysis.stability import stability as stability_analysis
from lottery_jax.curve import WINNING
from lottery_jax.errors import ConfigError, lookup
from lottery_jax.pruning import masks
from lottery_jax.pruning.connectivity import effective_mask
from lottery_jax.reproduce.analysis_files import curve_sha256, write_rows
from lottery_jax.reproduce.planning import SHUFFLED, stability_choice
from lottery_jax.runs.directory import Trial, list_trials
from lottery_jax.runs.record import read_config
from lottery_jax.tickets import Ticket

Row = dict[str, Any]


def paths(run_dir: Path) -> list[Row]:
    """Return how many weights each winning ticket keeps, and how many of them lie on a path.

    Raises:
        ConfigError: the paths of the network can't be followed.
    """
    rows = []
    for trial, ticket in _tickets(run_dir, (WINNING,)):
        network, shape = tickets.model_of(ticket.metadata)
        row = _row(trial, ticket)
        row["kept"] = masks.counts(ticket.mask)[0]
        try:
            row["effective"] = masks.counts(effective_mask(network, ticket.mask, shape))[0]
        except ValueError as error:
            raise ConfigError(f"{run_dir}: {error}") from error
        rows.append(row)
    return rows


def from_dense(run_dir: Path) -> list[Row]:
    """Return the L2 distance of each trained ticket from the dense network's weights at its places.

    Frankle et al. (2019) call it stability to pruning.
    """
    rows, dense = [], {}
    for trial, ticket in _tickets(run_dir, (WINNING, SHUFFLED)):
        kernels = masks.kernels(ticket.trained)
        if trial.level == 0:
            dense[trial.seed] = kernels
            continue
        squares = [
            np.sum((kernels[name] - dense[trial.seed][name])[mask] ** 2, dtype=np.float64)
            for name, mask in masks.kernels(ticket.mask).items()
        ]
        rows.append(_row(trial, ticket) | {"l2": float(np.sqrt(sum(squares)))})
    return rows


def stability(run_dir: Path) -> list[Row]:
    """Return `analysis.stability`: tickets that are trained in two orders of the data."""
    levels, controls = stability_choice(read_config(run_dir))
    return stability_analysis(run_dir, levels=levels, controls=controls)


def levels(run_dir: Path) -> list[Row]:
    """Return `analysis.levels`: barriers between the trained tickets of successive levels."""
    return levels_analysis(run_dir)


ANALYSES: dict[str, Callable[[Path], list[Row]]] = {
    "paths": paths,
    "from_dense": from_dense,
    "stability": stability,
    "levels": levels,
}


def analyse(kind: str, run_dir: Path) -> None:
    """Make an analysis of a finished run and write its rows to `RUN/analysis/KIND.json`.

    Raises:
        ConfigError: there is no such analysis, or the directory is not a run.
    """
    curve = curve_sha256(run_dir)  # as it was before the analysis
    write_rows(run_dir, kind, lookup(ANALYSES, kind, "the analysis")(run_dir), curve)


def _tickets(run_dir: Path, controls: tuple[str, ...]) -> Iterator[tuple[Trial, Ticket]]:
    for trial in list_trials(read_config(run_dir), run_dir):
        if trial.control in controls:
            yield trial, tickets.load_ticket(trial.ticket_dir)


def _row(trial: Trial, ticket: Ticket) -> Row:
    return {
        "seed": trial.seed,
        "level": trial.level,
        "control": trial.control,
        "density": ticket.density,
    }
