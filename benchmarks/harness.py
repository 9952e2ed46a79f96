"""Shared by the benchmarks: interleaved timing, memory, a training program, tables of results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


def interleaved(
    sides: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Time each side in turn, A B A B ..., so that a slow spell of the machine slows all sides."""
    for _ in range(warmup):
        for run in sides.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def median_ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """Return the median of the pairwise ratios."""
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def peak_megabytes() -> float:
    """Return the peak resident size of this process so far.

    On Linux `getrusage` would include the peak of the process that started this one.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def child(script: str, *arguments: str, **environment: str) -> Row:
    """Run a script of this folder as a process and return the JSON that it prints last."""
    command = [sys.executable, str(Path(__file__).parent / script), *arguments]
    done = subprocess.run(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True
    )
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def options(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--repeats", type=int, default=7, help="repeats of each measurement")
    return parser


def made_up_images(
    count: int, shape: tuple[int, int, int], classes: int = 10
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Return random images `[count, *shape]` and labels: the content changes no time."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return images, rng.integers(0, classes, count).astype(np.int32)


def sgd_program(
    model: Any, mesh: Any, *, channels: int, examples: int, batch_size: int, **options: Any
) -> Any:
    """Return a run's compiled steps, with SGD, momentum, weight decay and a constant rate."""
    from lottery_jax.training import optim
    from lottery_jax.training.program import make_program

    return make_program(
        model,
        optim.make_optimizer("sgd", momentum=0.9, weight_decay=1e-4),
        optim.make_schedule("constant", 0.01, steps_per_epoch=examples // batch_size, epochs=1),
        mesh=mesh,
        examples=examples,
        batch_size=batch_size,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        **options,
    )


def multiply_adds(model: Any, shape: tuple[int, int, int]) -> int:
    """Count the multiply-adds of a forward pass of one image, those with padding included."""
    from lottery_jax.models import cost
    from lottery_jax.models.network import LinenNetwork

    return cost.multiply_adds(LinenNetwork(model, shape))


def machine() -> Row:
    """Describe the machine and the versions that the figures were measured with."""
    from importlib.metadata import PackageNotFoundError, version

    import jax

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        number = f"family {fields.get('cpu family')}, model {fields.get('model')}"
        model = f"{fields.get('model name', model)} ({number})"
    return {
        "device": jax.devices()[0].device_kind if jax.default_backend() != "cpu" else model,
        "backend": jax.default_backend(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "torch": installed("torch"),
        "numpy": version("numpy"),
    }


def write(out: Path, name: str, title: str, columns: Mapping[str, str], rows: list[Row]) -> None:
    """Write NAME.json and NAME.md, and print the table.

    Args:
        out: folder of the results.
        name: name of the benchmark; where JAX has an accelerator, `_gpu` or `_tpu` is added.
        title: one line above the table.
        columns: for each key of the rows, `HEADING|FORMAT`, such as `ratio|.2f`.
        rows: the lines of the table.
    """
    out.mkdir(parents=True, exist_ok=True)
    about = machine()
    name += "" if about["backend"] == "cpu" else f"_{about['backend']}"
    text = json.dumps({"machine": about, "rows": rows}, indent=1) + "\n"
    (out / f"{name}.json").write_text(text)
    headings = [column.partition("|")[0] for column in columns.values()]
    formats = {key: column.partition("|")[2] for key, column in columns.items()}
    cells = [
        ["" if row.get(key) is None else format(row[key], form) for key, form in formats.items()]
        for row in rows
    ]
    measured_on = "Measured on: " + ", ".join(f"{k} {v}" for k, v in about.items()) + "."
    text = "\n".join([title, "", markdown(headings, cells), "", measured_on])
    (out / f"{name}.md").write_text(text + "\n")
    print(text)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
