"""Tickets and comparisons as tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from lottery_jax.curve import metric_of, show_metric
from lottery_jax.errors import TicketError, one_line
from lottery_jax.tickets.compare import Comparison, Overlap
from lottery_jax.tickets.metadata import KEYS, PARTS, Metadata
from lottery_jax.tickets.ticket import expected_arrays


def listing(rows: Iterable[tuple[str, ...]]) -> Table:
    """Return a table with a line for each ticket, made by `row`."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("seed", "level", "control", "density", "accuracy"):
        table.add_column(name, justify="left" if name == "control" else "right", no_wrap=True)
    table.add_column("path", overflow="fold")
    for cells in rows:
        table.add_row(*cells)
    return table


def row(path: Path, metadata: Metadata) -> tuple[str, ...]:
    """Return the cells of a ticket in `listing`.

    Raises:
        TicketError: a value is not what `save_ticket` writes.
    """
    with _showing(path):
        cells = (
            *(str(metadata.get(name, "")) for name in ("seed", "level", "control")),
            _percent(metadata.get("density")),
            _measured(metadata.get("result") or {}),
            str(path),
        )
        return tuple(map(one_line, cells))


def card(path: Path, metadata: Metadata) -> RenderableType:
    """Return a table of all that the metadata says about one ticket.

    Raises:
        TicketError: a value is not what `save_ticket` writes.
    """
    with _showing(path):
        facts = Table(box=None, show_header=False, pad_edge=False)
        for name, value in _facts(path, metadata):
            facts.add_row(name, one_line(value))
        return Group(facts, _layers(metadata))


@contextmanager
def _showing(path: Path) -> Iterator[None]:
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        RecursionError,
    ) as e:
        raise TicketError(f"{path}: its metadata can't be shown: {type(e).__name__}: {e}") from e


def _facts(path: Path, metadata: Metadata) -> Iterator[tuple[str, str]]:
    """Yield the lines on a ticket, each a name and a text, in the order of `KEYS`."""
    result = metadata.get("result") or {}
    for name, key in KEYS.items():
        if name == "result":
            yield key.label, _measured(result) or "not known"
            shown = f"test_{metric_of(result)}"
            others = {name: n for name, n in result.items() if name != shown}
            if others:
                yield "measured", _joined(others)
        elif (
            key.label
            and (key.is_universal or name in metadata)
            and (text := _text(path, name, metadata))
        ):
            yield key.label, text


def _text(path: Path, name: str, metadata: Metadata) -> str:
    value = metadata[name]
    match name:
        case "model":
            options = {option: value[option] for option in value if option != "name"}
            return f"{value['name']} ({_joined(options)})"
        case "input_shape":
            return _shape(value)
        case "data":
            return f"{value}, mean {_numbers(metadata['mean'])}, std {_numbers(metadata['std'])}"
        case "weights_total":
            params = expected_arrays(path, metadata)["params"]
            size = sum(leaf.size for leaf in jax.tree.leaves(params))
            return f"{size}, {value} of them prunable"
        case "density":
            return f"{value:.2%}, {metadata['weights_remaining']} weights"
        case "lottery_jax_version":
            return f"lottery_jax {value}"
        case "sha256":
            return ", ".join(f"{part} {value[part][:8]}" for part in PARTS)
        case _:
            return _joined(value)


def _layers(metadata: Metadata) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer")
    for name in ("remaining", "of", "density"):
        table.add_column(name, justify="right")
    counts = metadata["layers"]
    order = [name for name in metadata["layer_order"] if name in counts]
    for name in [*order, *(name for name in counts if name not in order)]:
        kept, total = counts[name]
        table.add_row(one_line(name), one_line(kept), one_line(total), f"{kept / total:.2%}")
    return table


def comparison(found: Comparison) -> RenderableType:
    """Return tables of the overlap of two tickets, layer by layer and in all."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer")
    for name in ("weights", "in A", "in B", "in both", "by chance", "ratio"):
        table.add_column(name, justify="right")
    for name, overlap in found.layers.items():
        table.add_row(name, *_cells(overlap))
    total = found.total
    table.add_section()
    table.add_row("all", *_cells(total))
    facts = Table(box=None, show_header=False, pad_edge=False)
    within = found.by_chance_within_layers
    ratio = _number(total.both / within if within else math.nan)
    facts.add_row("by chance, given each layer's counts", f"{within:.1f}, ratio {ratio}")
    facts.add_row("Jaccard, in both over in either", _number(total.jaccard))
    for name, same in (("starting", total.same_start), ("trained", total.same_trained)):
        share = _percent(same / total.both if total.both else None)
        facts.add_row(f"same sign in both, {name} weights", share)
    facts.add_row("density", " and ".join(map(_percent, found.density)))
    effective = " and ".join(
        "not known" if math.isnan(share) else _percent(share) for share in found.effective_density
    )
    facts.add_row("on a path from input to output", effective)
    for name, (a, b) in found.left_out.items():
        facts.add_row(f"left out: {name}", f"{_shape(a)} in A, {_shape(b)} in B")
    return Group(table, facts)


def _cells(overlap: Overlap) -> tuple[str, ...]:
    counts = (overlap.size, overlap.kept_a, overlap.kept_b, overlap.both)
    return *map(str, counts), f"{overlap.by_chance:.1f}", _number(overlap.ratio)


def _measured(result: Mapping[str, float]) -> str:
    """Return the metric on the test set; empty if it was not measured."""
    metric = metric_of(result)
    value = result.get(f"test_{metric}")
    return show_metric(value, metric) if value is not None else ""


def _joined(values: object) -> str:
    """Return a dict as `name=value` with commas in between, anything else as text."""
    if not isinstance(values, Mapping):
        return str(values)
    shown = {name: _number(v) if isinstance(v, float) else str(v) for name, v in values.items()}
    return ", ".join(f"{name}={text}" for name, text in shown.items())


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(map(_number, values))


def _percent(share: object) -> str:
    return f"{share:.2%}" if isinstance(share, int | float) else ""


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
