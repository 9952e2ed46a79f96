"""A data set in memory, and the ways in which users bring their own."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lottery_jax.datasets.checks import ARRAYS, Array, Arrays
from lottery_jax.datasets.examples import statistics_of, to_examples
from lottery_jax.datasets.folders import read_folder
from lottery_jax.datasets.libraries import class_names_of, read_grain, read_huggingface
from lottery_jax.datasets.registry import NAME, check_name
from lottery_jax.datasets.splits import hold_out
from lottery_jax.errors import ConfigError, DataError, describe_unknown

AUGMENTATIONS = ("none", "crop", "flip", "crop_flip")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Inputs are uint8 images `[n, height, width, channels]` or pixels `[n, features]`, floats
    `[n, ...]`, or int32 tokens `[n, length]`. Targets are int32 labels `[n]`, or float32 `[n]` or
    `[n, k]`. The validation arrays are empty unless a validation split was asked for.

    `load_dataset` makes one from a name; `from_arrays`, `from_folder`, `from_huggingface` and
    `from_grain` make one from what a user has.

    Attributes:
        name: the name that was asked for, in its normal form (`cifar10_a`).
        num_classes: labels are 0 to num_classes - 1; 0 for float targets.
        augment: the usual augmentation: none, crop, flip or crop_flip.
        mean: of each channel over the training images, as pixel value / 255. Of floats, what is
            subtracted from them; of vectors, one number for all features or one for each.
        std: standard deviation on the same scale, by which inputs are divided.
        notes: lines that tell the user how an unusual file was understood.
        padded: whether black was added around the images.
        class_names: the names of the classes in the order of their labels; empty if unknown.
    """

    name: str
    num_classes: int
    augment: str
    x_train: Array
    y_train: Array
    x_val: Array
    y_val: Array
    x_test: Array
    y_test: Array
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()
    padded: bool = False
    class_names: tuple[str, ...] = ()

    @classmethod
    def from_arrays(
        cls,
        x_train: Any,
        y_train: Any,
        x_test: Any,
        y_test: Any,
        *,
        name: str = "mine",
        num_classes: int | None = None,
        augment: str = "none",
        validation_fraction: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_names: Sequence[str] = (),
    ) -> Dataset:
        """Return the data set of arrays in memory, checked.

        Args:
            x_train: uint8 images `[n, height, width, channels]` or `[n, height, width]` or pixels
                `[n, features]`; floats of two axes or more, of which three are taken as images of
                one channel; or integer tokens `[n, length]`. Floats become float32 unless they
                are float16.
            y_train: integer labels `[n]` or `[n, 1]`, numbered from 0 without a gap; or float
                targets `[n]` or `[n, k]`.
            x_test: as `x_train`, of the same shape and kind.
            y_test: as `y_train`.
            name: a name for tickets and tables.
            num_classes: the number of classes that there must be. None: the labels decide.
            augment: random changes of training images: none, crop, flip or crop_flip.
            validation_fraction: the share of the training set, in [0, 1), that is held out;
                stratified where targets are labels.
            mean: what is subtracted from inputs: a number for each channel of images, of pixel
                value / 255 if they are uint8; for each feature of vectors, or one for all.
                None: the mean of the training pixels for uint8; 0 for floats, which are used as
                they are.
            std: by what inputs are divided then, in the same form. None: as for `mean`.
            class_names: the names of the classes, in the order of their labels.

        Raises:
            DataError: one line that says which array is wrong, and how.

        >>> x = np.linspace(0, 1, 12).reshape(6, 2)
        >>> data = Dataset.from_arrays(x[:4], x[:4, 0] ** 2, x[4:], x[4:, 0] ** 2)
        >>> data.image_shape, data.x_train.dtype, data.num_classes
        ((2,), dtype('float32'), 0)
        """
        check_name(name, "name")
        arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
        examples, classes, done = to_examples(arrays, name, num_classes)
        if not 0 <= validation_fraction < 1:
            raise DataError(f"{name}: validation_fraction is {validation_fraction}, not in [0, 1)")
        if class_names and len(class_names) != classes:
            raise DataError(f"{name}: {len(class_names)} class_names for {classes} classes")
        x, y = examples["x_train"], examples["y_train"]
        held_out, rest = hold_out(y, validation_fraction, f"{name}: validation_fraction")
        if len(held_out):
            x_rest, y_rest = x[rest], y[rest]
        else:  # without a copy
            x_rest, y_rest = x, y
        means, stds = statistics_of(
            x_rest, None if mean is None else tuple(mean), None if std is None else tuple(std), name
        )
        dataset = cls(
            name=name,
            num_classes=classes,
            augment=augment,
            x_train=x_rest,
            y_train=y_rest,
            x_val=x[held_out],
            y_val=y[held_out],
            x_test=examples["x_test"],
            y_test=examples["y_test"],
            mean=means,
            std=stds,
            notes=(f"note: {name}: {done}",) if done else (),
            class_names=tuple(class_names),
        )
        dataset.check_augment(augment, f"{name}: augment")
        return dataset

    @classmethod
    def from_folder(
        cls,
        path: str | os.PathLike[str],
        *,
        name: str = "",
        input_shape: tuple[int, ...] = (),
        test_fraction: float = 0.2,
        seed: int = 0,
        **options: Any,
    ) -> Dataset:
        """Return the data set of a folder of PNG and JPEG files, one folder for each class.

        Args:
            path: holds `train/<class>/` and `test/<class>/`, or `<class>/` alone.
            name: a name for tickets and tables. Empty: the name of the folder, if it can be one.
            input_shape: (height, width, 1 or 3) to which images are averaged down or enlarged.
                `()`: all images must have one shape.
            test_fraction: the share of each class that becomes the test set where there is no
                folder `test`.
            seed: chooses these images.
            options: `augment`, `validation_fraction`, `mean`, `std` and `num_classes` of
                `from_arrays`.

        Raises:
            DataError: one line that names the file or folder that is wrong.
        """
        found = read_folder(path, input_shape=input_shape, test_fraction=test_fraction, seed=seed)
        own = Path(path).resolve().name
        return cls.from_arrays(
            *(found.arrays[key] for key in ARRAYS),
            name=name or (own if NAME.fullmatch(own) else "mine"),
            class_names=found.class_names,
            **options,
        )

    @classmethod
    def from_huggingface(
        cls, train: Any, test: Any, *, image: str = "image", label: str = "label", **options: Any
    ) -> Dataset:
        """Return the data set of two splits of Hugging Face's library `datasets`, read into memory.

        Args:
            train: a `datasets.Dataset`.
            test: another one, with the same columns.
            image: the column of inputs: images, or arrays or lists of numbers.
            label: the column of targets. If it is a `ClassLabel`, the names of its classes are
                kept, and every class must have a training example.
            options: those of `from_arrays`, such as `name` and `augment`.

        Raises:
            DataError: one line that says what is wrong, or what to install.
        """
        x_train, y_train = read_huggingface(train, image, label, "train")
        x_test, y_test = read_huggingface(test, image, label, "test")
        if names := class_names_of(train, label):
            options = {"num_classes": len(names), "class_names": names, **options}
        return cls.from_arrays(x_train, y_train, x_test, y_test, **options)

    @classmethod
    def from_grain(
        cls, train: Any, test: Any, *, image: str = "image", label: str = "label", **options: Any
    ) -> Dataset:
        """Return the data set of two `grain.MapDataset`s, read into memory.

        Args:
            train: its elements are `(x, y)`, or dicts with the keys `image` and `label`.
            test: another one.
            image: the key of inputs in a dict.
            label: the key of targets.
            options: those of `from_arrays`, such as `name` and `augment`.

        Raises:
            DataError: one line that says what is wrong, or what to install.
        """
        x_train, y_train = read_grain(train, image, label, "train")
        x_test, y_test = read_grain(test, image, label, "test")
        return cls.from_arrays(x_train, y_train, x_test, y_test, **options)

    @property
    def arrays(self) -> Arrays:
        """All inputs and targets by name."""
        names = ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test")
        return {name: getattr(self, name) for name in names}

    @property
    def num_train(self) -> int:
        """The number of training examples."""
        return len(self.x_train)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one example: (height, width, channels), (features,) or (length,)."""
        return self.x_train.shape[1:]

    @property
    def chance(self) -> float | None:
        """`chance` of the test images; None for float targets, which have no accuracy."""
        if not self.num_classes:
            return None
        return chance(np.bincount(self.y_test).max() / len(self.y_test), len(self.y_test))

    def check_augment(self, augment: str, what: str) -> None:
        """Raise a DataError that begins with `what` if these examples can't be augmented so."""
        if augment not in AUGMENTATIONS:
            raise DataError(describe_unknown(what, augment, AUGMENTATIONS))
        if augment != "none" and len(self.image_shape) != 3:
            raise DataError(
                f"{what}: {augment!r} is for images, and examples have the shape {self.image_shape}"
            )

    def fitted(
        self, input_shape: tuple[int, ...] = (), validation_fraction: float = 0.0
    ) -> Dataset:
        """Return the data set as the config's keys `data.*` want it.

        Args:
            input_shape: the shape that its examples must have; `()` for any.
            validation_fraction: the share of the training set that is held out, if none is yet.
                The mean and standard deviation stay those of the whole training set.

        Raises:
            ConfigError, DataError: it can't be so.
        """
        if input_shape and tuple(input_shape) != self.image_shape:
            raise ConfigError(
                f"config.data.input_shape: {tuple(input_shape)}, but examples of {self.name} have "
                f"the shape {self.image_shape}; adapt them where the data set is made, for example "
                "with lottery_jax.datasets.images.fit_shape"
            )
        if not validation_fraction:
            return self
        if len(self.y_val):
            raise ConfigError(
                f"config.data.validation_fraction: {self.name} has a validation set already; set 0"
            )
        held_out, rest = hold_out(
            self.y_train, validation_fraction, "config.data.validation_fraction"
        )
        return dataclasses.replace(
            self,
            x_train=self.x_train[rest],
            y_train=self.y_train[rest],
            x_val=self.x_train[held_out],
            y_val=self.y_train[held_out],
        )


def chance(share: float, images: int) -> float:
    """Return the highest test accuracy that is no evidence of learning.

    Args:
        share: the share of the most frequent class, which is the accuracy of always naming it.
        images: the number of test images; two standard errors of a share of them are added.

    >>> round(chance(0.1, 10_000), 3)
    0.106
    """
    return float(share + 2 * math.sqrt(share * (1 - share) / images))
