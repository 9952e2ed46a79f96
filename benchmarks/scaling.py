"""Scaling on paper: what a train step costs by its compiled program, and how far chips help.

    python benchmarks/scaling.py             # tables and figure, from results/scaling.json
    python benchmarks/scaling.py --compile   # makes scaling.json: half an hour, no accelerator

`--compile` builds the train step of a run, lowers it for TPU and compiles it with the TPU's own
compiler for each slice: that needs libtpu (`pip install -e '.[scaling]'`) but no TPU. XLA says how
many floating-point operations and bytes a chip's part of the step is, how much memory it takes and
which all-reduces it has. From these, and from the figures of `CHIPS`, everything else is arithmetic.
There is no such compiler for the H100 here; its rows take FLOPs and bytes from the TPU's program.

Nothing here is measured. docs/scaling.md has the tables and says what they mean.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import harness

DOCUMENT = Path(__file__).parent.parent / "docs" / "scaling.md"
DTYPES = ("bfloat16", "float32")
SEEDS, LEVELS, CONTROLS = 6, 30, 2
# An all-reduce of fewer bytes is of sums for BatchNorm or the loss, not of gradients.
SMALL = 2**16


class Network(NamedTuple):
    """A network on a data set, with its published recipe.

    Attributes:
        label: in the tables.
        model: name of the model.
        options: of `build_model`.
        shape: of an image.
        classes: of the data.
        batch: over all chips.
        epochs: of one training.
        sets: images in the training and the test set of each set of the matrix; the first is that
            of the ladders.
        chips: compiled for slices of so many.
    """

    label: str
    model: str
    options: dict[str, str]
    shape: tuple[int, int, int]
    classes: int
    batch: int
    epochs: int
    sets: dict[str, tuple[int, int]]
    chips: tuple[int, ...]


_SMALL_SETS = {
    "CIFAR-10": (50_000, 10_000),
    "CIFAR-100": (50_000, 10_000),
    "SVHN": (73_257, 26_032),
    "Fashion-MNIST": (60_000, 10_000),
    "CIFAR-10a": (25_000, 10_000),
    "CIFAR-10b": (25_000, 10_000),
}
_LARGE_SETS = {"ImageNet": (1_281_167, 50_000), "Places365": (1_803_460, 36_500)}
_SLICES = (8, 16, 32, 64, 128, 256)
_STEM = {"stem": "imagenet"}
# VGG19 and ResNet50 at 32 pixels are the project's recipes (Gohil et al. 2020). On ImageNet, batch
# 1024 and 90 epochs are those of OpenLTH, the code of Frankle et al. (2020).
NETWORKS = {
    "vgg19": Network(
        "VGG19, CIFAR-10", "vgg19", {}, (32, 32, 3), 10, 512, 160, _SMALL_SETS, (1, *_SLICES)
    ),
    "resnet50": Network(
        "ResNet50, ImageNet",
        "resnet50",
        _STEM,
        (224, 224, 3),
        1000,
        1024,
        90,
        _LARGE_SETS,
        (4, 8, 16, 64, 256),
    ),
    "resnet50_cifar": Network(
        "ResNet50, CIFAR-10", "resnet50", _STEM, (32, 32, 3), 10, 512, 90, _SMALL_SETS, (1,)
    ),
}


class Slice(NamedTuple):
    """Chips that are wired to each other.

    Attributes:
        axes: chips along each axis of the mesh.
        wrapped: for each axis, whether its ends are joined.
    """

    axes: tuple[int, ...]
    wrapped: tuple[bool, ...]

    @property
    def chips(self) -> int:
        """How many."""
        return math.prod(self.axes)

    @property
    def name(self) -> str:
        """Such as 4x8."""
        return "x".join(map(str, self.axes))


class Chip(NamedTuple):
    """What a chip can do at most; docs/scaling.md has the sources.

    Attributes:
        flops: a second, dense, for each dtype of the computation.
        memory_bandwidth: bytes a second.
        memory: bytes.
        link: bytes a second out of a chip, one way, over one link.
        host_link: bytes a second from the host.
        slices: that are looked at.
    """

    flops: dict[str, float]
    memory_bandwidth: float
    memory: float
    link: float
    host_link: float
    slices: tuple[Slice, ...]


def _v5e(*axes: int) -> Slice:
    # Only an axis of the whole pod, 16, has its ends joined.
    return Slice(axes, tuple(size == 16 for size in axes))


def _v4(*axes: int) -> Slice:
    # Ends are joined by optical switches between whole cubes of 4x4x4.
    cubes = all(size % 4 == 0 for size in axes)
    return Slice(axes, (cubes,) * 3)


def _node(chips: int) -> Slice:
    # A ring through the switch, in which every chip sends all it can to the next.
    return Slice((chips,), (False,))


# On TPU a float32 convolution multiplies in bfloat16 by default, on an H100 in TF32.
CHIPS = {
    "TPU v5e": Chip(
        {"bfloat16": 197e12, "float32": 197e12},
        819e9,
        16e9,
        50e9,
        15e9,
        (
            _v5e(1, 1),
            _v5e(2, 2),
            _v5e(2, 4),
            _v5e(4, 4),
            _v5e(4, 8),
            _v5e(8, 8),
            _v5e(8, 16),
            _v5e(16, 16),
        ),
    ),
    "TPU v4": Chip(
        {"bfloat16": 275e12, "float32": 275e12},
        1200e9,
        32e9,
        45e9,
        16e9,
        (
            _v4(1, 1, 1),
            _v4(2, 2, 1),
            _v4(2, 2, 2),
            _v4(2, 2, 4),
            _v4(2, 4, 4),
            _v4(4, 4, 4),
            _v4(4, 4, 8),
            _v4(4, 8, 8),
        ),
    ),
    "H100": Chip(
        {"bfloat16": 989e12, "float32": 494e12},
        3350e9,
        80e9,
        450e9,
        64e9,
        (_node(1), _node(8)),
    ),
}
# A chip that is not looked at, but whose measured speed can be compared with the same arithmetic.
A100 = Chip({"bfloat16": 312e12}, 2039e9, 80e9, 300e9, 32e9, (_node(1),))
# Hours of 90 epochs of ResNet50 v1.5 on ImageNet on one A100 of 80 GB, mixed precision, batch 512,
# as NVIDIA measured them with MXNet (docs/scaling.md).
A100_HOURS, A100_BATCH = 8.75, 512
# Seconds for a message to the next chip, however short (an assumption, see docs/scaling.md).
HOP = 1e-6
# Bytes of an ImageNet training image on average, and how many a CPU core decodes in a second
# (assumptions, see docs/scaling.md).
JPEG = 110e3
DECODED = 500
# What libtpu calls the chips, and how it sees one: a v4's two cores work as one device.
_TOPOLOGIES: dict[str, tuple[str, dict[str, str]]] = {
    "TPU v5e": ("v5e", {}),
    "TPU v4": ("v4", {"chip_config_name": "megacore"}),
}


# The program: all that knows the train step.


def lowered_step(network: Network, dtype: str, devices: Sequence[Any], platform: str) -> Any:
    """The train step of a run, lowered for a platform (`tpu`, `cuda`, `cpu`); nothing is computed.

    The set on the device has two batches: its size changes nothing but the room it takes.
    """
    import jax
    import jax.numpy as jnp

    from lottery_jax.models import abstract_variables, build_model
    from lottery_jax.parallel.mesh import make_mesh, replicated
    from lottery_jax.training import optim
    from lottery_jax.training.batches import DeviceData
    from lottery_jax.training.loop import MetricSums, TrainState, make_program

    examples, channels = 2 * network.batch, network.shape[-1]
    model = build_model(network.model, network.classes, dtype=dtype, **network.options)
    program = make_program(
        model,
        optim.make_optimizer("sgd", momentum=0.9, weight_decay=1e-4),
        optim.make_schedule("constant", 0.1, steps_per_epoch=2, epochs=1),
        mesh=make_mesh(list(devices)),
        examples=examples,
        batch_size=network.batch,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        augment="crop_flip",
    )
    variables = abstract_variables(model, network.shape)
    params = variables["params"]
    state = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state=jax.eval_shape(program.optimizer.init, params),
        mask=jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, bool), params),
    )
    data = DeviceData(
        jax.ShapeDtypeStruct((examples, *network.shape), jnp.uint8),
        jax.ShapeDtypeStruct((examples,), jnp.int32),
    )
    order = jax.ShapeDtypeStruct((2, network.batch), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    run_on_all = replicated(program.mesh)
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=run_on_all),
        (state, jax.eval_shape(MetricSums.zero), data, order, key),
    )
    return program.train_step.trace(*arguments).lower(lowering_platforms=(platform,))


def step_facts(network: Network, dtype: str) -> harness.Row:
    """What the whole step is, before any compiler has touched it.

    `flops` count no multiplication with padding; `bytes` are those of every operation by itself.
    """
    import jax

    from lottery_jax.models import abstract_variables, build_model

    model = build_model(network.model, network.classes, dtype=dtype, **network.options)
    variables = abstract_variables(model, network.shape)
    cost = lowered_step(network, dtype, jax.devices()[:1], "tpu").cost_analysis()
    return {
        "flops": cost["flops"],
        "bytes": cost["bytes accessed"],
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        "batchnorms": len(jax.tree.leaves(variables["batch_stats"])) // 2,
        "channels": sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"])) // 2,
        "multiply_adds": harness.multiply_adds(model, network.shape),
    }


def compiled_facts(network: Network, dtype: str, chip: str, chips: int) -> harness.Row:
    """What one chip's part of the step is, by the TPU's compiler for a slice of so many chips."""
    from jax.experimental import topologies

    shape = next(s for s in CHIPS[chip].slices if s.chips == chips)
    # The smallest topology there is has a whole host's chips.
    host = {1: "2x2" if chip == "TPU v5e" else "2x2x1"}.get(chips, shape.name)
    kind, options = _TOPOLOGIES[chip]
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=f"{kind}:{host}", **options
    )
    compiled = lowered_step(network, dtype, list(topology.devices)[:chips], "tpu").compile()
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    sizes = all_reduces(compiled.as_text())
    small, large = ([s for s in sizes if (s < SMALL) == few] for few in (True, False))
    return {
        "chip": chip,
        "chips": chips,
        "slice": shape.name,
        "dtype": dtype,
        "batch": network.batch,
        "flops": cost["flops"],
        "bytes": cost["bytes accessed"],
        "temporary": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "small": len(small),
        "small_bytes": sum(small),
        "large": len(large),
        "large_bytes": sum(large),
    }


def all_reduces(text: str) -> list[int]:
    """The bytes of each all-reduce in a compiled program's text.

    >>> all_reduces("  %a = (f32[64]{0}, bf16[3,3]{1,0}) all-reduce(%b, %c), channel_id=1")
    [274]
    """
    widths = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2}
    return [
        sum(
            widths[dtype] * math.prod(int(size) for size in shape.split(",") if size)
            for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", types)
        )
        for types in re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
    ]


# The arithmetic.


def all_reduce_seconds(size: float, shape: Slice, link: float) -> float:
    """A bandwidth-optimal all-reduce of `size` bytes: reduce-scatter, then all-gather.

    Every chip sends 2 (n - 1) / n of the bytes over all its links, and the first of them crosses
    the slice twice: along an axis of k chips k - 1 hops, k / 2 if its ends are joined.

    >>> round(1e3 * all_reduce_seconds(100e6, Slice((4,), (False,)), 50e9), 3)
    3.006
    """
    if shape.chips == 1:
        return 0.0
    axes = [(k, wrapped) for k, wrapped in zip(*shape, strict=True) if k > 1]
    bandwidth = link * sum(2 if wrapped else 1 for _, wrapped in axes)
    hops = 2 * sum(k // 2 if wrapped else k - 1 for k, wrapped in axes)
    return 2 * (shape.chips - 1) / shape.chips * size / bandwidth + hops * HOP


class Step(NamedTuple):
    """Seconds of a train step and of its parts.

    Attributes:
        compute: at the chip's peak.
        memory: all bytes that XLA counts, on-chip ones included.
        least_memory: what is held at once, written and read once, and the update of the weights.
        statistics: the small all-reduces, one after another.
        gradients: the large ones.
    """

    compute: float
    memory: float
    least_memory: float
    statistics: float
    gradients: float

    @property
    def as_compiled(self) -> float:
        """As the program is: all-reduces wait, and nothing runs beside them."""
        return max(self.compute, self.memory) + self.statistics + self.gradients

    @property
    def least(self) -> float:
        """No schedule is faster: gradients all beside the backward pass, statistics never."""
        return max(self.compute, self.least_memory, self.gradients) + self.statistics


def step_seconds(facts: harness.Row, parameters: int, chip: Chip, shape: Slice) -> Step:
    """The roofline of a step, from the facts of its compiled program."""
    # Weights and momentum are read and written in float32, the mask is read.
    update = 17 * parameters
    latency = all_reduce_seconds(0.0, shape, chip.link)
    return Step(
        facts["flops"] / chip.flops[facts["dtype"]],
        facts["bytes"] / chip.memory_bandwidth,
        (2 * facts["temporary"] + update) / chip.memory_bandwidth,
        facts["small"] * latency
        + all_reduce_seconds(facts["small_bytes"], shape, chip.link)
        - latency * (facts["small"] > 0),
        facts["large"] * latency
        + all_reduce_seconds(facts["large_bytes"], shape, chip.link)
        - latency * (facts["large"] > 0),
    )


def at_batch(rows: Sequence[harness.Row], batch: int) -> harness.Row:
    """The facts of a chip with `batch` images: compiled, or on the line through the two largest."""
    by_batch = {row["batch"] // row["chips"]: row for row in rows}
    if batch in by_batch:
        return by_batch[batch]
    low, high = sorted(by_batch)[-2:]
    share = (batch - low) / (high - low)
    line = {
        key: by_batch[low][key] + share * (by_batch[high][key] - by_batch[low][key])
        for key in ("flops", "bytes", "temporary")
    }
    return {**by_batch[high], **line}


def ladder_epochs(epochs: int) -> int:
    """Epochs of a ladder: one dense training, then the levels from the end of the first epoch.

    >>> ladder_epochs(160)
    4930
    """
    return epochs + LEVELS * (epochs - 1)


def matrix_epochs(epochs: int, sets: int) -> tuple[int, int]:
    """Trainings, and epochs of them, on one target of a matrix over `sets` data sets.

    Its own ladder, every other set's tickets trained on it at each level, and the controls at each
    level; all for each seed.
    """
    series = (sets - 1) + CONTROLS
    trainings = 1 + LEVELS + LEVELS * series
    return SEEDS * trainings, SEEDS * (ladder_epochs(epochs) + LEVELS * series * (epochs - 1))


def epoch_seconds(network: Network, name: str, step: float) -> float:
    """Training on whole batches and a test pass, a third of the work for an image."""
    train, test = network.sets[name]
    return step * (train // network.batch + test / network.batch / 3)


# The tables.


class Estimate(NamedTuple):
    """A network on a slice."""

    chip: str
    shape: Slice
    facts: harness.Row
    step: Step


def estimates(results: harness.Row, name: str, dtype: str) -> list[Estimate]:
    """All slices of all chips that a network was compiled for, and the H100."""
    network, found = NETWORKS[name], []
    parameters = results["steps"][name][dtype]["parameters"]
    rows = [row for row in results["compiled"][name] if row["dtype"] == dtype]
    for chip, about in CHIPS.items():
        for shape in about.slices:
            if chip in _TOPOLOGIES:
                chosen = [r for r in rows if (r["chip"], r["chips"]) == (chip, shape.chips)]
            elif network.chips == (1,) and shape.chips > 1:
                chosen = []
            else:
                like = [r for r in rows if r["chip"] == "TPU v5e"]
                batch = network.batch // shape.chips
                exact = [r for r in like if r["batch"] // r["chips"] == batch]
                chosen = [at_batch(like, batch)] if exact or len(like) > 1 else []
            for facts in chosen:
                step = step_seconds(facts, parameters, about, shape)
                found.append(Estimate(chip, shape, facts, step))
    return found


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def digits(number: float) -> str:
    """Three digits, more if they are whole ones.

    >>> digits(0.04567), digits(4.5), digits(4567.8)
    ('0.0457', '4.50', '4,568')
    """
    places = 2 - math.floor(math.log10(abs(number))) if number else 0
    return f"{number:,.{max(0, places)}f}"


def tables(results: harness.Row) -> dict[str, str]:
    """All tables of docs/scaling.md by name."""
    return {
        "steps": steps_table(results),
        **{f"roofline-{name}": roofline_table(results, name) for name in ("vgg19", "resnet50")},
        **{f"ladders-{name}": ladders_table(results, name) for name in ("vgg19", "resnet50")},
        "growing": growing_table(results),
        "float32": float32_table(results),
        "matrix": matrix_table(results),
        "feeding": feeding_table(results),
        "check": check_table(results),
    }


def steps_table(results: harness.Row) -> str:
    """A step of the whole batch."""
    rows = []
    for name, network in NETWORKS.items():
        for dtype in DTYPES:
            facts = results["steps"][name][dtype]
            least = [
                row
                for row in results["compiled"][name]
                if row["chip"] == "TPU v5e" and row["dtype"] == dtype
            ]
            compiled = f"{least[0]['bytes'] * least[0]['chips'] / 1e9:.1f}" if least else ""
            if least and least[0]["chips"] > 1:
                compiled += f" on {least[0]['chips']} chips"
            rows.append(
                [
                    network.label,
                    dtype,
                    str(network.batch),
                    f"{facts['parameters'] / 1e6:.2f}",
                    str(facts["batchnorms"]),
                    f"{facts['flops'] / 1e9:,.0f}",
                    f"{facts['flops'] / network.batch / 1e9:.2f}",
                    f"{6 * facts['multiply_adds'] / 1e9:.2f}",
                    f"{facts['bytes'] / 1e9:,.1f}",
                    compiled,
                ]
            )
    headings = [
        "network",
        "dtype",
        "batch",
        "parameters, M",
        "BatchNorms",
        "GFLOP a step",
        "an image",
        "6 x multiply-adds",
        "GB, each operation by itself",
        "GB, compiled for v5e",
    ]
    return table(headings, rows)


def roofline_table(results: harness.Row, name: str) -> str:
    """The parts of a step on each slice, in milliseconds."""
    network, rows = NETWORKS[name], []
    first: dict[str, float] = {}
    for chip, shape, facts, step in estimates(results, name, "bfloat16"):
        chip_seconds = shape.chips * step.as_compiled
        efficiency = first.setdefault(chip, chip_seconds) / chip_seconds
        rows.append(
            [
                chip,
                str(shape.chips),
                shape.name,
                str(network.batch // shape.chips),
                *(f"{1e3 * part:.2f}" for part in (step.compute, step.memory, step.least_memory)),
                f"{1e3 * step.statistics:.2f}" if shape.chips > 1 else "",
                f"{1e3 * step.gradients:.2f}" if shape.chips > 1 else "",
                f"{1e3 * step.as_compiled:.2f}",
                f"{1e3 * step.least:.2f}",
                f"{network.batch / step.as_compiled:,.0f}",
                f"{efficiency:.0%}",
                f"{(facts['temporary'] + 9 * results['steps'][name]['bfloat16']['parameters']) / 1e9:.1f}",
            ]
        )
    headings = [
        "chip",
        "chips",
        "slice",
        "images a chip",
        "FLOPs, ms",
        "bytes, ms",
        "least bytes, ms",
        "BatchNorm, ms",
        "gradients, ms",
        "step as compiled, ms",
        "least step, ms",
        "images/s",
        "efficiency",
        "GB a chip",
    ]
    return table(headings, rows)


def ladders_table(results: harness.Row, name: str) -> str:
    """One ladder on a whole slice, and a ladder for each of its smallest parts instead."""
    network, rows = NETWORKS[name], []
    first: dict[str, tuple[int, float]] = {}
    dataset = next(iter(network.sets))
    for chip, shape, _, step in estimates(results, name, "bfloat16"):
        epoch = epoch_seconds(network, dataset, step.as_compiled)
        ladder = ladder_epochs(network.epochs) * epoch / 3600
        part, alone = first.setdefault(chip, (shape.chips, ladder))
        side_by_side = shape.chips // part
        times = (epoch, network.epochs * epoch / 3600, ladder, 24 / ladder, shape.chips * ladder)
        others = (24 / alone * side_by_side, part * alone)
        rows.append([chip, str(shape.chips), *map(digits, (*times, *others))])
    headings = [
        "chip",
        "chips",
        "epoch, s",
        "training, h",
        "ladder, h",
        "ladders a day",
        "chip hours a ladder",
        "ladders a day, side by side",
        "chip hours each",
    ]
    return table(headings, rows)


def growing_table(results: harness.Row) -> str:
    """The batch grows with the chips: what a chip does is as on 8, the all-reduces are longer."""
    rows = []
    for name in ("vgg19", "resnet50"):
        parameters = results["steps"][name]["bfloat16"]["parameters"]
        for chip, eight, facts, step in estimates(results, name, "bfloat16"):
            if chip not in _TOPOLOGIES or eight.chips != 8:
                continue
            for shape in CHIPS[chip].slices:
                if shape.chips in (8, 32, 64, 256):
                    there = step_seconds(facts, parameters, CHIPS[chip], shape)
                    batch = NETWORKS[name].batch // 8 * shape.chips
                    rate = batch / there.as_compiled
                    rows.append(
                        [
                            NETWORKS[name].label,
                            chip,
                            str(shape.chips),
                            f"{batch:,}",
                            f"{1e3 * there.as_compiled:.2f}",
                            f"{rate:,.0f}",
                            f"{step.as_compiled / there.as_compiled:.0%}",
                        ]
                    )
    headings = [
        "network",
        "chip",
        "chips",
        "batch",
        "step as compiled, ms",
        "images/s",
        "efficiency, of 8 chips",
    ]
    return table(headings, rows)


def float32_table(results: harness.Row) -> str:
    """Both dtypes on 8 chips of v5e."""
    rows = []
    for name in ("vgg19", "resnet50"):
        for dtype in DTYPES:
            for chip, shape, facts, step in estimates(results, name, dtype):
                if (chip, shape.chips) == ("TPU v5e", 8):
                    rows.append(
                        [
                            NETWORKS[name].label,
                            dtype,
                            f"{facts['bytes'] / 1e9:.2f}",
                            f"{facts['temporary'] / 1e9:.2f}",
                            f"{facts['large_bytes'] / 1e6:.0f}",
                            f"{1e3 * step.compute:.2f}",
                            f"{1e3 * step.memory:.2f}",
                            f"{1e3 * step.gradients:.2f}",
                            f"{1e3 * step.as_compiled:.2f}",
                        ]
                    )
    headings = [
        "network",
        "dtype",
        "GB a chip moves",
        "GB it holds",
        "MB of gradients",
        "FLOPs, ms",
        "bytes, ms",
        "gradients, ms",
        "step as compiled, ms",
    ]
    return table(headings, rows)


def matrix_table(results: harness.Row) -> str:
    """Chip hours of the matrices, each training on the fewest chips that are looked at."""
    rows, totals = [], dict.fromkeys(CHIPS, (0.0, 0.0))
    all_trainings = 0
    for name, network in NETWORKS.items():
        trainings, epochs = matrix_epochs(network.epochs, len(network.sets))
        fewest: dict[str, Estimate] = {}
        for estimate in estimates(results, name, "bfloat16"):
            fewest.setdefault(estimate.chip, estimate)
        cells = []
        for chip, (_, shape, _, step) in fewest.items():
            hours = [
                shape.chips
                * epochs
                * sum(epoch_seconds(network, target, seconds) for target in network.sets)
                / 3600
                for seconds in (step.least, step.as_compiled)
            ]
            totals[chip] = (totals[chip][0] + hours[0], totals[chip][1] + hours[1])
            cells.append(f"{digits(hours[0])} to {digits(hours[1])}")
        count = trainings * len(network.sets)
        all_trainings += count
        images = epochs * sum(train for train, _ in network.sets.values())
        rows.append(
            [
                f"{network.model}, {network.shape[0]} pixels",
                str(len(network.sets)),
                f"{count:,}",
                f"{images / 1e9:,.1f}",
                *cells,
            ]
        )
    summed = [f"{digits(low)} to {digits(high)}" for low, high in totals.values()]
    rows.append(["together", "", f"{all_trainings:,}", "", *summed])
    chips = [f"{chip}, chip hours" for chip in CHIPS]
    return table(["matrix", "data sets", "trainings", "images, 1e9", *chips], rows)


def feeding_table(results: harness.Row) -> str:
    """What ImageNet's images are in bytes a second, for the fastest and the slowest estimate."""
    network, rows = NETWORKS["resnet50"], []
    size = math.prod(network.shape)
    for chip, shape, _, step in estimates(results, "resnet50", "bfloat16"):
        if shape.chips in (1, 8, 256):
            for label, seconds in (("as compiled", step.as_compiled), ("least", step.least)):
                rate = network.batch / seconds / shape.chips
                rows.append(
                    [
                        chip,
                        str(shape.chips),
                        label,
                        f"{rate:,.0f}",
                        f"{rate * size / 1e9:.2f}",
                        f"{rate * size / CHIPS[chip].host_link:.1%}",
                        f"{rate * JPEG / 1e6:,.0f}",
                        f"{rate / DECODED:.1f}",
                    ]
                )
    headings = [
        "chip",
        "chips",
        "step",
        "images/s a chip",
        "GB/s of pixels a chip",
        "of the host link",
        "MB/s of JPEG a chip",
        "CPU cores a chip",
    ]
    return table(headings, rows)


def check_table(results: harness.Row) -> str:
    """The arithmetic of one chip beside a measurement by others."""
    network = NETWORKS["resnet50"]
    rows = [
        row
        for row in results["compiled"]["resnet50"]
        if (row["chip"], row["dtype"]) == ("TPU v5e", "bfloat16")
    ]
    parameters = results["steps"]["resnet50"]["bfloat16"]["parameters"]
    step = step_seconds(at_batch(rows, A100_BATCH), parameters, A100, A100.slices[0])
    measured = 90 * network.sets["ImageNet"][0] / A100_HOURS / 3600
    rates = [A100_BATCH / seconds for seconds in (step.as_compiled, step.least)]
    cells = [f"{rate:,.0f}" for rate in (*rates, measured)]
    shares = [f"{measured / rate:.0%}" for rate in rates]
    headings = [
        "ResNet50, one A100",
        "as compiled, images/s",
        "least step",
        "measured by NVIDIA",
        "of as compiled",
        "of the least",
    ]
    return table(headings, [["batch 512, mixed precision", *cells, *shares]])


def fill(document: str, parts: dict[str, str]) -> str:
    """The document with each table between its two markers, `<!-- NAME -->` and `<!-- end -->`.

    Raises:
        ValueError: a table has no place, or several.
    """
    for name, text in parts.items():
        pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        document, found = pattern.subn(lambda m, text=text: f"{m[1]}\n{text}\n\n{m[2]}", document)
        if found != 1:
            raise ValueError(f"<!-- {name} --> is there {found} times, not once")
    return document


# The files.


def compile_all(out: Path, networks: Sequence[str]) -> None:
    """Makes scaling.json, or its part for some networks; it is written after every compilation."""
    # Before JAX starts: there is no TPU to be found, and none to ask a metadata server about.
    os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", TPU_STDERR_LOG_LEVEL="3")
    os.environ.update(TPU_ACCELERATOR_TYPE="v5litepod-8", TPU_WORKER_HOSTNAMES="localhost")
    from importlib.metadata import version

    file = out / "scaling.json"
    results = json.loads(file.read_text()) if file.exists() else {"steps": {}, "compiled": {}}
    results["versions"] = {name: version(name) for name in ("jax", "libtpu")}
    for name in networks:
        network = NETWORKS[name]
        results["steps"][name] = {dtype: step_facts(network, dtype) for dtype in DTYPES}
        wanted = [(chip, n, "bfloat16") for chip in _TOPOLOGIES for n in network.chips]
        if len(network.chips) > 1:
            wanted.append(("TPU v5e", 8, "float32"))
        rows = results["compiled"][name] = []
        for chip, chips, dtype in wanted:
            rows.append(compiled_facts(network, dtype, chip, chips))
            print(json.dumps(rows[-1]), flush=True)
            out.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(results, indent=1) + "\n")


def draw(results: harness.Row, stem: Path) -> None:
    """Images a second over chips, one ladder on all of them, with the line of perfect scaling."""
    from matplotlib.figure import Figure

    from lottery_jax.report.figures import COLOURS, save

    figure = Figure(figsize=(9.2, 4.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("vgg19", "resnet50"), strict=True):
        network = NETWORKS[name]
        found = estimates(results, name, "bfloat16")
        for colour, chip in zip(COLOURS, CHIPS, strict=False):
            mine = [e for e in found if e.chip == chip]
            x = [e.shape.chips for e in mine]
            y, best = (
                [network.batch / seconds / 1e3 for seconds in times]
                for times in ([e.step.as_compiled for e in mine], [e.step.least for e in mine])
            )
            axes.plot(x, y, color=colour, marker="o", markersize=4.5, label=chip)
            axes.fill_between(x, y, best, color=colour, alpha=0.13, linewidth=0)
            perfect = [y[0] * n / x[0] for n in x]
            axes.plot(x, perfect, color=colour, linewidth=0.9, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(ticks := [1, 4, 8, 16, 32, 64, 128, 256], [str(t) for t in ticks])
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_title(f"{network.label}, batch {network.batch}, bfloat16", loc="left", fontsize=10)
        axes.set_xlabel("chips for one training")
        axes.grid(color="0.92", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("thousand images a second (estimate)")
    figure.axes[0].legend(frameon=False, fontsize=9)
    note = "Lines: the step as compiled. Bands: up to the least step. Dotted: perfect scaling of the lines."
    figure.supxlabel(note, fontsize=8, color="0.3")
    save(figure, stem)


def main() -> None:
    """Compiles if asked to; writes the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the results")
    parser.add_argument("--compile", action="store_true", help="make scaling.json; needs libtpu")
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="to compile"
    )
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="whose tables to fill")
    args = parser.parse_args()
    if args.compile and find_spec("libtpu") is None:
        parser.error("--compile needs libtpu: pip install -e '.[scaling]'")
    if args.compile:
        compile_all(args.out, args.networks)
    file = args.out / "scaling.json"
    if not file.exists():
        parser.error(f"{file} is not there; --compile makes it")
    results = json.loads(file.read_text())
    if missing := set(NETWORKS) - set(results["compiled"]):
        parser.error(f"{file} lacks {', '.join(sorted(missing))}; --compile makes it")
    try:
        text = fill(args.document.read_text(encoding="utf-8"), tables(results))
    except (OSError, ValueError) as error:
        parser.error(f"{args.document}: {error}")
    args.document.write_text(text, encoding="utf-8")
    draw(results, args.document.with_suffix(""))
    print(f"wrote {args.document} and its figure")


if __name__ == "__main__":
    main()
