"""Runs and transfer matrices as tables in Markdown, in CSV and for the terminal."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from lottery_jax.curve import WINNING, is_share
from lottery_jax.report.curves import LABELS, RANDOM, Point, RunCurve, series_label
from lottery_jax.report.intervals import t_interval
from lottery_jax.report.labels import count_seeds, counted_weights, headings, legend_names
from lottery_jax.report.panels import COSTS, heat_rows, own_accuracy
from lottery_jax.report.trained import Cost
from lottery_jax.report.transfers import TransferMatrix

# In a table of several runs, densities whose relative difference is smaller share a row.
_SAME_DENSITY = 0.02
# With two decimals, more series do not fit a terminal of 100 columns.
_MOST_WIDE_SERIES = 5
# A ticket is near the dense network if it loses at most so many percentage points.
_NEAR = 1.0

# Header and rows.
Cells = tuple[list[str], list[list[str]]]


def markdown_table(runs: Sequence[RunCurve]) -> str:
    """Return a Markdown table of each run's accuracies, after a joint table of comparable runs."""
    parts = []
    for setting in dict.fromkeys(run.setting for run in runs):
        group = [run for run in runs if run.setting == setting]
        header, rows = _joint_cells(group)
        if len(group) > 1 and len(rows) > 1:
            parts.append(f"### {setting}, {count_seeds(group)}: the densities in common\n")
            parts += [*_markdown(header, rows), _explained(group)]
    for run, heading in zip(runs, headings(runs), strict=True):
        parts.append(f"### {heading}, {count_seeds([run])}\n")
        parts += [*_markdown(*_run_cells(run)), _explained([run])]
    return "\n".join(parts)


def budget_markdown(runs: Sequence[RunCurve], costs: Sequence[Mapping[int, Cost]]) -> str:
    """Return a Markdown table of what each ticket of each run cost; empty if no cost is known."""
    parts = []
    for run, heading, by_level in zip(runs, headings(runs), costs, strict=True):
        digits, rows = 2 if is_share(run.metric) else 4, []
        for level, cost in by_level.items():
            if point := run.tickets.get(level):
                known = ("" if math.isnan(n) else f"{n:.3e}" for n in (cost.dense, cost.sparse))
                first = [str(level), f"{point.remaining:.2f}", _cell(point, digits)]
                rows.append([*first, f"{cost.epochs:.4g}", *known])
        if rows:
            header = ["level", "weights left, %", run.quantity, *COSTS.values()]
            parts += [f"\n### {heading}: what each winning ticket cost\n", *_markdown(header, rows)]
    if not parts:
        return ""
    explained = (
        "\nFrom nothing, the mean over seeds: every training that leads to the ticket (of a transfer: "
        "those of the source, too), and its own. A step counts as three forward passes. Evaluations, "
        "scores and a rewind point from elsewhere (`ladder.pretrained`) are not charged."
    )
    return "\n".join([*parts, explained]) + "\n"


def matrix_markdown(matrix: TransferMatrix) -> str:
    """Return a matrix in Markdown: the differences at one level, then a table for each target."""
    runs, names = list(matrix.runs.values()), matrix.names
    parts = [
        f"### {matrix.title}, {count_seeds(runs)}\n",
        f"At level {matrix.level}, {matrix.densities} of the weights; "
        f"{100 * matrix.density:g} % was asked for.\n",
        *_markdown(*_matrix_cells(matrix, native_format="**{}**")),
        "\nAccuracy less that of the target's own ticket, in percentage points. Bold: the target's "
        f"own ticket and its accuracy in %. {matrix.spread_note()}\n",
        *(f"{note}\n" for note in matrix.incomparable()),
    ]
    if matrix.missing:
        parts += ["Not there yet:\n", *(f"- {what}" for what in matrix.missing), ""]
    for target in matrix.targets:
        # The target's own tickets come first: the first column gives the densities of the rows.
        sources = sorted(matrix.all_sources, key=lambda source: source != target)
        columns = {
            names[s]: matrix.runs[s, target].tickets for s in sources if (s, target) in matrix.runs
        }
        native = matrix.runs.get((target, target))
        if native and native.series.get(RANDOM):
            columns[LABELS[RANDOM]] = native.points(RANDOM)
        if columns:
            parts.append(f"### trained on {names[target]}, tickets of\n")
            parts += [*_markdown(*_cells(columns)), _explained(runs)]
    return "\n".join(parts)


def matrix_csv(matrix: TransferMatrix) -> str:
    """Return a row for each training of a matrix; density, accuracy and difference are fractions.

    The difference is the accuracy less that of the target's own ticket of the same level and seed.
    The source `random` is the native run's control.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("target", "source", "seed", "level", "density", "accuracy", "difference"))
    levels = sorted({level for run in matrix.runs.values() for level in run.tickets})
    for target in matrix.targets:
        for source in (*matrix.all_sources, RANDOM):
            for level in levels:
                point = matrix.point(source, target, level)
                if point is None:
                    continue
                differences = matrix.differences(source, target, level)
                for seed, accuracy in point.accuracies.items():
                    numbers = (point.remaining, accuracy, differences.get(seed))
                    cells = ("" if n is None else f"{n / 100:.6g}" for n in numbers)
                    writer.writerow((target, source, seed, level, *cells))
    return text.getvalue()


def run_table(run: RunCurve) -> Table:
    """Return a run's table for the terminal, with fewer digits if it has many series.

    Where there is room, a column has the differences from the dense network with their intervals.
    """
    title = f"{run.title}: {run.quantity}, {count_seeds([run])}"
    said = near_dense(run)
    # It is broken at the table's width, on consoles that break no lines too.
    caption = Text(said, no_wrap=False, overflow="fold") if said else None
    below: dict[str, Any] = {"caption": caption, "caption_justify": "left"}
    if len(run.series) <= _MOST_WIDE_SERIES or not is_share(run.metric):
        header, rows = _run_cells(run)
        less = less_dense(run)
        if len(run.seeds) > 1 and less and len(run.series) < _MOST_WIDE_SERIES:
            header[1] = "weights\nleft, %"  # so that with one control no interval is wrapped
            header.insert(3, "less dense [95 %]")
            for row in rows:
                row.insert(3, _difference(less.get(int(row[0]), {}), "{} [{}, {}]"))
        return _fill(Table(title=title, title_justify="left", **below), header, rows)
    short = {name: name.replace("_", " ") for name in run.series}
    header, rows = _run_cells(run, short, digits=1)
    header[1] = "left, %"
    narrow: dict[str, Any] = {"padding": (0, 1, 0, 0), "show_edge": False, "pad_edge": False}
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, **narrow, **below)
    return _fill(table, header, rows)


def less_dense(run: RunCurve) -> dict[int, dict[int, float]]:
    """Return by level and seed the accuracy of the winning ticket less that of the dense network.

    It is in percentage points, and empty for metrics that are no shares.
    """
    dense = run.dense.accuracies
    points = run.series[WINNING] if is_share(run.metric) else []
    return {
        point.level: {s: a - dense[s] for s, a in point.accuracies.items() if s in dense}
        for point in points
    }


def near_dense(run: RunCurve) -> str:
    """Say in a sentence how far down the winning tickets are near the dense network.

    That is the smallest density such that at it and at all larger ones the mean difference, seed by
    seed, is at least -1 point. Levels that some seed has not reached are left out, with all below
    them. The sentence is empty if there is no ticket, and for metrics that are no shares.
    """
    less, found, failed = less_dense(run), None, None
    points = sorted(run.series[WINNING], key=lambda point: -point.remaining)
    for point in points:
        differences = less.get(point.level, {})
        if differences.keys() != run.dense.accuracies.keys():
            break
        if statistics.fmean(differences.values()) < -_NEAR - 1e-9:  # decimals of a file
            failed = point
            break
        found = point
    at = found or failed
    if at is None:
        return ""
    one = len(less[at.level]) == 1
    who = "the winning tickets of the only seed are" if one else "winning tickets are on average"
    there = _difference(less[at.level], "{} points, 95 % interval {} to {}")
    there += " points; one seed says nothing about the spread" if one else ""
    if found:
        where, how = f"Down to {at.remaining:.3g} % of the weights", "at most"
        where += ", the sparsest level" * (at.remaining == min(p.remaining for p in points))
    else:
        where, how = f"At {at.remaining:.3g} % of the weights already", "more than"
    return f"{where}, {who} {how} {_NEAR:g} point below the dense network (there {there})."


def _difference(values: Mapping[int, float], form: str) -> str:
    """Return the mean of differences by seed, and if there are several the ends of its interval."""
    if not values:
        return ""
    numbers = [statistics.fmean(values.values()), *t_interval(values.values())]
    texts = [f"{round(number, 2) or 0:+.2f}" for number in numbers]
    texts = [text.replace("-", "\u2212").replace("+0.00", "0.00") for text in texts]
    return form.format(*texts) if len(values) > 1 else texts[0]


def matrix_table(matrix: TransferMatrix) -> Table:
    """Return a table for the terminal with the differences of a matrix at one level."""
    title = (
        f"{matrix.title}, {count_seeds(list(matrix.runs.values()))}\n"
        f"level {matrix.level}, {matrix.densities} of the weights: accuracy less that of the "
        "target's own ticket, in percentage points"
    )
    missing = f"not there yet: {', '.join(matrix.missing)}" if matrix.missing else None
    table = Table(title=title, title_justify="left", caption=missing, caption_justify="left")
    table = _fill(table, *_matrix_cells(matrix, native_format="({})"))
    table.columns[0].justify = "left"
    return table


def _fill(table: Table, header: Iterable[str], rows: Iterable[Sequence[str]]) -> Table:
    for name in header:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---:|" * len(header)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def _explained(runs: Sequence[RunCurve]) -> str:
    quantity = runs[0].quantity
    return (
        f"\n{quantity[0].upper()}{quantity[1:]}, mean ± one standard deviation over seeds; the "
        f"share of weights counts {counted_weights(runs)}.\n"
    )


def _run_cells(run: RunCurve, labels: Mapping[str, str] | None = None, digits: int = 2) -> Cells:
    """Return a run's cells, with a column for each series."""
    digits = digits if is_share(run.metric) else 4
    labels = labels or {name: series_label(name) for name in run.series}
    return _cells({labels[name]: run.points(name) for name in run.series}, digits)


def _cells(columns: Mapping[str, Mapping[int, Point]], digits: int = 2) -> Cells:
    """Return a row for each level; its density is that of the first series with this level."""
    rows = []
    for level in sorted({level for by_level in columns.values() for level in by_level}):
        points = [by_level.get(level) for by_level in columns.values()]
        remaining = next(point.remaining for point in points if point)
        rows.append([str(level), f"{remaining:.2f}", *(_cell(point, digits) for point in points)])
    return ["level", "weights left, %", *columns], rows


def _joint_cells(runs: Sequence[RunCurve]) -> Cells:
    """Return a row for each density at which at least two runs have tickets."""

    def point_near(run: RunCurve, remaining: float) -> Point | None:
        point = min(run.tickets.values(), key=lambda p: abs(p.remaining - remaining))
        close = math.isclose(point.remaining, remaining, rel_tol=_SAME_DENSITY)
        return point if close else None

    names = legend_names(runs)
    if len({len(run.seeds) for run in runs}) > 1:
        names = [f"{name}, {count_seeds([run])}" for name, run in zip(names, runs, strict=True)]
    densities: list[float] = []
    for point in (point for run in runs for point in run.tickets.values()):
        if not any(math.isclose(point.remaining, d, rel_tol=_SAME_DENSITY) for d in densities):
            densities.append(point.remaining)
    rows = []
    for density in sorted(densities, reverse=True):
        points = [point_near(run, density) for run in runs]
        if sum(point is not None for point in points) > 1:
            rows.append([f"{density:.2f}", *(_cell(point, 2) for point in points)])
    return ["weights left, %", *names], rows


def _matrix_cells(matrix: TransferMatrix, native_format: str) -> Cells:
    """Return a row for each source, at the matrix's level; `native_format` marks native tickets."""
    rows = []
    for name, cells in heat_rows(matrix).items():
        texts = [
            native_format.format(own_accuracy(matrix, target))
            if cell.framed
            else f"{cell.text} {cell.small}".strip()
            for target, cell in zip(matrix.targets, cells, strict=True)
        ]
        rows.append([name, *texts])
    return ["tickets of, trained on", *(matrix.names[t] for t in matrix.targets)], rows


def _cell(point: Point | None, digits: int) -> str:
    """Return an accuracy with its spread, in as few characters as possible for a single digit.

    >>> point = Point(1, 10.0, {0: 70.0, 1: 90.0})
    >>> _cell(point, 2), _cell(point, 1)
    ('80.00 ± 14.14', '80.0±14')
    """
    if point is None:
        return ""
    mean = f"{point.mean:.{digits}f}"
    if len(point.accuracies) == 1:
        return mean
    if digits > 1:
        return f"{mean} ± {point.std:.{digits}f}"
    return f"{mean}±{point.std:.{0 if point.std >= 9.95 else digits}f}"
