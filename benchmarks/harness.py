"""What the benchmarks share: interleaved timing, memory, the machine, and the results' files."""

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

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


def interleaved(
    sides: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of each side, A B A B ...: what slows the machine for a while slows all of them."""
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
    """The median of the pairwise ratios."""
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def peak_megabytes() -> float:
    """The peak resident size of this process so far.

    Not `getrusage`'s, which on Linux a process takes over from the one that started it.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def child(script: str, *arguments: str, **environment: str) -> Row:
    """Runs a script of this folder by itself; the last line it prints is JSON."""
    command = [sys.executable, str(Path(__file__).parent / script), *arguments]
    done = subprocess.run(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True
    )
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def options(description: str) -> argparse.ArgumentParser:
    """A parser with what all benchmarks take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--repeats", type=int, default=7, help="of each measurement")
    return parser


def multiply_adds(model: Any, shape: tuple[int, int, int]) -> int:
    """Of a forward pass of one image, those with padding included: the usual count."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    from lottery_jax.models import abstract_variables
    from lottery_jax.models.layers import Conv

    total = 0

    def count(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal total
        y = call(*args, **kwargs)
        if isinstance(context.module, (Conv, nn.Dense)) and context.method_name == "__call__":
            kernel = context.module.variables["params"]["kernel"]
            total += kernel.size * (y.size // (y.shape[0] * y.shape[-1]))
        return y

    variables = abstract_variables(model, shape)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    with nn.intercept_methods(count):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, image)
    return total


def machine() -> Row:
    """What the figures were measured on."""
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
    """Writes NAME.json and NAME.md, and prints the table.

    Args:
        out: folder of the results.
        name: of the benchmark.
        title: one line above the table.
        columns: from a row's key to its heading with a format, such as `ratio|.2f`.
        rows: one each line of the table.
    """
    out.mkdir(parents=True, exist_ok=True)
    about = machine()
    text = json.dumps({"machine": about, "rows": rows}, indent=1) + "\n"
    (out / f"{name}.json").write_text(text)
    headings = [heading.partition("|")[0] for heading in columns.values()]
    lines = [title, "", _line(headings), _line("---" for _ in headings)]
    for row in rows:
        formats = (heading.partition("|")[2] for heading in columns.values())
        cells = zip((row.get(key) for key in columns), formats, strict=True)
        lines.append(_line("" if cell is None else format(cell, form) for cell, form in cells))
    lines += ["", "Measured on: " + ", ".join(f"{k} {v}" for k, v in about.items()) + "."]
    (out / f"{name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"
