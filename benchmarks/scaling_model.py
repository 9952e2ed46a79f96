"""The cost model of docs/scaling.md: how long a train step takes on chips that nobody has measured.

The module has the networks and chips that are looked at, and the arithmetic on the facts (FLOPs,
bytes, all-reduces) that `scaling_compile.py` reads off the compiled steps. Nothing here is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import harness

SEEDS, LEVELS, CONTROLS = 6, 30, 2
# Seconds for a message to the next chip, however short (an assumption, see docs/scaling.md).
HOP = 1e-6


class Network(NamedTuple):
    """A network on a data set, with its published recipe.

    Attributes:
        label: the name in the tables.
        model: the name of the model.
        options: options of `build_model`.
        shape: height, width and channels of an image.
        classes: the number of classes.
        batch: images in a batch, over all chips.
        epochs: epochs of one training.
        sets: images in the training and the test set of each data set of the matrix; the first data
            set is that of the ladders.
        chips: the sizes of the slices that the step is compiled for.
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
_STEM = {"stem": "imagenet"}
_CIFAR, _IMAGENET = (32, 32, 3), (224, 224, 3)
# VGG19 and ResNet50 at 32 pixels are the project's recipes (Gohil et al. 2020). Batch 1024 and 90
# epochs on ImageNet are those of OpenLTH, the code of Frankle et al. (2020).
NETWORKS = {
    "vgg19": Network(
        "VGG19, CIFAR-10", "vgg19", {}, _CIFAR, 10, 512, 160, _SMALL_SETS,
        (1, 8, 16, 32, 64, 128, 256),
    ),
    "resnet50": Network(
        "ResNet50, ImageNet", "resnet50", _STEM, _IMAGENET, 1000, 1024, 90, _LARGE_SETS,
        (4, 8, 16, 64, 256),
    ),
    "resnet50_cifar": Network(
        "ResNet50, CIFAR-10", "resnet50", _STEM, _CIFAR, 10, 512, 90, _SMALL_SETS, (1,)
    ),
}  # fmt: skip


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
        """The number of chips."""
        return math.prod(self.axes)

    @property
    def name(self) -> str:
        """The axes as text, such as 4x8."""
        return "x".join(map(str, self.axes))


class Chip(NamedTuple):
    """The peak rates of a chip; docs/scaling.md has the sources.

    Attributes:
        flops: dense floating-point operations a second, for each dtype of the computation.
        memory_bandwidth: bytes a second.
        link: bytes a second out of a chip, one way, over one link.
        host_link: bytes a second from the host.
        slices: the slices that are looked at.
        topology: libtpu's name of the chip, and options; None: there is no compiler for it here.
    """

    flops: dict[str, float]
    memory_bandwidth: float
    link: float
    host_link: float
    slices: tuple[Slice, ...] = ()
    topology: tuple[str, dict[str, str]] | None = None


def _slices(
    names: str, is_wrapped: Callable[[tuple[int, ...]], tuple[bool, ...]]
) -> tuple[Slice, ...]:
    shapes = (tuple(map(int, name.split("x"))) for name in names.split())
    return tuple(Slice(axes, is_wrapped(axes)) for axes in shapes)


# On TPU a float32 convolution multiplies in bfloat16 by default, on an H100 in TF32.
CHIPS = {
    "TPU v5e": Chip(
        flops={"bfloat16": 197e12, "float32": 197e12},
        memory_bandwidth=819e9,
        link=50e9,
        host_link=15e9,
        # Only an axis of the whole pod, 16, has its ends joined.
        slices=_slices(
            "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16", lambda axes: tuple(k == 16 for k in axes)
        ),
        topology=("v5e", {}),
    ),
    "TPU v4": Chip(
        flops={"bfloat16": 275e12, "float32": 275e12},
        memory_bandwidth=1200e9,
        link=45e9,
        host_link=16e9,
        # Optical switches join the ends of axes, between whole cubes of 4x4x4.
        slices=_slices(
            "1x1x1 2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8",
            lambda axes: (all(k % 4 == 0 for k in axes),) * 3,
        ),
        topology=("v4", {"chip_config_name": "megacore"}),  # its two cores work as one device
    ),
    "H100": Chip(
        flops={"bfloat16": 989e12, "float32": 494e12},
        memory_bandwidth=3350e9,
        link=450e9,
        host_link=64e9,
        # A ring through the switch, in which every chip sends to the next at its full rate.
        slices=_slices("1 8", lambda axes: (False,)),
    ),
}


def all_reduce_seconds(size: float, shape: Slice, link: float) -> float:
    """Return the seconds of a bandwidth-optimal all-reduce: reduce-scatter, then all-gather.

    Every chip sends 2 (n - 1) / n of the bytes over all its links. The first bytes cross the slice
    twice: along an axis of k chips that takes k - 1 hops, or k / 2 if its ends are joined.

    Args:
        size: bytes of the array to sum.
        shape: the slice.
        link: bytes a second over one link, one way.

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
    """Seconds of a train step, by part.

    Attributes:
        compute: the FLOPs at the chip's peak.
        memory: all bytes that XLA counts, on-chip ones included.
        least_memory: the program's memory at its fullest, written and read once, and the update.
        statistics: the small all-reduces, one after another.
        gradients: the large all-reduces.
    """

    compute: float
    memory: float
    least_memory: float
    statistics: float
    gradients: float

    @property
    def as_compiled(self) -> float:
        """Seconds of the step as compiled: all-reduces wait, and nothing runs beside them."""
        return max(self.compute, self.memory) + self.statistics + self.gradients

    @property
    def least(self) -> float:
        """A bound for any schedule: gradients overlap the backward pass, statistics never do."""
        return max(self.compute, self.least_memory, self.gradients) + self.statistics


def step_seconds(facts: harness.Row, parameters: int, chip: Chip, shape: Slice) -> Step:
    """Return the roofline of a step, from the facts of its compiled program."""
    # The update reads and writes weights and momentum in float32, and reads the mask.
    update = 17 * parameters
    latency = all_reduce_seconds(0.0, shape, chip.link)

    def all_reduces(kind: str) -> float:
        count, size = facts[kind], facts[f"{kind}_bytes"]
        return (count - 1) * latency + all_reduce_seconds(size, shape, chip.link) if count else 0.0

    return Step(
        compute=facts["flops"] / chip.flops[facts["dtype"]],
        memory=facts["bytes"] / chip.memory_bandwidth,
        least_memory=(2 * facts["temporary"] + update) / chip.memory_bandwidth,
        statistics=all_reduces("small"),
        gradients=all_reduces("large"),
    )


def at_batch(rows: Sequence[harness.Row], batch: int) -> harness.Row:
    """Return the facts of a chip with `batch` images.

    They are compiled ones, or lie on the line through the two largest batches that were compiled.
    """
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


class Estimate(NamedTuple):
    """A network's step on one slice."""

    chip: str
    shape: Slice
    facts: harness.Row
    step: Step


def estimates(results: harness.Row, name: str, dtype: str = "bfloat16") -> list[Estimate]:
    """Return a network's estimates for the slices it was compiled for, and for the H100.

    The H100 takes the facts of the v5e's programs with as many images a chip.
    """
    parameters = results["steps"][name][dtype]["parameters"]
    rows = [row for row in results["compiled"][name] if row["dtype"] == dtype]
    found = []
    for chip_name, chip in CHIPS.items():
        for shape in chip.slices:
            if chip.topology:
                place = (chip_name, shape.chips)
                chosen = [row for row in rows if (row["chip"], row["chips"]) == place]
            else:
                like = [row for row in rows if row["chip"] == "TPU v5e"]
                batch = NETWORKS[name].batch // shape.chips
                exact = [row for row in like if row["batch"] // row["chips"] == batch]
                chosen = [at_batch(like, batch)] if exact or len(like) > 1 else []
            for facts in chosen:
                step = step_seconds(facts, parameters, chip, shape)
                found.append(Estimate(chip_name, shape, facts, step))
    return found


def ladder_epochs(epochs: int) -> int:
    """Return the epochs of a ladder: one dense training, then 30 from the end of the first epoch.

    >>> ladder_epochs(160)
    4930
    """
    return epochs + LEVELS * (epochs - 1)


def matrix_epochs(epochs: int, sets: int) -> tuple[int, int]:
    """Return the trainings, and their epochs, on one target of a matrix over `sets` data sets.

    For each seed they are the target's own ladder and, at each level, the tickets of every other
    data set and the controls.
    """
    series = (sets - 1) + CONTROLS
    trainings = 1 + LEVELS + LEVELS * series
    return SEEDS * trainings, SEEDS * (ladder_epochs(epochs) + LEVELS * series * (epochs - 1))


def epoch_seconds(network: Network, name: str, step: float) -> float:
    """Return the seconds of an epoch: whole batches, then a test pass at a third of the work."""
    train, test = network.sets[name]
    return step * (train // network.batch + test / network.batch / 3)
