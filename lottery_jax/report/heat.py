"""Draw a transfer matrix as a heat map of differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lottery_jax.report.axes import (
    add_notes,
    add_subtitle,
    matplotlib_defaults,
    new_figure,
    signed_text,
    wrap_notes,
)
from lottery_jax.report.panels import HeatCell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colour scale reaches at least this many points, so that small differences look small.
_FLOOR = 2.0


@matplotlib_defaults()
def heat_figure(
    rows: dict[str, list[HeatCell]],
    columns: Sequence[str],
    title: str,
    subtitle: str,
    *,
    rows_apart: int,
    axis_labels: tuple[str, str, str],
    notes: Sequence[str] = (),
) -> Figure:
    """Draw a heat map of differences, with a colour scale centred on 0.

    Args:
        rows: the cells by row label, from top to bottom.
        columns: column labels.
        title: the heading of the figure.
        subtitle: small print below the title.
        rows_apart: how many rows at the bottom are set apart; the colour scale ignores them.
        axis_labels: labels of the vertical axis, the horizontal axis and the colour scale.
        notes: sentences below everything.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    names = list(rows)
    top = len(names) - rows_apart
    fitted = [c.value for name in names[:top] for c in rows[name] if c.value is not None]
    limit = max(_FLOOR, max(map(abs, fitted), default=0.0))
    end = 1.2 * limit  # the ends of the colour map are too dark for text
    norm, colours = Normalize(-end, end), colormaps["RdBu"]
    width = 3.4 + 1.5 * len(columns)
    note_lines = wrap_notes(notes, width)
    figure = new_figure(width, 1.9 + 0.72 * len(names) + 0.15 * len(note_lines), title)
    axes = figure.add_subplot()
    add_subtitle(axes, subtitle)
    gap = 0.18
    places = [i + (gap if i >= top else 0.0) for i in range(len(names))]
    for y, name in zip(places, names, strict=True):
        for x, cell in enumerate(rows[name]):
            face: Any = "0.94" if cell.value is None else colours(norm(cell.value))
            dark = cell.value is not None and abs(cell.value) > 0.75 * limit
            if cell.faded:
                face, dark = _fade(face), False
            _draw_cell(axes, cell, x, y, face, "white" if dark else "0.4" if cell.faded else "0.1")
    axes.set_xlim(0, len(columns))
    axes.set_ylim(places[-1] + 1, 0)
    axes.set_xticks([x + 0.5 for x in range(len(columns))], columns, fontsize=9)
    axes.set_yticks([y + 0.5 for y in places], names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel(axis_labels[0], labelpad=8)
    axes.set_xlabel(axis_labels[1], labelpad=8)
    values = [c.value for cells in rows.values() for c in cells if c.value is not None]
    below, above = min(values, default=0.0) < -end, max(values, default=0.0) > end
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]
    mappable = ScalarMappable(norm, colours)
    bar = figure.colorbar(mappable, ax=axes, extend=extend, shrink=0.9, pad=0.03, aspect=22)
    bar.outline.set_visible(False)
    bar.set_label(axis_labels[2], fontsize=9, labelpad=8)
    bar.ax.tick_params(labelsize=8)
    bar.ax.yaxis.set_major_formatter(signed_text)
    add_notes(figure, note_lines)
    return figure


def _fade(colour: Sequence[float]) -> tuple[float, ...]:
    """Return a colour mixed with white.

    >>> _fade((0.0, 0.5, 1.0, 1.0))
    (0.75, 0.875, 1.0)
    """
    return tuple(1 - 0.25 * (1 - part) for part in colour[:3])


def _draw_cell(axes: Axes, cell: HeatCell, x: float, y: float, face: Any, ink: str) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor="white"))
    if cell.framed:
        frame = Rectangle((x + 0.03, y + 0.03), 0.94, 0.94, fill=False, zorder=3)
        frame.set(edgecolor="0.15", linewidth=1.8)
        axes.add_patch(frame)
    lift = 0.12 if cell.small else 0.0
    middle: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
    axes.text(x + 0.5, y + 0.5 - lift, cell.text, fontsize=9 if cell.framed else 11, **middle)
    axes.text(x + 0.5, y + 0.74, cell.small, fontsize=7.5, **middle)
