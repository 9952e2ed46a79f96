"""What figures show of runs and transfer matrices, as the plain data that `figures` draws."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from lottery_jax.curve import WINNING
from lottery_jax.report.curves import LABELS, RANDOM, Point, RunCurve, deviation
from lottery_jax.report.figures import DenseLine, Heat, Line, Panel
from lottery_jax.report.labels import legend_names
from lottery_jax.report.published import Curve
from lottery_jax.report.transfers import TransferMatrix


def accuracy_panel(runs: Sequence[RunCurve], curves: Sequence[Curve] = ()) -> Panel:
    """The lines of a figure of accuracy over weights remaining.

    Of a single run every series has its colour. Of several runs each has its colour: its tickets
    are solid, its controls dashed, and each kind of control has one legend entry for all runs.
    """
    lines = [_published(curve, runs, i) for i, curve in enumerate(curves)]
    controls = list(dict.fromkeys(n for run in runs for n in run.series if n != WINNING))
    single = len(runs) == 1
    names = [LABELS[WINNING]] if single else legend_names(runs)
    for i, (run, name) in enumerate(zip(runs, names, strict=True)):
        lines.append(_line(name, run.tickets.values(), colour=i, marker=i))
        for control in controls:
            if points := run.series.get(control):
                label = LABELS.get(control, control) if single else ""
                lines.append(_control(label, points, control, _look(control) if single else i))
    if not single:
        lines += [_control(LABELS.get(control, control), [], control) for control in controls]
    return Panel("", tuple(lines), _dense([run.dense.mean for run in runs]))


def _dense(accuracies: Sequence[float]) -> tuple[DenseLine, ...]:
    """One line if all are the same, else one in the colour of each run."""
    if all(math.isclose(accuracy, accuracies[0], abs_tol=1e-9) for accuracy in accuracies):
        return (DenseLine("dense network", accuracies[0]),)
    own = (DenseLine("", accuracy, i) for i, accuracy in enumerate(accuracies))
    return (DenseLine("dense networks, each in its colour"), *own)


def matrix_panels(matrix: TransferMatrix) -> list[Panel]:
    """For each target: the tickets of every source and its own, random tickets, and dense."""
    panels = []
    for target in matrix.targets:
        lines = [
            _line(f"tickets of {source}", run.tickets.values(), colour=i, marker=i)
            for i, source in enumerate(matrix.all_sources)
            if (run := matrix.runs.get((source, target)))
        ]
        native = matrix.runs.get((target, target))
        if native and (points := native.series.get(RANDOM)):
            lines.append(_control(LABELS[RANDOM], points, RANDOM))
        dense = (DenseLine("dense network", native.dense.mean),) if native else ()
        panels.append(Panel(f"trained on {target}", tuple(lines), dense))
    return panels


def heat_rows(matrix: TransferMatrix) -> dict[str, list[Heat]]:
    """The heat map of a matrix: a row for each source, and one for the random tickets."""
    rows = {s: [_heat(matrix, s, t) for t in matrix.targets] for s in matrix.sources}
    rows[LABELS[RANDOM]] = [_heat(matrix, RANDOM, t) for t in matrix.targets]
    return rows


def _heat(matrix: TransferMatrix, source: str, target: str) -> Heat:
    point = matrix.point(source, target, matrix.level)
    if point is not None and source == target:
        return Heat(0.0, f"{point.mean:.2f}", _plus_minus(point.accuracies), framed=True)
    found = matrix.differences(source, target, matrix.level)
    if not found:
        return Heat(None, "missing")
    mark = "" if matrix.is_comparable(source, target, matrix.level) else "†"
    mean = statistics.fmean(found.values())
    return Heat(mean, f"{_signed(mean)}{mark}", _plus_minus(found))


def _plus_minus(values: Mapping[int, float]) -> str:
    return f"± {deviation(values):.2f}" if len(values) > 1 else ""


def _signed(value: float) -> str:
    """A difference with its sign; one that rounds to nothing has none.

    >>> _signed(1.234), _signed(-0.001)
    ('+1.23', '0.00')
    """
    text = f"{value:+.2f}".replace("-", "\u2212")
    return text[1:] if float(text[1:]) == 0 else text


def _look(series: str) -> int:
    """A number for colour and marker, for a series the same in every figure."""
    names = list(LABELS)
    return names.index(series) if series in names else len(names)


def _line(
    label: str,
    points: Iterable[Point],
    *,
    colour: int | None = None,
    marker: int,
    kind: str = "ticket",
) -> Line:
    found = list(points)
    return Line(
        label,
        tuple(p.remaining for p in found),
        tuple(p.mean for p in found),
        tuple(p.std for p in found),
        colour,
        marker,
        kind,
    )


def _control(label: str, points: Iterable[Point], name: str, colour: int | None = None) -> Line:
    return _line(label, points, colour=colour, marker=_look(name), kind="control")


def _published(curve: Curve, runs: Sequence[RunCurve], number: int) -> Line:
    return Line(
        curve.label([(run.network, run.data) for run in runs]),
        tuple(100 - pruned for pruned, _ in curve.points),
        tuple(accuracy for _, accuracy in curve.points),
        marker=number,
        kind="reference",
    )
