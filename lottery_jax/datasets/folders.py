"""Folders of PNG and JPEG files, one folder for each class, become arrays."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lottery_jax.datasets.checks import Array, Arrays
from lottery_jax.datasets.decoding import decode_whole
from lottery_jax.datasets.examples import stack
from lottery_jax.datasets.images import fit_shape
from lottery_jax.datasets.splits import stratified_split
from lottery_jax.datasets.untrusted import check_memory, open_regular
from lottery_jax.errors import DataError, one_line, raise_if_environment
from lottery_jax.system.files import is_clutter

_ENDINGS = (".png", ".jpg", ".jpeg")


class ImageFolder(NamedTuple):
    """The four arrays of a folder of images, and the names of its classes by label."""

    arrays: Arrays
    class_names: tuple[str, ...]


def read_folder(
    path: str | os.PathLike[str],
    *,
    input_shape: tuple[int, ...] = (),
    test_fraction: float = 0.2,
    seed: int = 0,
) -> ImageFolder:
    """Read a folder of class folders of PNG and JPEG files.

    The layout is `train/<class>/` and `test/<class>/`, or `<class>/` alone; then a share of each
    class becomes the test set. Labels number the classes in the sorted order of their names.

    Args:
        path: the folder.
        input_shape: (height, width, 1 or 3) to which images are brought: larger ones are averaged
            down, smaller ones enlarged by bilinear interpolation. `()`: all images must have one
            shape; where some are in colour, grey ones are repeated to three channels.
        test_fraction: the share of each class, in (0, 1), that is tested on in the second layout.
        seed: chooses these images.

    Raises:
        DataError: a folder has no images or something else in it, a file is no image, or shapes
            differ.
    """
    root = Path(path)
    if input_shape and (
        len(input_shape) != 3 or min(input_shape) < 1 or input_shape[2] not in (1, 3)
    ):
        raise DataError(f"{root}: input_shape is {input_shape}, not (height, width, 1 or 3)")
    if not 0 < test_fraction < 1:
        raise DataError(f"{root}: test_fraction is {test_fraction:g}, not a number in (0, 1)")
    folders = _subfolders(root)
    if not folders:
        raise DataError(
            f"{root}: has no folders; it needs train/<class>/ and test/<class>/, or <class>/, with "
            "PNG or JPEG files"
        )
    if "train" not in folders or not _subfolders(folders["train"]):
        images, labels = _read_classes(folders, list(folders), input_shape, root)
        test, train = stratified_split(labels, test_fraction, seed)
        return ImageFolder(
            {"x_train": images[train], "y_train": labels[train],
             "x_test": images[test], "y_test": labels[test]},
            tuple(folders),
        )  # fmt: skip
    if set(folders) != {"train", "test"}:
        raise DataError(
            f"{root}: has {', '.join(folders)}; beside train there must be test and no other folder "
            "(validation_fraction holds out training images)"
        )
    train_folders, test_folders = (_subfolders(folders[split]) for split in ("train", "test"))
    if unknown := sorted(set(test_folders) - set(train_folders)):
        raise DataError(f"{folders['test'] / unknown[0]}: there is no such class in train")
    arrays: Arrays = {}
    for split, found in (("train", train_folders), ("test", test_folders)):
        arrays[f"x_{split}"], arrays[f"y_{split}"] = _read_classes(
            found, list(train_folders), input_shape, folders[split]
        )
    channels = max(arrays[key].shape[-1] for key in ("x_train", "x_test"))
    for key in ("x_train", "x_test"):
        arrays[key] = _with_channels(arrays[key], channels)
    return ImageFolder(arrays, tuple(train_folders))


def stack_images(images: list[Array], where: str) -> Array:
    """Return uint8 images `[h, w, 1]` or `[h, w, 3]` as one array; grey is repeated beside colour.

    Raises:
        DataError: there is none, or their shapes differ.
    """
    channels = max((image.shape[-1] for image in images), default=0)
    return stack([_with_channels(image, channels) for image in images], where)


def _with_channels(images: Array, channels: int) -> Array:
    return images if images.shape[-1] == channels else np.repeat(images, channels, axis=-1)


def _subfolders(folder: Path) -> dict[str, Path]:
    """Return the folders in a folder by name, sorted."""
    return {path.name: path for path in _listing(folder) if path.is_dir()}


def _listing(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted by name, without hidden files and what systems leave."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: can't be read: {error.strerror}") from error
    return [p for p in paths if not (p.name.startswith(".") or is_clutter(p.name))]


def _read_classes(
    folders: dict[str, Path], class_names: list[str], shape: tuple[int, ...], where: Path
) -> tuple[Array, Array]:
    """Return the images and int32 labels of class folders, in the order of their names."""
    files = [
        (file, class_names.index(name))
        for name, folder in folders.items()
        for file in _image_files(folder)
    ]
    images: list[Array] = []
    for file, _ in files:
        image = _read_image(file)
        if shape:
            image = fit_shape(image[None], shape, "bilinear")[0]
        elif images and image.shape[:2] != images[0].shape[:2]:
            raise DataError(
                f"{file}: is {_size(image)} pixels, {files[0][0]} {_size(images[0])}; give "
                "input_shape to bring all images to one shape"
            )
        if not images:
            check_memory(f"{where}: takes", len(files) * math.prod(image.shape))
        images.append(image)
    return stack_images(images, str(where)), np.array([label for _, label in files], np.int32)


def _image_files(folder: Path) -> Iterator[Path]:
    """Yield the image files of a class, sorted by name; refuse an empty folder and other files."""
    files = _listing(folder)
    if not files:
        raise DataError(f"{folder}: has no PNG or JPEG files; fill it, or remove the class")
    for file in files:
        if file.suffix.lower() not in _ENDINGS:
            raise DataError(
                f"{file}: is no PNG or JPEG file ({', '.join(_ENDINGS)}); convert or remove it"
            )
        yield file


def _read_image(file: Path) -> Array:
    try:
        with open_regular(file) as opened:
            check_memory(f"{file}: takes", os.fstat(opened.fileno()).st_size)
            encoded = opened.read()
        return decode_whole(encoded)
    except Exception as error:  # Pillow documents no list of its errors for damaged images
        raise_if_environment(error)
        why = "it is no PNG or JPEG" if "cannot identify" in str(error) else one_line(error)
        raise DataError(f"{file}: can't be decoded: {why}") from error


def _size(image: Array) -> str:
    return f"{image.shape[0]} x {image.shape[1]}"
