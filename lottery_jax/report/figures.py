"""Draw the plain data of `panels.py` with Matplotlib."""

from __future__ import annotations

import functools
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lottery_jax.report.axes import (
    COLOURS,
    DARK_GREY,
    add_legend,
    add_notes,
    add_subtitle,
    matplotlib_defaults,
    new_figure,
    style_axes,
    style_cost_axis,
    style_weights_axis,
    wrap_notes,
)
from lottery_jax.report.panels import HeatCell, Line, Panel
from lottery_jax.system.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Figure

_MARKERS = "osD^vPX*"
_DASHES = ((0, (4, 1.6)), (0, (2, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (1, 1)))
_GREYS = ("0.45", "0.62", "0.35", "0.70", "0.52")
_REFERENCE_MARKERS = "<>pdh"


@matplotlib_defaults()
def accuracy_figure(
    panels: Sequence[Panel],
    title: str,
    subtitle: str,
    counted_weights: str,
    notes: Sequence[str] = (),
) -> Figure:
    """Draw accuracy over weights remaining, or cost; bands reach one standard deviation each way.

    Args:
        panels: drawn side by side, with one legend for all.
        title: the heading of the figure.
        subtitle: small print below the title.
        counted_weights: which weights make up 100 %, for the label of the x-axis.
        notes: sentences below everything.
    """
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    single = len(panels) == 1
    xlabel = _weights_label(counted_weights)
    if not single:
        costs = any(panel.cost for panel in panels)
        horizontal = "the cost of finding and training each ticket (log scale)" if costs else xlabel
        notes = [f"{subtitle[0].upper()}{subtitle[1:]}. Horizontal: {horizontal}.", *notes]
    width = 9.2 if single else 2.2 + 3.7 * columns
    note_lines = wrap_notes(notes, width)
    entries = {line.label for panel in panels for line in panel.lines if line.label}
    # Leave room for the notes, and for a legend that is longer than the axes are high.
    height = max(4.6 if single else 1.2 + 3.0 * rows, 1.0 + 0.25 * (len(entries) + 1))
    figure = new_figure(width, height + 0.15 * len(note_lines), title)
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        _draw_panel(axes, panel)
        if panel.cost:
            style_cost_axis(axes, [x for line in panel.lines for x in line.x])
        else:
            style_weights_axis(axes, [x for line in panel.lines for x in line.x])
        if single:
            add_subtitle(axes, f"{panel.title}; {subtitle}" if panel.title else subtitle)
            axes.set_xlabel(textwrap.fill(panel.cost or xlabel, 72))
            axes.set_ylabel(panel.quantity)
        else:
            axes.set_title(panel.title, loc="left", fontsize=10)
            shown = panel.cost or "weights remaining, %"
            axes.set_xlabel(shown if panel.cost or i + columns >= len(panels) else "")
            is_new = i % columns == 0 or panel.quantity != panels[i - 1].quantity
            axes.set_ylabel(panel.quantity if is_new else "")
    add_legend(figure, beside=columns - 1)
    add_notes(figure, note_lines)
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    style_axes(axes)
    for i, line in enumerate(line for line in panel.lines if line.kind != "reference"):
        _draw_line(axes, line, 3 - 0.01 * i)
    for dense in panel.dense:
        style: dict[str, Any] = {"color": _colour(dense.colour), "linewidth": 1.1, "linestyle": ":"}
        if dense.accuracy is None:
            axes.plot([], [], label=dense.label, **style)
        else:
            axes.axhline(dense.accuracy, label=dense.label, **style)
    for line in panel.lines:
        if line.kind == "reference":
            _draw_line(axes, line, 1.5)
    # The y-axis is fitted to the means, so that one failed seed does not flatten everything else.
    accuracies = [mean for line in panel.lines for mean in line.mean]
    accuracies += [dense.accuracy for dense in panel.dense if dense.accuracy is not None]
    if accuracies:
        least = 0.5 if panel.quantity.endswith("%") else 0.0
        margin = max(least, 0.06 * (max(accuracies) - min(accuracies))) or 1.0
        axes.set_ylim(min(accuracies) - margin, max(accuracies) + margin)


def _colour(number: int | None) -> str:
    return DARK_GREY if number is None else COLOURS[number % len(COLOURS)]


def _draw_line(axes: Axes, line: Line, zorder: float) -> None:
    control, reference = line.kind == "control", line.kind == "reference"
    if reference:
        colour = _GREYS[line.marker % len(_GREYS)]
        marker = _REFERENCE_MARKERS[line.marker % len(_REFERENCE_MARKERS)]
    else:
        colour = _colour(line.colour)
        marker = _MARKERS[line.marker % len(_MARKERS)]
    axes.plot(
        line.x,
        line.mean,
        label=line.label,
        color=colour,
        marker=marker,
        markersize=5.5 if marker in "PX*" else 4.5,
        markerfacecolor="white" if control or reference else colour,
        markeredgewidth=1.0,
        linewidth=0.9 if reference else 1.4 if control else 1.8,
        linestyle=_DASHES[line.marker % len(_DASHES)] if control else "-",
        zorder=zorder,
    )
    for x, y, text in zip(line.x, line.mean, line.texts, strict=False):
        place: dict[str, Any] = {"textcoords": "offset points", "xytext": (4, 4)}
        axes.annotate(text, (x, y), fontsize=7, color=colour, **place)
    if line.texts:  # over a cost, which need not grow from point to point, a band would mislead
        for x, y, s in zip(line.x, line.mean, line.std, strict=True):
            axes.plot([x, x], [y - s, y + s], color=colour, linewidth=1, alpha=0.4, zorder=1)
    elif any(line.std):
        low = [m - s for m, s in zip(line.mean, line.std, strict=True)]
        high = [m + s for m, s in zip(line.mean, line.std, strict=True)]
        alpha = 0.10 if control else 0.16
        axes.fill_between(line.x, low, high, color=colour, alpha=alpha, linewidth=0, zorder=1)


@matplotlib_defaults()
def layer_figure(
    layers: dict[str, list[tuple[float, float]]], title: str, subtitle: str, counted_weights: str
) -> Figure:
    """Draw the share of each layer's weights that remains over that of the whole network.

    Args:
        layers: for each layer, from input to output, pairs of percentages: (weights remaining in
            the network, weights remaining in the layer).
        title: the heading of the figure.
        subtitle: small print below the title.
        counted_weights: which weights make up 100 %, for the label of the x-axis.
    """
    from matplotlib import colormaps

    figure = new_figure(9.2, 4.6, title)
    axes = figure.add_subplot()
    style_axes(axes)
    add_subtitle(axes, subtitle)
    names = list(layers)
    for i, name in enumerate(names):
        colour = colormaps["viridis"](0.92 * i / max(1, len(names) - 1))
        # A log scale has no place for 0 %: the line of an empty layer ends before it.
        points = [(x, y) for x, y in layers[name] if y > 0]
        axes.plot(
            [x for x, _ in points], [y for _, y in points],
            marker="o", markersize=3, linewidth=1.5, color=colour, label=name,
        )  # fmt: skip
    everything = sorted({x for points in layers.values() for x, _ in points})
    axes.plot(everything, everything, color="0.6", linewidth=1, linestyle=":", label="uniform")
    style_weights_axis(axes, everything)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("weights remaining in the layer, %")
    axes.set_xlabel(textwrap.fill(_weights_label(counted_weights), 72))
    figure.legend(loc="outside right center", frameon=False, fontsize=8, ncols=-(-len(names) // 18))
    return figure


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
    limit = max(0.5, max(map(abs, fitted), default=0.0))
    end = 1.2 * limit  # the ends of the colour map are too dark for text
    norm, colours = Normalize(-end, end), colormaps["RdBu"]
    width = 3.4 + 1.25 * len(columns)
    note_lines = wrap_notes(notes, width)
    figure = new_figure(width, 1.9 + 0.72 * len(names) + 0.15 * len(note_lines), title)
    axes = figure.add_subplot()
    add_subtitle(axes, subtitle)
    gap = 0.18
    places = [i + (gap if i >= top else 0.0) for i in range(len(names))]
    for y, name in zip(places, names, strict=True):
        for x, cell in enumerate(rows[name]):
            face = "0.94" if cell.value is None else colours(norm(cell.value))
            dark = cell.value is not None and abs(cell.value) > 0.75 * limit
            _draw_cell(axes, cell, x, y, face, "white" if dark else "0.1")
    axes.set_xlim(0, len(columns))
    axes.set_ylim(places[-1] + 1, 0)
    axes.set_xticks([x + 0.5 for x in range(len(columns))], columns)
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
    add_notes(figure, note_lines)
    return figure


def _draw_cell(axes: Axes, cell: HeatCell, x: float, y: float, face: Any, ink: str) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor="white"))
    if cell.framed:
        frame = Rectangle((x + 0.03, y + 0.03), 0.94, 0.94, fill=False, zorder=3)
        frame.set(edgecolor="0.15", linewidth=1.8)
        axes.add_patch(frame)
    lift = 0.12 if cell.small else 0.0
    middle: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
    axes.text(x + 0.5, y + 0.5 - lift, cell.text, fontsize=11, **middle)
    axes.text(x + 0.5, y + 0.74, cell.small, fontsize=7.5, **middle)


@matplotlib_defaults()
def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.svg and return their paths; each file is written atomically."""
    from matplotlib import rc_context

    files = []
    for kind in ("png", "svg"):
        file = stem.with_suffix(f".{kind}")
        metadata = {"Date": None} if kind == "svg" else None
        # The fixed salt and the missing date make two files of the same figure equal.
        with atomic_write(file) as temporary, rc_context({"svg.hashsalt": "lottery_jax"}):
            figure.savefig(temporary, format=kind, dpi=160, metadata=metadata)
        files.append(file)
    return files


def for_notebooks(figure: Figure) -> Figure:
    """Return a figure that a notebook shows, whether or not pyplot was imported there."""
    vars(figure)["_repr_png_"] = functools.partial(_png, figure)
    return figure


@matplotlib_defaults()
def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _weights_label(counted_weights: str) -> str:
    return f"weights remaining, % of {counted_weights} (log scale)"
