"""Write the page of claims: a table that sorts and filters, each interval beside its claimed range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from lottery_jax.report.claims import ForestRow
from lottery_jax.report.page import document
from lottery_jax.system.files import write_text

_WIDTH, _HEIGHT = 180, 22


def write_claims_page(
    path: Path, title: str, header: Sequence[str], rows: Sequence[tuple[Sequence[str], ForestRow]]
) -> Path:
    """Write the page of claims and return its path.

    Args:
        path: the file.
        title: the heading.
        header: the names of the columns.
        rows: for each quantity its texts, and what the figure has of it. The last column is drawn
            from that.
    """
    heads = "".join(f"<th><button>{escape(name)}</button></th>" for name in header)
    lines = []
    for cells, row in rows:
        texts = "".join(f"<td>{escape(text)}</td>" for text in cells)
        shape = _forest_cell(row, [other for _, other in rows if other.unit == row.unit])
        lines.append(
            f'<tr data-outcome="{escape(row.outcome)}">{texts}<td data-value="{row.mean}">{shape}</td></tr>'
        )
    body = [
        '<p class="hint">Point and line: the mean and its 95 % interval. Diamond: published. '
        "Shaded: the range that the claim's rule allows. Click a heading to sort.</p>",
        '<div class="filters"><label>Verdict <select id="outcome"></select></label></div>',
        '<div class="wide claims"><table id="claims">',
        f"<thead><tr>{heads}<th><button>in its range</button></th></tr></thead>",
        "<tbody>",
        *lines,
        "</tbody></table></div>",
    ]
    write_text(path, document(title, body, ["claims.js"], ["page.css"]))
    return path


def _forest_cell(row: ForestRow, group: Sequence[ForestRow]) -> str:
    """Return a row's interval as SVG, on the scale of all rows of its unit."""
    values = [0.0] if row.unit == "points" else []
    for each in group:
        found = (each.mean, each.low, each.high, each.published, each.range_low, each.range_high)
        values += [value for value in found if value is not None and math.isfinite(value)]
    if not values:
        return ""
    margin = 0.05 * (max(values) - min(values)) or 1.0
    left, right = min(values) - margin, max(values) + margin

    def x(value: float) -> float:
        share = (min(max(value, left), right) - left) / (right - left)
        return round(_WIDTH * share, 2)

    start, end, middle = x(row.range_low), x(row.range_high), _HEIGHT / 2
    shapes = [
        f'<rect class="range" x="{start}" y="0" width="{end - start:.2f}" height="{_HEIGHT}"/>'
    ]
    if left < 0 < right:
        shapes.append(f'<path class="zero" d="M{x(0)} 0v{_HEIGHT}"/>')
    if math.isfinite(row.low) and math.isfinite(row.high):
        shapes.append(f'<path class="interval" d="M{x(row.low)} {middle}H{x(row.high)}"/>')
    if row.published is not None and math.isfinite(row.published):
        place = x(row.published)
        shapes.append(f'<path class="published" d="M{place} {middle - 5}l5 5l-5 5l-5 -5z"/>')
    if math.isfinite(row.mean):
        shapes.append(f'<circle class="mean" cx="{x(row.mean)}" cy="{middle}" r="4"/>')
    said = f"{row.mean:.3g} ({row.low:.3g} to {row.high:.3g}) {row.unit}"
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img"><title>{escape(said)}</title>'
        f"{''.join(shapes)}</svg>"
    )
