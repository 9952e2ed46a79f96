"""Images a second of one masked train step: this project against PyTorch, side by side.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --models=vgg19 --batches=64 --dtypes=float32

Both sides train the same network on the same images, that are on the device already, with SGD,
momentum and weight decay. Ours is the step of a run: it gathers the batch, normalises it and keeps
the mask. PyTorch's is its eager loop; its masks are multiplied into the weights after each step.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import harness
import numpy as np

MODELS = ("lenet_300_100", "conv2", "resnet20", "vgg19", "resnet50", "alexnet")
CLASSES = 10


class Side(NamedTuple):
    """One of the two: a step, how long the first one took, how much arithmetic it is."""

    step: Callable[[], object]
    first_s: float
    gflop: float


def shape_of(model: str) -> tuple[int, int, int]:
    """Fashion-MNIST's shape for the first two, CIFAR's for the others."""
    return (28, 28, 1) if model in ("lenet_300_100", "conv2") else (32, 32, 3)


def pixels(model: str, batch: int) -> tuple[Any, Any]:
    """Made-up images and labels: what is in them does not change how long a step takes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2 * batch, *shape_of(model)), dtype=np.uint8)
    return images, rng.integers(0, CLASSES, 2 * batch).astype(np.int32)


def multiply_adds(model: str) -> float:
    """Of a forward pass of one image, in millions; a train step is three times that."""
    return harness.multiply_adds(network_of(model, "float32"), shape_of(model)) / 1e6


def network_of(model: str, dtype: str) -> Any:
    """Ours; ResNet50 with the ImageNet stem, as in the experiments."""
    from lottery_jax.models import build_model

    stem = {"stem": "imagenet"} if model == "resnet50" else {}
    return build_model(model, CLASSES, dtype=dtype, **stem)


def ours(model: str, batch: int, dtype: str) -> Side:
    """A step of a run's own program."""
    import jax

    from lottery_jax.models import init_variables
    from lottery_jax.parallel.mesh import make_mesh, to_mesh
    from lottery_jax.pruning import masks
    from lottery_jax.training.batches import DeviceData, epoch_order
    from lottery_jax.training.loop import MetricSums, init_device_state, make_program
    from lottery_jax.training.optim import make_optimizer, make_schedule

    images, labels = pixels(model, batch)
    shape, network = shape_of(model), network_of(model, dtype)
    program = make_program(
        network,
        make_optimizer("sgd", momentum=0.9, weight_decay=1e-4),
        make_schedule("constant", 0.01, steps_per_epoch=2, epochs=1),
        mesh=make_mesh(jax.devices()[:1]),
        examples=len(labels),
        batch_size=batch,
        mean=(0.5,) * shape[-1],
        std=(0.25,) * shape[-1],
    )
    variables = jax.jit(lambda key: init_variables(network, key, shape))(jax.random.key(0))
    state = init_device_state(program, variables, masks.ones_like(variables["params"]), 0)
    totals, data = (
        to_mesh(program.mesh, MetricSums.zero()),
        to_mesh(program.mesh, DeviceData(images, labels)),
    )
    key = jax.random.key(1)
    order = epoch_order(key, np.int32(0), examples=len(labels), batch_size=batch)

    def step() -> None:
        nonlocal state, totals
        state, totals = program.train_step(state, totals, data, order, key)
        jax.block_until_ready(state)

    began = time.perf_counter()
    step()
    return Side(step, time.perf_counter() - began, 6e-3 * multiply_adds(model) * batch)


def theirs(model: str, batch: int, dtype: str) -> Side:
    """PyTorch's eager loop."""
    import torch
    import torch_reference as reference

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = reference.build(model, shape_of(model), CLASSES).to(device)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    masks = reference.dense_masks(network)
    images, labels = pixels(model, batch)
    x = torch.from_numpy(images[:batch]).to(device).permute(0, 3, 1, 2).float()
    x = x.div(255).sub(0.5).div(0.25).contiguous()
    y = torch.from_numpy(labels[:batch]).to(device).long()

    def step() -> None:
        reference.step(network, optimizer, masks, x, y, getattr(torch, dtype))
        if device == "cuda":
            torch.cuda.synchronize()

    began = time.perf_counter()
    step()
    return Side(step, time.perf_counter() - began, 0.0)


def check_same_network(model: str) -> None:
    """Both sides must have as many parameters."""
    import jax
    import torch_reference as reference

    from lottery_jax.models import abstract_variables

    params = abstract_variables(network_of(model, "float32"), shape_of(model))["params"]
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    other = sum(p.numel() for p in reference.build(model, shape_of(model), CLASSES).parameters())
    assert size == other, (model, size, other)


def matmul_peak(repeats: int) -> dict[str, float]:
    """GFLOP/s of a 4096 x 4096 matrix product in float32, of each library."""
    import jax
    import torch

    from lottery_jax.models.xla_options import compiler_options

    n = 4096
    a = jax.numpy.ones((n, n))
    product = jax.jit(jax.numpy.matmul, compiler_options=compiler_options(jax.default_backend()))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    b = torch.ones(n, n, device=device)

    def torch_product() -> None:
        torch.matmul(b, b).sum().item()

    sides = {"jax": lambda: product(a, a).block_until_ready(), "torch": torch_product}
    seconds = harness.interleaved(sides, repeats)
    return {name: 2e-9 * n**3 / statistics.median(taken) for name, taken in seconds.items()}


def main() -> None:
    """Measures, prints the table, writes it."""
    parser = harness.options(__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batches", default="64,256")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--memory-of", nargs=4, help="SIDE MODEL BATCH DTYPE; for internal use")
    args = parser.parse_args()
    if args.memory_of:
        name, model, batch, dtype = args.memory_of
        side = {"ours": ours, "theirs": theirs}[name](model, int(batch), dtype)
        for _ in range(3):
            side.step()
        print(json.dumps({"peak_mb": harness.peak_megabytes()}))
        return
    peak = matmul_peak(args.repeats)
    rows = []
    for model in args.models.split(","):
        check_same_network(model)
        for dtype in args.dtypes.split(","):
            for batch in map(int, args.batches.split(",")):
                rows.append(measure(model, batch, dtype, args.repeats, max(peak.values())))
                print(json.dumps(rows[-1]), flush=True)
    columns = {
        "model": "model|",
        "dtype": "dtype|",
        "batch": "batch|d",
        "images_per_s": "images/s|,.0f",
        "torch_images_per_s": "PyTorch|,.0f",
        "ratio": "ratio|.2f",
        "gflop_per_s": "GFLOP/s|.0f",
        "share_of_peak": "of peak|.0%",
        "first_s": "first step, s|.1f",
        "peak_mb": "memory, MB|.0f",
        "torch_peak_mb": "PyTorch, MB|.0f",
    }
    title = (
        f"One masked train step, medians of {args.repeats}, interleaved. Peak: {peak['jax']:.0f} "
        f"GFLOP/s by JAX, {peak['torch']:.0f} by PyTorch (float32 matrix product)."
    )
    harness.write(args.out, "train_step", title, columns, rows)


def measure(model: str, batch: int, dtype: str, repeats: int, peak: float) -> harness.Row:
    """One row: both sides side by side, then the memory of each by itself."""
    sides = {"ours": ours(model, batch, dtype), "theirs": theirs(model, batch, dtype)}
    # Where a step takes milliseconds one measurement is of many.
    times = {}
    for name, side in sides.items():
        began = time.perf_counter()
        side.step()
        times[name] = time.perf_counter() - began
    inner = max(1, min(50, int(0.1 / max(times.values()))))

    def repeated(step: Callable[[], object]) -> Callable[[], None]:
        return lambda: [step() for _ in range(inner)] and None

    runs = {name: repeated(side.step) for name, side in sides.items()}
    seconds = harness.interleaved(runs, repeats)
    median = {name: statistics.median(taken) / inner for name, taken in seconds.items()}
    memory = {
        name: harness.child("train_step.py", "--memory-of", name, model, str(batch), dtype)
        for name in sides
    }
    speed = sides["ours"].gflop / median["ours"]
    return {
        "model": model,
        "dtype": dtype,
        "batch": batch,
        "images_per_s": batch / median["ours"],
        "torch_images_per_s": batch / median["theirs"],
        "ratio": harness.median_ratio(seconds["theirs"], seconds["ours"]),
        "gflop_per_s": speed,
        "share_of_peak": speed / peak,
        "first_s": sides["ours"].first_s,
        "peak_mb": memory["ours"]["peak_mb"],
        "torch_peak_mb": memory["theirs"]["peak_mb"],
        "seconds": {name: [t / inner for t in taken] for name, taken in seconds.items()},
    }


if __name__ == "__main__":
    main()
