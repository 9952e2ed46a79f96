"""Compare whole ladders, from reading the data to the last level, with the same in PyTorch.

    python benchmarks/ladder.py --data-dir=~/tensorflow_datasets

- digits: the quickstart's recipe, one seed, 10 levels, no controls.
- Fashion-MNIST, all of it: LeNet-300-100, 3 levels of 3 epochs. It needs `fashion_mnist.npz`:
  `python -m lottery_jax.datasets from-idx /usr/share/datasets/fashion-mnist fashion_mnist`.

Each side runs as a process of its own, in turn. Our side is `run_ladder`, which also saves every
ticket; it starts without compiled programs (cold) or with those of the run before (warm). PyTorch's
side has a DataLoader with its defaults over a data set that takes the same steps as torchvision's.
It draws masks by NumPy's percentile, rewinds to the initial weights and saves nothing. The side
"lean" leaves out torchvision's detour through Pillow.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import harness

TASKS = ("digits", "fashion_mnist")


def config_of(task: str, data_dir: str) -> Any:
    """Return the config of the ladder that both sides run."""
    from lottery_jax import recipes

    if task == "digits":
        c = recipes.quickstart()
        c.seeds, c.controls, c.ladder.levels = (0,), (), 10
    else:
        c = recipes.lenet("fashion_mnist")
        c.train.epochs, c.ladder.levels = 3, 2
        c.data.dir = str(Path(data_dir).expanduser())
    c.ladder.rewind = 0
    return c


def ours(task: str, data_dir: str) -> harness.Row:
    """Time `run_ladder` in a new directory."""
    began = time.perf_counter()
    from rich.console import Console

    from lottery_jax.main import set_up_process
    from lottery_jax.runs.ladder import run_ladder

    config = config_of(task, data_dir)
    set_up_process(config)
    with tempfile.TemporaryDirectory() as workdir:
        rows = run_ladder(config, Path(workdir) / "run", console=Console(quiet=True))
    return {
        "seconds": time.perf_counter() - began,
        "levels": len(rows),
        "epoch_s": statistics.median(row["seconds"] / row["epochs"] for row in rows),
        "test_accuracy": [row["test_accuracy"] for row in rows],
        "peak_mb": harness.peak_megabytes(),
    }


def theirs(task: str, data_dir: str, *, lean: bool) -> harness.Row:
    """Time the same protocol in PyTorch."""
    began = time.perf_counter()
    import torch
    import torch_reference as reference

    from lottery_jax.datasets.in_memory import load_dataset

    c = config_of(task, data_dir)
    data = load_dataset(c.data.name, c.data.dir)
    torch.manual_seed(0)
    network = reference.build("lenet_300_100", data.image_shape, data.num_classes)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    masks = reference.dense_masks(network)
    mean, std = float(data.mean[0]), float(data.std[0])
    train = reference.Images(data.x_train, data.y_train, mean, std, lean=lean)
    test = reference.Images(data.x_test, data.y_test, mean, std, lean=lean)
    accuracies, epochs = [], []
    for level in range(c.ladder.levels + 1):
        if level:
            masks = reference.percentile_masks(network, masks, c.ladder.prune_fraction)
            network.load_state_dict(start)
            reference.apply_masks(network, masks)
        optimizer = optimizer_of(c, network)
        for _ in range(c.train.epochs):
            epoch_began = time.perf_counter()
            for images, labels in reference.loader(train, c.train.batch_size, shuffle=True):
                loss = reference.step(network, optimizer, masks, images, labels, torch.float32)
            assert bool(torch.isfinite(loss))
            epochs.append(time.perf_counter() - epoch_began)
            batches = reference.loader(test, c.train.batch_size, shuffle=False)
            accuracy = reference.accuracy(network, batches)
        accuracies.append(accuracy)
    return {
        "seconds": time.perf_counter() - began,
        "levels": c.ladder.levels + 1,
        "epoch_s": statistics.median(epochs),
        "test_accuracy": accuracies,
        "peak_mb": harness.peak_megabytes(),
    }


def optimizer_of(c: Any, network: Any) -> Any:
    """Return PyTorch's optimizer for one of our configs."""
    import torch

    o = c.optimizer
    if o.name == "adam":
        return torch.optim.Adam(
            network.parameters(), o.learning_rate, (o.b1, o.b2), weight_decay=o.weight_decay
        )
    return torch.optim.SGD(
        network.parameters(), o.learning_rate, o.momentum, weight_decay=o.weight_decay
    )


def measure(task: str, data_dir: str, repeats: int) -> harness.Row:
    """Run the sides in turn, `repeats` times: ours cold, ours warm, PyTorch's, PyTorch's lean."""
    runs: dict[str, list[harness.Row]] = {"cold": [], "warm": [], "torch": [], "lean": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            for name in ("cold", "warm"):
                runs[name].append(
                    harness.child(
                        "ladder.py", f"--side=ours:{task}", f"--data-dir={data_dir}",
                        JAX_COMPILATION_CACHE_DIR=cache,
                    )
                )  # fmt: skip
        for name in ("torch", "lean"):
            side = (f"--side={name}:{task}", f"--data-dir={data_dir}")
            runs[name].append(harness.child("ladder.py", *side))
    seconds = {name: [row["seconds"] for row in rows] for name, rows in runs.items()}
    epochs = {name: [row["epoch_s"] for row in rows] for name, rows in runs.items()}
    return {
        "task": task,
        "cold_s": statistics.median(seconds["cold"]),
        "warm_s": statistics.median(seconds["warm"]),
        "torch_s": statistics.median(seconds["torch"]),
        "cold_ratio": harness.median_ratio(seconds["torch"], seconds["cold"]),
        "warm_ratio": harness.median_ratio(seconds["torch"], seconds["warm"]),
        "epoch_ratio": harness.median_ratio(epochs["torch"], epochs["warm"]),
        "lean_s": statistics.median(seconds["lean"]),
        "lean_ratio": harness.median_ratio(seconds["lean"], seconds["cold"]),
        "lean_epoch_ratio": harness.median_ratio(epochs["lean"], epochs["warm"]),
        "peak_mb": max(row["peak_mb"] for row in runs["cold"]),
        "torch_peak_mb": max(row["peak_mb"] for row in runs["torch"]),
        "runs": runs,
    }


def main() -> None:
    """Measure, and print and write the table."""
    parser = harness.options(__doc__.splitlines()[0])
    parser.set_defaults(repeats=3)
    parser.add_argument("--data-dir", default="~/tensorflow_datasets")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side, task = args.side.split(":")
        sides = {
            "ours": ours,
            "torch": functools.partial(theirs, lean=False),
            "lean": functools.partial(theirs, lean=True),
        }
        print(json.dumps(sides[side](task, args.data_dir)))
        return
    rows = [measure(task, args.data_dir, args.repeats) for task in args.tasks.split(",")]
    columns = {
        "task": "ladder|",
        "cold_s": "ours, cold, s|.1f",
        "warm_s": "ours, warm, s|.1f",
        "torch_s": "PyTorch, s|.1f",
        "cold_ratio": "ratio, cold|.1f",
        "warm_ratio": "ratio, warm|.1f",
        "epoch_ratio": "ratio of an epoch|.1f",
        "lean_s": "lean PyTorch, s|.1f",
        "lean_ratio": "ratio, cold|.1f",
        "lean_epoch_ratio": "ratio of an epoch|.1f",
        "peak_mb": "memory, MB|.0f",
        "torch_peak_mb": "PyTorch, MB|.0f",
    }
    title = f"Whole ladders, each side a process of its own, medians of {args.repeats}, in turn."
    harness.write(args.out, "ladder", title, columns, rows)


if __name__ == "__main__":
    main()
