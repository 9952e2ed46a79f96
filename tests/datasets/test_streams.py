"""Data on disk: archives of the real builders, and batches that depend on (seed, epoch) alone."""

import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lottery_jax.datasets import __main__ as datasets_command
from lottery_jax.datasets import load_dataset, streams
from lottery_jax.datasets.decoding import central_box, decode, random_box
from lottery_jax.datasets.streams import eval_batches, open_stream, train_batches
from lottery_jax.errors import ConfigError, DataError
from lottery_jax.evaluate import evaluate_ticket
from lottery_jax.parallel.mesh import to_mesh as put_on_devices
from lottery_jax.pruning import masks
from lottery_jax.runs.experiment import set_up
from lottery_jax.runs.ladder import run_ladder
from lottery_jax.tickets import load_ticket
from lottery_jax.training.batches import DeviceData
from lottery_jax.training.loop import fit
from lottery_jax.training.program import init_device_state
from lottery_jax.training.state import MetricSums
from tests.faults import runs
from tests.helpers import make_tiny_config
from tests.parallel.pairs import devices, ends, said, start_processes

# Archives in the official layouts, which the builders of tensorflow-datasets describe:
# ILSVRC2012_img_train.tar holds a tar for each class, and of its images one is really a PNG and some
# are CMYK; train_256_places365standard.tar and its list of files name images by class.
SHAPE = (24, 32, 3)
TRAIN = [(synset, i) for synset in ("n01440764", "n01739381", "n02105855") for i in range(7)]
SPECIAL = {("n01739381", 0): "1309", ("n02105855", 0): "2933"}


def brightness(number):
    """Return the mean of image `number`, which identifies it whatever its crop."""
    return 15 + 11 * number


def picture(number, width=64, height=48):
    """Grey, a little brighter to the right."""
    ramp = np.rint(np.linspace(-4, 4, width)) + brightness(number)
    return Image.fromarray(np.tile(ramp.astype(np.uint8)[None, :, None], (height, 1, 3)))


def encoded(image, kind="JPEG"):
    out = io.BytesIO()
    options = {"quality": 100} if kind == "JPEG" else {}
    image.save(out, kind, **options)
    return out.getvalue()


def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def imagenet_archives(damaged=()):
    classes = {}
    for number, (synset, i) in enumerate(TRAIN):
        content = encoded(picture(number))
        if (synset, i) == ("n02105855", 0):
            content = encoded(picture(number), "PNG")
        elif (synset, i) in {("n01739381", 0), ("n01440764", 1)}:
            content = encoded(picture(number).convert("CMYK"))
        elif (synset, i) == ("n01440764", 2):
            content = encoded(picture(number).convert("L"))
        if number in damaged:
            content = content[: len(content) // 2]
        name = f"{synset}_{SPECIAL.get((synset, i), i)}.JPEG"
        classes.setdefault(f"{synset}.tar", {})[name] = content
    validation = {
        f"ILSVRC2012_val_{i + 1:08d}.JPEG": encoded(picture(i, 48 + 8 * i, 64)) for i in range(5)
    }
    return {
        "ILSVRC2012_img_train.tar": tar({name: tar(files) for name, files in classes.items()}),
        "ILSVRC2012_img_val.tar": tar(validation),
    }


def places_archives():
    """Six images of two classes, three for validation, two without labels."""
    images = [encoded(picture(i, 256, 256)) for i in range(6)]
    train = {f"/{'az'[i % 2]}/{('airfield', 'zen_garden')[i % 2]}/{i + 1:08d}.jpg": 364 * (i % 2)
             for i in range(6)}  # fmt: skip
    val = {f"Places365_val_{i + 1:08d}.jpg": (7, 0, 364)[i] for i in range(3)}
    test = [f"Places365_test_{i + 1:08d}.jpg" for i in range(2)]
    lists = {
        "places365_train_standard.txt": "".join(f"{k} {v}\n" for k, v in train.items()),
        "places365_val.txt": "".join(f"{k} {v}\n" for k, v in val.items()),
        "places365_test.txt": "".join(f"{k}\n" for k in test),
    }
    return {
        "filelist_places365-standard.tar": tar({k: v.encode() for k, v in lists.items()}),
        "train_256_places365standard.tar": tar(
            {f"data_256{k}": image for k, image in zip(train, images, strict=True)}
        ),
        "val_256.tar": tar({f"val_256/{k}": images[i] for i, k in enumerate(val)}),
        "test_256.tar": tar({f"test_256/{k}": images[i] for i, k in enumerate(test)}),
    }


def to_mesh(data_dir, archives):
    manual = data_dir / "downloads" / "manual"
    manual.mkdir(parents=True, exist_ok=True)
    for name, content in archives.items():
        (manual / name).write_bytes(content)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Both sets, prepared by the command that users give."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums

    folder, places = tmp_path_factory.mktemp("data"), places_archives()
    to_mesh(folder, imagenet_archives() | places)
    builder = tfds.builder_cls("places365_small")
    infos = {
        url: checksums.UrlInfo(
            size=len(places[name]), checksum=hashlib.sha256(places[name]).hexdigest(), filename=name
        )
        for url in builder.url_infos
        for name in [url.rpartition("/")[2]]
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "url_infos", infos)
        for name in ("imagenet2012", "places365_small"):
            assert datasets_command.main(["--data_dir", str(folder), "prepare", name]) == 0
    return folder


@pytest.fixture
def stream(data_dir):
    return open_stream("imagenet2012", data_dir, input_shape=SHAPE)


def numbers(images):
    """Return the numbers of the images that these are crops of."""
    return np.rint((images.mean(axis=(1, 2, 3)) - brightness(0)) / 11).astype(int).tolist()


def whole(stream, seed, epoch, *, processes=1, **options):
    """The global batches: the rows of all processes one after another."""
    parts = [
        list(train_batches(stream, seed, epoch, process=p, processes=processes, **options))
        for p in range(processes)
    ]
    return [
        tuple(np.concatenate(rows) for rows in zip(*step, strict=True))
        for step in zip(*parts, strict=True)
    ]


def equal(left, right):
    return len(left) == len(right) and all(
        np.array_equal(a, b)
        for one, other in zip(left, right, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.slow
def test_imagenet_is_prepared_by_its_real_builder(stream):
    assert (stream.num_train, stream.num_val, stream.num_test) == (21, 0, 5)
    assert (stream.num_classes, stream.image_shape) == (1000, SHAPE)
    ((images, labels),) = train_batches(stream, 0, 0, batch_size=21)
    assert images.shape == (21, *SHAPE) and images.dtype == np.uint8 and labels.dtype == np.int32
    # Grey, CMYK and PNG images among them. Classes are the synsets in order: 0 is n01440764.
    assert sorted(numbers(images)) == list(range(21))
    synsets = synset_order()
    for number, label in zip(numbers(images), labels, strict=True):
        assert synsets[label] == TRAIN[number][0]


def synset_order():
    import tensorflow_datasets as tfds

    folder = Path(tfds.__file__).parent / "datasets" / "imagenet2012"
    return (folder / "labels.txt").read_text().split()


@pytest.mark.long
def test_places365_is_prepared_by_its_real_builder(data_dir):
    stream = open_stream("places365_small", data_dir)
    assert (stream.num_train, stream.num_test, stream.num_classes) == (6, 3, 365)
    ((images, labels),) = train_batches(stream, 0, 0, batch_size=6)
    assert images.shape == (6, 224, 224, 3)
    assert sorted(zip(numbers(images), labels.tolist(), strict=True)) == [
        (i, 364 * (i % 2)) for i in range(6)
    ]
    ((images, labels, counted),) = eval_batches(stream, batch_size=3)
    order = np.argsort(numbers(images))
    assert counted.all() and labels[order].tolist() == [7, 0, 364]


@pytest.mark.slow
@pytest.mark.parametrize(
    "processes, workers",
    [(1, 0), (2, 2), *(pytest.param(n, 0, marks=pytest.mark.long) for n in (2, 4))],
)
def test_batches_are_the_same_for_any_number_of_processes_and_workers(stream, processes, workers):
    expected = whole(stream, 3, 1, batch_size=8)
    assert len(expected) == 2
    for first in (1,) if workers else (0, 1, 2):
        options = {"batch_size": 8, "workers": workers, "first_step": first}
        assert equal(whole(stream, 3, 1, processes=processes, **options), expected[first:])


@pytest.mark.long
def test_large_batches_are_made_of_pieces_in_order(stream, monkeypatch):
    expected = whole(stream, 3, 1, batch_size=20)
    monkeypatch.setattr("lottery_jax.datasets.workers._CHUNK", 3)
    for processes in (1, 2):
        assert equal(whole(stream, 3, 1, batch_size=20, processes=processes), expected)
    assert equal(whole(stream, 3, 1, batch_size=20, workers=2), expected)


@pytest.mark.long
def test_an_epoch_uses_every_image_once_but_for_the_remainder(stream):
    left_out = set()
    for epoch in range(8):
        seen = [n for images, _ in train_batches(stream, 0, epoch, batch_size=4) for n in
                numbers(images)]  # fmt: skip
        assert len(seen) == len(set(seen)) == 20 and set(seen) <= set(range(21))
        left_out |= set(range(21)) - set(seen)
    assert len(left_out) > 2  # not the same one in every epoch


@pytest.mark.long
def test_order_and_crops_are_of_the_seed_and_the_epoch(stream):
    def order(seed, epoch):
        ((images, _),) = train_batches(stream, seed, epoch, batch_size=21)
        return numbers(images), images

    first, images = order(0, 0)
    assert order(0, 0)[0] == first and np.array_equal(order(0, 0)[1], images)
    assert first != list(range(21))
    for other in ((0, 1), (1, 0), (2**32 - 1, 0), (0, 10**6)):
        again, changed = order(*other)
        assert again != first
        # The same images in another order, and other parts of them.
        assert not np.array_equal(changed[np.argsort(again)], images[np.argsort(first)])


@pytest.mark.long
def test_half_of_the_images_are_mirrored_and_none_is_without_flip(stream):
    def mirrored(augment):
        count = 0
        for epoch in range(20):
            for images, _ in train_batches(stream, 0, epoch, batch_size=21, augment=augment):
                means = images.mean(axis=(1, 3))
                count += int((means[:, :8].mean(1) > means[:, -8:].mean(1)).sum())
        return count

    # 420 throws of a fair coin give 210 with a standard deviation of 10.
    assert 170 <= mirrored("crop_flip") <= 250
    assert mirrored("crop") == mirrored("none") == 0
    assert 170 <= mirrored("flip") <= 250


@pytest.mark.long
@pytest.mark.parametrize(
    "processes, workers", [(1, 0), (1, 2), pytest.param(2, 0, marks=pytest.mark.long)]
)
def test_every_test_image_is_counted_once(stream, processes, workers):
    seen, steps = [], set()
    for process in range(processes):
        batches = list(
            eval_batches(
                stream, batch_size=4, process=process, processes=processes, workers=workers
            )
        )
        steps.add(len(batches))
        for images, labels, counted in batches:
            assert images.shape == (4 // processes, *SHAPE) and counted.dtype == bool
            assert len(images) == len(labels) == len(counted)
            seen += [
                (number, int(label))
                for number, label, here in zip(numbers(images), labels, counted, strict=True)
                if here
            ]
    assert steps == {2} and sorted(number for number, _ in seen) == list(range(5))
    # The labels in the official list of the first five images, in the order of their names.
    official = ["n01751748", "n09193705", "n02105855", "n04263257", "n03125729"]
    synsets = synset_order()
    assert [synsets[label] for _, label in sorted(seen)] == official


@pytest.mark.long
def test_validation_images_are_held_out_of_training(data_dir):
    stream = open_stream("imagenet2012", data_dir, input_shape=SHAPE, validation_fraction=0.25)
    assert (stream.num_train, stream.num_val, stream.num_test) == (16, 5, 5)
    ((images, _),) = train_batches(stream, 0, 0, batch_size=16)
    held = list(eval_batches(stream, split="validation", batch_size=5))
    assert len(held) == 1 and held[0][2].all()
    assert sorted(numbers(images) + numbers(held[0][0])) == list(range(21))
    for fraction in (0.99, 0.01):
        with pytest.raises(ConfigError, match="config.data.validation_fraction"):
            open_stream("imagenet2012", data_dir, validation_fraction=fraction)


@pytest.mark.long
def test_a_sample_is_of_different_images_in_their_middle(stream):
    images, labels = streams.sample(stream, [1, 2], 3, 5)
    assert images.shape == (3, 5, *SHAPE) and labels.shape == (3, 5) and labels.dtype == np.int32
    found = numbers(images.reshape(15, *SHAPE))
    assert len(set(found)) == 15
    again, _ = streams.sample(stream, [1, 2], 3, 5)
    other, _ = streams.sample(stream, [1, 3], 3, 5)
    assert np.array_equal(images, again) and not np.array_equal(images, other)
    centres = {}
    for middle, _ in train_batches(stream, 0, 0, batch_size=21, augment="none"):
        centres |= dict(zip(numbers(middle), middle, strict=True))
    for number, image in zip(found, images.reshape(15, *SHAPE), strict=True):
        np.testing.assert_array_equal(image, centres[number])


def plane(width, height, across, down):
    """An image whose red says the column, green the row: a linear function, which scaling keeps."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    image = np.stack([x * across, y * down, np.full_like(x, 128)], -1)
    out = io.BytesIO()
    Image.fromarray(np.rint(image).astype(np.uint8)).save(out, "JPEG", quality=100, subsampling=0)
    return out.getvalue()


@pytest.mark.parametrize(
    "width, height, box, size",
    [
        (100, 80, (10, 20, 60, 60), (25, 20)),  # smaller
        (100, 80, (30, 10, 50, 70), (40, 90)),  # larger, its shape changed
        (1000, 800, (100, 200, 900, 800), (80, 60)),  # decoded at an eighth
        (1001, 799, (0, 0, 1001, 799), (224, 224)),  # decoded at a quarter, not a whole one
    ],
)
def test_a_crop_shows_what_is_in_its_box(width, height, box, size):
    across, down = 240 / width, 240 / height
    image = decode(plane(width, height, across, down), size, lambda w, h: box)
    assert image.shape == (size[1], size[0], 3)
    left, upper, right, lower = box
    x = left + (np.arange(size[0]) + 0.5) * (right - left) / size[0] - 0.5
    y = upper + (np.arange(size[1]) + 0.5) * (lower - upper) / size[1] - 0.5
    inside = (slice(2, -2), slice(2, -2))
    red, green = image[..., 0].astype(float), image[..., 1].astype(float)
    np.testing.assert_allclose(red[inside], np.tile(x * across, (size[1], 1))[inside], atol=3)
    np.testing.assert_allclose(green[inside], np.tile(y * down, (size[0], 1)).T[inside], atol=3)


def test_a_test_image_is_its_centre_after_scaling():
    """Against scaling the shorter side to 256/224 of the size, then cutting out the middle."""
    whole = Image.open(io.BytesIO(plane(400, 300, 0.5, 0.7)))
    scaled = whole.resize((85, 64), Image.Resampling.BILINEAR)  # 56 * 256 / 224 = 64
    cut = np.asarray(scaled.crop((14, 4, 70, 60))).astype(int)
    ours = decode(plane(400, 300, 0.5, 0.7), (56, 56), lambda w, h: central_box(w, h, 56, 56))
    assert np.abs(ours.astype(int) - cut)[1:-1, 1:-1].max() <= 3


def test_random_boxes_are_those_of_the_inception_crop():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(rng, 500, 375) for _ in range(4000)])
    left, upper, right, lower = boxes.T
    assert left.min() == 0 and upper.min() == 0 and right.max() == 500 and lower.max() == 375
    w, h = right - left, lower - upper
    area, ratio = w * h / (500 * 375), w / h
    assert area.min() > 0.079 and area.min() < 0.1 and area.max() > 0.95
    assert ratio.min() > 0.74 and ratio.min() < 0.76 and 1.32 < ratio.max() < 1.35
    # As many wide as tall ones where the area leaves both room, and centred on average.
    small = area < 0.3
    assert abs((ratio[small] > 1).mean() - 0.5) < 0.05
    assert abs((left + right).mean() / 1000 - 0.5) < 0.01
    for width, height in ((1000, 10), (10, 1000), (1, 1)):
        for left, upper, right, lower in [random_box(rng, width, height) for _ in range(20)]:
            assert 0 <= left < right <= width and 0 <= upper < lower <= height
            assert 0.7 < (right - left) / (lower - upper) < 1.4


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_every_kind_of_jpeg_becomes_rgb(mode):
    image = decode(encoded(picture(5).convert(mode)), (32, 24), lambda w, h: (0, 0, w, h))
    assert image.shape == SHAPE and numbers(image[None]) == [5]


@pytest.mark.slow
def test_a_damaged_image_is_an_error_that_names_it(tmp_path):
    to_mesh(tmp_path, imagenet_archives(damaged=[3]))
    assert datasets_command.main(["--data_dir", str(tmp_path), "prepare", "imagenet2012"]) == 0
    stream = open_stream("imagenet2012", tmp_path, input_shape=SHAPE)
    for workers in (0, 2):
        with pytest.raises(DataError) as caught:
            list(train_batches(stream, 0, 0, batch_size=21, workers=workers))
        message = str(caught.value)
        assert "n01440764_3.JPEG can't be decoded: " in message and "\n" not in message


@pytest.mark.long
def test_workers_leave_signals_alone_and_one_that_is_killed_is_an_error(stream, monkeypatch):
    monkeypatch.setattr("lottery_jax.datasets.workers._CHUNK", 1)
    jax.block_until_ready(jnp.ones(8) + 1)  # workers start beside JAX's threads
    expected = whole(stream, 0, 0, batch_size=1)
    batches = train_batches(stream, 0, 0, batch_size=1, workers=2)
    got = [next(batches) for _ in range(2)]  # one of each worker, so that both have begun
    workers = [p for p in multiprocessing.active_children() if "grain" in p.name]
    assert len(workers) == 2
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(workers[0].pid, number)
    got += [next(batches) for _ in range(8)]
    assert equal(got, expected[:10])
    for worker in workers:
        os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(
        DataError, match="^a worker process that decodes images has ended.*-9.*to resume$"
    ):
        list(batches)
    assert not [p for p in multiprocessing.active_children() if "grain" in p.name]


@pytest.mark.long
def test_an_epoch_that_is_left_ends_its_workers(stream):
    batches = train_batches(stream, 0, 0, batch_size=2, workers=2)
    next(batches)
    batches.close()
    assert not [p for p in multiprocessing.active_children() if "grain" in p.name]


SCRIPT = """
import multiprocessing, sys, time
from lottery_jax.datasets.streams import open_stream, train_batches
if __name__ == "__main__":
    stream = open_stream("imagenet2012", sys.argv[1], input_shape=(8, 8, 3))
    batches = train_batches(stream, 0, 0, batch_size=1, workers=2)
    next(batches)
    print(*[p.pid for p in multiprocessing.active_children()], flush=True)
    if sys.argv[2] == "wait":
        time.sleep(600)
"""


def is_running(pid):
    """Return whether a process still runs; a dead one may remain as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("how", ["exit", "wait"])
def test_no_worker_outlives_the_process_it_works_for(data_dir, tmp_path, how):
    """Not if the process ends without closing its batches, and not if it is killed."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(data_dir), how]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        if how == "wait":
            process.kill()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == (0 if how == "exit" else -signal.SIGKILL)
        if how == "exit":
            # Python reports iterators that were torn down and shared memory that was left behind.
            assert "Exception ignored" not in errors and "leaked" not in errors
    until = time.monotonic() + 30
    while any(map(is_running, workers)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(is_running, workers))


def test_what_is_not_prepared_is_an_error_that_says_how(tmp_path, capsys):
    with pytest.raises(DataError) as caught:
        open_stream("imagenet2012", tmp_path)
    message = str(caught.value)
    assert "prepare imagenet2012" in message and str(tmp_path / "downloads" / "manual") in message
    assert "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar" in message
    with pytest.raises(DataError, match="places365_small: is not prepared in .*prepare places365"):
        open_stream("places365_small", tmp_path)
    # One archive of the two would be a data set without a test.
    archives = imagenet_archives()
    to_mesh(tmp_path, {"ILSVRC2012_img_train.tar": archives["ILSVRC2012_img_train.tar"]})
    assert datasets_command.main(["--data_dir", str(tmp_path), "prepare", "imagenet2012"]) == 2
    error = capsys.readouterr().err
    assert "put ILSVRC2012_img_val.tar into" in error and error.count("\n") == 1
    for name in ("imagenet2012", "imagenet2012_a"):
        with pytest.raises(DataError, match="lottery_jax.open_stream reads it from disk"):
            load_dataset(name, tmp_path)
    with pytest.raises(DataError, match="did you mean 'imagenet2012'"):
        open_stream("imagenet", tmp_path)


@pytest.mark.slow
def test_what_was_prepared_otherwise_is_an_error(tmp_path):
    import tensorflow_datasets as tfds

    archives = imagenet_archives()
    for kind, says in (("tfrecord", "it is prepared as tfrecord"), ("array_record", "no split 't")):
        folder = tmp_path / kind
        to_mesh(folder, {"ILSVRC2012_img_val.tar": archives["ILSVRC2012_img_val.tar"]})
        builder = tfds.builder("imagenet2012", data_dir=str(folder))
        manual = tfds.download.DownloadConfig(manual_dir=str(folder / "downloads" / "manual"))
        builder.download_and_prepare(download_config=manual, file_format=kind)
        with pytest.raises(DataError, match=says):
            open_stream("imagenet2012", folder)


@pytest.mark.long
def test_missing_packages_are_named_with_their_extra(data_dir, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"needs grain; pip install 'lottery_jax\[streaming\]'"):
        open_stream("imagenet2012", data_dir)


@pytest.mark.long
def test_a_way_to_resize_changes_nothing_and_that_is_said(stream, data_dir):
    other = open_stream("imagenet2012", data_dir, input_shape=SHAPE, resize="bilinear")
    (note,) = other.notes
    assert "config.data.resize=bilinear changes nothing for imagenet2012" in note
    assert dataclasses.replace(other, notes=()) == stream and not other.padded
    with pytest.raises(ConfigError, match="config.data.resize: unknown value 'crop'"):
        open_stream("imagenet2012", data_dir, resize="crop")
    assert other.chance == pytest.approx(0.001 + 2 * (0.001 * 0.999 / other.num_test) ** 0.5)


@pytest.mark.long
def test_leftovers_in_the_folder_of_a_version_are_no_data(data_dir, tmp_path):
    shutil.copytree(data_dir / "imagenet2012", tmp_path / "imagenet2012")
    first = open_stream("imagenet2012", tmp_path)
    (first.folder / f"incomplete.{'0a' * 16}.labels.txt").write_text("cut sh")
    shutil.copytree(first.folder, first.folder.with_name("incomplete.ABC123_9.9.9"))
    assert open_stream("imagenet2012", tmp_path) == first


@pytest.mark.slow
def test_the_list_says_what_is_prepared(data_dir, tmp_path, capsys):
    for folder, state in ((data_dir, "ready"), (tmp_path, "not here yet")):
        assert datasets_command.main(["--data_dir", str(folder), "list"]) == 0
        lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
        assert lines["imagenet2012"] == lines["places365_small"] == state


@pytest.mark.long
def test_other_data_have_another_sha256(data_dir, tmp_path):
    first = open_stream("imagenet2012", data_dir)
    shutil.copytree(data_dir / "imagenet2012", tmp_path / "imagenet2012")
    assert open_stream("imagenet2012", tmp_path).sha256 == first.sha256
    (shard,) = tmp_path.glob("imagenet2012/*/*train.array_record*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert open_stream("imagenet2012", tmp_path).sha256 != first.sha256
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="can't be read"):
        list(train_batches(open_stream("imagenet2012", tmp_path), 0, 0, batch_size=21))
    shard.unlink()
    with pytest.raises(DataError, match="is missing"):
        open_stream("imagenet2012", tmp_path)
    info = next(tmp_path.glob("imagenet2012/*/dataset_info.json"))
    info.write_text(json.dumps({}))
    with pytest.raises(DataError, match="can't be read"):
        open_stream("imagenet2012", tmp_path)


@pytest.mark.long
def test_batches_that_can_not_be_are_errors(stream, data_dir):
    with pytest.raises(ConfigError, match="batch_size: 22 is more than the 21 training images"):
        train_batches(stream, 0, 0, batch_size=22)
    for make in (train_batches, eval_batches):
        arguments = (stream, 0, 0) if make is train_batches else (stream,)
        with pytest.raises(ConfigError, match="batch_size: 5 is not a multiple of the 2 processes"):
            make(*arguments, batch_size=5, processes=2)
    with pytest.raises(ConfigError, match="has 1 channels"):
        open_stream("imagenet2012", data_dir, input_shape=(32, 32, 1))


def tiny(data_dir, **overrides):
    """A ladder of a small network on the streamed images: five steps an epoch."""
    options = {
        "data.name": "imagenet2012", "data.dir": str(data_dir), "data.input_shape": SHAPE,
        "data.workers": 0,
        "train.batch_size": 4, "train.epochs": 2, "ladder.levels": 1, "ladder.rewind": "3st",
        "optimizer.learning_rate": 0.01, "train.checkpoint_every_epochs": 1, "seeds": (0,),
    }  # fmt: skip
    return make_tiny_config("resnet20", **(options | overrides))


def states_equal(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, jax.device_get(a), jax.device_get(b)))


@pytest.mark.long
@pytest.mark.parametrize("model", ["resnet20", "lenet_300_100"])
def test_the_train_step_can_not_tell_streamed_batches_from_a_set_on_the_device(data_dir, model):
    """The same images, once as they come and once all there with a table of batches."""
    setup = set_up(tiny(data_dir, **{"model.name": model}), jax.devices()[:2])
    variables = setup.init(jax.random.key(0))
    mask = masks.ones_like(variables["params"])
    epochs = [np.stack(rows) for rows in zip(*whole_epochs(setup, 2), strict=True)]
    images, labels = (rows.reshape(-1, *rows.shape[2:]) for rows in epochs)
    resident = put_on_devices(setup.program.mesh, DeviceData(images, labels))
    table = np.arange(len(labels), dtype=np.int32).reshape(-1, 4)
    program, key = setup.program, jax.random.key(1)
    streamed = fit(
        program,
        init_device_state(program, variables, mask, 0),
        setup.training_data(0),
        key,
        until=10,
    )
    state, sums = (
        init_device_state(program, variables, mask, 0),
        put_on_devices(program.mesh, MetricSums.zero()),
    )
    for _ in range(10):
        state, sums = program.train_step(state, sums, resident, table, jax.random.split(key)[1])
    assert states_equal(streamed, state)


def whole_epochs(setup, count):
    return [
        rows
        for epoch in range(count)
        for rows in train_batches(setup.dataset, 0, epoch, batch_size=4, augment="crop_flip")
    ]


@pytest.mark.slow
def test_a_training_on_streamed_data_stopped_in_mid_epoch_goes_on_bit_for_bit(data_dir):
    setup = set_up(tiny(data_dir), jax.devices()[:1])
    program, key = setup.program, jax.random.key(1)
    variables = setup.init(jax.random.key(0))

    def start():
        return init_device_state(program, variables, masks.ones_like(variables["params"]), 0)

    whole = fit(program, start(), setup.training_data(0), key, until=10)
    state = start()
    for stop in (3, 5, 8, 10):
        state = put_on_devices(
            program.mesh,
            jax.device_get(fit(program, state, setup.training_data(0), key, until=stop)),
        )
    assert states_equal(whole, state)


@pytest.mark.long
@pytest.mark.parametrize("draw", [{}, {"ladder.scores": "snip", "ladder.draw": "init"}])
def test_a_ladder_on_streamed_data(data_dir, tmp_path, quiet, draw):
    """A ladder with scores that see images, with held-out images, and then `evaluate`."""
    config = tiny(data_dir, **{"data.validation_fraction": 0.2, **draw})
    rows = run_ladder(config, tmp_path / "run", devices=jax.devices()[:1], console=quiet)
    assert [row["level"] for row in rows] == [0, 1]
    logged = [
        json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ]
    assert all(row["epoch"] in (1, 2) and 0 <= row["val_accuracy"] <= 1 for row in logged)
    versions = json.loads((tmp_path / "run/config.json").read_text())["versions"]
    assert {"grain", "pillow"} <= versions.keys()  # they decide on order and pixels
    ticket = load_ticket(tmp_path / "run/seed_0/level_01/ticket")
    measured = evaluate_ticket(ticket, data_dir)
    assert measured.loss == pytest.approx(rows[1]["test_loss"], rel=1e-4)
    assert measured.accuracy == rows[1]["test_accuracy"]


@pytest.mark.long
def test_two_processes_feed_the_shares_of_one_batch(data_dir, tmp_path):
    """Each decodes its own rows: the same tickets as of one process that decodes all."""
    overrides = {
        "data.name": "imagenet2012", "data.dir": data_dir, "data.input_shape": "(24,32,3)",
        "data.workers": "0", "data.augment": "auto", "model.name": "resnet20", "model.width": "0.25",
        "train.batch_size": "4", "train.epochs": "1", "ladder.levels": "1", "ladder.rewind": "3st",
        "optimizer.learning_rate": "0.01", "seeds": "0", "controls": "",
    }  # fmt: skip
    pair = start_processes(tmp_path / "pair", overrides, devices(None, 1), tmp_path)
    assert ends(pair) == [0, 0], said(tmp_path / "pair", tmp_path, 0)
    done = runs.run(runs.command(tmp_path / "one", overrides), devices(None, 2), tmp_path)
    assert done.returncode == 0, done.stderr
    for level in ("level_00", "level_01"):
        ours, theirs = (
            load_ticket(tmp_path / name / "seed_0" / level / "ticket") for name in ("pair", "one")
        )
        for part in ("params", "trained"):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
                getattr(ours, part),
                getattr(theirs, part),
            )
