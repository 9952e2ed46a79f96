"""Encoded images of a prepared data set become uint8 images of one size: decoded, cropped, scaled."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lottery_jax.datasets.untrusted import check_memory
from lottery_jax.errors import DataError, one_line, raise_if_environment

Array = np.ndarray[Any, np.dtype[Any]]
Box = tuple[float, float, float, float]  # left, upper, right, lower, in pixels of the image
Example = dict[str, Any]  # image: encoded bytes; label: int; a name of its file
LabelledImage = tuple[Array, int]  # uint8 [height, width, 3], label

_CROP_AREA, _CROP_RATIO, _CROP_TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
_CENTRE = 224 / 256
# Pillow's modes of 8 bits.
_GREY, _COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Makes images of one size of a data set's examples; can be pickled into other processes.

    Attributes:
        name: the data set's name, for messages.
        folder: where it is prepared, for messages.
        num_classes: labels are 0 to num_classes - 1.
        size: (width, height) of the images.
        augment: what `augmented` does: crop_flip, crop, flip or none.
    """

    name: str
    folder: Path
    num_classes: int
    size: tuple[int, int]
    augment: str = "none"

    def centred(self, example: Example) -> LabelledImage:
        """Return the centre of an example's image (`central_box`), and its label."""
        return self._decoded(example, self._central_box)

    def augmented(self, example: Example, rng: np.random.Generator) -> LabelledImage:
        """Return a random crop of an example's image, mirrored half of the time, and its label."""

        def choose_box(width: int, height: int) -> Box:
            if "crop" in self.augment:
                return random_box(rng, width, height)
            return self._central_box(width, height)

        mirrored = "flip" in self.augment and rng.random() < 0.5
        return self._decoded(example, choose_box, mirrored)

    def _central_box(self, width: int, height: int) -> Box:
        return central_box(width, height, *self.size)

    def _decoded(
        self, example: Example, choose_box: Callable[[int, int], Box], mirrored: bool = False
    ) -> LabelledImage:
        label = int(example["label"])
        if not 0 <= label < self.num_classes:
            raise DataError(f"{self.folder}: {_name_of(example)} has the label {label}")
        try:
            return decode(example["image"], self.size, choose_box, mirrored), label
        except Exception as error:  # Pillow documents no list of its errors for damaged images
            raise_if_environment(error)
            raise DataError(
                f"{self.folder}: the image {_name_of(example)} can't be decoded: {one_line(error)}; "
                f"remove the folder and prepare {self.name} again from intact archives"
            ) from error


def _name_of(example: Example) -> str:
    name = example.get("file_name", example.get("filename", b"?"))
    return one_line(name.decode(errors="replace") if isinstance(name, bytes) else name)


def decode(
    encoded: bytes,
    size: tuple[int, int],
    choose_box: Callable[[int, int], Box],
    mirrored: bool = False,
) -> Array:
    """Decode an image, cut out a box and scale it, averaging where it becomes smaller.

    Args:
        encoded: a JPEG or PNG; grey and CMYK become RGB.
        size: (width, height) of the result.
        choose_box: a function from the image's width and height to the box that is cut out.
        mirrored: whether left and right change places.

    Returns:
        uint8 `[height, width, 3]`, bilinear. Where the box is twice as large as the result or more,
        the JPEG is decoded at 1/2, 1/4 or 1/8 of its size, but never smaller than the result.
    """
    from PIL import Image

    with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as image:
        full = image.size
        left, upper, right, lower = choose_box(*full)
        smallest = (
            math.ceil(full[0] * size[0] / (right - left)),
            math.ceil(full[1] * size[1] / (lower - upper)),
        )
        if smallest[0] <= full[0] and smallest[1] <= full[1]:
            image.draft("RGB", smallest)
        across, down = image.size[0] / full[0], image.size[1] / full[1]
        box = (left * across, upper * down, right * across, lower * down)
        colours = image if image.mode == "RGB" else image.convert("RGB")
        scaled = colours.resize(size, Image.Resampling.BILINEAR, box=box)
        if mirrored:
            scaled = scaled.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(scaled)


def decode_whole(encoded: bytes) -> Array:
    """Decode a JPEG or PNG in its own size.

    Returns:
        `pixels_of` the image.
    """
    from PIL import Image

    with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as image:
        return pixels_of(image)


def pixels_of(image: Any) -> Array:
    """Return a Pillow image as uint8 `[height, width, 1]` if it is grey, and `[..., 3]` otherwise.

    Transparency is dropped.

    Raises:
        DataError: it does not fit into memory.
        ValueError: its pixels have more than 8 bits.
    """
    if image.mode not in (*_GREY, *_COLOUR):
        raise ValueError(f"its pixels are of mode {image.mode}, not of 8 bits; convert it to RGB")
    width, height = image.size
    check_memory(f"an image of {width} x {height} pixels takes", 4 * width * height)
    pixels = np.asarray(image.convert("L" if image.mode in _GREY else "RGB"))
    return pixels.reshape(height, width, -1)


def random_box(rng: np.random.Generator, width: int, height: int) -> Box:
    """Draw a box of 8 to 100 % of an image's area and an aspect ratio of 3/4 to 4/3, anywhere in it.

    This is the crop of Szegedy et al., *Going deeper with convolutions*, CVPR 2015, section 6, with
    the logarithm of the ratio uniform. A box that does not fit is drawn again, up to ten times;
    then the largest central box of a legal ratio is returned.

    >>> left, upper, right, lower = random_box(np.random.default_rng(0), 500, 375)
    >>> 0 <= left < right <= 500 and 0 <= upper < lower <= 375
    True
    """
    for _ in range(_CROP_TRIES):
        area = width * height * rng.uniform(*_CROP_AREA)
        ratio = math.exp(rng.uniform(math.log(_CROP_RATIO[0]), math.log(_CROP_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(width - w + 1))
            upper = int(rng.integers(height - h + 1))
            return left, upper, left + w, upper + h
    return _central(
        width, height, min(width, height * _CROP_RATIO[1]), min(height, width / _CROP_RATIO[0])
    )


def central_box(width: int, height: int, new_width: int, new_height: int) -> Box:
    """Return the box in the middle that becomes the result: 224/256 of the shorter side.

    >>> central_box(512, 256, 224, 224)
    (144.0, 16.0, 368.0, 240.0)
    """
    scale = _CENTRE * min(width / new_width, height / new_height)
    return _central(width, height, new_width * scale, new_height * scale)


def _central(width: int, height: int, w: float, h: float) -> Box:
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2
