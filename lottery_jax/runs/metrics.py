"""metrics.jsonl and curve.csv: writing and reading them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lottery_jax.curve import curve_columns, optional_columns
from lottery_jax.system.files import name_in_oserror, sync_folder, write_text


def write_curve_rows(path: Path, rows: Iterable[Mapping[str, Any]], metric: str) -> None:
    """Write curve.csv, one row for each trial, if it changed. It is whole or not there at all.

    Args:
        path: the file.
        rows: its rows.
        metric: the metric of the run's task.
    """
    text, rows = io.StringIO(newline=""), list(rows)
    more = [name for name in optional_columns(metric) if any(name in row for row in rows)]
    columns = (*curve_columns(metric), *more)
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if not path.is_file() or path.read_bytes() != text.getvalue().encode():
        write_text(path, text.getvalue())


# The columns that identify a row of metrics.jsonl.
_IDENTIFY = {"seed", "level", "control", "step"}
# The key of rows that are no epochs, and its values.
KIND, EVALUATION, UNTRAINED = "kind", "evaluation", "untrained"


class MetricsLog:
    """metrics.jsonl: one line for each epoch of a trial, appended when the epoch ends.

    Evaluations between the ends of epochs, if the config asks for them, have lines of their own.
    They have a `kind` (`evaluation` or `untrained`) and measurements, but no epoch and no times.

    A row is written before the checkpoint of the same step. So after an interruption there can be
    rows of steps that will be run again; these are dropped when the file is opened.

    Args:
        path: of the file.
        is_final: whether the step of a row will not be run again.

    Attributes:
        kept: the number of rows that the file had when it was opened, without those.
        dropped: the number of rows that were dropped, if they were the last ones; else 0.
    """

    def __init__(self, path: Path, is_final: Callable[[dict[str, Any]], bool]) -> None:
        self._path, self.kept, self.dropped = path, 0, 0
        if path.is_file():
            rows = [(json.dumps(row) + "\n", is_final(row)) for row in self.rows()]
            kept = [line for line, final in rows if final]
            write_text(path, "".join(kept))
            self.kept = len(kept)
            if all(final for _, final in rows[: self.kept]):
                self.dropped = len(rows) - self.kept
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row. After this a crash of this process can't lose it."""
        with name_in_oserror(self._path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Sync the file and its name. After this a power failure can't lose a row either."""
        with name_in_oserror(self._path):
            os.fsync(self._file.fileno())
            sync_folder(self._path.parent)

    def rows_of(self, seed: int, level: int, control: str) -> list[dict[str, Any]]:
        """Return the rows of one trial: its epochs, and evaluations, which have a `kind`."""
        wanted = (seed, level, control)
        return [r for r in self.rows() if (r["seed"], r["level"], r["control"]) == wanted]

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # a row that could not be written before
            self._file.close()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield all rows of the file."""
        # A process that died while it wrote may have left half a line, or something else.
        with self._path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with contextlib.suppress(ValueError, RecursionError):
                    row = json.loads(line)
                    if isinstance(row, dict) and row.keys() >= _IDENTIFY:
                        yield row
