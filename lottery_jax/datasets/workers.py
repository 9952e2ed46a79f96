"""Batches of examples that threads or worker processes decode with Grain, in a fixed order."""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import weakref
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from lottery_jax.datasets.decoding import Array, Decoder, LabelledImage
from lottery_jax.errors import DataError, first_line, one_line, raise_if_environment
from lottery_jax.system import host
from lottery_jax.system.signals import ASK_TO_STOP

Rows = tuple[Array, Array]  # images uint8 [n, height, width, 3], labels int32 [n]

# Workers hand over a few images at a time, in shared memory: enough that their number costs
# nothing, few enough that all workers take part in the first batch.
_CHUNK = 16


def shuffled(examples: Sequence[Any], decoder: Decoder, order_seed: int, crop_seed: int) -> Any:
    """Return a grain.MapDataset of augmented images, shuffled; the crop depends on the position."""
    import grain

    dataset = grain.MapDataset.source(examples).shuffle(seed=order_seed)
    return dataset.random_map(decoder.augmented, seed=crop_seed)


def centred(examples: Sequence[Any], decoder: Decoder) -> Any:
    """Return a grain.MapDataset of the centres of images, in the order of the examples."""
    import grain

    return grain.MapDataset.source(examples).map(decoder.centred)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The examples at some positions of a dataset, as a sequence."""

    examples: Any
    positions: Array

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> LabelledImage:
        return self.examples[int(self.positions[index])]


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """One process's rows of the batches of `steps`, as a sequence of `parts` chunks a step."""

    examples: Any
    steps: range
    batch_size: int
    process: int
    own: int  # rows of each batch that are this process's
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
        images = np.empty((len(rows), *image.shape), np.uint8)
        labels = np.empty(len(rows), np.int32)
        for i, row in enumerate(rows):
            if i > 0 and row < len(self.examples):
                image, label = self._example(row)
            images[i], labels[i] = image, label
        return images, labels

    def _example(self, row: int) -> LabelledImage:
        # Rows past the end repeat the last example.
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


def read_batches(
    examples: Any, steps: range, batch_size: int, process: int, processes: int, workers: int
) -> Generator[Rows, None, None]:
    """Yield this process's rows of each batch; closing the generator ends its workers.

    Args:
        examples: a sequence of labelled images; it must be possible to pickle it.
        steps: the batches: step i has the examples from `i * batch_size` on. Rows past the last
            example repeat it.
        batch_size: over all processes; divides by `processes`.
        process: the number of this process.
        processes: how many there are.
        workers: processes that decode; 0: threads of this one, -1: one for each core.

    Raises:
        DataError: an image is damaged, or a worker process has ended.
    """
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
    dataset = grain.MapDataset.source(chunks).to_iter_dataset(threads)
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_begin_worker)
    iterators = [iter(dataset)]
    close = weakref.finalize(chunks, _close, iterators, workers)  # at the latest when Python ends
    try:
        for _ in steps:
            yield _gather(iterators[0], own)
    finally:
        close()


def _close(iterators: list[Any], workers: int) -> None:
    """End the workers, and free shared memory that Grain's iterators still hold in cycles."""
    iterators.pop().close()
    if workers:
        gc.collect()


def _gather(iterator: Any, own: int) -> Rows:
    """Copy the chunks of a batch together; they lie in shared memory, which is then freed."""
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
    except DataError as error:  # Grain adds more lines to its message
        raise DataError(first_line(error)) from error
    except RuntimeError as error:  # Grain raises it when a worker is gone
        raise DataError(
            f"a worker process that decodes images has ended: {first_line(error)} If memory was "
            "short, or shared memory (/dev/shm; exit code -7), fewer config.data.workers need less, "
            "and 0 no shared memory; run the same command again to resume"
        ) from error


def _begin_worker(index: int, count: int) -> None:
    """Have a worker leave signals to the process that it works for, and end when that ends."""
    for number in ASK_TO_STOP:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
