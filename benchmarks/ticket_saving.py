"""Saving a ticket: the whole of it, its arrays alone, the same arrays by Orbax's own `save`, and the disk.

    python benchmarks/ticket_saving.py

All but the last leave a checkpoint that Orbax loads, and all are on the disk when they return: the last
writes as many bytes as the ticket's folder has into one file and syncs it.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from lottery_jax.models import abstract_variables, build_model, layer_names
from lottery_jax.pruning import masks
from lottery_jax.tickets.metadata import PARTS
from lottery_jax.tickets.orbax_io import save_arrays
from lottery_jax.tickets.store import save_ticket
from lottery_jax.tickets.ticket import Ticket

TICKETS = {"lenet_300_100": (28, 28, 1), "resnet20": (32, 32, 3)}
DENSITIES = (1.0, 0.107, 0.012)


def make_ticket(model: str, density: float) -> Ticket:
    """Return a ticket of random numbers; their values change no time."""
    rng = np.random.default_rng(0)
    shape = TICKETS[model]
    built = build_model(model, 10)
    drawn = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
        abstract_variables(built, shape),
    )
    params, batch_stats = drawn["params"], drawn["batch_stats"]
    dense = masks.ones_like(params)
    scores = jax.tree.map(np.abs, params)
    mask = dense if density == 1 else masks.prune(scores, dense, 1 - density)
    start = jax.tree.map(lambda m, p: np.where(m, p, np.float32(0)), mask, params)
    metadata = {
        "model": {"name": model, "width": 1.0, "dtype": "float32"},
        "num_classes": 10,
        "input_shape": list(shape),
        "layer_order": layer_names(built, shape),
        "data": "made up",
        "mean": [0.5] * shape[2],
        "std": [0.25] * shape[2],
        "result": {},
    }
    trained = jax.tree.map(lambda m, p: np.where(m, 2 * p, np.float32(0)), mask, params)
    return Ticket(
        mask=mask,
        params=start,
        batch_stats=batch_stats,
        trained=trained,
        trained_batch_stats=batch_stats,
        metadata=metadata,
    )


def sides(ticket: Ticket, folder: Path) -> dict[str, Callable[[], object]]:
    """Return what is compared; each call writes to a place of its own."""

    def places() -> Iterator[Path]:
        number = 0
        while True:
            number += 1
            yield folder / str(number)

    place = places()
    arrays = {part: getattr(ticket, part) for part in PARTS}
    save_ticket(first := next(place), ticket)
    content = os.urandom(sum(f.stat().st_size for f in first.rglob("*") if f.is_file()))

    def disk() -> None:
        with next(place).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    return {
        "ticket": lambda: save_ticket(next(place), ticket),
        "arrays": lambda: save_arrays(next(place), arrays),
        "orbax": lambda: ocp.save(next(place).absolute(), arrays),
        "disk": disk,
    }


def measure(model: str, density: float, repeats: int) -> harness.Row:
    """Return one row: the milliseconds of each side, in turn."""
    ticket = make_ticket(model, density)
    folder = Path(tempfile.mkdtemp(dir=Path.cwd(), prefix="tickets_"))  # on a disk, not in memory
    try:
        seconds = harness.interleaved(sides(ticket, folder), repeats)
        first = folder / "1"
        size = sum(file.stat().st_size for file in first.rglob("*") if file.is_file())
    finally:
        shutil.rmtree(folder)
    row: dict[str, Any] = {name: 1e3 * statistics.median(taken) for name, taken in seconds.items()}
    return {
        "model": model,
        "density": ticket.density,
        "kilobytes": size / 1e3,
        **row,
        "ratio": harness.median_ratio(seconds["orbax"], seconds["arrays"]),
        "seconds": seconds,
    }


def main() -> None:
    """Measure, print the table and write it."""
    args = harness.options(__doc__.splitlines()[0]).parse_args()
    rows = [measure(m, density, args.repeats) for m in TICKETS for density in DENSITIES]
    columns = {
        "model": "model|",
        "density": "density|.1%",
        "kilobytes": "kB|,.0f",
        "ticket": "whole ticket, ms|.1f",
        "arrays": "arrays, ms|.1f",
        "orbax": "arrays by Orbax, ms|.1f",
        "ratio": "ratio|.2f",
        "disk": "as many bytes in one file, ms|.1f",
    }
    title = f"Saving a ticket; medians of {args.repeats}, in turn."
    harness.write(args.out, "ticket_saving", title, columns, rows)


if __name__ == "__main__":
    main()
