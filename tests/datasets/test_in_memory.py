"""Data sets: the bundled digits, users' files, idx files, and the real TFDS builders."""

import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from lottery_jax.datasets import BUILT_IN, from_idx, load_dataset, write_npz
from lottery_jax.datasets import __main__ as datasets_command
from lottery_jax.datasets.images import enlarge, fit_shape
from lottery_jax.datasets.splits import stratified_split
from lottery_jax.datasets.tfds import find_prepared
from lottery_jax.errors import ConfigError, DataError
from lottery_jax.runs.ladder import run_ladder
from tests.helpers import make_tiny_config, some_arrays, write_idx


def test_digits_are_the_bundled_ones():
    from sklearn.datasets import load_digits

    data, source = load_dataset("digits"), load_digits()
    assert data.x_train.shape == (1438, 8, 8, 1) and data.x_test.shape == (359, 8, 8, 1)
    assert data.x_train.dtype == np.uint8 and data.y_train.dtype == np.int32
    assert data.augment == "none"
    ours = np.concatenate([data.x_train, data.x_test]).reshape(-1, 64)
    theirs = np.rint(source.images.reshape(-1, 64) * 255 / 16)
    labels = np.concatenate([data.y_train, data.y_test])
    assert sorted(map(tuple, np.c_[ours, labels])) == sorted(
        map(tuple, np.c_[theirs, source.target].astype(int))
    )
    shares = np.bincount(data.y_test) / np.bincount(source.target)
    assert np.abs(shares - 0.2).max() < 0.01


def test_statistics_are_those_of_the_training_images():
    data = load_dataset("digits", input_shape=(12, 12, 3), validation_fraction=0.25)
    plain = data.x_train[:, 2:10, 2:10] / 255.0
    np.testing.assert_allclose(data.mean, plain.mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(data.std, plain.std((0, 1, 2)), rtol=1e-9)


def test_halves_are_stratified_disjoint_and_exhaustive_and_share_the_test_set():
    whole, a, b = (load_dataset(name) for name in ("digits", "digits_a", "digitsb"))
    assert (a.name, b.name) == ("digits_a", "digits_b")
    rows = [sorted(map(bytes, d.x_train)) for d in (whole, a, b)]
    assert sorted(rows[1] + rows[2]) == rows[0]
    assert len(rows[1]) == len(rows[2]) == 719
    difference = np.bincount(a.y_train) - np.bincount(b.y_train)
    assert np.abs(difference).max() <= 1
    for half in (a, b):
        np.testing.assert_array_equal(half.x_test, whole.x_test)


def test_nested_parts_have_their_size_and_each_lies_in_the_next_larger(tmp_path):
    arrays = some_arrays(n=133)
    write_npz(tmp_path / "mine.npz", arrays)
    for base in ("digits", "mine"):
        whole = load_dataset(base, tmp_path)
        classes, n = np.bincount(whole.y_train), len(whole.y_train)
        larger = Counter(map(bytes, whole.x_train))
        for divisor in (2, 4, 8, 16, 32, 64):
            name = f"{base}_1of{divisor}"
            part = load_dataset(name, tmp_path)
            assert part.name == name and part.num_classes == whole.num_classes
            assert len(part.x_train) == len(part.y_train) == -(-n // divisor)
            images = Counter(map(bytes, part.x_train))
            assert images <= larger  # as multisets: some digits are there twice
            share = np.bincount(part.y_train, minlength=len(classes)) - classes / divisor
            assert np.abs(share).max() < 1
            labels = {bytes(x): y for x, y in zip(whole.x_train, whole.y_train, strict=True)}
            assert [labels[bytes(x)] for x in part.x_train] == list(part.y_train)
            np.testing.assert_array_equal(part.x_test, whole.x_test)
            again = load_dataset(name, tmp_path)
            np.testing.assert_array_equal(part.x_train, again.x_train)
            larger = images
    half = load_dataset("digits_1of2")
    np.testing.assert_array_equal(half.x_train, load_dataset("digits_a").x_train)
    # The very examples, so that a run on them can be repeated elsewhere.
    digest = hashlib.sha256(load_dataset("digits_1of64").x_train.tobytes()).hexdigest()
    assert digest.startswith("f1e38f8ae146a620")


def test_a_part_that_there_is_not_is_told_which_there_are(tmp_path):
    for name in ("digits_1of3", "digits_1of1", "digits_1of128", "digits_2of4"):
        with pytest.raises(DataError, match=rf"'{name}': parts are digits_a, .*digits_1of64$"):
            load_dataset(name, tmp_path)
    with pytest.raises(DataError, match="unknown value 'digit_1of8' .did you mean 'digits'"):
        load_dataset("digit_1of8", tmp_path)
    # A file of the whole name is a data set of its own.
    write_npz(tmp_path / "digits_1of8.npz", some_arrays(n=9))
    assert len(load_dataset("digits_1of8", tmp_path).x_train) == 9


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.77])
def test_a_stratified_split_is_exact(fraction):
    labels = np.random.default_rng(0).integers(0, 7, 501)
    first, second = stratified_split(labels, fraction, seed=3)
    assert sorted([*first, *second]) == list(range(501))
    assert abs(len(first) - 501 * fraction) <= 0.5
    per_class = np.bincount(labels[first], minlength=7) - fraction * np.bincount(labels)
    assert np.abs(per_class).max() <= 1
    np.testing.assert_array_equal(first, stratified_split(labels, fraction, seed=3)[0])
    if fraction == 0.5:
        assert not np.array_equal(first, stratified_split(labels, fraction, seed=4)[0])


def test_validation_is_taken_from_training_alone():
    whole, data = load_dataset("digits"), load_dataset("digits", validation_fraction=0.1)
    assert len(data.x_val) == 144 and len(data.x_train) == 1438 - 144
    assert sorted(map(bytes, [*data.x_train, *data.x_val])) == sorted(map(bytes, whole.x_train))
    np.testing.assert_array_equal(data.x_test, whole.x_test)


def test_training_and_test_images_adapt_alike():
    plain = load_dataset("digits")
    data = load_dataset("digits", input_shape=(11, 10, 3))
    for adapted, images in ((data.x_train, plain.x_train), (data.x_test, plain.x_test)):
        assert adapted.shape[1:] == (11, 10, 3)
        for channel in range(3):
            np.testing.assert_array_equal(adapted[:, 1:9, 1:9, channel], images[..., 0])
        assert adapted.sum(dtype=int) == 3 * images.sum(dtype=int)
    with pytest.raises(DataError, match="config.data.input_shape"):
        fit_shape(np.zeros((1, 8, 8, 2), np.uint8), (8, 8, 1))


def test_what_has_a_left_and_a_right_is_never_flipped():
    assert {name for name, info in BUILT_IN.items() if "flip" in info.augment} == {
        "cifar10", "cifar100", "fashion_mnist", "imagenet2012", "places365_small"
    }  # fmt: skip
    assert BUILT_IN["svhn"].augment == "crop" and load_dataset("digits").augment == "none"


def test_larger_images_are_averaged_down_and_colour_becomes_grey():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 8, 6, 3), np.uint8)
    grey = images @ np.array([0.299, 0.587, 0.114])
    # Every pixel repeated three times and averaged in twos: 8 rows become 12, 6 columns 9.
    halves = np.repeat(np.repeat(grey, 3, axis=1), 3, axis=2).reshape(5, 4, 6, 3, 6)
    np.testing.assert_allclose(
        fit_shape(images, (4, 3, 1))[..., 0], halves.mean(axis=(2, 4)), atol=0.51
    )
    # 8 rows to 3: each covers 8 / 3 of them.
    thirds = np.repeat(grey, 3, axis=1).reshape(5, 3, 8, 6).mean(axis=2)
    np.testing.assert_allclose(fit_shape(images, (3, 6, 1))[..., 0], thirds, atol=0.51)
    # Larger one way, smaller the other: averaged down, then padded.
    both = fit_shape(images, (4, 10, 3))
    assert both.shape == (5, 4, 10, 3) and not both[:, :, :2].any() and not both[:, :, 8:].any()


def test_statistics_are_those_of_the_adapted_images_without_the_padding(tmp_path):
    rng = np.random.default_rng(0)
    arrays = some_arrays()
    for split in ("train", "test"):
        count = len(arrays[f"x_{split}"])
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, 8, 4, 3), np.uint8)
    write_npz(tmp_path / "mine.npz", arrays)
    data = load_dataset("mine", tmp_path, input_shape=(4, 6, 1))
    assert data.image_shape == (4, 6, 1) and len(data.mean) == 1
    inner = data.x_train[:, :, 1:5] / 255
    np.testing.assert_allclose([data.mean[0], data.std[0]], [inner.mean(), inner.std()], rtol=1e-5)


@pytest.mark.parametrize("new", [(28, 28), (9, 8), (16, 24), (8, 31), (13, 100)])
def test_images_are_enlarged_as_other_libraries_do(new):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 8, 8, 3), np.uint8)
    enlarged = enlarge(images, (*new, 3))
    assert enlarged.dtype == np.uint8 and enlarged.shape == (5, *new, 3)
    exact = jax.image.resize(images.astype(np.float32), (5, *new, 3), "bilinear")
    np.testing.assert_allclose(enlarged, exact, atol=0.501)
    pillow = [
        Image.fromarray(image).resize(new[::-1], Image.Resampling.BILINEAR) for image in images
    ]
    np.testing.assert_allclose(enlarged, np.stack(pillow).astype(int), atol=1)
    # A few at a time give the same, and what is not smaller stays.
    np.testing.assert_array_equal(enlarge(images[2:3], (*new, 3)), enlarged[2:3])
    np.testing.assert_array_equal(enlarge(images, (8, 8, 3)), images)


def test_images_are_enlarged_a_few_at_a_time(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 5, 2), np.uint8)
    whole = enlarge(images, (6, 6, 2))
    monkeypatch.setattr("lottery_jax.datasets.images._ENLARGED_AT_ONCE", 3 * 72)
    np.testing.assert_array_equal(enlarge(images, (6, 6, 2)), whole)


def test_training_validation_and_test_images_are_resized_alike():
    plain = load_dataset("digits", validation_fraction=0.1)
    padded = load_dataset("digits", input_shape=(12, 11, 3), validation_fraction=0.1)
    data = load_dataset(
        "digits", input_shape=(12, 11, 3), resize="bilinear", validation_fraction=0.1
    )
    for split in ("train", "val", "test"):
        images = getattr(data, f"x_{split}")
        assert images.shape[1:] == (12, 11, 3)
        expected = jax.image.resize(
            getattr(plain, f"x_{split}").astype(np.float32), (len(images), 12, 11, 1), "bilinear"
        )
        np.testing.assert_allclose(images, np.repeat(expected, 3, axis=3), atol=0.501)
        np.testing.assert_array_equal(getattr(data, f"y_{split}"), getattr(plain, f"y_{split}"))
    # The statistics are of the pixels that the network sees.
    np.testing.assert_allclose(data.mean, data.x_train.mean((0, 1, 2)) / 255, rtol=1e-9)
    np.testing.assert_allclose(data.std, data.x_train.std((0, 1, 2)) / 255, rtol=1e-9)
    assert (plain.padded, padded.padded, data.padded) == (False, True, False)
    with pytest.raises(ConfigError, match="config.data.resize: .*did you mean 'bilinear'"):
        load_dataset("digits", resize="biliner")


def test_larger_images_are_averaged_down_however_smaller_ones_are_resized():
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)
    for shape in ((4, 3, 3), (8, 6, 1), (5, 6, 1), (8, 6, 3)):
        np.testing.assert_array_equal(
            fit_shape(images, shape, "bilinear"), fit_shape(images, shape, "pad")
        )
    both = fit_shape(images, (4, 12, 1), "bilinear")  # larger one way, smaller the other
    np.testing.assert_array_equal(both, enlarge(fit_shape(images, (4, 6, 1)), (4, 12, 1)))


def test_users_bring_their_own_npz(tmp_path):
    arrays = some_arrays()
    write_npz(tmp_path / "mine.npz", arrays)
    data = load_dataset("mine", tmp_path)
    assert data.num_classes == 4
    np.testing.assert_array_equal(data.x_train, arrays["x_train"])
    np.testing.assert_array_equal(data.y_test, arrays["y_test"])
    assert load_dataset("mine_b", tmp_path).x_train.shape == (10, 6, 6, 1)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda a: a.update(x_train=a["x_train"] / 255), "images must be uint8"),
        (lambda a: a.update(x_train=a["x_train"][..., 0, 0]), "images must be uint8"),
        (lambda a: a.update(y_train=a["y_train"][None]), "labels must be integers"),
        (lambda a: a.update(y_test=a["y_test"][1:]), "one for each of the 10 images"),
        (lambda a: a.update(y_train=a["y_train"].astype(str)), "labels must be integers"),
        (lambda a: a.update(y_train=a["y_train"][:0]), "one for each of the 20 images"),
        (lambda a: a.update({k: v[:0] for k, v in a.items()}), "images must be uint8"),
        (lambda a: a.update(y_test=a["y_test"] + 0.5), "labels must be integers"),
        (lambda a: a.update(y_train=a["y_train"] - 1), "y_train has the label -1, outside 0..2"),
        (lambda a: a.update(y_test=a["y_test"] + 9), "y_test has the label 9, outside 0..3"),
        (lambda a: a.update(x_test=a["x_test"][:, :5]), "differ in shape"),
        (
            lambda a: a["y_train"].__setitem__(a["y_train"] == 0, 1),
            "image is of class 0, and .* to 3",
        ),
        (
            lambda a: a["y_train"].__setitem__(a["y_train"] == 2, 1),
            "image is of class 2, and .* to 3",
        ),
        (
            lambda a: a["y_train"].__setitem__(3, 2**62),
            "image is of class 4, and labels go up to 4611",
        ),
        (lambda a: a.update(y_train=a["y_train"].astype("u8") + 2**63), "image is of class 0"),
    ],
)
def test_wrong_arrays_are_errors_that_name_the_file(tmp_path, change, says):
    arrays = some_arrays()
    change(arrays)
    write_npz(tmp_path / "mine.npz", arrays)
    with pytest.raises(DataError, match=says) as caught:
        load_dataset("mine", tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/mine.npz: ")


def enter_as_npz(monkeypatch, folder, arrays):
    write_npz(folder / "fashion_mnist.npz", arrays)


def enter_as_idx(monkeypatch, folder, arrays):
    write_idx(folder, arrays, compress=False, axes=4)
    from_idx(folder, folder / "fashion_mnist.npz")


def enter_from_tfds(monkeypatch, folder, arrays):
    monkeypatch.setattr("lottery_jax.datasets.tfds.read_prepared", lambda name, folder: arrays)


def with_values(values):
    """Images that hold nothing but these values."""

    def change(arrays):
        rng = np.random.default_rng(0)
        for key in ("x_train", "x_test"):
            arrays[key] = rng.choice(np.array(values, np.uint8), arrays[key].shape)

    return change


def with_one_class(arrays):
    arrays["y_train"][:] = 3


ENTER = (enter_as_npz, enter_as_idx, enter_from_tfds)
NOT_IMAGES = [
    ((3, 32, 32), None, r"\(20, 3, 32, 32\): images of 3 x 32 pixels with 32 channels; expected is "
     r"\[n, height, width, channels\].*x_train.transpose\(0, 2, 3, 1\)"),
    ((1, 28, 28), None, r"x_train.transpose\(0, 2, 3, 1\)"),
    ((3, 48, 32), None, r"x_train.transpose\(0, 2, 3, 1\)"),
    ((3, 32, 48), None, r"x_train.transpose\(0, 2, 3, 1\)"),
    ((13, 64, 64), None, r"x_train.transpose\(0, 2, 3, 1\)"),
    ((2, 3, 9), None, "2 x 3 pixels with 9 channels"),
    ((6, 6, 1), with_values([0, 1]), "x_train holds nothing but 0 and 1; .* multiply by 255"),
    ((6, 6, 1), with_values([255]), "x_train holds nothing but 255: all images are the same"),
    ((6, 6, 1), with_values([0]), "x_train holds nothing but 0: all images are the same"),
    ((6, 6, 1), lambda a: a["x_test"].__ifloordiv__(128), "x_test holds nothing but 0 and 1"),
    ((6, 6, 1), with_one_class, "all labels of y_train are 3; there must be two classes"),
]  # fmt: skip


@pytest.mark.parametrize("enter", ENTER)
@pytest.mark.parametrize("shape, change, says", NOT_IMAGES)
def test_what_can_not_be_images_or_labels_is_refused(
    tmp_path, monkeypatch, enter, shape, change, says
):
    arrays = some_arrays(shape=shape, classes=10)
    if change:
        change(arrays)
    with pytest.raises(DataError, match=says) as caught:
        enter(monkeypatch, tmp_path, arrays)
        load_dataset("fashion_mnist", tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}") and "\n" not in str(caught.value)


def mostly_black(arrays):
    for key in ("x_train", "x_test"):
        arrays[key][...] = 0
        arrays[key][3, 0, 0, 0] = 7


@pytest.mark.parametrize(
    "shape, change",
    [
        *(((h, w, c), None) for h, w, c in [
            (1, 1, 1), (1, 1, 3), (2, 2, 3), (1, 50, 1), (50, 1, 1), (32, 32, 4), (64, 64, 13),
            (64, 40, 13), (1, 1, 50), (9, 9, 30), (1, 128, 9), (16, 1, 9),
        ]),
        ((6, 6, 1), with_values([0, 255])),
        ((6, 6, 1), mostly_black),
    ],
)  # fmt: skip
def test_unusual_images_and_vectors_are_not_refused(tmp_path, shape, change):
    arrays = some_arrays(shape=shape)
    if change:
        change(arrays)
    write_npz(tmp_path / "mine.npz", arrays)
    data = load_dataset("mine", tmp_path)
    assert data.image_shape == shape and data.notes == ()
    np.testing.assert_array_equal(data.x_test, arrays["x_test"])


def test_axes_that_other_programs_leave_out_or_add_are_mended_and_said_once(tmp_path, one_device):
    """Keras' mnist.npz has no channel axis, and the labels of its cifar10 are a column."""
    arrays = some_arrays(shape=(7, 6, 1))
    for change, taken in (
        (lambda key, a: a[..., 0] if key[0] == "x" else a, "images (7, 6) are taken as (7, 6, 1)"),
        (lambda key, a: a[:, None] if key[0] == "y" else a, "labels (n, 1) are taken as (n,)"),
        (
            lambda key, a: a[..., 0] if key == "x_test" else a,
            "images (7, 6) are taken as (7, 6, 1)",
        ),
    ):
        theirs = {key: change(key, array) for key, array in arrays.items()}
        write_npz(tmp_path / "mine.npz", theirs)
        data = load_dataset("mine", tmp_path)
        for key, array in arrays.items():
            np.testing.assert_array_equal(getattr(data, key), array)
        assert data.notes == (f"note: {tmp_path}/mine.npz: {taken}",)
    config = make_tiny_config(
        **{"data.name": "mine_a", "data.dir": str(tmp_path), "train.batch_size": 5,
           "train.epochs": 1, "ladder.levels": 0, "ladder.rewind": 0, "model.width": 0.1},
    )  # fmt: skip
    with (tmp_path / "said").open("w") as file:
        console = Console(file=file, width=300)
        run_ladder(config, tmp_path / "run", devices=one_device, console=console)
    assert (tmp_path / "said").read_text().count("note: ") == 1


def test_a_built_in_set_has_its_number_of_classes(tmp_path):
    write_npz(tmp_path / "cifar10.npz", some_arrays(classes=9))
    with pytest.raises(DataError, match="cifar10.npz: no training image is of class 9"):
        load_dataset("cifar10", tmp_path)
    write_npz(tmp_path / "cifar10.npz", some_arrays(classes=11, n=40))
    with pytest.raises(DataError, match=r"y_train has the label 10, outside 0\.\.9"):
        load_dataset("cifar10", tmp_path)


def test_what_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch):
    arrays = some_arrays()  # 20 + 10 images of 36 bytes, with labels of 8
    write_npz(tmp_path / "mine.npz", arrays)
    for memory, fits in ((30 * 44 + 4 * 128, True), (30 * 44 + 4 * 128 - 1, False)):
        monkeypatch.setattr("lottery_jax.system.host.memory", lambda memory=memory: memory)
        if fits:
            assert load_dataset("mine", tmp_path, input_shape=(6, 6, 1)).image_shape == (6, 6, 1)
            with pytest.raises(DataError, match="input_shape: 30 images of .60, 1, 3. take"):
                load_dataset("mine", tmp_path, input_shape=(60, 1, 3))
        else:
            with pytest.raises(DataError, match="mine.npz: takes 0.0 GB of memory"):
                load_dataset("mine", tmp_path)


def test_some_images_are_left_to_train_on_and_some_to_validate():
    for fraction, held_out in ((0.9999, 1438), (1e-6, 0)):
        with pytest.raises(DataError, match=rf"{fraction:g} of 1438 .* is {held_out} of them"):
            load_dataset("digits", validation_fraction=fraction)


def test_a_single_image_has_no_two_halves(tmp_path):
    arrays = {"x_train": np.zeros((1, 2, 2, 1), np.uint8), "y_train": np.zeros(1, int)}
    write_npz(tmp_path / "one.npz", arrays | {"x_test": arrays["x_train"], "y_test": [0]})
    sizes = []
    for half in "ab":
        try:
            sizes.append(len(load_dataset(f"one_{half}", tmp_path).x_train))
        except DataError as error:
            assert "one training image" in str(error)
            sizes.append(0)
    assert sorted(sizes) == [0, 1]


def test_damaged_or_partial_or_pickled_files_are_errors(tmp_path):
    file = tmp_path / "mine.npz"
    write_npz(file, some_arrays())
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="can't be read as npz"):
        load_dataset("mine", tmp_path)
    np.savez(file, x_train=np.zeros(3))
    with pytest.raises(DataError, match="has no array"):
        load_dataset("mine", tmp_path)
    np.save(tmp_path / "mine.npy", np.zeros(3))
    (tmp_path / "mine.npy").rename(file)
    with pytest.raises(DataError, match="can't be read as npz"):
        load_dataset("mine", tmp_path)
    np.savez(file, x_train=np.array([{}], object), y_train=1, x_test=1, y_test=1)
    with pytest.raises(DataError, match=r"x_train is object \(1,\); images must be uint8"):
        load_dataset("mine", tmp_path)


def test_unknown_names_are_errors_with_the_nearest(tmp_path):
    write_npz(tmp_path / "mine.npz", some_arrays())
    with pytest.raises(DataError, match=r"did you mean 'cifar10'\?.*cifar100.*mine.*svhn"):
        load_dataset("cifar11", tmp_path)
    with pytest.raises(DataError, match="is not a name"):
        load_dataset("../mine", tmp_path)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("path", ["{name}", "{name}/{name}"])
@pytest.mark.parametrize("separator", "-.")
def test_idx_files_have_several_names(tmp_path, separator, path, compress):
    arrays, folder = some_arrays(), tmp_path / "their"
    folder.mkdir()
    write_idx(folder, arrays, compress, path=path, separator=separator)
    from_idx(folder, tmp_path / "mine.npz")
    data = load_dataset("mine", tmp_path)
    for key, array in arrays.items():
        np.testing.assert_array_equal(getattr(data, key), array)


def test_the_names_of_a_missing_idx_file_are_said(tmp_path):
    write_idx(tmp_path, some_arrays(), compress=False)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    (tmp_path / "t10k-labels-idx1-ubyte").mkdir()  # empty, and no file
    with pytest.raises(DataError) as caught:
        from_idx(tmp_path, tmp_path / "mine.npz")
    names = ("t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte")
    for name in (*names, *(f"{name}.gz" for name in names)):
        assert f" {name}," in str(caught.value)
    assert str(caught.value).endswith(f"nor one of them in a folder {' or '.join(names)}")


@pytest.mark.parametrize("compress", [False, True])
def test_idx_files_become_a_data_set(tmp_path, compress, capsys):
    arrays = some_arrays()
    write_idx(tmp_path, arrays, compress)
    status = datasets_command.main(["--data_dir", str(tmp_path), "from-idx", str(tmp_path), "mine"])
    assert status == 0 and "mine.npz" in capsys.readouterr().out
    data = load_dataset("mine", tmp_path)
    np.testing.assert_array_equal(data.x_train, arrays["x_train"])
    np.testing.assert_array_equal(data.y_test, arrays["y_test"])


def test_wrong_idx_files_are_errors(tmp_path, capsys):
    def convert():
        status = datasets_command.main(
            ["--data_dir", str(tmp_path), "from-idx", str(tmp_path), "mine"]
        )
        assert status == 2 and not (tmp_path / "mine.npz").exists()
        return capsys.readouterr().err

    assert "has no train-images-idx3-ubyte" in convert()
    write_idx(tmp_path, some_arrays(), compress=False)
    file = tmp_path / "train-images-idx3-ubyte"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert "cut short" in convert()
    file.write_bytes(b"\x00\x00\x0d\x03" + whole[4:])
    assert "is not an idx file" in convert()
    file.write_bytes(gzip.compress(whole)[:-20])
    assert "can't be read" in convert()
    file.rename(tmp_path / f"{file.name}.part")  # as during a download
    assert "has no train-images-idx3-ubyte" in convert()


@pytest.mark.parametrize("name", ["../mine", "a/b", ".mine", "-mine", "", "a" * 101, "digits"])
def test_data_are_written_under_names_that_can_be_read(tmp_path, capsys, name):
    (tmp_path / "data").mkdir()
    write_idx(tmp_path, some_arrays(), compress=False)
    before = sorted(tmp_path.rglob("*"))
    arguments = ["--data_dir", str(tmp_path / "data"), "from-idx", str(tmp_path), "--", name]
    assert datasets_command.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1 and sorted(tmp_path.rglob("*")) == before


# Archives as the builders expect them: https://www.cs.toronto.edu/~kriz/cifar.html describes the
# binary files (label bytes, then 1024 red, green, blue bytes), http://ufldl.stanford.edu/housenumbers
# the .mat files (X [32, 32, 3, n], y [n, 1] with 10 for the digit 0).


def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def cifar_records(x, labels):
    planes = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    return np.concatenate([*(y[:, None].astype(np.uint8) for y in labels), planes], 1).tobytes()


def cifar10_archive(arrays):
    files = {
        "cifar-10-batches-bin/test_batch.bin": cifar_records(arrays["x_test"], [arrays["y_test"]])
    }
    parts = zip(np.split(arrays["x_train"], 5), np.split(arrays["y_train"], 5), strict=True)
    for i, (x, y) in enumerate(parts, 1):
        files[f"cifar-10-batches-bin/data_batch_{i}.bin"] = cifar_records(x, [y])
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    files["cifar-10-batches-bin/batches.meta.txt"] = ("\n".join(names) + "\n\n").encode()
    return {"cifar-10-binary.tar.gz": tar(files)}


def cifar100_archive(arrays):
    def records(split):
        return cifar_records(
            arrays[f"x_{split}"], [arrays[f"y_{split}"] // 5, arrays[f"y_{split}"]]
        )

    files = {f"cifar-100-binary/{split}.bin": records(split) for split in ("train", "test")}
    for kind, count in (("coarse", 20), ("fine", 100)):
        names = "\n".join(f"{kind}_{i}" for i in range(count)) + "\n"
        files[f"cifar-100-binary/{kind}_label_names.txt"] = names.encode()
    return {"cifar-100-binary.tar.gz": tar(files)}


def svhn_archives(arrays):
    from scipy.io import savemat

    archives = {}
    for split, source in (("train", "train"), ("test", "test"), ("extra", "test")):
        labels = arrays[f"y_{source}"].copy()
        labels[labels == 0] = 10
        out = io.BytesIO()
        savemat(out, {"X": arrays[f"x_{source}"].transpose(1, 2, 3, 0), "y": labels[:, None]})
        archives[f"{split}_32x32.mat"] = out.getvalue()
    return archives


BUILDERS = {
    "cifar10": ("cifar10", 10, cifar10_archive),
    "cifar100": ("cifar100", 100, cifar100_archive),
    "svhn": ("svhn_cropped", 10, svhn_archives),
}


def put_archives(monkeypatch, data_dir, tfds_name, archives):
    """Put archives into place for a builder, and make their checksums the official ones."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums

    manual = data_dir / "downloads" / "manual"
    manual.mkdir(parents=True)
    infos = {}
    for url in tfds.builder(tfds_name, data_dir=str(data_dir)).url_infos:
        name = url.rpartition("/")[2]
        content = archives[name]
        (manual / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        infos[url] = checksums.UrlInfo(size=len(content), checksum=digest, filename=name)
    monkeypatch.setattr(tfds.builder_cls(tfds_name), "url_infos", infos)


def as_set(x, y):
    return sorted((int(label), bytes(image)) for image, label in zip(x, y, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] * (name != "cifar10")) for name in BUILDERS],
)
def test_real_builders_prepare_archives_in_the_official_layout(tmp_path, monkeypatch, name):
    tfds_name, classes, archive = BUILDERS[name]
    arrays = some_arrays(n=2 * classes + 20 - 2 * classes % 5, shape=(32, 32, 3), classes=classes)
    put_archives(monkeypatch, tmp_path, tfds_name, archive(arrays))
    data = load_dataset(name, tmp_path)
    assert data.num_classes == classes
    for split in ("train", "test"):
        x, y = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        assert x.dtype == np.uint8 and y.dtype == np.int32
        assert as_set(x, y) == as_set(arrays[f"x_{split}"], arrays[f"y_{split}"])

    # The next run reads the npz. Without it, another process reads the prepared data, in the same
    # order and without TensorFlow.
    npz = tmp_path / f"{name}.npz"
    assert npz.is_file()
    npz.rename(tmp_path / "first.npz")
    code = (
        "import sys; from lottery_jax.datasets import load_dataset\n"
        f"load_dataset({name!r}, {str(tmp_path)!r})\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with np.load(npz) as again, np.load(tmp_path / "first.npz") as first:
        for key in again.files:
            np.testing.assert_array_equal(again[key], first[key])


@pytest.mark.long
def test_prepared_data_in_a_read_only_directory_can_be_used(tmp_path, monkeypatch):
    arrays = some_arrays(n=40, shape=(32, 32, 3), classes=10)
    put_archives(monkeypatch, tmp_path, "cifar10", cifar10_archive(arrays))
    load_dataset("cifar10", tmp_path)
    # As root may write everywhere, the place of the npz is taken by a directory.
    (tmp_path / "cifar10.npz").unlink()
    (tmp_path / "cifar10.npz").mkdir()
    data = load_dataset("cifar10", tmp_path)
    assert as_set(data.x_test, data.y_test) == as_set(arrays["x_test"], arrays["y_test"])


@pytest.mark.long
def test_an_archive_that_is_not_the_official_one_is_refused(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    archive = cifar10_archive(some_arrays(n=40, shape=(32, 32, 3), classes=10))
    (manual / "cifar-10-binary.tar.gz").write_bytes(archive["cifar-10-binary.tar.gz"])
    with pytest.raises(DataError, match="NonMatchingChecksumError"):
        load_dataset("cifar10", tmp_path)


def test_without_network_the_error_says_where_archives_go(tmp_path, monkeypatch):
    monkeypatch.setattr("lottery_jax.datasets.tfds._reachable", lambda url: False)
    with pytest.raises(DataError, match=r"cifar-100-binary.tar.gz\) into .*downloads/manual"):
        load_dataset("cifar100", tmp_path)


def test_without_tensorflow_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'lottery_jax\[tfds\]'"):
        load_dataset("svhn", tmp_path)


def test_what_an_interrupted_preparation_leaves_is_not_taken_for_a_version(tmp_path):
    from tensorflow_datasets.core.utils import file_utils

    root = tmp_path / "cifar10"
    with file_utils.incomplete_dir(root / "3.0.2") as temporary:
        unfinished = Path(temporary).name
    assert unfinished.endswith("_3.0.2")
    for leftover in (unfinished, "3.0.2.incomplete_ABC123", "incomplete.XYZ789_9.0.0", "3.0.2.bak",
                     "3.0.2-old", "4.0", "plain_text"):  # fmt: skip
        (root / leftover).mkdir(parents=True)
        (root / leftover / "dataset_info.json").write_text("{}")
    assert find_prepared("cifar10", tmp_path) is None
    for version in ("3.0.2", "3.0.10", "2.11.0"):  # the newest by its numbers
        (root / version).mkdir(exist_ok=True)
        (root / version / "dataset_info.json").write_text("{}")
    assert find_prepared("cifar10", tmp_path) == root / "3.0.10"
    (tmp_path / "other" / "a_config" / "1.0.0").mkdir(parents=True)
    (tmp_path / "other" / "a_config" / "1.0.0" / "dataset_info.json").write_text("{}")
    assert find_prepared("other", tmp_path) is None


def test_prepared_data_that_is_damaged_is_an_error(tmp_path):
    folder = tmp_path / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match="can't be read"):
        load_dataset("cifar10", tmp_path)
