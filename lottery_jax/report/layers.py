"""Draw which layers keep their weights: lines for few layers, a heat map for many."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lottery_jax.report.axes import (
    add_notes,
    add_subtitle,
    matplotlib_defaults,
    new_figure,
    round_ticks,
    style_axes,
    style_weights_axis,
    weights_label,
    wrap_notes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More lines than this can't be told apart.
_MOST_LINES = 8
# A cell of a heat map is this wide and high, in inches.
_CELL = (0.42, 0.24)

Layers = Mapping[str, Sequence[tuple[float, float]]]


def layer_figure(layers: Layers, title: str, subtitle: str, counted_weights: str) -> Figure:
    """Draw the share of each layer's weights that remains over that of the whole network.

    Args:
        layers: for each layer, from input to output, pairs of percentages: (weights remaining in
            the network, weights remaining in the layer), from the densest network to the sparsest.
        title: the heading of the figure.
        subtitle: small print below the title.
        counted_weights: which weights make up 100 %, for the label of the x-axis.
    """
    draw = _lines if len(layers) <= _MOST_LINES else _heat_map
    return draw(layers, title, subtitle, counted_weights)


@matplotlib_defaults()
def _lines(layers: Layers, title: str, subtitle: str, counted_weights: str) -> Figure:
    from matplotlib import colormaps

    figure = new_figure(9.2, 4.6, title)
    axes = figure.add_subplot()
    style_axes(axes)
    add_subtitle(axes, subtitle)
    for i, (name, pairs) in enumerate(layers.items()):
        colour = colormaps["viridis"](0.85 * i / max(1, len(layers) - 1))
        # A log scale has no place for 0 %: the line of an empty layer ends before it.
        points = [(x, y) for x, y in pairs if y > 0]
        axes.plot(
            [x for x, _ in points], [y for _, y in points],
            marker="osD^vPX*"[i], markersize=4, linewidth=1.5, color=colour, label=name,
        )  # fmt: skip
    everything = sorted({x for pairs in layers.values() for x, _ in pairs})
    axes.plot(everything, everything, color="0.6", linewidth=1, linestyle=":", label="uniform")
    style_weights_axis(axes, everything)
    shown = [y for pairs in layers.values() for _, y in pairs if y > 0]
    low, high = 0.87 * min([*shown, *everything], default=10.0), 115.0
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = round_ticks(low, high)
    axes.set_yticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylabel("weights remaining in the layer, log scale")
    axes.set_xlabel(textwrap.fill(weights_label(counted_weights), 72))
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return figure


@matplotlib_defaults()
def _heat_map(layers: Layers, title: str, subtitle: str, counted_weights: str) -> Figure:
    """Draw a row for each layer and a column for each level; the colour scale is logarithmic."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    names = list(layers)
    remaining = sorted({x for pairs in layers.values() for x, _ in pairs}, reverse=True)
    left = [y for pairs in layers.values() for _, y in pairs if y > 0]
    low = min([*left, *remaining, 50.0])
    norm, colours = LogNorm(low, 100.0), colormaps["viridis"]
    width = max(7.4, 3.2 + _CELL[0] * len(remaining))
    empty = [name for name, pairs in layers.items() if any(y <= 0 for _, y in pairs)]
    notes = [f"Crossed: no weight is left ({', '.join(empty)})."] if empty else []
    note_lines = wrap_notes(notes, width)
    height = 1.9 + _CELL[1] * len(names) + 0.15 * len(note_lines)
    figure = new_figure(width, height, title)
    axes = figure.add_subplot()
    add_subtitle(axes, f"{subtitle}; colour: weights remaining in the layer")
    columns = {x: i for i, x in enumerate(remaining)}
    for row, name in enumerate(names):
        for x, y in layers[name]:
            column = columns[x]
            face = colours(norm(y)) if y > 0 else "white"
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor=face, edgecolor="white"))
            if y <= 0:
                axes.plot(column + 0.5, row + 0.5, marker="x", markersize=5, color="0.2")
    axes.set_xlim(0, len(remaining))
    axes.set_ylim(len(names), 0)
    every = max(1, math.ceil(len(remaining) / (width - 3) / 1.9))  # about two labels an inch fit
    shown = range(0, len(remaining), every)
    axes.set_xticks([i + 0.5 for i in shown], [f"{remaining[i]:.3g} %" for i in shown], fontsize=8)
    axes.set_yticks([i + 0.5 for i in range(len(names))], names, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(textwrap.fill(f"weights remaining by level (100 %: {counted_weights})", 72))
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.03, aspect=22)
    ticks = round_ticks(low, 100.0)
    bar.set_ticks(ticks, labels=[f"{tick:g} %" for tick in ticks])
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    add_notes(figure, note_lines)
    return figure
