"""The built-in data sets, the names that data sets may have, and the folder where they are."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

from lottery_jax.datasets import tfds
from lottery_jax.errors import ConfigError, DataError, describe_unknown
from lottery_jax.system.files import local_path


@dataclasses.dataclass(frozen=True)
class Info:
    """Facts about a built-in data set that are known before it is read.

    Attributes:
        num_classes: labels are 0 to num_classes - 1.
        augment: none, crop, flip or crop_flip; never a flip where left and right matter.
        tfds_name: the name in tensorflow-datasets; None if it does not come from there.
        streamed: whether it stays on disk and `streams` reads it.
        archives: files that users must put into place by hand.
        image_shape: (height, width, channels), as a run gets them without `config.data.input_shape`.
    """

    num_classes: int
    augment: str
    tfds_name: str | None = None
    streamed: bool = False
    archives: tuple[str, ...] = ()
    image_shape: tuple[int, int, int] = (32, 32, 3)


BUILT_IN = {
    "digits": Info(10, "none", image_shape=(8, 8, 1)),
    "fashion_mnist": Info(10, "crop_flip", "fashion_mnist", image_shape=(28, 28, 1)),
    "cifar10": Info(10, "crop_flip", "cifar10"),
    "cifar100": Info(100, "crop_flip", "cifar100"),
    "svhn": Info(10, "crop", "svhn_cropped"),
    "imagenet2012": Info(
        1000,
        "crop_flip",
        "imagenet2012",
        streamed=True,
        archives=("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
        image_shape=(224, 224, 3),
    ),
    "places365_small": Info(
        365, "crop_flip", "places365_small", streamed=True, image_shape=(224, 224, 3)
    ),
}
# Parts of a training set, by what follows the name of the whole: halves, and parts that are nested.
NESTED = tuple(f"1of{2**i}" for i in range(1, 7))
PARTS = ("a", "b", *NESTED)
# A name becomes part of paths: those of data files and of run directories.
NAME = re.compile(r"\w[\w.-]{0,99}")


def check_name(name: str, what: str = "config.data.name") -> None:
    """Raise a DataError that names the key or argument `what` if a data set can't have this name."""
    if not NAME.fullmatch(name):
        raise DataError(
            f"{what}: {name!r} is not a name (up to 100 letters, digits, _ - ., the "
            "first no - or .)"
        )


def split_name(name: str, folder: Path) -> tuple[str, str]:
    """Split the name of a data set or of a part of it into (data set, part); the part may be empty.

    Args:
        name: such as `cifar10`, `cifar10_a`, `cifar10b` or `cifar10_1of8`.
        folder: with the users' own npz files.

    Raises:
        DataError: there is no such data set, or no such part; lists those that there are.
    """

    def exists(base: str) -> bool:
        return base in BUILT_IN or (folder / f"{base}.npz").is_file()

    check_name(name)
    try:
        if exists(name):
            return name, ""
        match = re.fullmatch(r"(.+?)_?([ab])|(.+)_(\d+of\d+)", name)
        base, part = (match[1] or match[3], match[2] or match[4]) if match else (name, "")
        if match and exists(base):
            if part not in PARTS:
                raise DataError(
                    f"config.data.name: {name!r}: parts are {', '.join(f'{base}_{p}' for p in PARTS)}"
                )
            return base, part
    except OSError as error:
        raise DataError(f"config.data.dir: {folder}: {error.strerror}") from error
    own = sorted(p.stem for p in folder.glob("*.npz"))
    raise DataError(
        describe_unknown("config.data.name", name, {*BUILT_IN, *own})
        + f"; or put your own arrays in {folder / name}.npz"
    )


def is_digits(name: str) -> bool:
    """Return whether a name is that of the bundled digits or of a part of them.

    >>> [is_digits(name) for name in ("digits", "digitsb", "digits_1of4", "digits_c")]
    [True, True, True, False]
    """
    return re.fullmatch(rf"digits(_?[ab]|_({'|'.join(NESTED)}))?", name) is not None


def resolve_folder(data_dir: str | os.PathLike[str], what: str = "config.data.dir") -> Path:
    """Return the folder of data sets that a user names.

    If `data_dir` is empty, it is `$TFDS_DATA_DIR` or tensorflow-datasets' own default,
    `~/tensorflow_datasets`.

    Raises:
        DataError: it is a URL, or there is no home directory; names the key or flag `what`.
    """
    if not str(data_dir):
        data_dir, what = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", "TFDS_DATA_DIR"
    try:
        return local_path(data_dir, what)
    except ConfigError as error:
        raise DataError(str(error)) from error


def prepared_folder(name: str, data_dir: str | os.PathLike[str] = "") -> Path:
    """Return the folder where a streamed built-in set is prepared.

    Raises:
        DataError: it is not prepared; says how to prepare it.
    """
    folder, known = resolve_folder(data_dir), BUILT_IN[name]
    assert known.tfds_name is not None
    try:
        found = tfds.find_prepared(known.tfds_name, folder)
    except OSError as error:
        raise DataError(f"config.data.dir: {folder}: {error.strerror}") from error
    if found is None:
        first = f"put {' and '.join(known.archives)} into {folder / 'downloads' / 'manual'} and "
        raise DataError(
            f"{name}: is not prepared in {folder}; {first if known.archives else ''}run 'python -m "
            f"lottery_jax.datasets --data_dir {folder} prepare {name}'"
        )
    return found
