"""Plain data to draw: its types, and how runs and transfer matrices are turned into it."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from lottery_jax.curve import WINNING, is_share
from lottery_jax.report.curves import LABELS, RANDOM, Point, RunCurve, deviation, series_label
from lottery_jax.report.labels import legend_names
from lottery_jax.report.published import Curve
from lottery_jax.report.trained import Cost
from lottery_jax.report.transfers import TransferMatrix


@dataclasses.dataclass(frozen=True)
class Line:
    """Accuracies in percent over weights remaining in percent, or over a cost.

    A line without points is a legend entry.

    Attributes:
        label: the legend entry; empty: none.
        x: weights remaining, or costs.
        mean: accuracies.
        std: half the width of the band around the line; empty: no band.
        colour: a number in the palette; None: grey.
        marker: a number among the markers.
        kind: `ticket` (solid), `control` (dashed, hollow), `dense` (dotted, grey) or `reference`
            (thin, grey, behind).
        texts: what is printed beside each point; empty: nothing.
        seeds: the values of the single seeds at each point; empty: they are not drawn.
        bars: whether `std` is drawn as bars and not as a band.
        counts: how many seeds each point is the mean of; empty: not said.
    """

    label: str
    x: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    colour: int | None = None
    marker: int = 0
    kind: str = "ticket"
    texts: tuple[str, ...] = ()
    seeds: tuple[tuple[float, ...], ...] = ()
    bars: bool = False
    counts: tuple[int, ...] = ()

    def reach(self) -> list[tuple[float, float]]:
        """Return the ends of the band or bar at each point; no band goes beyond all seeds.

        >>> Line("", (1.0,), (80.0,), (14.0,), seeds=((60.0, 90.0, 90.0),)).reach()
        [(66.0, 90.0)]
        """
        ends = [(m - s, m + s) for m, s in zip(self.mean, self.std, strict=bool(self.std))]
        if self.bars or not self.seeds:
            return ends
        pairs = zip(ends, self.seeds, strict=True)
        return [(max(low, min(seeds)), min(high, max(seeds))) for (low, high), seeds in pairs]


@dataclasses.dataclass(frozen=True)
class DenseLine:
    """A dense network's accuracy, drawn as a dotted horizontal line; None is a legend entry alone.

    `label` and `colour` mean what they mean in a `Line`.
    """

    label: str
    accuracy: float | None = None
    colour: int | None = None


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes. Lines of the same label in several panels share a legend entry.

    Attributes:
        title: the heading above it.
        lines: the series.
        dense: the dense networks.
        quantity: what the vertical axis shows.
        cost: what the horizontal axis shows; empty: weights remaining.
        limits: the ends of the vertical axis; None: they are fitted to the means.
        signed: whether the values are differences, which have a sign and a line at 0.
        enlarged: whether it shows a part of another panel.
    """

    title: str
    lines: tuple[Line, ...]
    dense: tuple[DenseLine, ...]
    quantity: str = "test accuracy, %"
    cost: str = ""
    limits: tuple[float, float] | None = None
    signed: bool = False
    enlarged: bool = False

    @property
    def range(self) -> tuple[float, float]:
        """The ends of the vertical axis."""
        # They are fitted to the means, so that one failed seed does not flatten everything else.
        means = [mean for line in self.lines for mean in line.mean]
        means += [dense.accuracy for dense in self.dense if dense.accuracy is not None]
        return self.limits or value_range(means, self.quantity)


def value_range(values: Sequence[float], quantity: str) -> tuple[float, float]:
    """Return the ends of an axis that shows all values, with a margin.

    >>> value_range([90.0, 91.0], "test accuracy, %"), value_range([], "loss")
    ((89.5, 91.5), (0.0, 1.0))
    """
    if not values:
        return 0.0, 1.0
    least = 0.5 if quantity.endswith("%") else 0.0
    margin = max(least, 0.06 * (max(values) - min(values))) or 1.0
    return min(values) - margin, max(values) + margin


def shared_ranges(panels: Sequence[Panel]) -> list[tuple[float, float]]:
    """Return the ends of the vertical axis of each panel.

    Panels of the same quantity share them, unless that would flatten a panel to less than a half.
    """
    ranges = [panel.range for panel in panels]
    for quantity in dict.fromkeys(panel.quantity for panel in panels):
        alike = [
            i
            for i, panel in enumerate(panels)
            if panel.quantity == quantity and panel.lines and panel.limits is None
        ]
        if not alike:
            continue
        ends = (min(ranges[i][0] for i in alike), max(ranges[i][1] for i in alike))
        if ends[1] - ends[0] <= 2 * min(ranges[i][1] - ranges[i][0] for i in alike):
            for i in alike:
                ranges[i] = ends
    return ranges


@dataclasses.dataclass(frozen=True)
class HeatCell:
    """One cell of a heat map.

    Attributes:
        value: the number that its colour shows; None: no colour.
        text: its large print.
        small: its small print, below.
        framed: whether it has a bold frame.
        faded: whether its value is too small beside its spread to mean anything.
    """

    value: float | None
    text: str
    small: str = ""
    framed: bool = False
    faded: bool = False


def accuracy_panel(runs: Sequence[RunCurve], curves: Sequence[Curve] = ()) -> Panel:
    """Return the lines of a figure of accuracy over weights remaining, published curves behind.

    A single run has a colour for each series. Several runs have a colour each, solid for the
    tickets and dashed for the controls, and one legend entry for each kind of control.
    """
    lines = [_published_line(curve, runs, i) for i, curve in enumerate(curves)]
    controls = list(dict.fromkeys(n for run in runs for n in run.series if n != WINNING))
    single = len(runs) == 1
    styles = control_styles(controls)
    names = [LABELS[WINNING]] if single else legend_names(runs)
    for i, (run, name) in enumerate(zip(runs, names, strict=True)):
        lines.append(_line(name, run.tickets.values(), colour=i, marker=i))
        for control in controls:
            if points := run.series.get(control):
                label = series_label(control) if single else ""
                colour = styles[control] if single else i
                lines.append(_control_line(label, points, styles[control], colour))
    if not single:
        lines += [_control_line(series_label(name), [], styles[name]) for name in controls]
    dense = _dense_lines([run.dense.mean for run in runs])
    return Panel("", tuple(lines), dense, _quantity(runs))


def _quantity(runs: Sequence[RunCurve]) -> str:
    """Return what an axis of all runs shows; it ends in ", %" if all values are percentages."""
    shares = all(is_share(run.metric) for run in runs)
    unit = "" if shares else " (%)"
    metrics = dict.fromkeys(f"test {m.metric}{unit * is_share(m.metric)}" for m in runs)
    return " / ".join(metrics) + ", %" * shares


# What a `Cost` counts, as the axes and the tables call it.
COSTS = {
    "epochs": "epochs trained",
    "dense": "multiply-adds as computed",
    "sparse": "multiply-adds without zeros",
}


def budget_panels(runs: Sequence[RunCurve], costs: Sequence[Mapping[int, Cost]]) -> list[Panel]:
    """Return a panel for each kind of cost that is known: accuracy over what each ticket cost.

    The last ticket of each run has its weights remaining beside it, and so has the first run's first.

    Args:
        runs: the runs.
        costs: `trained.ticket_costs` of each.
    """
    names = legend_names(runs) if len(runs) > 1 else [LABELS[WINNING]]
    panels = []
    for kind, title in COSTS.items():
        lines = []
        for i, (run, name) in enumerate(zip(runs, names, strict=True)):
            spent = {level: getattr(cost, kind) for level, cost in costs[i].items()}
            points = [
                p for p in run.tickets.values() if math.isfinite(spent.get(p.level, math.nan))
            ]
            if points:
                line = _line(name, points, colour=i, marker=i)
                texts = [""] * len(points)
                for at in (0, -1) if i == 0 else (-1,):
                    texts[at] = f"{points[at].remaining:.3g} %"
                x = tuple(spent[point.level] for point in points)
                lines.append(
                    dataclasses.replace(line, x=x, texts=tuple(texts), seeds=(), bars=True)
                )
        if lines:
            panels.append(Panel("", tuple(lines), (), _quantity(runs), title))
    return panels


def _dense_lines(accuracies: Sequence[float]) -> tuple[DenseLine, ...]:
    """Return one line if all accuracies are the same, otherwise one in the colour of each run."""
    if all(math.isclose(accuracy, accuracies[0], abs_tol=1e-9) for accuracy in accuracies):
        return (DenseLine("dense network", accuracies[0]),)
    coloured = (DenseLine("", accuracy, i) for i, accuracy in enumerate(accuracies))
    return (DenseLine("dense networks, each in its colour"), *coloured)


def matrix_panels(matrix: TransferMatrix) -> list[Panel]:
    """Return a panel for each target: all tickets trained on it, random tickets and dense."""
    panels, names = [], matrix.names
    for target in matrix.targets:
        lines = [
            _line(f"tickets of {names[source]}", run.tickets.values(), colour=i, marker=i)
            for i, source in enumerate(matrix.all_sources)
            if (run := matrix.runs.get((source, target)))
        ]
        native = matrix.runs.get((target, target))
        if native and (points := native.series.get(RANDOM)):
            style = control_styles([RANDOM])[RANDOM]
            lines.append(_control_line(LABELS[RANDOM], points, style))
        dense = (DenseLine("dense network", native.dense.mean),) if native else ()
        panels.append(Panel(f"trained on {names[target]}", tuple(lines), dense))
    return panels


def own_accuracy(matrix: TransferMatrix, target: str) -> str:
    """Return the accuracy in % of a target's own ticket, with its spread; empty: there is none."""
    native = matrix.point(target, target, matrix.level)
    if native is None:
        return ""
    return f"{native.mean:.2f} {_plus_minus(native.accuracies)}".strip()


def heat_columns(matrix: TransferMatrix) -> list[str]:
    """Return the heading of each column of the heat map: the target, and its own ticket's accuracy."""
    own = {target: own_accuracy(matrix, target) for target in matrix.targets}
    return [
        f"{matrix.names[target]}\nown: {f'{text} %' if text else 'not there yet'}"
        for target, text in own.items()
    ]


def heat_rows(matrix: TransferMatrix) -> dict[str, list[HeatCell]]:
    """Return the heat map of a matrix: a row for each source, and one for the random tickets.

    Every cell is a difference to the target's own ticket. It is faded if it is below one standard
    deviation.
    """
    names = matrix.names
    rows = {names[s]: [_heat_cell(matrix, s, t) for t in matrix.targets] for s in matrix.sources}
    rows[LABELS[RANDOM]] = [_heat_cell(matrix, RANDOM, t) for t in matrix.targets]
    return rows


def _heat_cell(matrix: TransferMatrix, source: str, target: str) -> HeatCell:
    differences = matrix.differences(source, target, matrix.level)
    if not differences:
        return HeatCell(None, "missing")
    if source == target:
        return HeatCell(0.0, "own ticket", framed=True)
    mark = "" if matrix.is_comparable(source, target, matrix.level) else "†"
    mean = statistics.fmean(differences.values())
    faded = len(differences) > 1 and abs(mean) < deviation(differences)
    return HeatCell(mean, f"{_signed(mean)}{mark}", _plus_minus(differences), faded=faded)


def _plus_minus(values: Mapping[int, float]) -> str:
    return f"± {deviation(values):.2f}" if len(values) > 1 else ""


def _signed(value: float) -> str:
    """Return a difference with its sign, or without one if it rounds to 0.

    >>> _signed(1.234), _signed(-0.001)
    ('+1.23', '0.00')
    """
    text = f"{value:+.2f}".replace("-", "\u2212")
    return text[1:] if float(text[1:]) == 0 else text


# Figures have as many colours and as many markers; number 0 is the winning ticket's.
_STYLES = 8


def control_styles(controls: Sequence[str]) -> dict[str, int]:
    """Return the number of the colour and marker of each control in a figure.

    It is the place in `LABELS`, and so the same in every figure, as far as that is free.

    >>> control_styles(["noise_0.5", "reinit", "noise_3"])
    {'reinit': 1, 'noise_0.5': 2, 'noise_3': 3}
    """
    names, found = list(LABELS), dict[str, int]()
    for control in sorted(controls, key=lambda name: name not in names[:_STYLES]):
        number = names.index(control) if control in names else _STYLES
        free = [n for n in range(1, _STYLES) if n not in found.values()] or [*range(1, _STYLES)]
        found[control] = number if number in free else free[0]
    return found


def _line(
    label: str,
    points: Iterable[Point],
    *,
    colour: int | None = None,
    marker: int,
    kind: str = "ticket",
) -> Line:
    found = list(points)
    x = tuple(point.remaining for point in found)
    mean = tuple(point.mean for point in found)
    std = tuple(point.std for point in found)
    several = any(len(point.accuracies) > 1 for point in found)
    seeds = tuple(tuple(point.accuracies.values()) for point in found) if several else ()
    return Line(label, x, mean, std, colour, marker, kind, seeds=seeds)


def _control_line(
    label: str, points: Iterable[Point], marker: int, colour: int | None = None
) -> Line:
    return _line(label, points, colour=colour, marker=marker, kind="control")


def _published_line(curve: Curve, runs: Sequence[RunCurve], number: int) -> Line:
    return Line(
        curve.label([(run.network, run.data) for run in runs]),
        tuple(100 - pruned for pruned, _ in curve.points),
        tuple(accuracy for _, accuracy in curve.points),
        marker=number,
        kind="reference",
    )
