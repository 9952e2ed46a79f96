"""Compare whole ladders, from reading the data to the last level, with the same in PyTorch.

    python benchmarks/ladder.py --data-dir=~/tensorflow_datasets

- digits: the quickstart's recipe, one seed, 10 levels after the dense one, no controls.
- digits_31: the same with 31 levels of 20 %, as in the papers.
- fashion_mnist: all of it, LeNet-300-100, 3 levels of 3 epochs. It needs `fashion_mnist.npz`:
  `python -m lottery_jax.datasets from-idx /usr/share/datasets/fashion-mnist fashion_mnist`.
- resnet20: ResNet-20 on 2,000 images of it, batch 64, 3 levels of 2 epochs, 1,000 test images.
- vgg19, for a GPU: VGG19 on images of CIFAR's shape with made-up pixels (`--images`), batch 512, 3
  levels of 3 epochs. It is left out unless `--tasks` names it.

Each side runs as a process of its own, in turn. Our side is `run_ladder`, which also saves every
ticket; it starts without compiled programs (cold) or with those of the run before (warm). PyTorch's
side has a DataLoader with its defaults over a data set that takes the same steps as torchvision's.
It draws masks by NumPy's percentile, rewinds to the initial weights and saves nothing. The side
"lean" leaves out torchvision's detour through Pillow, and trains as a practitioner tunes it:
`channels_last`, a fused optimizer and masks applied to all weights at once.
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
import numpy as np

from lottery_jax.system.heap import keep_heap

TASKS = ("digits", "digits_31", "fashion_mnist", "resnet20")
_SUBSET, _MADE_UP = "fashion_mnist_2000", "made_up"


def config_of(task: str, data_dir: str) -> Any:
    """Return the config of the ladder that both sides run."""
    from lottery_jax import recipes

    if task in ("digits", "digits_31"):
        c = recipes.quickstart()
        c.seeds, c.controls = (0,), ()
        c.ladder.levels = 10
        if task == "digits_31":
            c.ladder.levels, c.ladder.prune_fraction = 30, 0.2
    elif task == "resnet20":
        c = recipes.resnet20(_SUBSET)
        c.data.dir = data_dir
        c.data.input_shape = ()
        c.data.augment = "none"
        c.train.batch_size, c.train.epochs, c.ladder.levels = 64, 2, 2
        c.optimizer.milestones = ()
    elif task == "vgg19":
        c = recipes.vgg19(_MADE_UP)
        c.data.dir = data_dir
        c.data.augment = "none"
        c.train.epochs, c.ladder.levels = 3, 2
        c.optimizer.milestones = ()
    else:
        c = recipes.lenet("fashion_mnist")
        c.train.epochs, c.ladder.levels = 3, 2
        c.data.dir = str(Path(data_dir).expanduser())
    c.ladder.rewind = 0
    return c


def write_subset(source: str, folder: str) -> None:
    """Write 2,000 training and 1,000 test images of Fashion-MNIST as a data set of its own."""
    with np.load(Path(source).expanduser() / "fashion_mnist.npz") as whole:
        counts = {"train": 2_000, "test": 1_000}
        parts = {
            f"{kind}_{split}": whole[f"{kind}_{split}"][:count]
            for split, count in counts.items()
            for kind in ("x", "y")
        }
    np.savez(Path(folder) / f"{_SUBSET}.npz", **parts)


def write_made_up(folder: str, count: int) -> None:
    """Write images of CIFAR's shape, a fifth of them for the test, as a data set of its own."""
    images, labels = harness.made_up_images(count + count // 5, (32, 32, 3))
    np.savez(
        Path(folder) / f"{_MADE_UP}.npz",
        x_train=images[:count],
        y_train=labels[:count],
        x_test=images[count:],
        y_test=labels[count:],
    )


def ours(task: str, data_dir: str) -> harness.Row:
    """Time `run_ladder` in a new directory, in a process that is set as the command sets it."""
    began = time.perf_counter()
    keep_heap()
    from rich.console import Console

    from lottery_jax.runs.ladder import run_ladder
    from lottery_jax.runs.process import set_up_process

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
    network = reference.build(c.model.name, data.image_shape, data.num_classes)
    layout = torch.channels_last if lean and c.model.name != "lenet_300_100" else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device)
    if layout:
        network = network.to(memory_format=layout)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    masks = reference.dense_masks(network)
    mean, std = data.mean, data.std
    train = reference.Images(data.x_train, data.y_train, mean, std, lean=lean)
    test = reference.Images(data.x_test, data.y_test, mean, std, lean=lean)
    accuracies, epochs = [], []
    for level in range(c.ladder.levels + 1):
        if level:
            masks = reference.percentile_masks(network, masks, c.ladder.prune_fraction)
            network.load_state_dict(start)
            reference.apply_masks(network, masks)
        optimizer = optimizer_of(c, network, fused=lean)
        for _ in range(c.train.epochs):
            epoch_began = time.perf_counter()
            for images, labels in reference.loader(train, c.train.batch_size, shuffle=True):
                images, labels = images.to(device), labels.to(device)
                images = images.contiguous(memory_format=layout) if layout else images
                loss = reference.step(
                    network, optimizer, masks, images, labels, torch.float32, at_once=lean
                )
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


def optimizer_of(c: Any, network: Any, *, fused: bool) -> Any:
    """Return PyTorch's optimizer for one of our configs."""
    import torch

    o = c.optimizer
    if o.name == "adam":
        return torch.optim.Adam(
            network.parameters(),
            o.learning_rate,
            (o.b1, o.b2),
            weight_decay=o.weight_decay,
            fused=fused,
        )
    return torch.optim.SGD(
        network.parameters(), o.learning_rate, o.momentum, weight_decay=o.weight_decay, fused=fused
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
    parser.add_argument("--images", type=int, default=10_000, help="made-up ones, for vgg19")
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
    rows = []
    for task in args.tasks.split(","):
        with tempfile.TemporaryDirectory() as folder:
            if task == "vgg19":
                write_made_up(folder, args.images)
            if task == "resnet20":
                write_subset(args.data_dir, folder)
            rows.append(
                measure(
                    task, folder if task in ("resnet20", "vgg19") else args.data_dir, args.repeats
                )
            )
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "runs"}), flush=True)
    columns = {
        "task": "ladder|",
        "cold_s": "ours, cold, s|.1f",
        "warm_s": "ours, warm, s|.1f",
        "torch_s": "PyTorch, s|.1f",
        "cold_ratio": "ratio, cold|.1f",
        "warm_ratio": "ratio, warm|.1f",
        "epoch_ratio": "ratio of an epoch|.1f",
        "lean_s": "lean, tuned PyTorch, s|.1f",
        "lean_ratio": "ratio, cold|.1f",
        "lean_epoch_ratio": "ratio of an epoch|.1f",
        "peak_mb": "memory, MB|.0f",
        "torch_peak_mb": "PyTorch, MB|.0f",
    }
    title = f"Whole ladders, each side a process of its own, medians of {args.repeats}, in turn."
    harness.write(args.out, "ladder", title, columns, rows)


if __name__ == "__main__":
    main()
