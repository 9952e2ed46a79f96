"""Data sets that stay on disk: batches are read, decoded and cropped by worker processes.

The data are what tensorflow-datasets has prepared as array_record. The order of an epoch is a
function of (seed, epoch), the crop of an image of (seed, epoch, position in the epoch): any batch
can be made without those before it, by any number of processes and workers.

Images leave here as uint8; normalisation is part of the compiled step, as for data in memory.
Nothing here computes with JAX: worker processes import this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib.util
import io
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lottery_jax.datasets import in_memory, tfds
from lottery_jax.errors import (
    ConfigError,
    DataError,
    describe_unknown,
    lookup,
    one_line,
    raise_if_environment,
)
from lottery_jax.system import host
from lottery_jax.system.signals import ASK_TO_STOP

Array = np.ndarray[Any, np.dtype[Any]]
Box = tuple[float, float, float, float]  # left, upper, right, lower, in pixels of the image
Example = dict[str, Any]  # image: encoded bytes; label: int; a name of its file
Made = tuple[Array, int]  # image uint8 [height, width, 3], label
Rows = tuple[Array, Array]  # images uint8 [n, height, width, 3], labels int32 [n]

DEFAULT_SHAPE = (224, 224, 3)
# Of ImageNet's training images, as pixel value / 255, of red, green and blue; those of torchvision's
# models. The reference training of Places365 (github.com/CSAILVision/places365) takes them too.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Workers hand over a few images at a time, in shared memory: enough that their number costs
# nothing, few enough that the first batch is made by all of them.
_CHUNK = 16
_CROP_AREA, _CROP_RATIO, _CROP_TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
_CENTRE = 224 / 256


@dataclasses.dataclass(frozen=True)
class Stream:
    """A data set that is read from disk batch by batch.

    Attributes:
        name: as in `in_memory.BUILT_IN`.
        num_classes: labels are 0 to num_classes - 1.
        augment: the usual augmentation: none, crop, flip or crop_flip.
        image_shape: (height, width, 3) of the images that are made.
        mean: of each channel, of pixel value / 255.
        std: standard deviation, likewise.
        num_train: training images, without those held out.
        num_val: training images held out; 0 if none were asked for.
        num_test: test images: for both built-in sets those that are called `validation` there, as
            the labels of their test images are not published.
        sha256: of what is prepared; it changes when the data are prepared anew from other archives.
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
        """`in_memory.chance` of the test images, whose classes are about equally frequent."""
        return in_memory.chance(1 / self.num_classes, self.num_test)


def open_stream(
    name: str,
    data_dir: str | os.PathLike[str] = "",
    *,
    input_shape: tuple[int, ...] = (),
    resize: str = "pad",
    validation_fraction: float = 0.0,
) -> Stream:
    """Describes a prepared data set; its images are not read.

    Args:
        name: `imagenet2012` or `places365_small`.
        data_dir: where it is prepared; empty for `in_memory.default_data_dir()`.
        input_shape: (height, width, 3) to crop images to; empty: 224 x 224.
        resize: `pad` or `bilinear`, which are the same here: crops are scaled bilinearly always.
        validation_fraction: in [0, 1), of the training images, held out: the first in the order in
            which they were prepared, which is random.

    Raises:
        DataError: it is not prepared, or damaged, or grain is not installed.
        ConfigError: a shape, a way to resize or a fraction that can't be.
    """
    streamed = {key: info for key, info in in_memory.BUILT_IN.items() if info.streamed}
    if name not in streamed:
        raise DataError(describe_unknown("config.data.name", name, streamed, noun="streamed set"))
    known = streamed[name]
    in_memory.check_resize(resize)
    shape = _check_shape(input_shape)
    for package in ("grain", "array_record"):
        if importlib.util.find_spec(package) is None:
            raise DataError(
                f"{name}: reading it needs {package}; pip install 'lottery_jax[streaming]'"
            )
    folder = in_memory.prepared_folder(name, data_dir)
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
) -> Generator[Rows, None, None]:
    """The training batches of an epoch from `first_step` on, cropped and flipped at random.

    The images over all processes, and their crops, are the same for any number of processes and
    workers, and those of a step the same wherever the epoch was begun. Images that don't fill a
    batch are left out in that epoch. Close the iterator to end its workers before its end.

    Args:
        stream: what to read.
        seed: of the run, 0 or more.
        epoch: from 0.
        first_step: of the epoch, from 0; nothing before it is read.
        batch_size: over all processes.
        augment: crop_flip, crop, flip or none; without `crop` the centre of `eval_batches`.
        process: this process; it gets rows `process * n` to `(process + 1) * n` of each batch,
            with n of `batch_size // processes`.
        processes: how many there are.
        workers: processes that decode; 0: threads of this one, -1: one for each core.

    Yields:
        Images uint8 `[n, height, width, 3]` and labels int32 `[n]`.

    Raises:
        DataError: an image is damaged, or a worker process has ended.
        ConfigError: a batch does not divide by the processes, or is more than all images.
    """
    _check_batch(batch_size, processes, stream.num_train)
    order_seed, crop_seed = np.random.SeedSequence((seed, epoch)).generate_state(2)
    height, width, _ = stream.image_shape
    examples = (
        _examples(stream, "train")
        .shuffle(seed=int(order_seed))
        .random_map(_Augment(stream, (width, height), augment), seed=int(crop_seed))
    )
    steps = range(first_step, stream.num_train // batch_size)
    return _batches(examples, steps, batch_size, process, processes, workers)


def eval_batches(
    stream: Stream,
    *,
    split: str = "test",
    batch_size: int,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
) -> Generator[tuple[Array, Array, Array], None, None]:
    """Every image of a split once, in a fixed order, its centre.

    The shorter side is scaled to 256/224 of the size that is cut out of the middle.

    Args:
        stream: what to read.
        split: `test` or `validation`.
        batch_size: over all processes.
        process: this process; see `train_batches` for it and the others.
        processes: how many there are.
        workers: processes that decode.

    Yields:
        Images uint8 `[n, height, width, 3]`, labels int32 `[n]` and bool `[n]`; the last batch is
        filled up with repetitions that are marked False and must not be counted.

    Raises:
        DataError: an image is damaged, or a worker process has ended.
        ConfigError: a batch does not divide by the processes.
    """
    total = stream.num_test if split == "test" else stream.num_val
    _check_batch(batch_size, processes)
    steps = range(-(-total // batch_size))
    own = batch_size // processes
    made = _batches(_centred(stream, split), steps, batch_size, process, processes, workers)

    def counted() -> Generator[tuple[Array, Array, Array], None, None]:
        with contextlib.closing(made):
            for step, (images, labels) in zip(steps, made, strict=True):
                first = step * batch_size + process * own
                yield images, labels, np.arange(first, first + own) < total

    return counted()


def sample(
    stream: Stream, seed: int | Sequence[int], batches: int, batch_size: int, *, workers: int = 0
) -> Rows:
    """Draws different training images at random, their centres, for scores that look at data.

    Args:
        stream: what to read.
        seed: any seed of `numpy.random.default_rng`.
        batches: how many.
        batch_size: of each; `batches * batch_size` is at most `stream.num_train`.
        workers: processes that decode; 0: threads of this one.

    Returns:
        Images uint8 `[batches, batch_size, height, width, 3]` and labels int32
        `[batches, batch_size]`.
    """
    count = batches * batch_size
    chosen = np.random.default_rng(seed).choice(stream.num_train, count, replace=False)
    examples = _Chosen(_centred(stream, "train"), chosen)
    ((images, labels),) = _batches(examples, range(1), count, 0, 1, workers)
    shape = (batches, batch_size)
    return images.reshape(*shape, *images.shape[1:]), labels.reshape(shape)


def _check_batch(batch_size: int, processes: int, examples: int | None = None) -> None:
    if batch_size % processes:
        raise ConfigError(
            f"config.train.batch_size: {batch_size} does not divide by {processes} processes"
        )
    if examples is not None and batch_size > examples:
        raise ConfigError(
            f"config.train.batch_size: {batch_size} is more than the {examples} training images"
        )


def _examples(stream: Stream, split: str) -> Any:
    """A grain.MapDataset of a split's examples, their images still encoded."""
    import grain

    part = {
        "train": f"train[{stream.num_val}:]",
        "validation": f"train[:{stream.num_val}]",
        "test": "validation",
    }
    return grain.MapDataset.source(
        tfds.open_examples(stream.folder, lookup(part, split, "the split"))
    )


def _centred(stream: Stream, split: str) -> Any:
    height, width, _ = stream.image_shape
    return _examples(stream, split).map(_Centre(stream, (width, height)))


@dataclasses.dataclass(frozen=True)
class _Augment:
    """An example becomes a random crop, mirrored half of the time."""

    stream: Stream
    size: tuple[int, int]
    augment: str

    def __call__(self, example: Example, rng: np.random.Generator) -> Made:
        def choose_box(width: int, height: int) -> Box:
            if "crop" in self.augment:
                return random_box(rng, width, height)
            return central_box(width, height, *self.size)

        mirrored = "flip" in self.augment and rng.random() < 0.5
        return _make(self.stream, example, self.size, choose_box, mirrored)


@dataclasses.dataclass(frozen=True)
class _Centre:
    """An example becomes its centre."""

    stream: Stream
    size: tuple[int, int]

    def __call__(self, example: Example) -> Made:
        def choose_box(width: int, height: int) -> Box:
            return central_box(width, height, *self.size)

        return _make(self.stream, example, self.size, choose_box)


def _make(
    stream: Stream,
    example: Example,
    size: tuple[int, int],
    choose_box: Callable[[int, int], Box],
    mirrored: bool = False,
) -> Made:
    label = int(example["label"])
    if not 0 <= label < stream.num_classes:
        raise DataError(f"{stream.folder}: {_name_of(example)} has the label {label}")
    try:
        return decode(example["image"], size, choose_box, mirrored), label
    except Exception as error:  # what Pillow raises for nonsense is not its interface
        raise_if_environment(error)
        raise DataError(
            f"{stream.folder}: the image {_name_of(example)} can't be decoded: {one_line(error)}; "
            f"remove the folder and prepare {stream.name} again from intact archives"
        ) from error


def _name_of(example: Example) -> str:
    name = example.get("file_name", example.get("filename", b"?"))
    return one_line(name.decode(errors="replace") if isinstance(name, bytes) else name)


def decode(
    encoded: bytes,
    size: tuple[int, int],
    choose_box: Callable[[int, int], Box],
    mirrored: bool = False,
) -> Array:
    """Decodes an image, cuts out a box and scales it, averaging where it becomes smaller.

    Args:
        encoded: a JPEG or PNG; grey and CMYK become RGB.
        size: (width, height) of the result.
        choose_box: from the image's width and height to what is cut out.
        mirrored: whether left and right change places.

    Returns:
        uint8 `[height, width, 3]`, bilinear. Where the box is twice as large as the result or more,
        the JPEG is decoded at 1/2, 1/4 or 1/8 of its size, but never smaller than the result.
    """
    from PIL import Image

    with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as image:
        full = image.size
        left, upper, right, lower = choose_box(*full)
        smallest = (
            math.ceil(full[0] * size[0] / (right - left)),
            math.ceil(full[1] * size[1] / (lower - upper)),
        )
        if smallest[0] <= full[0] and smallest[1] <= full[1]:
            image.draft("RGB", smallest)
        across, down = image.size[0] / full[0], image.size[1] / full[1]
        box = (left * across, upper * down, right * across, lower * down)
        colours = image if image.mode == "RGB" else image.convert("RGB")
        scaled = colours.resize(size, Image.Resampling.BILINEAR, box=box)
        if mirrored:
            scaled = scaled.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(scaled)


def random_box(rng: np.random.Generator, width: int, height: int) -> Box:
    """A box of 8 to 100 % of an image's area and an aspect ratio of 3/4 to 4/3, anywhere in it.

    The crop of Szegedy et al., *Going deeper with convolutions*, CVPR 2015, section 6, the logarithm
    of the ratio uniform. Boxes that don't fit are drawn again, ten times at most; then it is the
    largest central one of a legal ratio.

    >>> left, upper, right, lower = random_box(np.random.default_rng(0), 500, 375)
    >>> 0 <= left < right <= 500 and 0 <= upper < lower <= 375
    True
    """
    for _ in range(_CROP_TRIES):
        area = width * height * rng.uniform(*_CROP_AREA)
        ratio = math.exp(rng.uniform(math.log(_CROP_RATIO[0]), math.log(_CROP_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(width - w + 1))
            upper = int(rng.integers(height - h + 1))
            return left, upper, left + w, upper + h
    return _central(
        width, height, min(width, height * _CROP_RATIO[1]), min(height, width / _CROP_RATIO[0])
    )


def central_box(width: int, height: int, new_width: int, new_height: int) -> Box:
    """The box in the middle that becomes the result: 224/256 of the shorter side.

    >>> central_box(512, 256, 224, 224)
    (144.0, 16.0, 368.0, 240.0)
    """
    scale = _CENTRE * min(width / new_width, height / new_height)
    return _central(width, height, new_width * scale, new_height * scale)


def _central(width: int, height: int, w: float, h: float) -> Box:
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """Examples at other positions."""

    examples: Any
    positions: Array

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Made:
        return self.examples[int(self.positions[index])]


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """One process's rows of the batches of `steps`, `parts` chunks of rows to a step."""

    examples: Any
    steps: range
    batch_size: int
    process: int
    own: int  # rows of a batch
    parts: int

    def __len__(self) -> int:
        return len(self.steps) * self.parts

    def __getitem__(self, index: int) -> Rows:
        step, part = divmod(index, self.parts)
        first = self.steps[step] * self.batch_size + self.process * self.own
        rows = range(
            first + part * self.own // self.parts, first + (part + 1) * self.own // self.parts
        )
        image, label = self._example(rows[0])
        images, labels = (
            np.empty((len(rows), *image.shape), np.uint8),
            np.empty(len(rows), np.int32),
        )
        for i, row in enumerate(rows):
            if i > 0 and row < len(self.examples):
                image, label = self._example(row)
            images[i], labels[i] = image, label
        return images, labels

    def _example(self, row: int) -> Made:
        # Past the end there are repetitions of the last.
        position = min(row, len(self.examples) - 1)
        try:
            return self.examples[position]
        except DataError:
            raise
        except Exception as error:
            raise_if_environment(error)
            raise DataError(
                f"the prepared data can't be read: {one_line(error)}; remove them and prepare them "
                "again"
            ) from error


def _batches(
    examples: Any, steps: range, batch_size: int, process: int, processes: int, workers: int
) -> Generator[Rows, None, None]:
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain's options are such flags; no command line has set any
        flags.FLAGS.mark_as_parsed()
    own = batch_size // processes
    parts = -(-own // _CHUNK)
    chunks = _Chunks(examples, steps, batch_size, process, own, parts)
    if not len(chunks):
        return
    cores = len(host.cores())
    workers = min(cores if workers < 0 else workers, len(chunks))
    threads = grain.ReadOptions(
        num_threads=0 if workers else cores, prefetch_buffer_size=0 if workers else 4 * cores
    )
    made = grain.MapDataset.source(chunks).to_iter_dataset(threads)
    if workers:
        processes_of = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
        made = made.mp_prefetch(processes_of, worker_init_fn=_begin_worker)
    held = [iter(made)]
    close = weakref.finalize(chunks, _close, held, workers)  # at the latest before the process ends
    try:
        for _ in steps:
            yield _gather(held[0], own)
    finally:
        close()


def _close(held: list[Any], workers: int) -> None:
    """Ends the workers, and frees shared memory that Grain's iterators still hold in cycles."""
    held.pop().close()
    if workers:
        gc.collect()


def _gather(iterator: Any, own: int) -> Rows:
    """A batch of its chunks, which are copied: they lie in shared memory, to be freed at once."""
    images, labels = _next(iterator)
    batch = np.empty((own, *images.shape[1:]), np.uint8), np.empty(own, np.int32)
    filled = 0
    while True:
        rows = slice(filled, filled + len(labels))
        batch[0][rows], batch[1][rows] = images, labels
        filled = rows.stop
        if filled == own:
            return batch
        images, labels = _next(iterator)


def _next(iterator: Any) -> Rows:
    try:
        return next(iterator)
    except DataError as error:  # to whose line Grain adds more
        raise DataError(_first_line(error)) from error
    except RuntimeError as error:  # Grain's, of a worker that is gone
        raise DataError(
            f"a worker process that decodes images has ended: {_first_line(error)} If memory was "
            "short, or shared memory (/dev/shm; exit code -7), fewer config.data.workers need less, "
            "and 0 no shared memory; run the same command again to resume"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _begin_worker(index: int, count: int) -> None:
    """A worker leaves signals to the process that it works for, and ends when that does."""
    for number in ASK_TO_STOP:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
