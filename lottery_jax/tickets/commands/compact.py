"""`tickets compact`: write a ticket's network without the units that its mask cut off."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich import box
from rich.table import Table

from lottery_jax.errors import ConfigError
from lottery_jax.models import cost
from lottery_jax.pruning import masks
from lottery_jax.pruning.compaction import Compaction
from lottery_jax.system.command_line import check_free, path_argument
from lottery_jax.tickets import store
from lottery_jax.tickets.addresses import ticket_argument
from lottery_jax.tickets.checkpoints import import_torch
from lottery_jax.tickets.compacted import (
    compact_ticket,
    compiled,
    export_stablehlo,
    import_flatbuffers,
    network_of,
    parameters,
)
from lottery_jax.tickets.ticket import Ticket
from lottery_jax.tickets.torch_module import export_torch_module

_BATCHES = (1, 256)
_SECONDS, _FEWEST, _MOST = 1.0, 3, 50  # of each measurement


def add_parser(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    a = command("compact", "write a smaller network with the same outputs, and say what it saves")
    a.add_argument("ticket", type=ticket_argument, metavar="TICKET")
    a.add_argument(
        "out", type=path_argument, metavar="OUT", help="a ticket: a folder, or FILE.safetensors"
    )
    a.add_argument(
        "--unread_only",
        action="store_true",
        help="remove only units that nothing reads, which also keeps the outputs and gradients of "
        "the weights to start from",
    )
    a.add_argument(
        "--torch", type=path_argument, metavar="FILE.py",
        help="also write a PyTorch module, with its weights in FILE.pth",
    )  # fmt: skip
    a.add_argument(
        "--stablehlo", type=path_argument, metavar="FILE",
        help="also write a program for jax.export.deserialize",
    )  # fmt: skip
    a.add_argument("--force", action="store_true", help="replace what is there")
    a.add_argument(
        "--allow_nonfinite", action="store_true", help="load weights that are infinite or NaN"
    )


def run(args: argparse.Namespace) -> Table:
    """Write all that was asked for; return the table of what it saves.

    Raises:
        ConfigError: a file is there already, has another ending or is named twice, or flatbuffers is
            not installed.
        TicketError: PyTorch is not installed.
    """
    weights = args.torch.with_suffix(".pth") if args.torch else None
    if args.torch and args.torch.suffix != ".py":
        raise ConfigError(f"{args.torch}: must end in .py; the weights go into a .pth beside it")
    written: list[Path] = [p for p in (args.out, args.torch, weights, args.stablehlo) if p]
    if len({path.resolve() for path in written}) < len(written):
        raise ConfigError(f"one name for two files: {', '.join(map(str, written))}")
    for path in written:
        check_free(path, args.force)
    if args.torch:
        import_torch(args.torch)
    if args.stablehlo:
        import_flatbuffers(args.stablehlo)
    ticket = store.load_ticket(args.ticket, allow_nonfinite=args.allow_nonfinite)
    small, compaction = compact_ticket(ticket, fold=not args.unread_only)
    store.save_ticket(args.out, small)
    if args.torch:
        export_torch_module(args.torch, small)
    if args.stablehlo:
        export_stablehlo(args.stablehlo, small)
    if compaction.widths == compaction.widths_before:
        print(
            _why_all_stay(compaction.folded, weights_remaining(ticket) - weights_remaining(small))
        )
    for path in written:
        print(f"wrote {path}")
    return summary(ticket, small, compaction)


def _why_all_stay(folded: int, weights: int) -> str:
    if folded or weights:
        return (
            f"no unit can go, but {weights:,} of the kept weights do, which lead to no output or from "
            f"one of {folded:,} constants that were folded"
        )
    return "no unit can go: all are read, and none is a constant that can be folded exactly"


def weights_remaining(ticket: Ticket) -> int:
    """Return the number of weights that a ticket's mask keeps."""
    return masks.counts(ticket.mask)[0]


def summary(ticket: Ticket, small: Ticket, compaction: Compaction) -> Table:
    """Return a table of what was there, what is left and the time that a batch takes."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in ("before", "left", "share"):
        table.add_column(name, justify="right")
    for group, count in compaction.widths.items():
        _count(table, f"units of {group}", compaction.widths_before[group], count)
    both = ticket, small
    _count(table, "weights remaining", *(weights_remaining(t) for t in both))
    _count(table, "parameters", *(parameters(t.trained) for t in both))
    _count(table, "multiply-adds", *(cost.multiply_adds(network_of(t)) or 0 for t in both))
    for batch in _BATCHES:
        before, left = latencies(ticket, small, batch)
        name = f"ms a batch of {batch}, {jax.default_backend()}"
        table.add_row(name, f"{before:.3f}", f"{left:.3f}", f"{left / before:.1%}")
    return table


def _count(table: Table, name: str, before: int, left: int) -> None:
    share = f"{left / before:.1%}" if before else ""
    table.add_row(name, f"{before:,}", f"{left:,}", share)


def latencies(a: Ticket, b: Ticket, batch: int) -> tuple[float, float]:
    """Return the median milliseconds of an evaluation of two tickets' networks, measured in turn."""
    shape = (batch, *a.metadata["input_shape"])
    inputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    sides: list[Any] = [compiled(a), compiled(b)]
    for side in sides:
        jax.block_until_ready(side(inputs))
    taken: list[list[float]] = [[], []]
    began = time.perf_counter()
    while len(taken[0]) < _FEWEST or (
        len(taken[0]) < _MOST and time.perf_counter() - began < 2 * _SECONDS
    ):
        for side, times in zip(sides, taken, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(side(inputs))
            times.append(time.perf_counter() - start)
    first, second = (1000 * statistics.median(times) for times in taken)
    return first, second
