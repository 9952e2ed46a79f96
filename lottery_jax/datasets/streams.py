"""Data sets that stay on disk: batches are read, decoded and cropped while others are trained on.

The data are what tensorflow-datasets has prepared as array_record. The order of an epoch is a
function of (seed, epoch), the crop of an image of (seed, epoch, position in the epoch): any batch
can be made without those before it, by any number of processes and workers.

Images are handed on as uint8; normalisation is part of the compiled step, as for data in memory.
Nothing here computes with JAX: worker processes import this room.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lottery_jax.datasets import tfds
from lottery_jax.datasets.checks import check_batch
from lottery_jax.datasets.dataset import chance
from lottery_jax.datasets.decoding import Array, Decoder
from lottery_jax.datasets.images import check_resize
from lottery_jax.datasets.registry import BUILT_IN, prepared_folder
from lottery_jax.datasets.workers import Chosen, Rows, centred, read_batches, shuffled
from lottery_jax.errors import ConfigError, DataError, describe_unknown, lookup

DEFAULT_SHAPE = (224, 224, 3)
# Of red, green and blue over ImageNet's training images, as pixel value / 255; torchvision's models
# use these, and so does the reference training of Places365 (github.com/CSAILVision/places365).
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Stream:
    """A data set that is read from disk batch by batch.

    Attributes:
        name: a streamed set of `registry.BUILT_IN`.
        num_classes: labels are 0 to num_classes - 1.
        augment: the usual augmentation: none, crop, flip or crop_flip.
        image_shape: (height, width, 3) of the images that are made.
        mean: of each channel, as pixel value / 255.
        std: standard deviation of each channel, on the same scale.
        num_train: training images, without those held out.
        num_val: training images held out; 0 if none were asked for.
        num_test: test images. For both built-in sets these are the official `validation` images,
            because the labels of their test images are not published.
        sha256: the hash of what is prepared; it changes if other archives are prepared.
        folder: where it is prepared.
        notes: lines for the user on how the config was understood.
        padded: no image is padded: all are scaled.
    """

    name: str
    num_classes: int
    augment: str
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_train: int
    num_val: int
    num_test: int
    sha256: str
    folder: Path
    notes: tuple[str, ...] = ()
    padded: bool = False

    @property
    def chance(self) -> float:
        """`dataset.chance` of the test images, whose classes are about equally frequent."""
        return chance(1 / self.num_classes, self.num_test)


def open_stream(
    name: str,
    data_dir: str | os.PathLike[str] = "",
    *,
    input_shape: tuple[int, ...] = (),
    resize: str = "pad",
    validation_fraction: float = 0.0,
) -> Stream:
    """Describe a prepared data set without reading its images.

    Args:
        name: `imagenet2012` or `places365_small`.
        data_dir: the folder of data sets; empty for the default of `registry.resolve_folder`.
        input_shape: (height, width, 3) to crop images to; empty: 224 x 224.
        resize: `pad` or `bilinear`, with the same effect: crops are always scaled bilinearly.
        validation_fraction: the share of the training images, in [0, 1), that is held out: the
            first in the order in which they were prepared, which is random.

    Raises:
        DataError: it is not prepared, or damaged, or grain is not installed.
        ConfigError: the shape, the way to resize or the fraction is not possible.
    """
    streamed = {key: info for key, info in BUILT_IN.items() if info.streamed}
    if name not in streamed:
        raise DataError(describe_unknown("config.data.name", name, streamed, noun="streamed set"))
    known = streamed[name]
    check_resize(resize)
    shape = _check_shape(input_shape)
    for package in ("grain", "array_record"):
        if importlib.util.find_spec(package) is None:
            raise DataError(
                f"{name}: reading it needs {package}; pip install 'lottery_jax[streaming]'"
            )
    folder = prepared_folder(name, data_dir)
    classes, sizes, digest = tfds.describe_prepared(folder)
    for split in ("train", "validation"):
        if not sizes.get(split):
            raise DataError(
                f"{folder}: has no split {split!r}, of an archive that was not there when it was "
                f"prepared; remove it and prepare it again ('python -m lottery_jax.datasets prepare "
                f"{name}')"
            )
    if classes != known.num_classes:
        raise DataError(f"{folder}: has {classes} classes; {name} has {known.num_classes}")
    held_out = math.floor(sizes["train"] * validation_fraction + 0.5)
    if held_out >= sizes["train"] or (validation_fraction and not held_out):
        raise ConfigError(
            f"config.data.validation_fraction: {validation_fraction:g} of {sizes['train']} training "
            f"images is {held_out} of them; one at least must be on each side"
        )
    notes: tuple[str, ...] = ()
    if resize != "pad":
        notes = (
            f"note: config.data.resize={resize} changes nothing for {name}: its images are always "
            "cropped and scaled bilinearly, and never padded",
        )
    return Stream(
        name=name,
        num_classes=classes,
        augment=known.augment,
        image_shape=shape,
        mean=_MEAN,
        std=_STD,
        num_train=sizes["train"] - held_out,
        num_val=held_out,
        num_test=sizes["validation"],
        sha256=digest,
        folder=folder,
        notes=notes,
    )


def _check_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    height, width, channels = shape or DEFAULT_SHAPE
    if channels != 3:
        raise ConfigError(
            f"config.data.input_shape: {shape} has {channels} channels; images that are streamed "
            "have 3"
        )
    return height, width, channels


def train_batches(
    stream: Stream,
    seed: int,
    epoch: int,
    *,
    first_step: int = 0,
    batch_size: int,
    augment: str = "crop_flip",
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
    order: int = 0,
) -> Generator[Rows, None, None]:
    """Yield the training batches of an epoch from `first_step` on, cropped and flipped at random.

    The images over all processes, and their crops, are the same for any number of processes and
    workers, and the batch of a step is the same wherever in the epoch reading begins. Images that
    don't fill a batch are left out in that epoch. Close the iterator to end its workers early.

    Args:
        stream: the data set to read.
        seed: the seed of the run, 0 or more.
        epoch: counted from 0.
        first_step: the first step of the epoch, from 0; nothing before it is read.
        batch_size: over all processes.
        augment: crop_flip, crop, flip or none; without `crop` the centre as in `eval_batches`.
        process: the number of this process. It gets rows `process * n` to `(process + 1) * n` of
            each batch, where n is `batch_size // processes`.
        processes: how many there are.
        workers: processes that decode; 0: threads of this one, -1: one for each core.
        order: another number is another order, with other crops, of the same seed.

    Yields:
        Images uint8 `[n, height, width, 3]` and labels int32 `[n]`.

    Raises:
        DataError: an image is damaged, or a worker process has ended.
        ConfigError: a batch does not divide by the processes, or is more than all images.
    """
    check_batch(batch_size, processes, stream.num_train, of="processes")
    entropy = (seed, epoch, order) if order else (seed, epoch)
    order_seed, crop_seed = np.random.SeedSequence(entropy).generate_state(2)
    examples = shuffled(
        _encoded(stream, "train"), _decoder(stream, augment), int(order_seed), int(crop_seed)
    )
    steps = range(first_step, stream.num_train // batch_size)
    return read_batches(examples, steps, batch_size, process, processes, workers)


def eval_batches(
    stream: Stream,
    *,
    split: str = "test",
    batch_size: int,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
) -> Generator[tuple[Array, Array, Array], None, None]:
    """Yield the centre of every image of a split once, in a fixed order.

    The shorter side is scaled to 256/224 of the size that is cut out of the middle.

    Args:
        stream: the data set to read.
        split: `test` or `validation`.
        batch_size: over all processes.
        process: the number of this process; as in `train_batches`.
        processes: how many there are.
        workers: processes that decode; as in `train_batches`.

    Yields:
        Images uint8 `[n, height, width, 3]`, labels int32 `[n]` and bool `[n]`. The last batch is
        filled up with repetitions, which are marked False and must not be counted.

    Raises:
        DataError: an image is damaged, or a worker process has ended.
        ConfigError: a batch does not divide by the processes.
    """
    total = stream.num_test if split == "test" else stream.num_val
    check_batch(batch_size, processes, of="processes")
    steps = range(-(-total // batch_size))
    own = batch_size // processes
    rows = read_batches(_centred(stream, split), steps, batch_size, process, processes, workers)

    def counted() -> Generator[tuple[Array, Array, Array], None, None]:
        with contextlib.closing(rows):
            for step, (images, labels) in zip(steps, rows, strict=True):
                first = step * batch_size + process * own
                yield images, labels, np.arange(first, first + own) < total

    return counted()


def sample(
    stream: Stream, seed: int | Sequence[int], batches: int, batch_size: int, *, workers: int = 0
) -> Rows:
    """Draw different training images at random, without augmentation, for scores that see data.

    Args:
        stream: the data set to read.
        seed: any seed of `numpy.random.default_rng`.
        batches: how many.
        batch_size: the images of each; `batches * batch_size` is at most `stream.num_train`.
        workers: processes that decode; 0: threads of this one.

    Returns:
        Images uint8 `[batches, batch_size, height, width, 3]` and labels int32
        `[batches, batch_size]`.
    """
    count = batches * batch_size
    chosen = np.random.default_rng(seed).choice(stream.num_train, count, replace=False)
    examples = Chosen(_centred(stream, "train"), chosen)
    ((images, labels),) = read_batches(examples, range(1), count, 0, 1, workers)
    shape = (batches, batch_size)
    return images.reshape(*shape, *images.shape[1:]), labels.reshape(shape)


def _encoded(stream: Stream, split: str) -> Sequence[Any]:
    part = {
        "train": f"train[{stream.num_val}:]",
        "validation": f"train[:{stream.num_val}]",
        "test": "validation",
    }
    return tfds.open_examples(stream.folder, lookup(part, split, "the split"))


def _centred(stream: Stream, split: str) -> Any:
    return centred(_encoded(stream, split), _decoder(stream))


def _decoder(stream: Stream, augment: str = "none") -> Decoder:
    height, width, _ = stream.image_shape
    return Decoder(stream.name, stream.folder, stream.num_classes, (width, height), augment)
