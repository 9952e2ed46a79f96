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
    has_log_differences,
    matplotlib_defaults,
    new_figure,
    style_axes,
    style_cost_axis,
    style_differences_axis,
    style_values_axis,
    style_weights_axis,
    weights_label,
    wrap_notes,
)
from lottery_jax.report.panels import Line, Panel, shared_ranges
from lottery_jax.system.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Figure

_MARKERS = "osD^vPX*"
_DASHES = ((0, (4, 1.6)), (0, (2, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (1, 1)))
_GREYS = ("0.45", "0.62", "0.35", "0.70", "0.52")
_REFERENCE_MARKERS = "<>pdh"


_CUT = "Bands, bars and single seeds that lie beyond the axes are cut off."
_APART = "The vertical axes of the panels differ."


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
    # Two columns fit a page; many targets of a matrix are three in a row.
    many = len(panels) > 4 and not any(panel.enlarged for panel in panels)
    columns = min(len(panels), 3 if many else 2)
    rows = -(-len(panels) // columns)
    single, empty = len(panels) == 1, columns * rows - len(panels)
    xlabel = weights_label(counted_weights)
    ranges = shared_ranges(panels)
    if beyond := " ".join(_reading_notes(panels, ranges)):
        notes = [*notes, beyond]
    if not single:
        costs = any(panel.cost for panel in panels)
        horizontal = "the cost of finding and training each ticket (log scale)" if costs else xlabel
        notes = [f"{subtitle[0].upper()}{subtitle[1:]}. Horizontal: {horizontal}.", *notes]
    width = 9.2 if single else (0.6 if empty else 2.6) + 3.9 * columns
    note_lines = wrap_notes(notes, width)
    entries = {line.label for panel in panels for line in panel.lines if line.label}
    # Leave room for the notes, and for a legend that is longer than the axes are high.
    legend = 1.0 + 0.25 * (len(entries) + 1)
    height = max(4.6 if single else 1.2 + 3.0 * rows, legend * (rows if empty else 1))
    figure = new_figure(width, height + 0.15 * len(note_lines), title)
    for i, (panel, limits) in enumerate(zip(panels, ranges, strict=True)):
        axes = figure.add_subplot(rows, columns, i + 1)
        label = _draw_panel(axes, panel, limits)
        if panel.cost:
            style_cost_axis(axes, [x for line in panel.lines for x in line.x])
        else:
            style_weights_axis(axes, [x for line in panel.lines for x in line.x])
        if single:
            add_subtitle(axes, f"{panel.title}; {subtitle}" if panel.title else subtitle)
            axes.set_xlabel(textwrap.fill(panel.cost or xlabel, 72))
            axes.set_ylabel(label)
        else:
            axes.set_title(panel.title, loc="left", fontsize=10)
            shown = panel.cost or "weights remaining"
            axes.set_xlabel(shown if panel.cost or i + columns >= len(panels) else "")
            is_new = i % columns == 0 or panel.quantity != panels[i - 1].quantity
            axes.set_ylabel(label if is_new else "")
    if empty:
        place = figure.add_subplot(rows, columns, len(panels) + 1)
        place.set_axis_off()
        add_legend(figure, place, inside=True)
    else:
        add_legend(figure, figure.axes[columns - 1], inside=False)
    add_notes(figure, note_lines)
    return figure


def _reading_notes(panels: Sequence[Panel], ranges: Sequence[tuple[float, float]]) -> list[str]:
    """Return sentences on what lies beyond the axes and on axes that can't be compared."""
    notes = []
    for panel, (low, high) in zip(panels, ranges, strict=True):
        shown = [line for line in panel.lines if line.kind != "reference"]
        ends = [end for line in shown if any(line.std) for pair in line.reach() for end in pair]
        ends += [value for line in shown for values in line.seeds for value in values]
        if not panel.enlarged and ends and (min(ends) < low or max(ends) > high):
            notes = [_CUT]
    if any(p.signed and has_log_differences(r) for p, r in zip(panels, ranges, strict=True)):
        notes.append("Differences beyond ±1 are on a log scale.")
    plain = [(p.quantity, r) for p, r in zip(panels, ranges, strict=True) if p.limits is None]
    if any(a[0] == b[0] and a[1] != b[1] for a in plain for b in plain):
        notes.append(_APART)
    return notes


def _draw_panel(axes: Axes, panel: Panel, limits: tuple[float, float]) -> str:
    """Draw a panel, and return the label of its vertical axis."""
    style_axes(axes)
    if panel.signed:
        label = panel.quantity
        style_differences_axis(axes, limits)
    else:
        label = style_values_axis(axes, panel.quantity, limits)
    drawn = [line for line in panel.lines if line.kind != "reference"]
    for i, line in enumerate(drawn):
        # Bars at the same weights would hide each other: they are moved by up to 5 % of x.
        moved = 1 + 0.1 * (i - (len(drawn) - 1) / 2) / len(drawn) if panel.signed else 1.0
        _draw_line(axes, line, 3 - 0.01 * i, limits, moved)
    for dense in panel.dense:
        style: dict[str, Any] = {"color": _colour(dense.colour), "linewidth": 1.1, "linestyle": ":"}
        if dense.accuracy is None:
            axes.plot([], [], label=dense.label, **style)
        else:
            axes.axhline(dense.accuracy, label=dense.label, **style)
    for line in panel.lines:
        if line.kind == "reference":
            _draw_line(axes, line, 1.5, limits)
    return label


def _colour(number: int | None) -> str:
    return DARK_GREY if number is None else COLOURS[number % len(COLOURS)]


def _draw_line(
    axes: Axes, line: Line, zorder: float, limits: tuple[float, float], moved: float = 1.0
) -> None:
    """Draw a line with its band or bars, which end at the limits of the axes, and its seeds."""
    control, reference = line.kind == "control", line.kind == "reference"
    dashes = {"control": _DASHES[line.marker % len(_DASHES)], "dense": ":"}
    if reference:
        colour = _GREYS[line.marker % len(_GREYS)]
        marker = _REFERENCE_MARKERS[line.marker % len(_REFERENCE_MARKERS)]
    else:
        colour = _colour(line.colour)
        marker = "." if line.kind == "dense" else _MARKERS[line.marker % len(_MARKERS)]
    places = [x * moved for x in line.x]
    axes.plot(
        places,
        line.mean,
        label=line.label,
        color=colour,
        marker=marker,
        markersize=5.5 if marker in "PX*" else 4.5,
        markerfacecolor="white" if control or reference else colour,
        markeredgewidth=1.0,
        linewidth=0.9 if reference else 1.8 if line.kind == "ticket" else 1.4,
        linestyle=dashes.get(line.kind, "-"),
        zorder=zorder,
    )
    for i, (x, y, text) in enumerate(zip(line.x, line.mean, line.texts, strict=False)):
        rises = i + 1 < len(line.mean) and line.mean[i + 1] > y
        offset = (5, -9) if rises else (4, 4)  # off the line to the next point
        place: dict[str, Any] = {"textcoords": "offset points", "xytext": offset}
        axes.annotate(text, (x, y), fontsize=7, color=colour, **place)
    ends = [tuple(min(max(end, limits[0]), limits[1]) for end in pair) for pair in line.reach()]
    if line.bars:  # over a cost, which need not grow from point to point, a band would mislead
        for x, pair in zip(places, ends, strict=True):
            if pair[0] < pair[1]:
                axes.plot([x, x], pair, color=colour, linewidth=1, alpha=0.4, zorder=zorder - 1)
    elif any(line.std):
        low, high = zip(*ends, strict=True)
        alpha = 0.08 if control else 0.16
        axes.fill_between(line.x, low, high, color=colour, alpha=alpha, linewidth=0, zorder=1)
    marks = [(x, y) for x, values in zip(line.x, line.seeds, strict=False) for y in values]
    if marks:
        axes.plot(
            *zip(*marks, strict=True), linestyle="", marker="_", markersize=5, color=colour,
            markeredgewidth=0.7, alpha=0.6, zorder=2,
        )  # fmt: skip


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
        figure.set_layout_engine("none")  # it is laid out; once more takes a fifth of the time
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
