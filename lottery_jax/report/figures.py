"""Figures: what to draw as plain data, and the only code that knows Matplotlib.

Nothing here knows what a run is, and no state of Matplotlib's is changed. It is imported only when
something is drawn. Figures are made and saved with Matplotlib's own defaults: a user's matplotlibrc
changes nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from lottery_jax.system.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette without its yellow, with black and wine in its place: any two are told
# apart by eyes that lack one kind of cone.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#661100",
    "#000000",
)
_MARKERS = "osD^vPX*"
_DASHES = ((0, (4, 1.6)), (0, (2, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (1, 1)))
_GREYS = ("0.45", "0.62", "0.35", "0.70", "0.52")
_REFERENCE_MARKERS = "<>pdh"
_TICKS = (100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)


@dataclasses.dataclass(frozen=True)
class Line:
    """Accuracies over weights remaining, both in percent. Without points: a legend entry alone.

    Attributes:
        label: its legend entry; empty: none.
        x: weights remaining.
        mean: accuracies.
        std: half the width of the band around it; empty: no band.
        colour: a number in the palette; None: grey.
        marker: a number among the markers.
        kind: `ticket` (solid), `control` (dashed, hollow) or `reference` (thin, grey, behind).
    """

    label: str
    x: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    colour: int | None = None
    marker: int = 0
    kind: str = "ticket"


@dataclasses.dataclass(frozen=True)
class DenseLine:
    """The accuracy of a dense network, a dotted line across; label and colour as of a `Line`."""

    label: str
    accuracy: float | None = None
    colour: int | None = None


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes. Lines of the same label in several panels share a legend entry."""

    title: str
    lines: tuple[Line, ...]
    dense: tuple[DenseLine, ...]


@dataclasses.dataclass(frozen=True)
class Heat:
    """One cell of a heat map.

    Attributes:
        value: what its colour says; None: no colour.
        text: in large print.
        small: below it, in small print.
        framed: whether it has a bold frame.
    """

    value: float | None
    text: str
    small: str = ""
    framed: bool = False


P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def _defaults() -> Iterator[None]:
    """Has Matplotlib use its own defaults, whatever the user's matplotlibrc and MPLBACKEND say."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what it says of a user's settings does not matter here
    try:
        try:
            import matplotlib as mpl
        except ValueError:  # MPLBACKEND names none that there is; no backend is used here
            if os.environ.pop("MPLBACKEND", None) is None:
                raise
            for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
                del sys.modules[name]  # half of it
            import matplotlib as mpl
        with mpl.rc_context():
            mpl.rcParams.update({k: v for k, v in mpl.rcParamsDefault.items() if k != "backend"})
            yield
    finally:
        logger.setLevel(level)


def _with_defaults(function: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(function)
    def within(*args: P.args, **kwargs: P.kwargs) -> T:
        with _defaults():
            return function(*args, **kwargs)

    return within


@_with_defaults
def accuracy_figure(
    panels: Sequence[Panel], title: str, subtitle: str, counted: str, notes: Sequence[str] = ()
) -> Figure:
    """Accuracy over weights remaining; bands are one standard deviation wide to each side.

    Args:
        panels: side by side, with one legend for all.
        title: above everything.
        subtitle: below it, in small print.
        counted: what 100 % of the weights are, for the label of the x-axis.
        notes: sentences below everything.
    """
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    single = len(panels) == 1
    xlabel = f"weights remaining, % of {counted} (log scale)"
    if not single:
        notes = [f"{subtitle[0].upper()}{subtitle[1:]}. Horizontal: {xlabel}.", *notes]
    width = 9.2 if single else 2.2 + 3.7 * columns
    noted = _wrapped(notes, width)
    entries = {line.label for panel in panels for line in panel.lines if line.label}
    # Room for a legend longer than the axes are high, and for the notes.
    height = max(4.6 if single else 1.2 + 3.0 * rows, 1.0 + 0.25 * (len(entries) + 1))
    figure = _new_figure(width, height + 0.15 * len(noted), title)
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        _draw(axes, panel)
        _weights_axis(axes, [x for line in panel.lines for x in line.x])
        if single:
            _add_subtitle(axes, f"{panel.title}; {subtitle}" if panel.title else subtitle)
            axes.set_xlabel(textwrap.fill(xlabel, 72))
            axes.set_ylabel("test accuracy, %")
        else:
            axes.set_title(panel.title, loc="left", fontsize=10)
            axes.set_xlabel("weights remaining, %" if i + columns >= len(panels) else "")
            axes.set_ylabel("test accuracy, %" if i % columns == 0 else "")
    _add_legend(figure, beside=columns - 1)
    _add_notes(figure, noted)
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    _style(axes)
    for i, line in enumerate(line for line in panel.lines if line.kind != "reference"):
        _draw_line(axes, line, 3 - 0.01 * i)
    for dense in panel.dense:
        colour = "0.35" if dense.colour is None else COLOURS[dense.colour % len(COLOURS)]
        look: dict[str, Any] = {"color": colour, "linewidth": 1.1, "linestyle": ":"}
        if dense.accuracy is None:
            axes.plot([], [], label=dense.label, **look)
        else:
            axes.axhline(dense.accuracy, label=dense.label, **look)
    for line in panel.lines:
        if line.kind == "reference":
            _draw_line(axes, line, 1.5)
    # Fitted to the means: a single seed that failed must not flatten everything else.
    levels = [mean for line in panel.lines for mean in line.mean]
    levels += [dense.accuracy for dense in panel.dense if dense.accuracy is not None]
    if levels:
        margin = max(0.5, 0.06 * (max(levels) - min(levels)))
        axes.set_ylim(min(levels) - margin, max(levels) + margin)


def _draw_line(axes: Axes, line: Line, zorder: float) -> None:
    control, reference = line.kind == "control", line.kind == "reference"
    if reference:
        colour = _GREYS[line.marker % len(_GREYS)]
        marker = _REFERENCE_MARKERS[line.marker % len(_REFERENCE_MARKERS)]
    else:
        colour = "0.35" if line.colour is None else COLOURS[line.colour % len(COLOURS)]
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
    if any(line.std):
        low = [m - s for m, s in zip(line.mean, line.std, strict=True)]
        high = [m + s for m, s in zip(line.mean, line.std, strict=True)]
        alpha = 0.10 if control else 0.16
        axes.fill_between(line.x, low, high, color=colour, alpha=alpha, linewidth=0, zorder=1)


@_with_defaults
def layer_figure(
    layers: dict[str, list[tuple[float, float]]], title: str, subtitle: str, counted: str
) -> Figure:
    """Which share of each layer's weights remains, over that of the whole network.

    Args:
        layers: for each layer, from input to output, (remaining in all, in the layer) in percent.
        title: above everything.
        subtitle: below it, in small print.
        counted: what 100 % of the weights are, for the label of the x-axis.
    """
    from matplotlib import colormaps

    figure = _new_figure(9.2, 4.6, title)
    axes = figure.add_subplot()
    _style(axes)
    _add_subtitle(axes, subtitle)
    names = list(layers)
    for i, name in enumerate(names):
        colour = colormaps["viridis"](0.92 * i / max(1, len(names) - 1))
        # Nothing left of a layer has no place on a log scale: the line ends there.
        points = [(x, y) for x, y in layers[name] if y > 0]
        axes.plot(
            [x for x, _ in points], [y for _, y in points],
            marker="o", markersize=3, linewidth=1.5, color=colour, label=name,
        )  # fmt: skip
    everything = sorted({x for points in layers.values() for x, _ in points})
    axes.plot(everything, everything, color="0.6", linewidth=1, linestyle=":", label="uniform")
    _weights_axis(axes, everything)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("weights remaining in the layer, %")
    axes.set_xlabel(textwrap.fill(f"weights remaining, % of {counted} (log scale)", 72))
    figure.legend(loc="outside right center", frameon=False, fontsize=8, ncols=-(-len(names) // 18))
    return figure


@_with_defaults
def heat_figure(
    rows: dict[str, list[Heat]],
    columns: Sequence[str],
    title: str,
    subtitle: str,
    *,
    apart: int,
    labels: tuple[str, str, str],
    notes: Sequence[str] = (),
) -> Figure:
    """A heat map of differences, with a colour scale centred on 0.

    Args:
        rows: their cells by row label, from top to bottom.
        columns: column labels.
        title: above everything.
        subtitle: below it, in small print.
        apart: how many rows, from the bottom, are set apart; the colour scale is not fitted to them.
        labels: of the vertical axis, the horizontal axis and the colour scale.
        notes: sentences below everything.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    names = list(rows)
    top = len(names) - apart
    limit = max(
        (abs(c.value) for name in names[:top] for c in rows[name] if c.value is not None),
        default=0.0,
    )
    limit = max(limit, 0.5)
    # The ends of the map are too dark for the text on them.
    end = 1.2 * limit
    norm, colours = Normalize(-end, end), colormaps["RdBu"]
    width = 3.4 + 1.25 * len(columns)
    noted = _wrapped(notes, width)
    figure = _new_figure(width, 1.9 + 0.72 * len(names) + 0.15 * len(noted), title)
    axes = figure.add_subplot()
    _add_subtitle(axes, subtitle)
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
    axes.set_ylabel(labels[0], labelpad=8)
    axes.set_xlabel(labels[1], labelpad=8)
    values = [c.value for cells in rows.values() for c in cells if c.value is not None]
    below, above = min(values, default=0.0) < -end, max(values, default=0.0) > end
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]
    mappable = ScalarMappable(norm, colours)
    bar = figure.colorbar(mappable, ax=axes, extend=extend, shrink=0.9, pad=0.03, aspect=22)
    bar.outline.set_visible(False)
    bar.set_label(labels[2], fontsize=9, labelpad=8)
    bar.ax.tick_params(labelsize=8)
    _add_notes(figure, noted)
    return figure


def _draw_cell(axes: Axes, cell: Heat, x: float, y: float, face: Any, ink: str) -> None:
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


@_with_defaults
def save(figure: Figure, stem: Path) -> list[Path]:
    """Writes `stem`.png and `stem`.svg, each whole or not at all; returns the two paths."""
    from matplotlib import rc_context

    files = []
    for kind in ("png", "svg"):
        file = stem.with_suffix(f".{kind}")
        metadata = {"Date": None} if kind == "svg" else None
        # With a fixed salt the same figure is the same file.
        with atomic_write(file) as temporary, rc_context({"svg.hashsalt": "lottery_jax"}):
            figure.savefig(temporary, format=kind, dpi=160, metadata=metadata)
        files.append(file)
    return files


def _new_figure(width: float, height: float, title: str) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, hspace=0.06, wspace=0.04)
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    text = textwrap.fill(title, round(width * 12))
    figure.suptitle(text, x=0.1 / width, ha="left", fontsize=11.5)
    return figure


def _add_subtitle(axes: Axes, subtitle: str) -> None:
    axes.set_title(subtitle, loc="left", fontsize=9, color="0.35")


def _wrapped(notes: Sequence[str], width: float) -> list[str]:
    """The lines of notes below a figure that is so many inches wide."""
    return [line for note in notes for line in textwrap.wrap(note, round(16.5 * width))]


def _add_notes(figure: Figure, lines: Sequence[str]) -> None:
    if lines:
        place = 0.1 / figure.get_figwidth()
        text = "\n".join(lines)
        figure.supxlabel(text, x=place, ha="left", fontsize=7.5, color="0.3", linespacing=1.35)


def _add_legend(figure: Figure, beside: int) -> None:
    """One legend for all axes, on the right of one of them, in the order of drawing."""
    found: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(textwrap.fill(label, 38), handle)
    figure.axes[beside].legend(
        list(found.values()),
        list(found),
        loc="center left",
        bbox_to_anchor=(1.02, 0.5),
        frameon=False,
        fontsize=9,
        handlelength=2.9,
        labelspacing=0.7,
    )


def _style(axes: Axes) -> None:
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _weights_axis(axes: Axes, remaining: Sequence[float]) -> None:
    """Weights remaining in percent, log scale, from dense on the left to sparse on the right."""
    axes.set_xscale("log")
    lowest = 0.87 * min(remaining, default=10.0)
    axes.set_xlim(115, lowest)
    ticks = [tick for tick in _TICKS if tick >= lowest]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
