"""From arrays in memory to batches on the device.

A set that is loaded into memory lies on the devices as uint8; a streamed one
(`registry.Info.streamed`) comes batch by batch. A batch is a gather by index; augmentation and
normalisation are part of the compiled step. The order of batches is a function of (key, epoch), the
augmentation of (key, step): nothing else is needed to resume.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lottery_jax.datasets.dataset import AUGMENTATIONS
from lottery_jax.errors import ConfigError
from lottery_jax.parallel.mesh import batch_sharded
from lottery_jax.pruning import masks

# key, inputs uint8 or float [batch, ...], train -> float32 [batch, ...]; int32 tokens stay int32
Preprocess = Callable[[jax.Array, jax.Array, bool], jax.Array]


class DeviceData(NamedTuple):
    """Inputs `[n, ...]` and labels `[n, ...]`, on the devices.

    Inputs have the dtypes of `datasets.Dataset`: images are uint8 `[n, height, width, channels]`.
    Labels are int32 `[n]` for classification; another `Task` may need others.
    """

    images: Any
    labels: Any


# (epoch, step within the epoch) -> the batches of the epoch from that step on, on the devices
TrainBatches = Callable[[int, int], Generator[DeviceData, None, None]]
# () -> batches that hold every example once, each with bool `[batch]`: which examples count
EvalBatches = Callable[[], Generator[tuple[DeviceData, jax.Array], None, None]]


@partial(jax.jit, static_argnames=("examples", "batch_size"))
def epoch_order(key: jax.Array, epoch: jax.Array, *, examples: int, batch_size: int) -> jax.Array:
    """Return the batches of an epoch: int32 indices `[examples // batch_size, batch_size]`.

    Each epoch has its own permutation, a function of the key and the epoch. The examples left over
    at its end are not used in that epoch.
    """
    steps = examples // batch_size
    order = jax.random.permutation(jax.random.fold_in(key, epoch), examples)
    return order[: steps * batch_size].reshape(steps, batch_size).astype(jnp.int32)


def gather_batch(data: DeviceData, index: jax.Array, mesh: Mesh) -> DeviceData:
    """Return the examples of a batch, sharded over the devices; for use in a compiled step."""
    index = jax.lax.with_sharding_constraint(index, batch_sharded(mesh))
    return DeviceData(data.images[index], data.labels[index])


def eval_order(examples: int, batch_size: int) -> tuple[Any, Any]:
    """Return batches that hold every example exactly once, for evaluation.

    Returns:
        int32 indices and bool `[steps, batch_size]`. The last batch is filled up with repetitions,
        which are marked False and must not be counted.
    """
    steps = -(-examples // batch_size)
    index = np.arange(steps * batch_size).reshape(steps, batch_size)
    return np.minimum(index, examples - 1).astype(np.int32), index < examples


def sample_batches(
    key: jax.Array, images: Any, labels: Any, batches: int, batch_size: int
) -> tuple[Any, Any]:
    """Draw different examples at random, for scores that look at data.

    Args:
        key: typed PRNG key.
        images: uint8 `[n, height, width, channels]`, on the host.
        labels: int32 `[n]`.
        batches: the number of batches.
        batch_size: examples in each; `batches * batch_size` is at most n.

    Returns:
        Images `[batches, batch_size, height, width, channels]` and labels `[batches, batch_size]`.
    """
    rng = masks.host_rng(key)
    index = rng.choice(len(labels), (batches, batch_size), replace=False)
    return images[index], labels[index]


def random_crop(key: jax.Array, images: jax.Array) -> jax.Array:
    """Pad by an eighth of the image, rounded up (4 for 32 pixels), and crop at random places."""
    n, height, width, channels = images.shape
    pad = -(-height // 8)
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    offsets = jax.random.randint(key, (n, 2), 0, 2 * pad + 1)

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        start = (offset[0], offset[1], 0)
        return jax.lax.dynamic_slice(image, start, (height, width, channels))

    return jax.vmap(crop)(padded, offsets)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image left to right with probability one half."""
    flips = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(flips, images[:, :, ::-1], images)


def make_preprocess(mean: tuple[float, ...], std: tuple[float, ...], augment: str) -> Preprocess:
    """Return the function from a batch of inputs to what the network sees; it augments in training.

    uint8 pixels and floats are normalised, to float32; int32 tokens pass through unchanged.

    Args:
        mean: the mean of each channel, of pixel value / 255; of floats, the mean itself.
        std: the standard deviation of each channel, on the same scale.
        augment: none, crop, flip or crop_flip.

    Raises:
        ConfigError: `augment` is unknown.
    """
    if augment not in AUGMENTATIONS:
        raise ConfigError(f"config.data.augment: {augment!r} is not one of {AUGMENTATIONS}")
    scale = 1.0 / (255.0 * np.asarray(std, np.float32))
    shift = np.asarray(mean, np.float32) / np.asarray(std, np.float32)

    def preprocess(key: jax.Array, images: jax.Array, train: bool) -> jax.Array:
        if train:
            crop_key, flip_key = jax.random.split(key)
            if "crop" in augment:
                images = random_crop(crop_key, images)
            if "flip" in augment:
                images = random_flip(flip_key, images)
        if images.dtype == jnp.uint8:
            return images.astype(jnp.float32) * scale - shift
        if jnp.issubdtype(images.dtype, jnp.integer):
            return images
        return images.astype(jnp.float32) * (1.0 / np.asarray(std, np.float32)) - shift

    return preprocess
