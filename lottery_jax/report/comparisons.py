"""Panels that compare the winning tickets with the dense network and with the controls closely."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence

from lottery_jax.curve import WINNING, is_share
from lottery_jax.report.axes import has_log_differences
from lottery_jax.report.curves import LABELS, Point, RunCurve, series_label
from lottery_jax.report.intervals import t_interval
from lottery_jax.report.labels import legend_names
from lottery_jax.report.panels import Line, Panel, accuracy_panel, control_styles, value_range
from lottery_jax.report.published import Curve

# The close view reaches this many points below the dense network.
_NEAR = 5.0
# There is a close view if the axis of everything is this many times as long.
_FLATTENED = 2.5
# The label of the dense network, also where there is one for each run.
_DENSE = "dense network"


def run_panels(runs: Sequence[RunCurve], curves: Sequence[Curve] = ()) -> list[Panel]:
    """Return the panels of a figure of runs: everything, the tickets enlarged, and differences.

    There is no enlarged panel if the tickets can be seen well among everything, and no differences
    if there is no ticket yet.
    """
    everything = accuracy_panel(runs, curves)
    panels = [everything, enlarged_panel(everything), difference_panel(runs)]
    found = [panel for panel in panels if panel is not None]
    if len(found) > 1:
        found[0] = dataclasses.replace(everything, title="all series")
    return found


def with_enlarged(panels: Sequence[Panel]) -> list[Panel]:
    """Return panels, each followed by its enlarged panel where there is one."""
    pairs = ((panel, enlarged_panel(panel)) for panel in panels)
    return [panel for pair in pairs for panel in pair if panel is not None]


def reading_notes(runs: Sequence[RunCurve], panels: Sequence[Panel]) -> list[str]:
    """Return sentences that say how to read the panels of a figure of runs."""
    if all(len(run.seeds) == 1 for run in runs):
        return []
    differences = " Differences are taken seed by seed; bars: Student's 95 % interval of the mean."
    if any(1 in line.counts for panel in panels for line in panel.lines):
        differences += " No bar: a single seed."
    return [
        "Small dashes: single seeds. Bands end at the outermost seed."
        + differences * any(panel.signed for panel in panels)
    ]


def enlarged_panel(panel: Panel) -> Panel | None:
    """Return a panel with the range of the tickets near the dense network; None: it shows no more.

    Tickets are near if they lose at most 5 points; of other metrics than accuracy all tickets count.
    Other lines leave the panel.
    """
    dense = [line.accuracy for line in panel.dense if line.accuracy is not None]
    share = panel.quantity.endswith("%")
    floor = min(dense) - _NEAR if dense and share else -math.inf
    near = list(dense)
    for line in (line for line in panel.lines if line.kind == "ticket"):
        shown = [*line.mean, *(end for pair in line.reach() for end in pair)]
        near += [value for value in shown if value >= floor]
    if len(near) == len(dense):
        return None
    low, high = value_range(near, panel.quantity)
    if share:
        high = min(high, max(100.0, max(near)) + 0.1)
    everything = panel.range
    if everything[1] - everything[0] <= _FLATTENED * (high - low):
        return None
    title = f"{panel.title}, enlarged" if panel.title else "enlarged: near the dense network"
    return dataclasses.replace(panel, title=title, limits=(low, high), enlarged=True)


def difference_panel(runs: Sequence[RunCurve]) -> Panel | None:
    """Return the winning tickets less the other networks of the same seed; None: there is no ticket.

    Of a single run these are the dense network and each control; of several runs the dense network
    of each. Bars are Student's 95 % intervals of the mean over seeds.
    """
    if len(runs) == 1:
        (run,) = runs
        lines = [_difference_line(_DENSE, run, None, kind="dense")]
        controls = [name for name in run.series if name != WINNING]
        for name, style in control_styles(controls).items():
            label = series_label(name)
            lines.append(_difference_line(label, run, name, colour=style, kind="control"))
        title = f"{LABELS[WINNING]} less {'each of the others' if controls else 'the ' + _DENSE}"
    else:
        names = legend_names(runs)
        lines = [
            _difference_line(name, run, None, colour=i, kind="ticket")
            for i, (run, name) in enumerate(zip(runs, names, strict=True))
        ]
        title = "tickets less their dense network"
    lines = [line for line in lines if line.x]
    if not lines:
        return None
    metrics = {run.metric for run in runs}
    share = all(map(is_share, metrics))
    quantity = "difference, points" if share else f"difference of {' / '.join(sorted(metrics))}"
    return Panel(title, tuple(lines), (), quantity, limits=_difference_range(lines), signed=True)


def _difference_line(
    label: str, run: RunCurve, control: str | None, *, colour: int | None = None, kind: str
) -> Line:
    """Return the winning tickets less a control, or less the dense network, paired by seed."""
    others = run.points(control) if control else {}
    points, halves = [], []
    for ticket in run.series[WINNING]:
        other = run.dense if control is None else others.get(ticket.level)
        if other is None:
            continue
        differences = {
            seed: value - other.accuracies[seed]
            for seed, value in ticket.accuracies.items()
            if seed in other.accuracies
        }
        if differences:
            points.append(Point(ticket.level, ticket.remaining, differences))
            halves.append(_half_interval(differences.values()))
    return Line(
        label,
        tuple(point.remaining for point in points),
        tuple(point.mean for point in points),
        tuple(halves),
        colour,
        colour or 0,
        kind,
        bars=True,
        counts=tuple(len(point.accuracies) for point in points),
    )


def _half_interval(values: Iterable[float]) -> float:
    """Return half of the width of the interval; 0 of a single value, which has none."""
    low, high = t_interval(values)
    return (high - low) / 2 if math.isfinite(low) else 0.0


def _difference_range(lines: Sequence[Line]) -> tuple[float, float]:
    """Return the ends of the axis of differences: 0, all means and, where they are short, the bars."""
    means = [0.0, *(mean for line in lines for mean in line.mean)]
    ends = [end for line in lines for pair in line.reach() for end in pair]
    reserve = max(0.5, 3 * statistics.median(half for line in lines for half in line.std))
    low = max(min(means) - reserve, min([*means, *ends]))
    high = min(max(means) + reserve, max([*means, *ends]))
    if has_log_differences((low, high)):
        return min(1.3 * low, -1.0), max(1.3 * high, 1.0)
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin
