"""Names of networks, data sets and optimizers as papers write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lottery_jax.system.imports import is_import_path, short_name

_NETWORKS = {"lenet_300_100": "LeNet-300-100", "alexnet": "AlexNet", "vit_tiny": "ViT-Tiny"}
_FAMILIES = {"conv": "Conv-", "resnet": "ResNet-", "vgg": "VGG"}
_DATA = {
    "digits": "digits",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "kmnist": "KMNIST",
    "emnist": "EMNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
    "svhn_cropped": "SVHN, cropped",
    "imagenet2012": "ImageNet",
    "places365_small": "Places365",
    "tiny_imagenet": "Tiny ImageNet",
}
_OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}


def network_name(name: str) -> str:
    """Return the name of a network; of an import path the last part, and of others the name.

    >>> [network_name(n) for n in ("lenet_300_100", "resnet20", "vgg19", "mypkg.nets:Net", "mine")]
    ['LeNet-300-100', 'ResNet-20', 'VGG19', 'Net', 'mine']
    """
    if is_import_path(name):
        return short_name(name)
    if (found := re.fullmatch(r"([a-z]+)(\d+)", name)) and found[1] in _FAMILIES:
        return _FAMILIES[found[1]] + found[2]
    return _NETWORKS.get(name, name)


def data_name(name: str) -> str:
    """Return the name of a data set, with the half or the part that was trained on.

    >>> [data_name(n) for n in ("fashion_mnist_a", "cifar10a", "cifar10_1of8", "mypkg.data:load")]
    ['Fashion-MNIST a', 'CIFAR-10 a', 'CIFAR-10 1/8', 'mypkg.data:load']
    """
    if is_import_path(name):
        return name
    found = re.fullmatch(r"(.+?)(_?)(?:([ab])|(\d+)of(\d+))", name)
    if not found or not (found[2] or found[1] in _DATA):  # cifar10a is cifar10_a
        return _DATA.get(name, name)
    return f"{_DATA.get(found[1], found[1])} {found[3] or f'{found[4]}/{found[5]}'}"


def data_names(names: Sequence[str]) -> dict[str, str]:
    """Return the name of each data set; data sets that would share a name keep their own.

    >>> data_names(["mnist", "MNIST", "svhn"])
    {'mnist': 'mnist', 'MNIST': 'MNIST', 'svhn': 'SVHN'}
    """
    shown = [data_name(name) for name in names]
    return {n: n if shown.count(s) > 1 else s for n, s in zip(names, shown, strict=True)}


def optimizer_name(name: str) -> str:
    """Return the name of an optimizer; of an import path the last part.

    >>> [optimizer_name(name) for name in ("sgd", "adam", "optax:lion", "mine")]
    ['SGD', 'Adam', 'lion', 'MINE']
    """
    return short_name(name) if is_import_path(name) else _OPTIMIZERS.get(name, name.upper())
