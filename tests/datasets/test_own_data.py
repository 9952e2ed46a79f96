"""Data sets that users bring: arrays, folders of images, other libraries, functions of their own."""

import itertools
import json
import shutil
import sys

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import lottery_jax as lj
from lottery_jax.datasets import __main__ as datasets_command
from lottery_jax.datasets import load_dataset, read_npz, write_npz
from lottery_jax.errors import ConfigError, DataError
from lottery_jax.parallel.mesh import make_mesh
from lottery_jax.runs.experiment import set_up
from lottery_jax.runs.matrix import cells
from lottery_jax.training.batches import make_preprocess
from lottery_jax.training.feeding import InputPipeline, open_data
from tests.helpers import make_tiny_config, quiet_console, some_arrays

RNG = np.random.default_rng(0)
LABELS = np.arange(12) % 3


def from_arrays(x, y=LABELS, **options):
    """A data set of 12 training examples, and the first 6 of them as the test set."""
    return lj.Dataset.from_arrays(x, y, x[:6], y[:6], **options)


def test_images_are_the_same_data_set_as_those_of_an_npz(tmp_path):
    arrays = some_arrays(shape=(5, 6, 3), n=40)
    write_npz(tmp_path / "mine.npz", arrays)
    ours = lj.Dataset.from_arrays(**arrays, validation_fraction=0.2)
    theirs = load_dataset("mine", tmp_path, validation_fraction=0.2)
    for key, array in theirs.arrays.items():
        np.testing.assert_array_equal(ours.arrays[key], array)
        assert ours.arrays[key].dtype == array.dtype
    for field in ("name", "num_classes", "mean", "std", "augment", "image_shape", "chance"):
        assert getattr(ours, field) == getattr(theirs, field), field


def test_missing_axes_are_added_and_said():
    pixels = RNG.integers(0, 256, (12, 5, 4), np.uint8)
    for x in (pixels, pixels / 255):
        data = from_arrays(x, LABELS[:, None])
        assert data.image_shape == (5, 4, 1) and data.y_train.shape == (12,)
        (note,) = data.notes
        assert "(5, 4) are taken as (5, 4, 1)" in note and "labels (n, 1)" in note


@pytest.mark.parametrize(
    "x, dtype",
    [
        (RNG.integers(0, 256, (12, 4, 4, 2), np.uint8), np.uint8),
        (RNG.integers(0, 256, (12, 7), np.uint8), np.uint8),
        (RNG.normal(size=(12, 7)), np.float32),
        (RNG.normal(size=(12, 4, 4, 3)).astype(">f4"), np.float32),
        (RNG.normal(size=(12, 7)).astype(np.float16), np.float16),
        (RNG.normal(size=(12, 2, 3, 4, 5)), np.float32),
        (RNG.integers(0, 50_000, (12, 9)), np.int32),
        (RNG.integers(0, 200, (12, 9), np.uint16), np.int32),
    ],
)
def test_inputs_reach_the_network_as_the_page_says(x, dtype, one_device):
    """Pixels are normalised to mean 0 and standard deviation 1; floats and tokens are unchanged."""
    data = from_arrays(x)
    on_device = InputPipeline(data, make_mesh(one_device), 4, "none", 0).train()
    assert on_device.images.dtype == dtype == data.x_train.dtype
    seen = make_preprocess(data.mean, data.std, "none")(jax.random.key(0), on_device.images, True)
    if dtype == np.uint8:
        pixels = x / 255
        axes = (0, 1, 2) if x.ndim == 4 else None
        expected = (pixels - pixels.mean(axes)) / pixels.std(axes)
        np.testing.assert_allclose(seen, expected, atol=1e-5)
    else:
        np.testing.assert_array_equal(seen, x.astype(dtype))
        assert seen.dtype == (jnp.int32 if dtype == np.int32 else jnp.float32)


@pytest.mark.parametrize(
    "shape, mean, std",
    [((12, 3), (1, 2, 3), (4, 5, 6)), ((12, 3), (2,), (4,)), ((12, 5, 4, 2), (1, 2), (0.5, 0.1))],
)
def test_floats_are_normalised_by_what_is_given(shape, mean, std):
    x = RNG.normal(size=shape)
    data = from_arrays(x, mean=mean, std=std)
    seen = make_preprocess(data.mean, data.std, "none")(jax.random.key(0), data.x_train, False)
    np.testing.assert_allclose(seen, (x - np.array(mean)) / np.array(std), rtol=1e-5, atol=1e-5)


def test_float_images_are_augmented_as_pixels_are():
    pixels = RNG.integers(0, 256, (12, 8, 8, 2), np.uint8)
    key = jax.random.key(3)

    @jax.jit
    def augmented(pixels, floats):
        for_pixels = make_preprocess((0.0, 0.0), (1 / 255, 1 / 255), "crop_flip")
        for_floats = make_preprocess((0.0, 0.0), (1.0, 1.0), "crop_flip")
        return for_pixels(key, pixels, True), for_floats(key, floats, True)

    as_pixels, as_floats = augmented(pixels, pixels.astype(np.float32))
    np.testing.assert_allclose(as_pixels, as_floats, rtol=1e-6)
    assert not np.array_equal(as_floats, pixels)


@pytest.mark.parametrize("targets", [RNG.normal(size=12), RNG.normal(size=(12, 2))])
def test_float_targets_have_no_classes_and_no_chance(targets):
    data = from_arrays(RNG.normal(size=(12, 7)), targets, validation_fraction=0.25)
    assert data.num_classes == 0 and data.chance is None
    assert len(data.x_val) == 3 and data.y_train.dtype == np.float32
    rows = np.concatenate([data.y_train, data.y_val]).reshape(12, -1)
    assert sorted(map(tuple, rows)) == sorted(map(tuple, targets.astype("f4").reshape(12, -1)))
    np.testing.assert_array_equal(data.y_test, targets[:6].astype(np.float32))


FLOATS = RNG.normal(size=(12, 7))
PIXELS = RNG.integers(0, 256, (12, 5, 4, 3), np.uint8)


def with_value(value):
    x = FLOATS.copy()
    x[4, 2] = x[9, 0] = value
    return x


@pytest.mark.parametrize(
    "x, y, options, says",
    [
        (with_value(np.nan), LABELS, {}, "x_train has NaN or infinite .* in 2 of 12 .* example 4"),
        (with_value(-np.inf), LABELS, {}, "x_train has NaN or infinite values"),
        (with_value(1e300), LABELS, {}, r"infinite values \(as float32\) in 2 of 12"),
        (FLOATS, np.where(LABELS == 1, np.nan, 0.5), {}, "y_train has NaN or infinite values"),
        (FLOATS, LABELS + 1, {}, "no training example is of class 0, .* number the classes from 0"),
        (PIXELS, LABELS + 1, {}, "no training image is of class 0"),
        (PIXELS, LABELS - 1, {}, "y_train has the label -1"),
        (PIXELS, LABELS, {"num_classes": 4}, "no training image is of class 3"),
        (PIXELS, LABELS, {"num_classes": 2}, r"the label 2, outside 0\.\.1"),
        (FLOATS, FLOATS[:, 0], {"num_classes": 2}, "num_classes is 2, but y_train holds float"),
        (FLOATS, FLOATS[:, :, None], {}, r"y_train .*float targets are \[n\] or \[n, k\]"),
        (FLOATS, LABELS.astype(str), {}, "y_train .*it must be integer labels"),
        (FLOATS, LABELS == 1, {}, "y_train is bool .*it must be integer labels"),
        (FLOATS, np.c_[LABELS, LABELS], {}, "it must be integer labels"),
        (FLOATS, LABELS[:11], {}, "y_train has 11 labels; .* each of the 12 examples"),
        (FLOATS[:, 0], LABELS, {}, r"x_train .*x\[:, None\]"),
        (PIXELS.astype(int), LABELS, {}, "images must be uint8"),
        (PIXELS > 9, LABELS, {}, "inputs must be uint8 pixels, floats or integer tokens"),
        (RNG.integers(0, 256, (12, 3, 9, 8), np.uint8), LABELS, {}, r"transpose\(0, 2, 3, 1\)"),
        (PIXELS * 0, LABELS, {}, "x_train holds nothing but 0"),
        (RNG.integers(-1, 9, (12, 5)), LABELS, {}, "x_train has tokens from -1 to"),
        (RNG.integers(0, 2**40, (12, 5)), LABELS, {}, "x_train has tokens from .* 32 bits"),
        ([[1.0], [1.0, 2.0]] * 6, LABELS, {}, "x_train is no array"),
        (FLOATS[:0], LABELS[:0], {}, "x_train has no examples"),
        (FLOATS, LABELS, {"augment": "flip"}, "augment: 'flip' is for images"),
        (PIXELS, LABELS, {"augment": "filp"}, "augment: unknown .*did you mean 'flip'"),
        (FLOATS, LABELS, {"validation_fraction": 0.01}, "validation_fraction: 0.01 of 12"),
        (FLOATS, LABELS, {"validation_fraction": 1}, "validation_fraction is 1"),
        (FLOATS, LABELS, {"mean": [0]}, "give both mean and std"),
        (FLOATS, LABELS, {"mean": [0] * 3, "std": [1] * 3}, "need 1 or 7 each"),
        (PIXELS, LABELS, {"mean": [0], "std": [1]}, "need 3 each"),
        (FLOATS, LABELS, {"mean": [0], "std": [0]}, "std numbers above 0"),
        (RNG.integers(0, 9, (12, 5)), LABELS, {"mean": [0], "std": [1]}, "these are tokens"),
        (FLOATS, LABELS, {"name": "a/b"}, "name: 'a/b' is not a name"),
        (FLOATS, LABELS, {"class_names": ("a", "b")}, "2 class_names for 3 classes"),
    ],
)  # fmt: skip
def test_what_is_no_data_set_is_one_line(x, y, options, says):
    with pytest.raises(DataError, match=says) as caught:
        from_arrays(x, y, **options)
    assert "\n" not in str(caught.value)


def test_training_and_test_arrays_are_of_one_kind():
    for x_test in (FLOATS.astype(int), FLOATS.astype(np.uint8)):
        with pytest.raises(DataError, match="x_train is float64, x_test .*must be of one kind"):
            lj.Dataset.from_arrays(FLOATS, LABELS, np.abs(x_test), LABELS)
    with pytest.raises(DataError, match="y_train is int64, y_test float64"):
        lj.Dataset.from_arrays(FLOATS, LABELS, FLOATS, LABELS / 2)


CLASSES = {"dog": 5, "Cat": 10, "ant": 15}  # sorted: Cat, ant, dog


def write_images(folder, classes=CLASSES, shape=(6, 5, 3), ending="png", seed=0):
    """Write random images; return them and their labels in the order of sorted names."""
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for label, name in enumerate(sorted(classes)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(classes[name]):
            image = rng.integers(0, 256, shape, np.uint8)
            Image.fromarray(image).save(folder / name / f"{i:03}.{ending}")
            images.append(image if image.ndim == 3 else image[..., None])
            labels.append(label)
    return np.stack(images), np.array(labels)


@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5)])
def test_folders_for_training_and_test(tmp_path, shape):
    train = write_images(tmp_path / "pets" / "train", shape=shape)
    test = write_images(tmp_path / "pets" / "test", {"dog": 2, "Cat": 3}, shape, seed=1)
    (tmp_path / "pets" / "train" / ".hidden").mkdir()
    (tmp_path / "pets" / "train" / "ant" / ".DS_Store").touch()
    (tmp_path / "pets" / "README.txt").touch()
    data = lj.Dataset.from_folder(tmp_path / "pets", augment="flip")
    assert data.class_names == ("Cat", "ant", "dog") and data.num_classes == 3
    assert data.name == "pets" and data.augment == "flip"
    np.testing.assert_array_equal(data.x_train, train[0])
    np.testing.assert_array_equal(data.y_train, train[1])
    np.testing.assert_array_equal(data.x_test, test[0])
    np.testing.assert_array_equal(data.y_test, np.where(test[1] == 1, 2, 0))  # there is no ant


def test_a_share_of_each_class_is_tested_on(tmp_path):
    images, labels = write_images(tmp_path)
    splits = []
    for seed in (0, 0, 1):
        data = lj.Dataset.from_folder(tmp_path, test_fraction=0.4, seed=seed)
        assert np.bincount(data.y_test).tolist() == [4, 6, 2]
        pairs = zip([*data.x_train, *data.x_test], [*data.y_train, *data.y_test], strict=True)
        expected = zip(images, labels, strict=True)
        assert sorted((x.tobytes(), y) for x, y in pairs) == sorted(
            (x.tobytes(), y) for x, y in expected
        )
        splits.append(data.x_test)
    assert np.array_equal(*splits[:2]) and not np.array_equal(*splits[1:])


def test_classes_may_be_called_train_and_test(tmp_path):
    write_images(tmp_path, {"train": 10, "test": 10})
    assert lj.Dataset.from_folder(tmp_path).class_names == ("test", "train")


def test_images_are_decoded_as_pillow_does(tmp_path):
    """JPEG, palettes and transparency; grey images become colour beside those in colour."""
    write_images(tmp_path, {"a": 5, "b": 5}, shape=(9, 8, 3), ending="jpg")
    grey = Image.fromarray(RNG.integers(0, 256, (9, 8), np.uint8))
    grey.save(tmp_path / "a" / "100.png")
    colour = Image.fromarray(RNG.integers(0, 256, (9, 8, 3), np.uint8))
    colour.convert("P").save(tmp_path / "b" / "100.PNG")
    colour.convert("RGBA").save(tmp_path / "b" / "101.png")
    data = lj.Dataset.from_folder(tmp_path)
    files = sorted(tmp_path.glob("*/*"))
    expected = {np.asarray(Image.open(file).convert("RGB")).tobytes() for file in files}
    assert {x.tobytes() for x in (*data.x_train, *data.x_test)} == expected
    assert len(files) == len(data.x_train) + len(data.x_test) == 13


def test_images_of_other_sizes_are_brought_to_one(tmp_path):
    for name, shape in (("small", (4, 5, 3)), ("large", (20, 16, 3)), ("grey", (10, 8))):
        write_images(tmp_path / "train", {name: 2}, shape)
        write_images(tmp_path / "test", {name: 1}, shape)
    data = lj.Dataset.from_folder(tmp_path, input_shape=(10, 8, 3))
    files = [sorted((tmp_path / "train" / name).iterdir()) for name in ("grey", "large", "small")]
    for image, file in zip(data.x_train, itertools.chain(*files), strict=True):
        pixels = np.asarray(Image.open(file).convert("RGB")).astype(float)
        if file.parent.name == "large":  # whole numbers of pixels are averaged
            pixels = pixels.reshape(10, 2, 8, 2, 3).mean((1, 3))
        if file.parent.name == "small":
            pixels = np.asarray(Image.open(file).resize((8, 10), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(image, pixels, atol=1)
    assert lj.Dataset.from_folder(tmp_path, input_shape=(4, 4, 1)).image_shape == (4, 4, 1)


def spoil(folder, how):
    """Make one thing wrong in a folder of classes."""
    match how:
        case "empty":
            (folder / "bee").mkdir()
        case "text":
            (folder / "ant" / "notes.png").write_text("These are not pixels.")
        case "cut":
            path = folder / "ant" / "000.png"
            path.write_bytes(path.read_bytes()[:60])
        case "shapes":
            Image.new("RGB", (7, 7)).save(folder / "dog" / "x.png")
        case "other file":
            (folder / "ant" / "labels.csv").touch()
        case "inner folder":
            (folder / "ant" / "more").mkdir()
        case "16 bits":
            Image.fromarray(np.zeros((6, 5), np.uint16)).save(folder / "ant" / "x.png")
        case "one class":
            for name in ("dog", "Cat"):
                (folder / name).rename(folder.parent / name)
        case "pipe":
            (folder / "ant" / "x.png").symlink_to("/dev/null")


@pytest.mark.parametrize(
    "how, says",
    [
        ("empty", "bee: has no PNG or JPEG files"),
        ("text", "notes.png: can't be decoded: it is no PNG or JPEG"),
        ("cut", "000.png: can't be decoded: "),
        ("shapes", r"x.png: is 7 x 7 pixels, .*Cat/000.png 6 x 5; give input_shape"),
        ("other file", "labels.csv: is no PNG or JPEG file"),
        ("inner folder", "more: is no PNG or JPEG file"),
        ("16 bits", "x.png: can't be decoded: .*not of 8 bits"),
        ("one class", "all labels of y_train are 0; there must be two classes"),
        ("pipe", "x.png: can't be decoded: it is not a regular file"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_folder_is_named_in_one_line(tmp_path, capsys, how, says):
    folder = tmp_path / "photos"
    write_images(folder)
    spoil(folder, how)
    with pytest.raises(DataError, match=says) as caught:
        lj.Dataset.from_folder(folder)
    assert "\n" not in str(caught.value)
    # The command says the same and writes nothing.
    arguments = ["--data_dir", str(tmp_path), "from-folder", str(folder), "--name", "photos"]
    assert datasets_command.main(arguments) == 2
    assert capsys.readouterr().err == f"error: {caught.value}\n"
    assert not list(tmp_path.glob("*.npz"))


def test_a_layout_that_is_none_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no folders; it needs train/<class>/"):
        lj.Dataset.from_folder(tmp_path)
    with pytest.raises(DataError, match="nowhere: can't be read: No such file"):
        lj.Dataset.from_folder(tmp_path / "nowhere")
    write_images(tmp_path / "train")
    with pytest.raises(DataError, match="beside train there must be test and no other"):
        lj.Dataset.from_folder(tmp_path)
    write_images(tmp_path / "test", {"bird": 2})
    with pytest.raises(DataError, match="test/bird: there is no such class in train"):
        lj.Dataset.from_folder(tmp_path)
    for options in ({"input_shape": (4, 4)}, {"input_shape": (4, 4, 2)}, {"test_fraction": 1}):
        with pytest.raises(DataError, match=next(iter(options))):
            lj.Dataset.from_folder(tmp_path, **options)


def test_the_commands_write_what_a_run_reads(tmp_path, capsys):
    images, labels = write_images(tmp_path / "photos" / "train")
    write_images(tmp_path / "photos" / "test", seed=1)
    into = ["--data_dir", str(tmp_path)]
    folder = str(tmp_path / "photos")
    assert datasets_command.main([*into, "from-folder", folder, "--name", "pets"]) == 0
    assert (
        f"wrote {tmp_path}/pets.npz: 30 training and 30 test images of (6, 5, 3), 3 classes "
        "(Cat, ant, dog)" in capsys.readouterr().out
    )
    data = load_dataset("pets", tmp_path)
    np.testing.assert_array_equal(data.x_train, images)
    np.testing.assert_array_equal(data.y_train, labels)
    arguments = [*into, "from-folder", folder, "--name", "tiny", "--input_shape", "4,4,1"]
    assert datasets_command.main(arguments) == 0
    assert load_dataset("tiny", tmp_path).image_shape == (4, 4, 1)

    theirs = {key: array[..., 0] if key[0] == "x" else array[:, None]
              for key, array in some_arrays().items()}  # fmt: skip
    np.savez(tmp_path / "keras.npz", **theirs, more=np.zeros(3))
    file = str(tmp_path / "keras.npz")
    capsys.readouterr()
    assert datasets_command.main([*into, "from-npz", file, "--name", "own"]) == 0
    said = capsys.readouterr().out
    assert "20 training and 10 test images of (6, 6, 1), 4 classes;" in said
    assert said.count("note: ") == 1
    written = read_npz(tmp_path / "own.npz")
    np.testing.assert_array_equal(written["x_test"][..., 0], theirs["x_test"])
    for name, says in (("digits", "built in"), ("imagenet2012", "built in"), ("a/b", "--name"),
                       ("cifar10", "of class 4")):  # fmt: skip
        assert datasets_command.main([*into, "from-npz", file, "--name", name]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1 and not (tmp_path / f"{name}.npz").exists()


def test_hugging_face_images_arrays_and_class_names():
    from datasets import Array3D, ClassLabel, Features, Value
    from datasets import Dataset as Table
    from datasets import Image as ImageColumn

    images = [Image.fromarray(x) for x in PIXELS]
    features = Features({"image": ImageColumn(), "label": ClassLabel(names=["a", "b", "c"])})
    table = Table.from_dict({"image": images, "label": LABELS}, features=features)
    data = lj.Dataset.from_huggingface(table, table.select(range(6)), name="theirs")
    np.testing.assert_array_equal(data.x_train, PIXELS)
    np.testing.assert_array_equal(data.y_test, LABELS[:6])
    assert data.class_names == ("a", "b", "c") and data.name == "theirs"
    # What was set for other uses changes nothing.
    shown = table.cast_column("image", ImageColumn(decode=False)).with_format("numpy")
    again = lj.Dataset.from_huggingface(shown, shown)
    np.testing.assert_array_equal(again.x_train, PIXELS)
    with pytest.raises(DataError, match="no training image is of class 1"):
        lj.Dataset.from_huggingface(table.select([0, 2, 3]), table)

    features = Features({"pixels": Array3D((5, 4, 3), "uint8"), "kind": Value("int8")})
    table = Table.from_dict({"pixels": list(PIXELS), "kind": LABELS}, features=features)
    data = lj.Dataset.from_huggingface(table, table, image="pixels", label="kind")
    np.testing.assert_array_equal(data.x_train, PIXELS)
    assert data.class_names == () and data.num_classes == 3

    table = Table.from_dict({"image": FLOATS.tolist(), "label": FLOATS[:, :2].tolist()})
    data = lj.Dataset.from_huggingface(table, table)
    np.testing.assert_array_equal(data.x_train, FLOATS.astype(np.float32))
    np.testing.assert_array_equal(data.y_train, FLOATS[:, :2].astype(np.float32))


def test_hugging_face_mistakes_are_one_line(monkeypatch):
    from datasets import Dataset as Table

    table = Table.from_dict({"image": [[1, 2], [3]], "label": [0, 1], "text": ["a", "b"]})
    for options, says in (
        ({}, r"column image: example 1 has the shape \(1,\), example 0 \(2,\)"),
        ({"image": "img"}, "train: has no column 'img'; it has image, label, text"),
        ({"image": "text"}, "column text holds .*string.*, and not numbers"),
    ):
        with pytest.raises(DataError, match=says):
            lj.Dataset.from_huggingface(table, table, **options)
    with pytest.raises(DataError, match="train: must be a datasets.Dataset.* and not dict"):
        lj.Dataset.from_huggingface({"image": FLOATS, "label": LABELS}, table)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install datasets, or 'lottery_jax\[huggingface\]'"):
        lj.Dataset.from_huggingface(table, table)


def test_grain_pairs_and_dicts():
    pairs = grain.MapDataset.source(list(zip(PIXELS, LABELS, strict=True)))
    data = lj.Dataset.from_grain(pairs, pairs.seed(1).shuffle()[:6])
    np.testing.assert_array_equal(data.x_train, PIXELS)
    np.testing.assert_array_equal(data.y_train, LABELS)
    dicts = pairs.map(lambda e: {"image": e[0] / 255.0, "label": e[1]})
    filtered = dicts.filter(lambda e: e["label"] != 2)
    data = lj.Dataset.from_grain(filtered, filtered)
    np.testing.assert_allclose(data.x_train, PIXELS[LABELS != 2] / 255, rtol=1e-6)
    assert data.num_classes == 2
    data = lj.Dataset.from_grain(
        *[dicts.map(lambda e: {"x": e["image"], "y": e["image"].mean()})] * 2, image="x", label="y"
    )
    np.testing.assert_allclose(data.y_train, (PIXELS / 255).mean((1, 2, 3)), rtol=1e-6)
    for bad, says in (
        (pairs.repeat(), "train: repeats without an end"),
        (pairs.map(lambda e: e[0]), "train: element 0 is neither"),
        (dicts.map(lambda e: {"image": e["image"]}), "train: element 0 is neither"),
        (pairs.to_iter_dataset(), "must be a grain.MapDataset, and not"),
        (pairs.map(lambda e: (e[0][: 3 + e[1]], e[1])), r"example 1 has the shape \(4, 4, 3\)"),
        (pairs[:0], "train: has no examples"),
    ):
        with pytest.raises(DataError, match=says):
            lj.Dataset.from_grain(bad, pairs)


OWN_MODULE = """
import numpy as np
import lottery_jax as lj

def load(n=60, scale=1.0):
    x = np.random.default_rng(0).normal(size=(n, 7)) * scale
    return lj.Dataset.from_arrays(x, (x[:, 0] > 0).astype(int), x, (x[:, 0] > 0).astype(int))

def other():
    return {}
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module `own_data_of_a_test` in the current directory; it is forgotten afterwards."""
    (tmp_path / "own_data_of_a_test.py").write_text(OWN_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "own_data_of_a_test"
    sys.modules.pop("own_data_of_a_test", None)


def config_for(module, function="load", **more):
    return make_tiny_config(
        **{"data.name": f"{module}:{function}", "train.batch_size": 16, "model.width": 0.05, **more}
    )


def test_a_config_names_a_function_by_its_import_path(own_module, one_device):
    options = json.dumps({"n": 40, "scale": 2.0})
    more = {"data.options": options, "data.validation_fraction": 0.25}
    experiment = set_up(config_for(own_module, **more), one_device)
    x = np.random.default_rng(0).normal(size=(40, 7)) * 2.0
    data = experiment.dataset
    assert data.name == f"{own_module}_load" and len(data.x_val) == 10
    np.testing.assert_array_equal(data.x_test, x.astype(np.float32))
    assert experiment.train.images.shape == (30, 7)


@pytest.mark.parametrize(
    "function, more, says",
    [
        ("load", {"data.options": "{"}, "config.data.options: .* is not JSON"),
        ("load", {"data.options": "[1]"}, "config.data.options: .* is not a JSON object"),
        ("load", {"data.options": '{"m": 1}'}, "load fails: TypeError: .*'m'"),
        ("load", {"data.options": '{"n": -1}'}, "load fails: ValueError: .*of_a_test.py:6|numpy"),
        ("load", {"data.augment": "flip"}, "config.data.augment: 'flip' is for images"),
        ("load", {"data.input_shape": (8, 8, 1)}, r"config.data.input_shape: .*shape \(7,\)"),
        ("other", {}, "other returns dict; it must return a lottery_jax.Dataset"),
        ("lod", {}, "config.data.name: .*did you mean 'load'"),
        ("np", {}, "np is module, not a function"),
    ],
)  # fmt: skip
def test_a_function_that_gives_no_data_set_is_one_line(
    own_module, one_device, function, more, says
):
    with pytest.raises((ConfigError, DataError), match=says) as caught:
        set_up(config_for(own_module, function, **more), one_device)
    assert "\n" not in str(caught.value)


def test_options_are_for_import_paths(one_device):
    with pytest.raises(ConfigError, match="config.data.options: digits takes none"):
        set_up(make_tiny_config(**{"data.options": "{}"}), one_device)


def test_names_from_elsewhere_are_never_imported(own_module):
    """A ticket's metadata name its data set; a stranger may have written them."""
    with pytest.raises(DataError, match="is not a name"):
        open_data(f"{own_module}:load")
    assert own_module not in sys.modules


def test_a_matrix_of_import_paths_has_safe_directories(tmp_path):
    names = ("pkg.data:a", "digits")
    config = make_tiny_config(**{"transfer.sources": names, "transfer.targets": names})
    found = [folder.name for _, folder, _ in cells(config, tmp_path)]
    assert found == ["pkg.data_a", "digits", "digits_to_pkg.data_a", "pkg.data_a_to_digits"]
    sources = [cell.source for _, _, cell in cells(config, tmp_path) if cell.source]
    assert sources == [str(tmp_path / "digits"), str(tmp_path / "pkg.data_a")]


@pytest.mark.long
def test_a_run_on_vectors_keeps_their_hash_and_resumes_with_them_alone(own_module, tmp_path):
    config = config_for(own_module, **{"ladder.levels": 0, "train.epochs": 1, "ladder.rewind": 0})
    lj.run_ladder(config, tmp_path / "run", console=quiet_console())
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["data_sha256"] == set_up(config).data_sha256
    ticket_dir = tmp_path / "run" / "seed_0" / "level_00" / "ticket"
    ticket = lj.load_ticket(ticket_dir)
    metadata = ticket.metadata
    measured = lj.evaluate_ticket(ticket, data=set_up(config).dataset)
    assert abs(measured.accuracy - metadata["result"]["test_accuracy"]) < 1e-6
    images = lj.Dataset.from_arrays(**some_arrays(classes=2))
    with pytest.raises(ConfigError, match=r"input_shape: \(7,\), but examples of mine"):
        lj.evaluate_ticket(ticket, data=images)
    assert metadata["input_shape"] == [7] and metadata["mean"] == [0.0]
    assert metadata["data"] == f"{own_module}_load"
    shutil.rmtree(ticket_dir)
    changed = OWN_MODULE.replace("default_rng(0)", "default_rng(1)")
    (tmp_path / f"{own_module}.py").write_text(changed)
    sys.modules.pop(own_module)
    with pytest.raises(DataError, match="other data of this name"):
        lj.run_ladder(config, tmp_path / "run", console=quiet_console())
