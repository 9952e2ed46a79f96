"""All series of the replication by Gohil et al. (2020), from its authors' result sheets.

`gohil2020.csv` has a row for each level of each series. Its columns: the file and the sheet, the
heading of the chart, the ticket, the level, the weights pruned and the test accuracy, in percent.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

_FILE = Path(__file__).parent / "gohil2020.csv"
_NETWORKS = {"VGG": "vgg19", "Resnet": "resnet50", "ResNet": "resnet50"}
_DATA = {
    "CIFAR10-A": "cifar10_a", "CIFAR10-B": "cifar10_b", "CIFAR10": "cifar10",
    "CIFAR100": "cifar100", "SVHN": "svhn", "FashionMNIST": "fashion_mnist",
}  # fmt: skip
_TICKETS = {
    "CIFAR10-A": "CIFAR-10a ticket",
    "CIFAR10-B": "CIFAR-10b ticket",
    "CIFAR10": "CIFAR-10 ticket",
    "CIFAR100": "CIFAR-100 ticket",
    "SVHN": "SVHN ticket",
    "FashionMNINST": "Fashion-MNIST ticket",  # as the sheet has it
    "Random": "random ticket",
    "Adam after SGD": "Adam on an SGD ticket",
    "SGD after Adam": "SGD on an Adam ticket",
    "SGD after SGD": "SGD on an SGD ticket",
    "Adam after Adam": "Adam on an Adam ticket",
    "Random (SGD)": "random ticket, SGD",
    "Random (Adam)": "random ticket, Adam",
}


class Series(NamedTuple):
    """One line of a chart.

    Attributes:
        network: as `config.model.name` has it.
        data: the data set trained on, as `config.data.name` has it.
        ticket: which tickets were trained.
        points: (weights pruned, test accuracy), both in percent, rounded to two digits.
    """

    network: str
    data: str
    ticket: str
    points: tuple[tuple[float, float], ...]

    @property
    def is_random(self) -> bool:
        """Whether it is of their random tickets."""
        return self.ticket.startswith("random")

    @property
    def with_adam(self) -> bool:
        """Whether Adam has trained the tickets."""
        return self.ticket.startswith("Adam on") or self.ticket.endswith(", Adam")


def read() -> tuple[Series, ...]:
    """Return the 36 distinct series, of 31 levels each.

    The sheets of the file e2 are again in e2_1, with the same numbers.
    """
    found: dict[tuple[str, str, str, str], list[tuple[float, float]]] = {}
    with _FILE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["file"] == "e2":
                continue
            network = _NETWORKS[row["sheet"].partition("_")[0]]
            data = _DATA[row["title"].removeprefix("Accuracy on ")]
            points = found.setdefault((row["file"], network, data, _TICKETS[row["ticket"]]), [])
            points.append((float(row["pruned_pct"]), round(float(row["acc"]), 2)))
    return tuple(Series(*key[1:], tuple(points)) for key, points in found.items())
