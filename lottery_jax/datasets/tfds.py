"""The bridge to tensorflow-datasets; nothing else imports it.

Data that are prepared as array_record are read without TensorFlow. Preparing them needs TensorFlow
(extra `tfds`), and either a network or the official archives in `<data_dir>/downloads/manual`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

import numpy as np

from lottery_jax.errors import DataError, first_line, raise_if_environment

Array = np.ndarray[Any, np.dtype[Any]]

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)", re.ASCII)


def read_prepared(name: str, data_dir: Path) -> dict[str, Array] | None:
    """Read a prepared data set into memory: x_train, y_train, x_test, y_test.

    Args:
        name: the name in tensorflow-datasets of a set with `image` and `label`, and with the splits
            `train` and `test`.
        data_dir: tensorflow-datasets' directory, with `<name>/<version>/dataset_info.json`.

    Returns:
        The arrays (images uint8 NHWC, labels int32), or None if nothing is prepared there.

    Raises:
        DataError: it is prepared in a format that needs TensorFlow, or damaged.
    """
    newest = find_prepared(name, data_dir)
    if newest is None:
        return None
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(newest)
        arrays = {}
        for split in ("train", "test"):
            source = builder.as_data_source(split)
            shape = builder.info.features["image"].shape
            images = np.empty((len(source), *shape), np.uint8)
            labels = np.empty(len(source), np.int32)
            for i, example in enumerate(source):
                images[i], labels[i] = example["image"], example["label"]
            arrays[f"x_{split}"], arrays[f"y_{split}"] = images, labels
    except Exception as error:
        raise _unreadable(newest, error) from error
    return arrays


def find_prepared(name: str, data_dir: Path) -> Path | None:
    """Return the folder of the newest prepared version of a data set, or None.

    While a version is being prepared its folder has another name, which a killed process leaves
    behind; such folders are passed over.
    """
    prepared = {
        tuple(int(number) for number in match.groups()): path.parent
        for path in sorted(data_dir.glob(f"{name}/*/dataset_info.json"))
        if (match := _VERSION.fullmatch(path.parent.name))
    }
    return prepared[max(prepared)] if prepared else None


def _unreadable(folder: Path, error: Exception) -> DataError:
    raise_if_environment(error)
    return DataError(
        f"{folder} can't be read ({first_line(error, with_type=True)}); if it was not prepared with "
        "file_format='array_record', remove it and prepare it again ('python -m "
        "lottery_jax.datasets prepare NAME')"
    )


def describe_prepared(folder: Path) -> tuple[int, dict[str, int], str]:
    """Describe a prepared data set without reading its images.

    Returns:
        The number of classes; the number of examples of each split; and a SHA-256 of the
        descriptions and of the names and sizes of all files, which changes if the data are prepared
        again from other archives.

    Raises:
        DataError: it is damaged, incomplete, or prepared in a format that needs TensorFlow.
    """
    import tensorflow_datasets as tfds

    digest = hashlib.sha256()
    try:
        for path in sorted(folder.iterdir()):
            if path.name.startswith("incomplete."):  # left by a killed process
                continue
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            if path.suffix == ".json":
                digest.update(path.read_bytes())
        info = tfds.builder_from_directory(folder).info
        sizes = {name: int(split.num_examples) for name, split in info.splits.items()}
        if info.file_format.value != "array_record":
            raise ValueError(f"it is prepared as {info.file_format.value}")
        for split in info.splits.values():
            if absent := [path for path in split.filepaths if not Path(path).is_file()]:
                raise FileNotFoundError(f"{Path(absent[0]).name} is missing")
        return int(info.features["label"].num_classes), sizes, digest.hexdigest()
    except Exception as error:
        raise _unreadable(folder, error) from error


def open_examples(folder: Path, split: str) -> Sequence[dict[str, Any]]:
    """Open the examples of a split such as `train[:100]` as a sequence; images stay encoded.

    The sequence can be pickled into other processes, and is read without TensorFlow.

    Raises:
        DataError: it can't be read.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
        return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except Exception as error:
        raise _unreadable(folder, error) from error


def download_and_prepare(name: str, data_dir: Path) -> dict[str, Array]:
    """Prepare a data set from archives in `<data_dir>/downloads/manual` or from a download; read it.

    Raises:
        DataError: as `prepare`; or what was prepared can't be read.
    """
    prepare(name, data_dir)
    arrays = read_prepared(name, data_dir)
    if arrays is None:
        raise DataError(f"{name} was prepared, but not into {data_dir}")
    return arrays


def prepare(name: str, data_dir: Path, *, archives: Sequence[str] = ()) -> None:
    """Prepare a data set as array_record from official archives, which are downloaded if absent.

    Args:
        name: the name in tensorflow-datasets.
        data_dir: where the data set is prepared; archives are looked for in its `downloads/manual`.
        archives: files that can't be downloaded and must be there.

    Raises:
        DataError: TensorFlow is not installed, an archive must be put into place by hand, there is
            neither a network nor an archive, or an archive is not the official one.
    """
    manual = data_dir / "downloads" / "manual"
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(
            f"not found in {data_dir}; to download it, pip install 'lottery_jax[tfds]' and run this "
            "again"
        )
    if needed := [archive for archive in archives if not (manual / archive).is_file()]:
        raise DataError(
            f"not found in {data_dir}; its archives can't be downloaded without an account: put "
            f"{' and '.join(needed)} into {manual} and run 'python -m lottery_jax.datasets "
            f"--data_dir {data_dir} prepare {name}'"
        )
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=str(data_dir))
    infos = {} if archives else builder.url_infos
    urls = {url: info.filename for url, info in infos.items()}
    absent = [url for url, file in urls.items() if not (manual / file).is_file()]
    if unreachable := [url for url in absent if not _reachable(url)]:
        files = ", ".join(sorted(urls[url] for url in unreachable))
        raise DataError(
            f"not found in {data_dir}, and {urlparse(unreachable[0]).hostname} can't be reached; "
            f"put the official archives ({files}) into {manual} and run this again"
        )
    # A new download directory can't serve an older archive. It is beside the data, where there must
    # be room, and not in /tmp.
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".lottery_jax-", dir=data_dir) as fresh:
        config = tfds.download.DownloadConfig(manual_dir=str(manual))
        try:
            builder.download_and_prepare(
                download_dir=fresh, download_config=config, file_format="array_record"
            )
        except Exception as error:
            raise_if_environment(error)
            raise DataError(f"can't be prepared: {first_line(error, with_type=True)}") from error


def _reachable(url: str, timeout: float = 3.0) -> bool:
    """Return whether the server answers; tensorflow-datasets itself would retry for minutes."""
    if getproxies():
        return True  # behind a proxy a direct connection proves nothing
    parts = urlparse(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout):
            return True
    except OSError:
        return False
