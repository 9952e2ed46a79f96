"""A ticket in one line, and as a table for notebooks.

The metadata may be a stranger's: whatever it says is shown as text, shortened and escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from lottery_jax.curve import is_share, metric_of, show_metric
from lottery_jax.errors import one_line
from lottery_jax.pruning import masks
from lottery_jax.system.imports import short_name
from lottery_jax.types import PyTree

_LONGEST_NAME = 60
# A table of more layers helps nobody.
_MOST_LAYERS = 120
_BAR = (
    '<div style="width:12em;background:#8884"><div style="width:{percent:.3f}%;'
    'height:0.8em;background:#4477aa"></div></div>'
)


def ticket_line(mask: PyTree, metadata: Mapping[str, Any]) -> str:
    """Return a ticket in one line: network, data, trial, weights that remain, and its metric."""
    found = _title(metadata)
    weights = _weights(_layer_counts(mask))
    if measured := _measured(metadata):
        weights = f"{weights}, {measured}"
    return f"Ticket({found}: {weights})"


def ticket_html(mask: PyTree, metadata: Mapping[str, Any]) -> str:
    """Return a ticket as HTML: the facts of `ticket_line`, and a bar for each layer's density."""
    counts = _layer_counts(mask)
    layers = _in_order(counts, metadata.get("layer_order"))
    facts = ", ".join(filter(None, (_weights(counts), _measured(metadata))))
    rows = [
        f'<tr><td style="text-align:left">{_escaped(name)}</td>'
        f"<td>{_BAR.format(percent=100 * kept / max(total, 1))}</td>"
        f"<td>{kept:,} of {total:,}</td><td>{_percent(kept, total)}</td></tr>"
        for name, (kept, total) in list(layers.items())[:_MOST_LAYERS]
    ]
    if len(layers) > _MOST_LAYERS:
        rows.append(f"<tr><td>and {len(layers) - _MOST_LAYERS} more layers</td></tr>")
    return (
        f"<div><b>{_escaped(_title(metadata), 300)}</b><br>{_escaped(facts)}</div>"
        f"<table><thead><tr><th>layer</th><th>density</th><th>weights</th><th></th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _title(metadata: Mapping[str, Any]) -> str:
    model = metadata.get("model")
    name = model.get("name") if isinstance(model, Mapping) else None
    network = short_name(_short(name)) if name else "a network"
    parts = [f"{network} on {_short(metadata['data'])}" if "data" in metadata else network]
    parts += [f"{key} {_short(metadata[key])}" for key in ("seed", "level") if key in metadata]
    return ", ".join([*parts, *(_short(metadata[key]) for key in ("control",) if key in metadata)])


def _measured(metadata: Mapping[str, Any]) -> str:
    """Return the metric on the test set, such as `accuracy 93.1 %`; empty if there is none."""
    result = metadata.get("result")
    if not isinstance(result, Mapping):
        return ""
    metric = metric_of(result)
    value = result.get(f"test_{metric}")
    if not isinstance(value, int | float):
        return ""
    shown = f"{metric} {100 * value:.1f} %" if is_share(metric) else show_metric(value, metric)
    return _short(shown)


def _layer_counts(mask: PyTree) -> dict[str, tuple[int, int]]:
    try:
        return masks.layer_counts(mask)
    except Exception:  # a debugger shows objects that are half made: traced or deleted arrays
        return {}


def _weights(counts: Mapping[str, tuple[int, int]]) -> str:
    if not counts:
        return "weights that can't be counted"
    kept, total = (sum(column) for column in zip(*counts.values(), strict=True))
    return f"{_percent(kept, total)} of {total:,} weights"


def _percent(kept: int, total: int) -> str:
    """Return a share in percent with two decimals, or as many digits where it is small.

    >>> _percent(281, 10_000), _percent(1, 1_000_000), _percent(7, 7)
    ('2.81 %', '0.0001 %', '100.00 %')
    """
    share = 100 * kept / total if total else math.nan
    return f"{share:.2g} %" if 0 < share < 0.01 else f"{share:.2f} %"


def _in_order(counts: dict[str, tuple[int, int]], order: Any) -> dict[str, tuple[int, int]]:
    """Return the counts from input to output, as far as `order` says it."""
    named = [n for n in order if isinstance(n, str)] if isinstance(order, list) else []
    return {name: counts[name] for name in dict.fromkeys([*named, *counts]) if name in counts}


def _short(value: Any) -> str:
    return one_line(value, _LONGEST_NAME)


def _escaped(text: str, limit: int = _LONGEST_NAME) -> str:
    return escape(one_line(text, limit))
