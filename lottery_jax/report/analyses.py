"""Figures and tables of analyses, whose rows hold plain values by column."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from lottery_jax.curve import WINNING
from lottery_jax.report import figures
from lottery_jax.report.curves import LABELS
from lottery_jax.report.panels import DenseLine, Line, Panel
from lottery_jax.report.pixels import pixels_figure
from lottery_jax.report.steps import steps_figure
from lottery_jax.report.write import drawing_errors
from lottery_jax.system.files import write_text

Row = Mapping[str, Any]


def write_csv(file: Path, rows: Sequence[Row]) -> Path:
    """Write rows with the columns of the first one; the file is whole or not there at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())
    return file


def panel(
    rows: Sequence[Row],
    column: str,
    quantity: str,
    *,
    series: str = "control",
    title: str = "",
    colour: int = 0,
    limit: tuple[str, float] | None = None,
) -> Panel:
    """Return a column over weights remaining, means over rows of the same level.

    Args:
        rows: with the columns `level`, `density` and those that are named.
        column: what the vertical axis shows; values that are not finite are left out.
        quantity: its label; where it ends in %, values are shares and shown in percent.
        series: the column that says which line a row belongs to.
        title: the heading of the panel.
        colour: the number of the first line's colour.
        limit: the label and the value of a horizontal line, as the axis shows it.
    """
    scale = 100.0 if quantity.endswith("%") else 1.0
    lines = []
    for i, name in enumerate(dict.fromkeys(row[series] for row in rows)):
        levels: dict[int, list[tuple[float, float]]] = {}
        for row in rows:
            if row[series] == name and math.isfinite(row[column]):
                pair = (100 * row["density"], scale * row[column])
                levels.setdefault(row["level"], []).append(pair)
        points = [list(zip(*levels[level], strict=True)) for level in sorted(levels)]
        lines.append(
            Line(
                LABELS.get(name, str(name)),
                tuple(statistics.fmean(x) for x, _ in points),
                tuple(statistics.fmean(y) for _, y in points),
                tuple(statistics.stdev(y) if len(y) > 1 else 0.0 for _, y in points),
                colour=colour + i,
                marker=colour + i,
                kind="control" if series == "control" and name != WINNING else "ticket",
            )
        )
    return Panel(title, tuple(lines), (DenseLine(*limit),) if limit else (), quantity)


def write_figure(
    stem: Path, panels: Sequence[Panel], title: str, seeds: int, notes: Sequence[str] = ()
) -> list[Path]:
    """Draw panels over weights remaining; return the files.

    Raises:
        FigureError: Matplotlib can't draw.
    """
    subtitle = "one seed" if seeds == 1 else f"means over {seeds} seeds, bands of one deviation"
    with drawing_errors(stem.parent):
        figure = figures.accuracy_figure(panels, title, subtitle, "the prunable weights", notes)
        return figures.save(figure, stem)


def write_steps_figure(
    stem: Path, rows: Sequence[Row], title: str, limits: Mapping[str, tuple[str, float | None]]
) -> list[Path]:
    """Draw columns over the rewind step, each in axes of its own; return the files.

    Args:
        stem: the path of the files without their suffix.
        rows: in the order of `step`, shares in the columns.
        title: the heading.
        limits: by column, the label of its axis and the value of a horizontal line or None, in
            percent.

    Raises:
        FigureError: Matplotlib can't draw.
    """
    with drawing_errors(stem.parent):
        return figures.save(steps_figure(rows, title, limits), stem)


def write_pixels_figure(stem: Path, rows: Sequence[Row], title: str) -> list[Path]:
    """Draw the rows of `analysis.pixels.pixels`; return the files.

    Raises:
        FigureError: Matplotlib can't draw.
    """
    with drawing_errors(stem.parent):
        return figures.save(pixels_figure(rows, title), stem)


def table(rows: Sequence[Row], by: Sequence[str], columns: Mapping[str, str]) -> Table:
    """Return a table of means over the rows that agree in `by`, with their standard deviations.

    Args:
        rows: of an analysis.
        by: the columns that name a line of the table.
        columns: the other columns, with the format of their values, such as `.2%`.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in by), []).append(row)
    found = Table(*by)
    for name in columns:
        found.add_column(name.replace("_", " "), justify="right")
    for key, members in groups.items():
        cells = []
        for column_name, form in columns.items():
            values = [float(row[column_name]) for row in members]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(
                f"{statistics.fmean(values):{form}}" + f" ± {spread:{form}}" * (spread > 0)
            )
        found.add_row(*map(str, key), *cells)
    return found
