"""What a ladder would save if it trained without the units that nothing reads, level by level.

    python benchmarks/compaction.py runs/fashion_mnist_lenet

Removing such units changes nothing of what a ladder computes (`lottery_jax/pruning/compaction.py`),
so this is the time that it could save. For each level of one seed the script counts the units and the
multiply-adds that are left, and times the train step of the smaller network against the whole one.
The last line is the whole ladder, in which all levels have as many steps. A ladder compiles one
train step for all levels; each smaller network needs one of its own. With `--steps`, the steps of a
level, the last line also has the time of the ladder with these compilations.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import jax
import numpy as np

from lottery_jax import tickets
from lottery_jax.models import build_model, cost
from lottery_jax.models.network import LinenNetwork
from lottery_jax.parallel.mesh import make_mesh, to_mesh
from lottery_jax.pruning.compaction import compact
from lottery_jax.training.batches import DeviceData, epoch_order
from lottery_jax.training.program import init_device_state
from lottery_jax.training.state import MetricSums


def train_step(network: LinenNetwork, ticket: Any, batch: int) -> Callable[[], None]:
    """Return a function that takes one step of training from the arrays of a compacted ticket."""
    shape: Any = network.input_shape
    images, labels = harness.made_up_images(4 * batch, shape, network.module.num_classes)
    mesh = make_mesh(jax.devices()[:1])
    program = harness.sgd_program(
        network.module, mesh, channels=shape[-1], examples=len(labels), batch_size=batch
    )
    variables = {"params": ticket.params, "batch_stats": ticket.batch_stats}
    state = init_device_state(program, variables, ticket.mask, 0)
    sums, data = to_mesh(mesh, (MetricSums.zero(), DeviceData(images, labels)))
    key = jax.random.key(1)
    order = epoch_order(key, np.int32(0), examples=len(labels), batch_size=batch)

    def step() -> None:
        nonlocal state, sums
        state, sums = program.train_step(state, sums, data, order, key)
        jax.block_until_ready(state)

    return step


def measure(path: Path, batch: int, repeats: int) -> harness.Row:
    """Return the row of the ticket of one level."""
    ticket = tickets.load_ticket(path)
    module, shape = tickets.model_of(ticket.metadata)
    network = LinenNetwork(module, shape)
    shrink = functools.partial(compact, network, ticket.trained, ticket.trained_batch_stats)
    found = shrink(ticket.mask, fold=False)
    in_evaluation = shrink(ticket.mask)
    classes, model = ticket.metadata["num_classes"], ticket.metadata["model"]

    def with_widths(widths: dict[str, int]) -> LinenNetwork:
        return LinenNetwork(build_model(num_classes=classes, **{**model, "widths": widths}), shape)

    counts = [cost.multiply_adds(net) or 0 for net in
              (network, with_widths(found.widths), with_widths(in_evaluation.widths))]  # fmt: skip
    row: harness.Row = {
        "level": ticket.metadata.get("level"),
        "density": ticket.density,
        "units": sum(found.widths.values()),
        "units_of": sum(found.widths_before.values()),
        "multiply_adds": counts[1] / counts[0],
        "folded": counts[2] / counts[0],
        "step": 1.0,
    }
    if found.widths != found.widths_before:
        whole = compact(network, ticket.trained, ticket.trained_batch_stats,
                        jax.tree.map(np.ones_like, ticket.mask), fold=False)  # fmt: skip
        sides = {
            "whole": train_step(network, whole, batch),
            "small": train_step(with_widths(found.widths), found, batch),
        }
        began = time.perf_counter()
        sides["small"]()
        row["compile"] = time.perf_counter() - began
        seconds = harness.interleaved(sides, repeats)
        row["step"] = 1 / harness.median_ratio(seconds["whole"], seconds["small"])
        row["whole_ms"] = 1e3 * statistics.median(seconds["whole"])
    return row


def main() -> None:
    """Measure, print the table and write it."""
    parser = harness.options(__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the directory of a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="compaction", help="the name of the table")
    parser.add_argument("--steps", type=int, default=0, help="the steps of a level")
    args = parser.parse_args()
    config = json.loads((args.run / "config.json").read_text())["config"]
    batch = config["train"]["batch_size"]
    paths = sorted((args.run / f"seed_{args.seed}").glob("level_*/ticket"))
    rows = [measure(path, batch, args.repeats) for path in paths if tickets.is_complete(path)]
    shares = {key: statistics.mean(row[key] for row in rows)
              for key in ("multiply_adds", "folded", "step")}  # fmt: skip
    smaller = [row for row in rows if "compile" in row]
    rows.append({"level": "all", **shares})
    if args.steps and smaller:
        level = args.steps * statistics.median(row["whole_ms"] for row in smaller) / 1e3
        compiling = sum(row["compile"] for row in smaller)
        total = shares["step"] + compiling / (level * (len(rows) - 1))
        rows[-1] |= {"compile": compiling, "total": total}
    columns = {
        "level": "level|",
        "density": "density|.3%",
        "units": "units left|,",
        "units_of": "of|,",
        "multiply_adds": "multiply-adds left|.1%",
        "step": "time of a train step|.1%",
        "compile": "compilation, s|.2f",
        "total": "time of the ladder|.1%",
        "folded": "multiply-adds left, constants folded|.1%",
    }
    model = config["model"]
    title = (
        f"Without units that nothing reads: {model['name']}, width {model['width']}, on "
        f"{config['data']['name']}, batch {batch}, seed {args.seed}; medians of {args.repeats}."
    )
    harness.write(args.out, args.name, title, columns, rows)


if __name__ == "__main__":
    main()
