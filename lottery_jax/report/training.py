"""Read and draw training curves: loss and metric over steps, for some levels of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lottery_jax.curve import WINNING, is_share
from lottery_jax.report.axes import (
    add_notes,
    add_subtitle,
    matplotlib_defaults,
    new_figure,
    round_ticks,
    style_axes,
    style_values_axis,
    wrap_notes,
)
from lottery_jax.report.curves import UNREADABLE, RunCurve
from lottery_jax.report.panels import value_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# So many levels are drawn: the dense network, the sparsest ticket and some between.
_LEVELS = 5
_MARKERS = "osD^v"


@dataclasses.dataclass(frozen=True)
class TrainingCurve:
    """The training of one level's winning tickets.

    Attributes:
        level: the level of the ladder; 0 is the dense network.
        remaining: the weights that remain, in percent.
        loss: the training loss of each seed, by step.
        metric: the test metric of each seed, by step: in percent for accuracy, else as it is.
    """

    level: int
    remaining: float
    loss: tuple[dict[int, float], ...]
    metric: tuple[dict[int, float], ...]


def training_curves(run: RunCurve, most: int = _LEVELS) -> list[TrainingCurve]:
    """Return the training curves of at most `most` levels, evenly chosen, the ends included.

    A line of metrics.jsonl that can't be read, such as one that a killed process left, is passed
    over, and so are values that are not finite. A level that was not recorded is left out.
    """
    levels = sorted(run.tickets)
    if len(levels) > most:
        levels = [levels[round(i * (len(levels) - 1) / (most - 1))] for i in range(most)]
    columns = {"train_loss": 1.0, f"test_{run.metric}": 100.0 if is_share(run.metric) else 1.0}
    found: dict[tuple[int, str], dict[int, dict[int, float]]] = {}
    for seed, folder in run.folders.items():
        for row in _rows(folder):
            with contextlib.suppress(*UNREADABLE):
                if row["seed"] != seed or row["control"] != WINNING or row["level"] not in levels:
                    continue
                for column, scale in columns.items():
                    if column in row and math.isfinite(value := scale * float(row[column])):
                        by_seed = found.setdefault((row["level"], column), {})
                        by_seed.setdefault(seed, {})[int(row["step"])] = value
    curves = []
    for level in levels:
        loss, metric = (
            tuple(dict(sorted(points.items())) for points in found.get((level, c), {}).values())
            for c in columns
        )
        if loss or metric:
            curves.append(TrainingCurve(level, run.tickets[level].remaining, loss, metric))
    return curves


def _rows(folder: Path) -> Iterator[Mapping[str, Any]]:
    with contextlib.suppress(OSError), (folder / "metrics.jsonl").open(errors="replace") as file:
        for line in file:
            with contextlib.suppress(*UNREADABLE):
                yield dict(json.loads(line))


def mean_curve(seeds: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Return the mean over seeds at the steps that all of them have.

    >>> mean_curve([{1: 2.0, 2: 1.0}, {1: 4.0}])
    {1: 3.0}
    """
    steps = set.intersection(*(set(points) for points in seeds)) if seeds else set()
    return {step: statistics.fmean(points[step] for points in seeds) for step in sorted(steps)}


@matplotlib_defaults()
def training_figure(
    curves: Sequence[TrainingCurve], title: str, subtitle: str, quantity: str
) -> Figure:
    """Draw the training loss and the test metric over steps, a colour for each level.

    Args:
        curves: from the densest network to the sparsest.
        title: the heading of the figure.
        subtitle: small print above the axes.
        quantity: the test metric, which ends in ", %" if it is a percentage.
    """
    all_series = [seeds for curve in curves for seeds in (curve.loss, curve.metric)]
    share = quantity.endswith("%")
    notes = ["Thin lines: single seeds."] if any(len(seeds) > 1 for seeds in all_series) else []
    if any(mean_curve(seeds).keys() != set().union(*seeds) for seeds in all_series):
        notes.append("Means are drawn where all seeds have a finite value.")
    reach = "begins at the lowest mean" if share else "spans the means"
    notes.append(f"The axis of the test metric {reach} of the second half of the training.")
    lines = wrap_notes([" ".join(notes)], 9.6)
    figure = new_figure(9.6, 4.2 + 0.15 * len(lines), title)
    losses, metrics = figure.subplots(1, 2)
    add_subtitle(losses, subtitle)
    _draw(losses, curves, [curve.loss for curve in curves])
    shown = [y for c in curves for points in c.loss for y in points.values()]
    losses.set_ylabel("training loss")
    if shown and max(shown) > 5 * min(shown) > 0:
        low, high = 0.87 * min(shown), 1.15 * max(shown)
        losses.set_yscale("log")
        losses.set_ylim(low, high)
        ticks = round_ticks(low, high)
        losses.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        losses.set_yticks([], minor=True)
        losses.set_ylabel("training loss, log scale")
    _draw(metrics, curves, [curve.metric for curve in curves])
    limits = value_range(_late_values([curve.metric for curve in curves], share), quantity)
    metrics.set_ylabel(style_values_axis(metrics, quantity, limits))
    metrics.legend(
        title="weights remaining", title_fontsize=9, loc="center left", bbox_to_anchor=(1.02, 0.5),
        frameon=False, fontsize=9,
    )  # fmt: skip
    add_notes(figure, lines)
    return figure


def _late_values(series: Sequence[Sequence[Mapping[int, float]]], share: bool) -> list[float]:
    """Return the means of the second half of the training, and of shares the highest mean of all.

    Of other metrics, such as errors, the highest mean may be that of the untrained network.
    """
    means = [mean_curve(seeds) for seeds in series]
    end = max((step for points in means for step in points), default=0)
    values = [v for points in means for step, v in points.items() if 2 * step >= end]
    return [*values, *(max(points.values()) for points in means if points and share)]


def _draw(
    axes: Axes, curves: Sequence[TrainingCurve], series: Sequence[Sequence[Mapping[int, float]]]
) -> None:
    """Draw the seeds of each curve thinly and their mean on top."""
    from matplotlib import colormaps

    style_axes(axes)
    for i, (curve, seeds) in enumerate(zip(curves, series, strict=True)):
        colour = colormaps["viridis"](0.85 * i / max(1, len(curves) - 1))
        if len(seeds) > 1:
            for points in seeds:
                axes.plot(
                    list(points), list(points.values()), color=colour, linewidth=0.5, alpha=0.5
                )
        mean = mean_curve(seeds)
        few = len(mean) <= 12
        axes.plot(
            list(mean), list(mean.values()), color=colour, linewidth=1.6, markersize=4,
            marker=_MARKERS[i % len(_MARKERS)] if few else "", label=f"{curve.remaining:.3g} %",
        )  # fmt: skip
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=6)
