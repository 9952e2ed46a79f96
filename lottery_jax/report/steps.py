"""Draw what a search over rewind steps has found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lottery_jax.report.axes import (
    COLOURS,
    matplotlib_defaults,
    new_figure,
    style_axes,
    style_values_axis,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@matplotlib_defaults()
def steps_figure(
    rows: Sequence[Mapping[str, Any]], title: str, limits: Mapping[str, tuple[str, float | None]]
) -> Figure:
    """Draw columns of shares over the column `step`, in percent, each in axes of its own.

    Args:
        rows: in the order of `step`; bands reach the deviation in the column `NAME_std`.
        title: the heading of the figure.
        limits: by column, the label of its axis and the value of a horizontal line, in percent;
            None: no line.
    """
    figure = new_figure(9.2, 3.8, title)
    steps = [row["step"] for row in rows]
    for i, (column, (quantity, limit)) in enumerate(limits.items()):
        axes = figure.add_subplot(1, len(limits), i + 1)
        style_axes(axes)
        means = [100 * row[column] for row in rows]
        spreads = [100 * row[f"{column}_std"] for row in rows]
        axes.errorbar(
            steps, means, yerr=spreads if any(spreads) else None, marker="o", markersize=4.5,
            linewidth=1.6, capsize=2.5, color=COLOURS[0],
        )  # fmt: skip
        if limit is not None:
            label = f"limit {limit:g}"
            axes.axhline(limit, color="0.35", linewidth=1.1, linestyle=":", label=label)
            axes.legend(frameon=False, fontsize=8)
        if max(steps) > 0:
            axes.set_xscale("symlog", linthresh=min(step for step in steps if step > 0))
        axes.set_xticks(steps, [str(step) for step in steps], fontsize=8)
        axes.set_xticks([], minor=True)
        axes.set_xlabel("rewind step")
        axes.set_ylabel(style_values_axis(axes, quantity, axes.get_ylim()))
    return figure
