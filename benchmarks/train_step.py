"""Compare the images a second of one masked train step with PyTorch's.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --models=vgg19 --batches=64 --dtypes=float32
    python benchmarks/train_step.py --compile

All sides train the same network on the same images, which are on the device already, with SGD,
momentum and weight decay. Our side is the step of a run: it gathers the batch, normalises it and
applies the mask. PyTorch's two sides multiply the masks into the weights after each step: an eager
loop with PyTorch's defaults, and one as a practitioner tunes it, with `channels_last`, a fused
optimizer and masks applied to all weights at once. `--compile` adds `torch.compile` to the latter.
On a CPU each side is a process of its own, as its users run it: ours keeps its heap, as a run does
(`lottery_jax/system/heap.py`), PyTorch's have glibc's defaults. Elsewhere all sides are in one process.
`--dtypes=tf32` lets all sides use TF32 for products in float32, as JAX does by default; on a CPU it
changes nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import harness
import numpy as np

from lottery_jax.system.heap import keep_heap

MODELS = ("lenet_300_100", "conv2", "resnet20", "vgg19", "resnet50", "alexnet")
CLASSES = 10


class Side(NamedTuple):
    """One side of the comparison: a step, the seconds of the first one, and its GFLOP."""

    step: Callable[[], object]
    first_s: float
    gflop: float


def shape_of(model: str) -> tuple[int, int, int]:
    """Return the shape of an image: Fashion-MNIST's or CIFAR's."""
    return (28, 28, 1) if model in ("lenet_300_100", "conv2") else (32, 32, 3)


def network_of(model: str, dtype: str) -> Any:
    """Return our network; ResNet50 has the ImageNet stem, as in the experiments."""
    from lottery_jax.models import build_model

    stem = {"stem": "imagenet"} if model == "resnet50" else {}
    return build_model(model, CLASSES, dtype=_type_of(dtype), **stem)


def _type_of(dtype: str) -> str:
    return "float32" if dtype == "tf32" else dtype


def ours(model: str, batch: int, dtype: str) -> Side:
    """Return our side: the step of a run's own program."""
    import jax

    from lottery_jax.models import init_variables
    from lottery_jax.parallel.mesh import make_mesh, to_mesh
    from lottery_jax.pruning import masks
    from lottery_jax.training.batches import DeviceData, epoch_order
    from lottery_jax.training.program import init_device_state
    from lottery_jax.training.state import MetricSums

    shape, network = shape_of(model), network_of(model, dtype)
    images, labels = harness.made_up_images(2 * batch, shape)
    mesh = make_mesh(jax.devices()[:1])
    program = harness.sgd_program(
        network, mesh, channels=shape[-1], examples=len(labels), batch_size=batch
    )
    variables = jax.jit(lambda key: init_variables(network, key, shape))(jax.random.key(0))
    state = init_device_state(program, variables, masks.ones_like(variables["params"]), 0)
    sums, data = to_mesh(mesh, (MetricSums.zero(), DeviceData(images, labels)))
    key = jax.random.key(1)
    order = epoch_order(key, np.int32(0), examples=len(labels), batch_size=batch)

    def step() -> None:
        nonlocal state, sums
        with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
            state, sums = program.train_step(state, sums, data, order, key)
        jax.block_until_ready(state)

    began = time.perf_counter()
    step()
    seconds = time.perf_counter() - began
    # A train step is three times a forward pass; a multiply-add is two operations.
    return Side(step, seconds, 6e-9 * harness.multiply_adds(network, shape) * batch)


def theirs(
    model: str, batch: int, dtype: str, *, tuned: bool = False, compiled: bool = False
) -> Side:
    """Return a side of PyTorch: a step of its loop."""
    import torch
    import torch_reference as reference

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("highest" if dtype == "float32" else "high")
    torch.backends.cudnn.allow_tf32 = dtype != "float32"
    layout = torch.channels_last if tuned else torch.contiguous_format
    network = reference.build(model, shape_of(model), CLASSES).to(device, memory_format=layout)
    optimizer = torch.optim.SGD(
        network.parameters(), 0.01, momentum=0.9, weight_decay=1e-4, fused=tuned
    )
    masks = reference.dense_masks(network)
    trained = torch.compile(network) if compiled else network
    images, labels = harness.made_up_images(2 * batch, shape_of(model))
    x = torch.from_numpy(images[:batch]).to(device).permute(0, 3, 1, 2).float()
    x = x.div(255).sub(0.5).div(0.25).contiguous(memory_format=layout)
    y = torch.from_numpy(labels[:batch]).to(device).long()

    def step() -> None:
        kind = getattr(torch, _type_of(dtype))
        reference.step(trained, optimizer, masks, x, y, kind, at_once=tuned)
        if device == "cuda":
            torch.cuda.synchronize()

    began = time.perf_counter()
    step()
    return Side(step, time.perf_counter() - began, 0.0)


def check_same_network(model: str) -> None:
    """Assert that both sides have the same number of parameters."""
    import jax
    import torch_reference as reference

    from lottery_jax.models import abstract_variables

    params = abstract_variables(network_of(model, "float32"), shape_of(model))["params"]
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    other = sum(p.numel() for p in reference.build(model, shape_of(model), CLASSES).parameters())
    assert size == other, (model, size, other)


def matmul_peak(repeats: int) -> dict[str, float]:
    """Return each library's GFLOP/s for a 4096 x 4096 matrix product in float32."""
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


def make_side(name: str, model: str, batch: int, dtype: str) -> Side:
    """Return the side of that name, one of `ours`, `eager`, `tuned` and `compiled`."""
    if name == "ours":
        return ours(model, batch, dtype)
    return theirs(model, batch, dtype, tuned=name != "eager", compiled=name == "compiled")


def main() -> None:
    """Measure, and print and write the table."""
    parser = harness.options(__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batches", default="64,256")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile the tuned side")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement on a CPU")
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        name, model, batch, dtype = args.side
        print(json.dumps(alone(name, model, int(batch), dtype, args.seconds)))
        return
    peak = matmul_peak(args.repeats)
    best = "compiled" if args.compile else "tuned"
    rows = []
    for model in args.models.split(","):
        check_same_network(model)
        for dtype in args.dtypes.split(","):
            for batch in map(int, args.batches.split(",")):
                rows.append(measure(model, batch, dtype, best, args.repeats, args.seconds))
                rows[-1]["share_of_peak"] = rows[-1]["gflop_per_s"] / max(peak.values())
                print(json.dumps(rows[-1]), flush=True)
    columns = {
        "model": "model|",
        "dtype": "dtype|",
        "batch": "batch|d",
        "images_per_s": "images/s|,.0f",
        "torch_images_per_s": "PyTorch|,.0f",
        "tuned_images_per_s": f"PyTorch, {best}|,.0f",
        "ratio": "ratio|.2f",
        "tuned_ratio": f"ratio to {best}|.2f",
        "gflop_per_s": "GFLOP/s|,.0f",
        "share_of_peak": "of peak|.0%",
        "first_s": "first step, s|.1f",
        "peak_mb": "memory, MB|.0f",
        "torch_peak_mb": "PyTorch, MB|.0f",
    }
    title = (
        f"One masked train step, medians of {args.repeats}, in turn. Peak: {peak['jax']:,.0f} "
        f"GFLOP/s by JAX, {peak['torch']:,.0f} by PyTorch (float32 matrix product)."
    )
    harness.write(args.out, "train_step", title, columns, rows)


def measure(
    model: str, batch: int, dtype: str, best: str, repeats: int, seconds: float
) -> harness.Row:
    """Return one row: the time of all sides in turn."""
    import jax

    names = ("ours", "eager", best)
    if jax.default_backend() == "cpu":
        found = in_processes(names, model, batch, dtype, repeats, seconds)
    else:
        found = in_this_process(names, model, batch, dtype, repeats)
    taken = {name: found[name]["step_s"] for name in names}
    median = {name: statistics.median(times) for name, times in taken.items()}
    row = {
        "model": model,
        "dtype": dtype,
        "batch": batch,
        "images_per_s": batch / median["ours"],
        "torch_images_per_s": batch / median["eager"],
        "tuned_images_per_s": batch / median[best],
        "ratio": harness.median_ratio(taken["eager"], taken["ours"]),
        "tuned_ratio": harness.median_ratio(taken[best], taken["ours"]),
        "gflop_per_s": found["ours"]["gflop"] / median["ours"],
        "first_s": found["ours"]["first_s"],
        "seconds": taken,
    }
    for key, name in {"peak_mb": "ours", "torch_peak_mb": "eager"}.items():
        if "peak_mb" in found[name]:
            row[key] = found[name]["peak_mb"]
    return row


def alone(name: str, model: str, batch: int, dtype: str, seconds: float) -> harness.Row:
    """Measure one side for some seconds in this process."""
    if name == "ours":
        keep_heap()
    side = make_side(name, model, batch, dtype)
    for _ in range(3):
        side.step()
    taken: list[float] = []
    while sum(taken) < seconds or len(taken) < 3:
        began = time.perf_counter()
        side.step()
        taken.append(time.perf_counter() - began)
    return {
        "step_s": statistics.median(taken),
        "first_s": side.first_s,
        "gflop": side.gflop,
        "peak_mb": harness.peak_megabytes(),
    }


def in_processes(
    names: tuple[str, ...], model: str, batch: int, dtype: str, repeats: int, seconds: float
) -> dict[str, harness.Row]:
    """Measure sides in turn, each time in a new process; ours compiles in the first one."""
    rows: dict[str, list[harness.Row]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(repeats):
            for name in names:
                side = ("--side", name, model, str(batch), dtype, f"--seconds={seconds}")
                kept = {"JAX_COMPILATION_CACHE_DIR": cache,
                        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # fmt: skip
                rows[name].append(harness.child("train_step.py", *side, **kept))
    return {
        name: {
            "step_s": [row["step_s"] for row in each],
            "first_s": each[0]["first_s"],
            "gflop": each[0]["gflop"],
            "peak_mb": max(row["peak_mb"] for row in each),
        }
        for name, each in rows.items()
    }


def in_this_process(
    names: tuple[str, ...], model: str, batch: int, dtype: str, repeats: int
) -> dict[str, harness.Row]:
    """Measure sides in turn, with many steps in each measurement if they take milliseconds."""
    sides = {name: make_side(name, model, batch, dtype) for name in names}
    slowest = 0.0
    for side in sides.values():
        began = time.perf_counter()
        side.step()
        slowest = max(slowest, time.perf_counter() - began)
    inner = max(1, min(50, int(0.1 / slowest)))

    def repeated(step: Callable[[], object]) -> Callable[[], None]:
        return lambda: [step() for _ in range(inner)] and None

    taken = harness.interleaved({n: repeated(side.step) for n, side in sides.items()}, repeats)
    return {
        name: {
            "step_s": [t / inner for t in taken[name]],
            "first_s": side.first_s,
            "gflop": side.gflop,
        }
        for name, side in sides.items()
    }


if __name__ == "__main__":
    main()
