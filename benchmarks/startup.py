"""Time the start: help, imports, and the first step of a large run.

    python benchmarks/startup.py

The large run is `configs/vgg19_cifar100.py`, batch 512, on made-up pixels in CIFAR-100's sizes. Its
time runs from the start of the process to the end of the first training step: imports, reading the
data, initialisation and the step itself.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
import numpy as np


def first_step(data_dir: str) -> harness.Row:
    """Time a run's way to its first step, part by part."""
    marks = {"start": time.perf_counter()}
    import jax

    from lottery_jax import recipes
    from lottery_jax.pruning import masks
    from lottery_jax.runs import ladder
    from lottery_jax.runs.experiment import set_up
    from lottery_jax.runs.process import set_up_process
    from lottery_jax.training.loop import fit, init_device_state

    del ladder  # imported because a run imports it
    marks["import"] = time.perf_counter()
    config = recipes.vgg19("cifar100")
    config.data.dir = data_dir
    set_up_process(config)
    setup = set_up(config)
    marks["data"] = time.perf_counter()
    variables = jax.block_until_ready(setup.init(jax.random.key(0)))
    mask = masks.ones_like(variables["params"])
    state = init_device_state(setup.program, variables, mask, 0)
    marks["init"] = time.perf_counter()
    state = fit(setup.program, state, setup.train, jax.random.key(1), until=1)
    marks["first step"] = time.perf_counter()
    jax.block_until_ready(fit(setup.program, state, setup.train, jax.random.key(1), until=2))
    marks["second step"] = time.perf_counter()
    names = list(marks)
    parts = {b: marks[b] - marks[a] for a, b in itertools.pairwise(names)}
    return {"parts": parts, "peak_mb": harness.peak_megabytes()}


def made_up_cifar100(folder: Path) -> None:
    """Write noise in CIFAR-100's sizes as `cifar100.npz`."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, count in (("train", 50_000), ("test", 10_000)):
        arrays[f"x_{name}"] = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{name}"] = np.arange(count) % 100
    np.savez(folder / "cifar100.npz", **arrays)


def timed(*command: str) -> float:
    """Return the seconds of a whole process."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    # absl's --help ends with status 1.
    assert done.returncode == ("--help" in command), command
    return seconds


def main() -> None:
    """Measure, and print and write the table."""
    parser = harness.options(__doc__.splitlines()[0])
    parser.add_argument("--first-step", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.first_step:
        print(json.dumps(first_step(args.first_step)))
        return
    commands = {
        "python -m lottery_jax.main --help": ("-m", "lottery_jax.main", "--help"),
        "import jax, flax.linen": ("-c", "import jax, flax.linen"),
        "import lottery_jax": ("-c", "import lottery_jax"),
        "import jax, flax.linen, then all that a run needs": (
            "-c", "import jax, flax.linen, lottery_jax.runs.ladder",
        ),
    }  # fmt: skip
    seconds: dict[str, list[float]] = {what: [] for what in commands}
    for repeat in range(args.repeats + 1):
        for what, command in commands.items():
            taken = timed(*command)
            if repeat:  # the first run brings the files into memory
                seconds[what].append(taken)
    rows = [
        {"what": what, "seconds": statistics.median(taken), "all": taken}
        for what, taken in seconds.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        made_up_cifar100(Path(folder))
        for what in ("without compiled programs", "with those of the last run"):
            if what.startswith("without"):
                cache = tempfile.mkdtemp(dir=folder)
            runs = []
            for _ in range(1 if what.startswith("without") else 3):
                began = time.perf_counter()
                row = harness.child(
                    "startup.py", f"--first-step={folder}", JAX_COMPILATION_CACHE_DIR=cache
                )
                row["seconds"] = time.perf_counter() - began - row["parts"]["second step"]
                runs.append(row)
            middle = sorted(runs, key=lambda row: row["seconds"])[len(runs) // 2]
            rows.append({"what": f"vgg19_cifar100 to the end of its first step, {what}", **middle})
            rows.append(
                {"what": "of which the step itself", "seconds": middle["parts"]["second step"]}
            )
    columns = {"what": "what|", "seconds": "seconds|.2f", "peak_mb": "memory, MB|.0f"}
    title = (
        f"Start-up, medians of {args.repeats} processes (first steps: of 1 without compiled "
        "programs, of 3 with them)."
    )
    harness.write(args.out, "startup", title, columns, rows)


if __name__ == "__main__":
    main()
