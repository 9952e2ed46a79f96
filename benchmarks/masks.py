"""Drawing masks: a global mask over 20 million weights, and SNIP's scores of VGG19.

    python benchmarks/masks.py

The mask is that of a level of iterative magnitude pruning of VGG19: 20 % of what is left goes. Ours
keeps the exact count and breaks ties by index; NumPy's percentile and PyTorch's `kthvalue` give a
threshold, below which everything goes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import harness
import jax
import numpy as np
import torch
import torch_reference as reference

from lottery_jax.models import abstract_variables, build_model, init_variables
from lottery_jax.models.network import LinenNetwork
from lottery_jax.models.xla_options import compiler_options
from lottery_jax.pruning import masks, scores
from lottery_jax.training.task import CLASSIFICATION, BatchLoss

SHAPE = (32, 32, 3)
BATCH = 128


def magnitude_sides(level: int) -> dict[str, Callable[[], object]]:
    """Three ways to draw the mask of `level` + 1 from VGG19-shaped weights at `level`."""
    rng = np.random.default_rng(0)
    shapes = abstract_variables(build_model("vgg19", 10), SHAPE)["params"]
    params = jax.tree.map(
        lambda a: rng.normal(scale=(2 / a.size) ** 0.25, size=a.shape).astype(np.float32), shapes
    )
    mask = masks.ones_like(params)
    for _ in range(level):
        mask = masks.prune(jax.tree.map(np.abs, params), mask, 0.2)
    params = jax.tree.map(lambda m, p: np.where(m, p, np.float32(0)), mask, params)
    kernels = masks.kernels(params)
    tensors = {name: torch.from_numpy(kernel) for name, kernel in kernels.items()}

    def ours() -> Any:
        return masks.prune(jax.tree.map(np.abs, params), mask, 0.2)

    def percentile() -> Any:
        alive = np.concatenate([np.abs(k[k != 0]) for k in kernels.values()])
        threshold = np.percentile(alive, 20)
        return {name: np.abs(k) >= threshold for name, k in kernels.items()}

    def kthvalue() -> Any:
        alive = torch.cat([t[t != 0].abs() for t in tensors.values()])
        threshold = torch.kthvalue(alive, len(alive) // 5 + 1).values
        return {name: t.abs() >= threshold for name, t in tensors.items()}

    return {"ours": ours, "numpy": percentile, "torch": kthvalue}


def snip_sides() -> dict[str, Callable[[], object]]:
    """SNIP's scores of VGG19 on one batch."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(1, BATCH, *SHAPE)).astype(np.float32)
    labels = rng.integers(0, 10, (1, BATCH)).astype(np.int32)
    model = build_model("vgg19", 10)
    variables = jax.jit(lambda key: init_variables(model, key, SHAPE))(jax.random.key(0))
    loss, options = BatchLoss(LinenNetwork(model), CLASSIFICATION), compiler_options("cpu")
    stats, key = variables["batch_stats"], jax.random.key(1)
    batch = scores.ScoreBatch(stats, images[0], labels[0], key)
    network = reference.build("vgg19", SHAPE, 10)
    x = torch.from_numpy(images[0]).permute(0, 3, 1, 2).contiguous()
    y = torch.from_numpy(labels[0]).long()

    def ours() -> Any:
        found = scores.snip(loss, variables["params"], [batch], compiler_options=options)
        return jax.block_until_ready(found)

    def theirs() -> Any:
        weights = list(reference.prunable(network).values())
        loss = torch.nn.functional.cross_entropy(network(x), y)
        grads = torch.autograd.grad(loss, weights)
        return [(g * w).abs() for g, w in zip(grads, weights, strict=True)]

    return {"ours": ours, "torch": theirs}


def main() -> None:
    """Measures, prints the table, writes it."""
    args = harness.options(__doc__.splitlines()[0]).parse_args()
    tasks = {
        "global mask, all 20,024,000 weights left": magnitude_sides(0),
        "global mask, 10.7 % left": magnitude_sides(10),
        "global mask, 1.2 % left": magnitude_sides(20),
        f"SNIP scores of VGG19, one batch of {BATCH}": snip_sides(),
    }
    rows = []
    for what, sides in tasks.items():
        seconds = harness.interleaved(sides, args.repeats)
        row: harness.Row = {"what": what, "seconds": seconds}
        for name, taken in seconds.items():
            row[f"{name}_ms"] = 1e3 * statistics.median(taken)
            if name != "ours":
                row[f"over_{name}"] = harness.median_ratio(taken, seconds["ours"])
        rows.append(row)
    rows[-1]["peak_mb"] = harness.peak_megabytes()
    columns = {
        "what": "what|",
        "ours_ms": "ours, ms|,.0f",
        "numpy_ms": "NumPy percentile, ms|,.0f",
        "over_numpy": "ratio|.1f",
        "torch_ms": "PyTorch, ms|,.0f",
        "over_torch": "ratio|.1f",
    }
    title = (
        f"Drawing masks, medians of {args.repeats}, interleaved; peak memory of the whole script "
        f"{rows[-1]['peak_mb']:,.0f} MB."
    )
    harness.write(args.out, "masks", title, columns, rows)


if __name__ == "__main__":
    main()
