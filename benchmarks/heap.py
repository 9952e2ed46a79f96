"""Measure train steps with a heap that the program keeps and without.

    python benchmarks/heap.py
    python benchmarks/heap.py --steps=resnet20:256,conv2:64

The heap is a setting of a process (`lottery_jax/system/heap.py`), so each side is a process of its
own; they take turns. `LOTTERY_JAX_KEEP_HEAP=0` has a command leave its heap alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time

import harness

STEPS = "lenet_300_100:60,conv2:256,resnet20:256,vgg19:64,alexnet:256"


def measure_one(model: str, batch: int, seconds: float) -> harness.Row:
    """Train for some seconds in this process, with the heap that the environment asks for."""
    from lottery_jax.system.heap import keep_heap

    kept = keep_heap()  # before JAX is imported
    from train_step import ours

    step = ours(model, batch, "float32").step
    for _ in range(3):
        step()
    taken: list[float] = []
    before = resource.getrusage(resource.RUSAGE_SELF)
    while sum(taken) < seconds or len(taken) < 5:
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "kept": kept,
        "step_s": statistics.median(taken),
        "faults": (after.ru_minflt - before.ru_minflt) / len(taken),
        "system_share": (after.ru_stime - before.ru_stime) / sum(taken),
        "peak_mb": harness.peak_megabytes(),
    }


def measure(model: str, batch: int, repeats: int, seconds: float) -> harness.Row:
    """Return one row: both sides in turn, `repeats` times."""
    sides: dict[str, list[harness.Row]] = {"0": [], "1": []}
    with tempfile.TemporaryDirectory() as cache:  # each side compiles once
        for _ in range(repeats):
            for switch, rows in sides.items():
                rows.append(
                    harness.child(
                        "heap.py", f"--one={model}:{batch}", f"--seconds={seconds}",
                        LOTTERY_JAX_KEEP_HEAP=switch,
                        JAX_COMPILATION_CACHE_DIR=cache,
                        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
                    )
                )  # fmt: skip
    without, kept = sides["0"], sides["1"]
    assert all(row["kept"] for row in kept) and not any(row["kept"] for row in without)

    def median(rows: list[harness.Row], key: str) -> float:
        return statistics.median(row[key] for row in rows)

    return {
        "model": model,
        "batch": batch,
        "without_images_per_s": batch / median(without, "step_s"),
        "images_per_s": batch / median(kept, "step_s"),
        "ratio": harness.median_ratio(
            [row["step_s"] for row in without], [row["step_s"] for row in kept]
        ),
        "without_faults": median(without, "faults"),
        "faults": median(kept, "faults"),
        "without_peak_mb": median(without, "peak_mb"),
        "peak_mb": median(kept, "peak_mb"),
        "runs": sides,
    }


def main() -> None:
    """Measure, and print and write the table."""
    parser = harness.options(__doc__.splitlines()[0])
    parser.set_defaults(repeats=3)
    parser.add_argument("--steps", default=STEPS, help="MODEL:BATCH,...")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        model, batch = args.one.split(":")
        print(json.dumps(measure_one(model, int(batch), args.seconds)))
        return
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        del os.environ[name]
    rows = []
    for step in args.steps.split(","):
        model, batch = step.split(":")
        rows.append(measure(model, int(batch), args.repeats, args.seconds))
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "runs"}), flush=True)
    columns = {
        "model": "model|",
        "batch": "batch|d",
        "without_images_per_s": "images/s without|,.0f",
        "images_per_s": "with|,.0f",
        "ratio": "ratio|.2f",
        "without_faults": "page faults a step, without|,.0f",
        "faults": "with|,.0f",
        "without_peak_mb": "memory without, MB|.0f",
        "peak_mb": "with, MB|.0f",
    }
    title = (
        f"One masked train step, float32, with a heap that the program keeps: medians of "
        f"{args.repeats} processes a side, in turn."
    )
    harness.write(args.out, "heap", title, columns, rows)


if __name__ == "__main__":
    main()
