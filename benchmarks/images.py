"""Compare the images a second of the input path at 224 pixels with decoding alone.

    python benchmarks/images.py

The sides, in turn:

- Pillow decodes whole JPEGs from memory, in a process on each core;
- the same, and it scales a random crop to 224 pixels;
- `streams.train_batches` with a worker on each core;
- the same with threads.

`train_batches` reads images that tensorflow-datasets prepared, crops and mirrors them, gathers them
into batches and hands these to the training process. The images are made up: noise on smooth
shapes, of ImageNet's usual size, prepared by ImageNet's real builder.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import harness
import numpy as np
from PIL import Image

from lottery_jax.datasets import __main__ as datasets_command
from lottery_jax.datasets import streams
from lottery_jax.datasets.decoding import random_box

SIZE, OUT = (500, 375), (224, 224)
CLASSES = ("n01440764", "n01443537")
DIFFERENT = 256  # different images; the archives repeat them


def made_up(number: int) -> bytes:
    """Make a JPEG of about 100 kB: smooth shapes, and noise as fine as a photograph's."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    shapes = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), np.float32)
    image = np.clip(shapes + rng.normal(scale=12, size=shapes.shape), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=90)
    return out.getvalue()


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def prepare(folder: Path, images: Sequence[bytes], count: int) -> streams.Stream:
    """Prepare `count` training images in ImageNet's layout with its builder."""
    manual = folder / "downloads" / "manual"
    manual.mkdir(parents=True)
    classes: dict[str, dict[str, bytes]] = {synset: {} for synset in CLASSES}
    for i in range(count):
        synset = CLASSES[i % len(CLASSES)]
        classes[synset][f"{synset}_{i}.JPEG"] = images[i % len(images)]
    train = _tar({f"{synset}.tar": _tar(files) for synset, files in classes.items()})
    (manual / "ILSVRC2012_img_train.tar").write_bytes(train)
    (manual / "ILSVRC2012_img_val.tar").write_bytes(
        _tar({f"ILSVRC2012_val_{1:08d}.JPEG": images[0]})
    )
    with contextlib.redirect_stdout(io.StringIO()):
        status = datasets_command.main(["--data_dir", str(folder), "prepare", "imagenet2012"])
    assert status == 0
    return streams.open_stream("imagenet2012", folder)


def decode(number: int, count: int, resize: bool) -> None:
    """Decode `count` images from memory, in process number `number` of those without a pipeline."""
    rng = np.random.default_rng(number)
    for i in range(count):
        with Image.open(io.BytesIO(_IMAGES[(number + i) % len(_IMAGES)])) as image:
            colours = image.convert("RGB")
            if resize:
                box = random_box(rng, *image.size)
                np.asarray(colours.resize(OUT, Image.Resampling.BILINEAR, box=box))


_IMAGES: list[bytes] = []


def _set_images(images: list[bytes]) -> None:
    _IMAGES.extend(images)


def main() -> None:
    """Measure, and print and write the table."""
    parser = harness.options(__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4096, help="images of each measurement")
    parser.add_argument("--batch", type=int, default=256)
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    images = [made_up(i) for i in range(min(DIFFERENT, args.images))]
    steps, warmup = max(1, args.images // args.batch), 2
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, spawn.Pool(cores, _set_images, (images,)) as pool:
        stream = prepare(Path(folder), images, args.batch * (steps + warmup))

        def alone(resize: bool) -> float:
            share = -(-args.images // cores)
            began = time.perf_counter()
            pool.starmap(decode, [(i, share, resize) for i in range(cores)], chunksize=1)
            return share * cores / (time.perf_counter() - began)

        def streamed(workers: int, epoch: int) -> float:
            batches = streams.train_batches(
                stream, 0, epoch, batch_size=args.batch, workers=workers
            )
            with contextlib.closing(batches):
                for _ in range(warmup):  # workers start and fill their buffers
                    next(batches)
                began = time.perf_counter()
                for _ in range(steps):  # stop before the epoch's end, where workers end
                    next(batches)
                return steps * args.batch / (time.perf_counter() - began)

        alone(True)
        rates: dict[str, list[float]] = {"decode": [], "crop": [], "workers": [], "threads": []}
        for epoch in range(args.repeats):
            rates["decode"].append(alone(False))
            rates["crop"].append(alone(True))
            rates["workers"].append(streamed(cores, epoch))
            rates["threads"].append(streamed(0, epoch))
    names = {
        "decode": "Pillow decodes, one process a core",
        "crop": "Pillow decodes and scales a random crop, one process a core",
        "workers": f"train_batches, {cores} workers",
        "threads": "train_batches, threads of this process",
    }
    rows = [
        {
            "what": names[key],
            "rate": statistics.median(found),
            "of_crop": harness.median_ratio(found, rates["crop"]),
            "of_decode": harness.median_ratio(found, rates["decode"]),
            "rates": found,
        }
        for key, found in rates.items()
    ]
    size = statistics.mean(map(len, images)) / 1000
    title = (
        f"Images a second on {cores} cores, medians of {args.repeats}, interleaved; made-up JPEGs of "
        f"{SIZE[0]} x {SIZE[1]} pixels and {size:.0f} kB, batches of {args.batch}."
    )
    columns = {
        "what": "what|",
        "rate": "images/s|,.0f",
        "of_crop": "of decoding and scaling|.2f",
        "of_decode": "of decoding|.2f",
    }
    harness.write(args.out, "images", title, columns, rows)


if __name__ == "__main__":
    main()
