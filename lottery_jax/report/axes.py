"""Empty figures, axes, legends and notes, in the style that all figures share.

Matplotlib is imported when something is drawn. Figures are made and saved with its own defaults, so
a user's matplotlibrc changes nothing, and no setting of the user's is changed.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette with black and wine in place of its yellow. Colour-blind readers can tell
# any two apart.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#661100", "#000000",
)  # fmt: skip
DARK_GREY = "0.35"


@contextmanager
def matplotlib_defaults() -> Iterator[None]:
    """Use Matplotlib's own defaults, whatever the user's matplotlibrc and MPLBACKEND say."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # its warnings about the user's settings do not matter here
    try:
        try:
            import matplotlib as mpl
        except ValueError:  # MPLBACKEND names an unknown backend; figures here need none
            if os.environ.pop("MPLBACKEND", None) is None:
                raise
            for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
                del sys.modules[name]  # the import got half way
            import matplotlib as mpl
        with mpl.rc_context():
            mpl.rcParams.update({k: v for k, v in mpl.rcParamsDefault.items() if k != "backend"})
            yield
    finally:
        logger.setLevel(level)


def new_figure(width: float, height: float, title: str) -> Figure:
    """Return an empty figure, its size in inches."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, hspace=0.06, wspace=0.04)
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    text = textwrap.fill(title, round(width * 12))
    figure.suptitle(text, x=0.1 / width, ha="left", fontsize=11.5)
    return figure


def add_subtitle(axes: Axes, subtitle: str) -> None:
    """Add small print above the axes."""
    axes.set_title(subtitle, loc="left", fontsize=9, color=DARK_GREY)


def wrap_notes(notes: Sequence[str], width: float) -> list[str]:
    """Break notes into lines that fit below a figure of this width in inches."""
    return [line for note in notes for line in textwrap.wrap(note, round(16.5 * width))]


def add_notes(figure: Figure, lines: Sequence[str]) -> None:
    """Add small print below the figure."""
    if lines:
        place = 0.1 / figure.get_figwidth()
        text = "\n".join(lines)
        figure.supxlabel(text, x=place, ha="left", fontsize=7.5, color="0.3", linespacing=1.35)


def add_legend(figure: Figure, place: Axes, *, inside: bool) -> None:
    """Add one legend for all axes in the order of drawing, inside `place` or to the right of it."""
    found: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(textwrap.fill(label, 38), handle)
    place.legend(
        list(found.values()),
        list(found),
        loc="center left",
        bbox_to_anchor=(0.0 if inside else 1.02, 0.5),
        frameon=False,
        fontsize=9,
        handlelength=2.9,
        labelspacing=0.7,
    )


def style_axes(axes: Axes) -> None:
    """Draw a light grid and no frame above and on the right."""
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def round_ticks(low: float, high: float, decades: float = 5.0) -> list[float]:
    """Return the numbers 1, 2 and 5 times a power of 10 within a range, for a log scale.

    Over so many decades and more they are the powers of 10 alone.

    >>> round_ticks(0.4, 60.0)
    [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < decades else (1,)
    ticks = [float(f"{step}e{n}") for n in powers for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def weights_label(counted_weights: str) -> str:
    """Return the label of an axis of weights remaining, whose tick labels have the unit."""
    return f"weights remaining, log scale (100 %: {counted_weights})"


def style_weights_axis(axes: Axes, remaining: Sequence[float]) -> None:
    """Scale the x-axis by the log of the weights remaining, from dense (left) to sparse (right)."""
    axes.set_xscale("log")
    lowest = 0.87 * min(remaining, default=10.0)
    axes.set_xlim(115, lowest)
    ticks = round_ticks(lowest, 115)
    axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.set_xticks([], minor=True)


def style_values_axis(axes: Axes, quantity: str, limits: tuple[float, float]) -> str:
    """Scale the y-axis, with units in its tick labels; return its label, without the unit.

    Args:
        axes: with or without lines.
        quantity: what the axis shows; it ends in ", %" if the values are percentages.
        limits: the ends of the axis.
    """
    label, percent, _ = quantity.partition(", %")
    percent = percent if label + percent == quantity else ""
    axes.set_ylim(*limits)
    axes.yaxis.set_major_formatter("{x:.6g} %" if percent else "{x:.6g}")
    return label if percent else quantity


def has_log_differences(limits: tuple[float, float]) -> bool:
    """Return whether an axis of differences is so long that it is logarithmic beyond 1 point."""
    return limits[1] - limits[0] > 15.0


def style_differences_axis(axes: Axes, limits: tuple[float, float]) -> None:
    """Scale the y-axis of differences, with signs and a line at 0."""
    axes.axhline(0.0, color="0.35", linewidth=0.9, zorder=1.2)
    if has_log_differences(limits):
        axes.set_yscale("symlog", linthresh=1.0)
        ticks = [sign * tick for tick in round_ticks(1.0, 1000.0) for sign in (-1, 1)]
        axes.set_yticks([0.0, *(tick for tick in ticks if limits[0] <= tick <= limits[1])])
        axes.set_yticks([], minor=True)
    axes.set_ylim(*limits)
    axes.yaxis.set_major_formatter(signed_text)


def signed_text(value: float, position: float | None = None) -> str:
    """Return a number with its sign; Matplotlib also passes the position of a tick.

    >>> signed_text(0.5), signed_text(0.0)
    ('+0.5', '0')
    """
    return f"{value:+.6g}".replace("-", "\u2212") if abs(value) > 1e-9 else "0"


def style_cost_axis(axes: Axes, costs: Sequence[float]) -> None:
    """Scale the x-axis by the log of the cost, with room for what is printed beside the points."""
    low, high = 0.8 * min(costs), 1.5 * max(costs)
    ticks = round_ticks(low, high, decades=2.0)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [_short_number(tick) for tick in ticks])
    axes.set_xticks([], minor=True)


def _short_number(value: float) -> str:
    """Return a number of 10,000 and more with a prefix of the SI.

    >>> [_short_number(x) for x in (0.5, 2000.0, 5e4, 2e11, 1e21)]
    ['0.5', '2000', '50 k', '200 G', '1000 E']
    """
    if value < 1e4:
        return f"{value:g}"
    power = min(int(math.log10(value) + 1e-9) // 3, 6)
    return f"{value / 1000**power:g} {' kMGTPE'[power]}"
