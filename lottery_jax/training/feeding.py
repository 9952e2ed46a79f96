"""A data set on the devices: whole, or batch by batch from the disk.

The train step does not know which it is: without a table of batches, what it is given is the batch.
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
from lottery_jax.datasets.in_memory import Dataset, load_dataset
from lottery_jax.datasets.registry import BUILT_IN
from lottery_jax.datasets.streams import Stream
from lottery_jax.parallel.mesh import batch_sharded, to_mesh
from lottery_jax.training.batches import (
    DeviceData,
    EvalBatches,
    TrainBatches,
    sample_batches,
)


def open_data(
    name: str,
    data_dir: str | os.PathLike[str] = "",
    *,
    input_shape: tuple[int, ...] = (),
    resize: str = "pad",
    validation_fraction: float = 0.0,
) -> Dataset | Stream:
    """A data set in memory, or one that stays on the disk, by name.

    Raises:
        DataError, ConfigError: as `datasets.load_dataset` and `streams.open_stream`.
    """
    streamed = name in BUILT_IN and BUILT_IN[name].streamed
    opened = streams.open_stream if streamed else load_dataset
    return opened(
        name,
        data_dir,
        input_shape=input_shape,
        resize=resize,
        validation_fraction=validation_fraction,
    )


@dataclasses.dataclass(frozen=True)
class InputPipeline:
    """What a run reads.

    Attributes:
        data: in memory or on the disk.
        mesh: of the devices; for a stream with one place on `replica`.
        batch_size: of a replicate, over all devices.
        augment: none, crop, flip or crop_flip.
        workers: that decode the images of a stream.
    """

    data: Dataset | Stream
    mesh: Mesh
    batch_size: int
    augment: str
    workers: int

    @property
    def augment_on_device(self) -> str:
        """What is left of the augmentation for the compiled step to do."""
        return "none" if isinstance(self.data, Stream) else self.augment

    def train(self) -> DeviceData | None:
        """The training set on the devices; None of a stream."""
        if isinstance(self.data, Stream):
            return None
        return to_mesh(self.mesh, DeviceData(self.data.x_train, self.data.y_train))

    def batches(self, seed: int) -> TrainBatches:
        """The training batches of a stream, from a step of an epoch on."""
        assert isinstance(self.data, Stream)
        return partial(self._batches, self.data, seed)

    def _batches(
        self, stream: Stream, seed: int, epoch: int, first_step: int
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
        )
        with contextlib.closing(rows):
            for images, labels in rows:
                yield DeviceData(*self._share(images, labels))

    def test(self) -> DeviceData | EvalBatches:
        """The test set on the devices, or a way to go through it."""
        if isinstance(self.data, Stream):
            return partial(self._cover, self.data, "test")
        return to_mesh(self.mesh, DeviceData(self.data.x_test, self.data.y_test))

    def validation(self) -> DeviceData | EvalBatches | None:
        """Likewise, if any images are held out."""
        if isinstance(self.data, Stream):
            return partial(self._cover, self.data, "validation") if self.data.num_val else None
        held_out = DeviceData(self.data.x_val, self.data.y_val)
        return to_mesh(self.mesh, held_out) if len(held_out.labels) else None

    def _cover(
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
                *batch, of_which = self._share(images, labels, counted)
                yield DeviceData(*batch), of_which

    def _share(self, *rows: Any) -> list[jax.Array]:
        """Rows of a batch that are here, with those of other processes, as arrays over all devices."""
        sharding = batch_sharded(self.mesh)
        return [jax.make_array_from_process_local_data(sharding, row) for row in rows]

    def sample(self, key: jax.Array, batches: int, batch_size: int) -> tuple[Any, Any]:
        """`batches.sample_batches` of the training images, in memory or on the disk."""
        if isinstance(self.data, Stream):
            seed = np.asarray(jax.random.key_data(key)).tolist()
            return streams.sample(self.data, seed, batches, batch_size)
        return sample_batches(key, self.data.x_train, self.data.y_train, batches, batch_size)
