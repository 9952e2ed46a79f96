"""Draw the pixels that tickets look at, or the kernels of their first layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lottery_jax.report.axes import add_notes, matplotlib_defaults, new_figure, wrap_notes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The colour scale ends at this multiple of the mean.
_END = 4.0


@matplotlib_defaults()
def pixels_figure(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw a picture for each level: the weights that the first layer keeps at each of its inputs.

    Args:
        rows: of `analysis.pixels.pixels`, at least one.
        title: the heading of the figure.
    """
    seeds = max(row["seeds"] for row in rows)
    is_kernel = rows[0]["is_kernel"]
    place, places = (
        ("a position of its kernel", "positions") if is_kernel else ("a pixel", "pixels")
    )
    notes = [
        f"Winning tickets, {'1 seed' if seeds == 1 else f'means over {seeds} seeds'}. Colour: the "
        f"weights that the first layer keeps at {place} over the mean of all {places} of the level; "
        f"more than {_END:g} look like {_END:g}."
    ]
    width = 2.2 + 1.8 * max(len(rows), 3)
    lines = wrap_notes(notes, width)
    figure = new_figure(width, 3.2 + 0.15 * len(lines), title)
    all_axes = figure.subplots(1, len(rows), squeeze=False)[0]
    for axes, row in zip(all_axes, rows, strict=True):
        weights = row["weights"]
        mean = float(weights.mean())
        image = axes.imshow(weights / (mean or 1.0), vmin=0.0, vmax=_END, cmap="viridis")
        heading = f"{100 * row['density']:.3g} % of the weights"
        if not is_kernel:
            heading += f"\n{100 * row['unread']:.0f} % of pixels unread"
        axes.set_title(heading, loc="left", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=list(all_axes), shrink=0.7, pad=0.02, aspect=14, extend="max")
    none = "none" if is_kernel else "unread"
    bar.set_ticks(range(int(_END) + 1), labels=[none, "mean", *map(str, range(2, int(_END) + 1))])
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    add_notes(figure, lines)
    return figure
