"""The figure of claims: what was measured beside what was published, and the range of each rule."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lottery_jax.report.axes import (
    COLOURS,
    add_subtitle,
    matplotlib_defaults,
    new_figure,
    style_axes,
)
from lottery_jax.report.figures import save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OUTCOMES = {"holds": COLOURS[2], "fails": COLOURS[1], "undecided": "0.45"}


@dataclasses.dataclass(frozen=True)
class ForestRow:
    """One quantity.

    Attributes:
        label: what it is.
        unit: rows of one unit share axes.
        mean: as measured; NaN if it was not.
        low: the lower end of its interval; may be infinite.
        high: the upper end.
        published: None if the source has no number.
        range_low: the lower end of the range that the rule claims; may be infinite.
        range_high: the upper end.
        outcome: holds, fails or undecided.
    """

    label: str
    unit: str
    mean: float
    low: float
    high: float
    published: float | None
    range_low: float
    range_high: float
    outcome: str


@matplotlib_defaults()
def forest_figure(rows: Sequence[ForestRow], title: str) -> Figure:
    """Draw each quantity with its interval, its published value and the range of its rule."""
    units = list(dict.fromkeys(row.unit for row in rows))
    groups = [[row for row in rows if row.unit == unit] for unit in units]
    figure = new_figure(9.2, 1.0 + 0.7 * len(groups) + 0.27 * len(rows), title)
    axes_of = figure.subplots(
        len(groups) or 1, squeeze=False, height_ratios=[len(group) + 1 for group in groups] or [1]
    )
    for axes, unit, group in zip(axes_of[:, 0], units, groups, strict=False):
        _draw_group(axes, unit, group)
    if groups:
        text = "point and line: mean and 95 % interval; diamond: published; grey: claimed"
        add_subtitle(axes_of[0, 0], text)
    return figure


def _draw_group(axes: Axes, unit: str, group: Sequence[ForestRow]) -> None:
    style_axes(axes)
    shown: list[float] = [0.0] if unit == "points" else []
    for row in group:
        for value in (row.mean, row.low, row.high, row.published, row.range_low, row.range_high):
            if value is not None and math.isfinite(value):
                shown.append(value)
    margin = 0.08 * (max(shown) - min(shown)) or 1.0
    left, right = min(shown) - margin, max(shown) + margin
    for y, row in enumerate(group):
        start, end = max(row.range_low, left), min(row.range_high, right)
        axes.barh(y, end - start, left=start, height=0.8, color="0.93", zorder=0)
        for edge in (row.range_low, row.range_high):
            if math.isfinite(edge):
                axes.plot([edge, edge], [y - 0.4, y + 0.4], color="0.6", linewidth=1, zorder=1)
        style: dict[str, Any] = {"color": _OUTCOMES[row.outcome], "zorder": 3}
        if math.isfinite(row.low) and math.isfinite(row.high):
            axes.plot([row.low, row.high], [y, y], linewidth=2, **style)
        if math.isfinite(row.mean):
            axes.plot([row.mean], [y], marker="o", markersize=5, **style)
        if row.published is not None:
            axes.plot(
                [row.published], [y], marker="D", markersize=5, markerfacecolor="white",
                color="0.2", zorder=4,
            )  # fmt: skip
    axes.set_xlim(left, right)
    axes.set_ylim(len(group) - 0.4, -0.6)
    axes.set_yticks(range(len(group)), [row.label for row in group], fontsize=7.5)
    axes.set_xlabel(unit, fontsize=8)
    axes.tick_params(axis="x", labelsize=8)


def claims_figure_files(rows: Sequence[ForestRow], title: str, stem: Path) -> list[Path]:
    """Write the figure as `stem`.png and `stem`.svg and return their paths."""
    return save(forest_figure(rows, title), stem)
