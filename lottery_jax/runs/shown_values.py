"""The numbers of a run under the names that trackers show."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lottery_jax.curve import WINNING

Row = Mapping[str, Any]  # of metrics.jsonl, or of curve.csv


def epoch_values(row: Row, density: float | None) -> dict[str, float]:
    """Return the numbers of a row of metrics.jsonl under the names that trackers show.

    Without a density, neither it nor the sparsity is among them.

    >>> epoch_values({"seed": 0, "level": 3, "control": "random", "train_loss": 0.5}, 0.25)
    ... # doctest: +NORMALIZE_WHITESPACE
    {'level': 3, 'density': 0.25, 'sparsity': 0.75,
     'seed_0/random/seed': 0, 'seed_0/random/level': 3, 'seed_0/random/train_loss': 0.5}
    """
    prefix = f"seed_{row['seed']}/{row['control']}"
    shared = {"level": row["level"]}
    if density is not None:
        shared |= {"density": density, "sparsity": 1 - density}
    return shared | {f"{prefix}/{key}": value for key, value in row.items() if _is_number(value)}


def level_values(rows: Sequence[Row]) -> dict[str, float]:
    """Return the numbers of rows of curve.csv that have the same level.

    Their density is the mean over the winning tickets; tickets of the same level rarely differ in it.

    >>> level_values([{"seed": 0, "level": 3, "control": "winning", "density": 0.25, "loss": 0.5}])
    ... # doctest: +NORMALIZE_WHITESPACE
    {'curve/level': 3, 'curve/density': 0.25, 'curve/sparsity': 0.75,
     'curve/seed_0/winning/density': 0.25, 'curve/seed_0/winning/loss': 0.5}
    """
    winners = [row for row in rows if row["control"] == WINNING] or rows
    density = statistics.fmean(row["density"] for row in winners)
    values = {"level": rows[0]["level"], "density": density, "sparsity": 1 - density}
    for row in rows:
        name = f"seed_{row['seed']}/{row['control']}"
        numbers = {k: v for k, v in row.items() if _is_number(v) and k not in ("seed", "level")}
        values |= {f"{name}/{key}": value for key, value in numbers.items()}
    return {f"curve/{key}": value for key, value in values.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))
