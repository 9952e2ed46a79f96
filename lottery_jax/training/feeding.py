"""A data set on the devices: whole, or batch by batch from the disk.

One train step serves both: it gets the whole set and a table of batches, or a batch and no table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Generator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lottery_jax.datasets import streams
from lottery_jax.datasets.dataset import Dataset
from lottery_jax.datasets.in_memory import load_dataset
from lottery_jax.datasets.registry import BUILT_IN
from lottery_jax.datasets.streams import Stream
from lottery_jax.parallel.mesh import batch_sharded, to_mesh
from lottery_jax.training.batches import DeviceData, EvalBatches, TrainBatches, sample_batches


def open_data(
    name: str,
    data_dir: str | os.PathLike[str] = "",
    *,
    input_shape: tuple[int, ...] = (),
    resize: str = "pad",
    validation_fraction: float = 0.0,
) -> Dataset | Stream:
    """Open a data set by name, in memory or as a stream from the disk.

    The arguments are those of `datasets.load_dataset` and `streams.open_stream`.

    Raises:
        DataError, ConfigError: as these two functions.
    """
    is_streamed = name in BUILT_IN and BUILT_IN[name].streamed
    open_by_name = streams.open_stream if is_streamed else load_dataset
    return open_by_name(
        name,
        data_dir,
        input_shape=input_shape,
        resize=resize,
        validation_fraction=validation_fraction,
    )


def input_dtype(dataset: Dataset | Stream) -> str:
    """Return the dtype in which a network gets its inputs: tokens stay as they are."""
    is_tokens = not isinstance(dataset, Stream) and dataset.x_train.dtype == np.int32
    return "int32" if is_tokens else "float32"


@dataclasses.dataclass(frozen=True)
class InputPipeline:
    """The images that a run reads, and how they get to the devices.

    Attributes:
        data: in memory or on the disk.
        mesh: the mesh of devices; for a stream, its axis `replica` has size 1.
        batch_size: examples a step of one replicate, over all devices.
        augment: none, crop, flip or crop_flip.
        workers: the number of processes that decode the images of a stream.
    """

    data: Dataset | Stream
    mesh: Mesh
    batch_size: int
    augment: str
    workers: int

    @property
    def augment_on_device(self) -> str:
        """The augmentation that the compiled step does; workers augment a stream."""
        return "none" if isinstance(self.data, Stream) else self.augment

    def train(self) -> DeviceData | None:
        """Return the training set on the devices, or None for a stream."""
        if isinstance(self.data, Stream):
            return None
        return to_mesh(self.mesh, DeviceData(self.data.x_train, self.data.y_train))

    def batches(self, seed: int, order: int = 0) -> TrainBatches:
        """Return the function that yields a stream's training batches, for a seed and an order."""
        assert isinstance(self.data, Stream)
        return partial(self._train_batches, self.data, seed, order)

    def _train_batches(
        self, stream: Stream, seed: int, order: int, epoch: int, first_step: int
    ) -> Generator[DeviceData, None, None]:
        rows = streams.train_batches(
            stream,
            seed,
            epoch,
            first_step=first_step,
            batch_size=self.batch_size,
            augment=self.augment,
            process=jax.process_index(),
            processes=jax.process_count(),
            workers=self.workers,
            order=order,
        )
        with contextlib.closing(rows):
            for images, labels in rows:
                yield DeviceData(*self._to_devices(images, labels))

    def test(self) -> DeviceData | EvalBatches:
        """Return the test set on the devices, or the function that yields its batches."""
        if isinstance(self.data, Stream):
            return partial(self._eval_batches, self.data, "test")
        return to_mesh(self.mesh, DeviceData(self.data.x_test, self.data.y_test))

    def validation(self) -> DeviceData | EvalBatches | None:
        """Return the held-out images as `test` does, or None if there are none."""
        if isinstance(self.data, Stream):
            batches = partial(self._eval_batches, self.data, "validation")
            return batches if self.data.num_val else None
        held_out = DeviceData(self.data.x_val, self.data.y_val)
        return to_mesh(self.mesh, held_out) if len(held_out.labels) else None

    def _eval_batches(
        self, stream: Stream, split: str
    ) -> Generator[tuple[DeviceData, jax.Array], None, None]:
        rows = streams.eval_batches(
            stream,
            split=split,
            batch_size=self.batch_size,
            process=jax.process_index(),
            processes=jax.process_count(),
            workers=self.workers,
        )
        with contextlib.closing(rows):
            for images, labels, counted in rows:
                *batch, is_counted = self._to_devices(images, labels, counted)
                yield DeviceData(*batch), is_counted

    def _to_devices(self, *rows: Any) -> list[jax.Array]:
        """Return arrays over all devices, from this process's rows of a batch and the others'."""
        sharding = batch_sharded(self.mesh)
        return [jax.make_array_from_process_local_data(sharding, row) for row in rows]

    def sample(self, key: jax.Array, batches: int, batch_size: int) -> tuple[Any, Any]:
        """Return `batches.sample_batches` of the training images, in memory or on the disk."""
        if isinstance(self.data, Stream):
            seed = np.asarray(jax.random.key_data(key)).tolist()
            return streams.sample(self.data, seed, batches, batch_size)
        return sample_batches(key, self.data.x_train, self.data.y_train, batches, batch_size)
