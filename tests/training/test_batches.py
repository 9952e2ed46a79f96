"""Batches: every example where it belongs, nothing augmented that must not be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lottery_jax.datasets.checks import check_batch
from lottery_jax.errors import ConfigError
from lottery_jax.training.batches import (
    epoch_order,
    eval_order,
    make_preprocess,
    random_crop,
    random_flip,
)

KEY = jax.random.key(0)


def test_an_epoch_is_a_permutation_that_depends_on_key_and_epoch_alone():
    def order(key, epoch):
        return np.asarray(epoch_order(key, np.int32(epoch), examples=103, batch_size=10))

    first = order(KEY, 0)
    assert first.shape == (10, 10)
    assert len(set(first.ravel())) == 100 and set(first.ravel()) <= set(range(103))
    np.testing.assert_array_equal(first, order(KEY, 0))
    assert not np.array_equal(first, order(KEY, 1))
    assert not np.array_equal(first, order(jax.random.key(1), 0))


@pytest.mark.parametrize("examples", [1, 9, 10, 11, 100])
def test_evaluation_covers_everything_once(examples):
    index, counted = eval_order(examples, 10)
    assert index.shape[1] == 10
    assert sorted(index[counted]) == list(range(examples))
    assert index.max() < examples


def test_crops_are_windows_of_the_padded_image():
    images = np.random.default_rng(0).integers(1, 256, (40, 8, 8, 3), dtype=np.uint8)
    out = np.asarray(random_crop(KEY, jnp.asarray(images)))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    seen = set()
    for image, result in zip(padded, out, strict=True):
        found = [
            (i, j)
            for i in range(3)
            for j in range(3)
            if np.array_equal(image[i : i + 8, j : j + 8], result)
        ]
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) == 9


def test_flips_mirror_about_half_of_the_images_left_to_right():
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 6, 1), dtype=np.uint8)
    out = np.asarray(random_flip(KEY, jnp.asarray(images)))
    flipped = [np.array_equal(a[:, ::-1], b) for a, b in zip(images, out, strict=True)]
    same = [np.array_equal(a, b) for a, b in zip(images, out, strict=True)]
    assert all(f or s for f, s in zip(flipped, same, strict=True))
    assert 70 < sum(flipped) < 130


def test_test_images_are_normalised_and_never_augmented():
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 2), dtype=np.uint8)
    mean, std = (0.3, 0.6), (0.2, 0.4)
    preprocess = make_preprocess(mean, std, "crop_flip")
    expected = (images / 255.0 - np.array(mean)) / np.array(std)
    for seed in (0, 1):
        out = preprocess(jax.random.key(seed), jnp.asarray(images), False)
        np.testing.assert_allclose(out, expected, atol=1e-5)
    assert not np.allclose(preprocess(KEY, jnp.asarray(images), True), expected, atol=1e-3)


def test_a_batch_that_does_not_fit_is_an_error_that_says_what_would():
    with pytest.raises(ConfigError, match="60 is not a multiple of the 8 devices; 64 would be"):
        check_batch(60, 8, 1000)
    with pytest.raises(ConfigError, match="more than the 100 training images"):
        check_batch(128, 1, 100)
