"""Published accuracies to draw behind a run, and how their training differs from the run's."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lottery_jax.errors import ConfigError
from lottery_jax.report import gohil
from lottery_jax.report.labels import WORDS, flatten, value_text

# (weights pruned, test accuracy), both in percent.
Points = tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Publication:
    """A paper with published curves.

    Attributes:
        key: the name on the command line.
        name: the name in a legend.
        citation: the full citation.
        replicates: the number of independent trainings behind each number.
        notes: other facts that matter for a comparison, each a sentence without its full stop.
    """

    key: str
    name: str
    citation: str
    replicates: int
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Curve:
    """One published curve.

    Attributes:
        publication: the paper.
        network: the name of the network in `config.model.name`.
        data: the name in `config.data.name` of the data set trained on.
        ticket: which tickets were trained.
        points: the numbers, from dense to sparse.
        settings: the known settings of the training, by the dotted key of our config.
        notes: like the publication's, for this curve alone.
    """

    publication: Publication
    network: str
    data: str
    ticket: str
    points: Points
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The name on the command line; curves of the same network and data share it."""
        return f"{self.publication.key}:{self.network}_{self.data}"

    def label(self, settings: Iterable[tuple[str, str]]) -> str:
        """Return the name in a legend, with network and data unless a run has the same."""
        other = (self.network, self.data) not in settings
        where = f", {self.network} on {self.data}" if other else ""
        return f"{self.publication.name}{where}: {self.ticket}"


_GOHIL = Publication(
    "gohil2020",
    "Gohil et al. 2020",
    "Varun Gohil, S. Deepak Narayanan, Atishay Jain: [Re] One ticket to win them all: "
    "generalizing lottery ticket initializations across datasets and optimizers. "
    "ReScience C 6.2 (#4), 2020; numbers from the authors' result sheets",
    replicates=1,
    notes=("their code prunes and counts BatchNorm scales with the weights",),
)
_TANAKA = Publication(
    "tanaka2020",
    "Tanaka et al. 2020",
    "Hidenori Tanaka, Daniel Kunin, Daniel L. K. Yamins, Surya Ganguli: Pruning neural networks "
    "without any data by iteratively conserving synaptic flow. NeurIPS 2020",
    replicates=3,
    notes=(
        "the numbers are second-hand",
        "the training is as the authors' repository records it for the same network on CIFAR-100",
    ),
)

_SGD = {
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.1,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-4,
    "optimizer.schedule": "step",
}
_ADAM = {
    "optimizer.name": "adam",
    "optimizer.learning_rate": 3e-4,
    "optimizer.weight_decay": 1e-4,
    "optimizer.schedule": "step",
}
_LATE_RESET = {"train.batch_size": 512, "ladder.rewind": "1ep"}
_VGG19 = {**_LATE_RESET, "train.epochs": 160, "optimizer.milestones": (80, 120)}
_RESNET50 = {**_LATE_RESET, "train.epochs": 90, "optimizer.milestones": (50, 65, 80)}
_VGG16 = {"train.batch_size": 128, "train.epochs": 160, "optimizer.milestones": (60, 120)}


def _gohil(series: gohil.Series) -> Curve:
    recipe = _VGG19 if series.network == "vgg19" else _RESNET50
    flips = ("their code flips SVHN's digits in training",) if series.data == "svhn" else ()
    zeros = (
        "their random ticket keeps the trained weights of the level before and permutes the mask "
        "over the zeros among them",
    )
    return Curve(
        _GOHIL,
        series.network,
        series.data,
        series.ticket,
        series.points,
        {**recipe, **(_ADAM if series.with_adam else _SGD)},
        flips + (zeros if series.is_random else ()),
    )


def _tanaka(ticket: str, *accuracies: float) -> Curve:
    points = tuple(zip((0.0, 90.0, 96.8, 99.0, 99.9), (93.5, *accuracies), strict=True))
    return Curve(_TANAKA, "vgg16", "cifar10", ticket, points, {**_VGG16, **_SGD})


CURVES = (
    *map(_gohil, gohil.read()),
    _tanaka("random pruning", 91.15, 87.52, 79.14, 10.00),
    _tanaka("magnitude at init", 93.12, 91.95, 89.80, 10.00),
    _tanaka("SNIP", 92.26, 91.08, 89.15, 76.25),
    _tanaka("GraSP", 91.84, 90.17, 87.49, 70.93),
    _tanaka("SynFlow", 93.26, 92.12, 90.08, 80.39),
)  # fmt: skip


def select(name: str, settings: Iterable[tuple[str, str]]) -> list[Curve]:
    """Return the curves that a name on the command line selects.

    Args:
        name: `PUBLICATION`, for the curves that match a run, or `PUBLICATION:NETWORK_DATA`.
        settings: network and data of each run.

    Raises:
        ConfigError: there are no such curves; the message lists all names.

    >>> [curve.ticket for curve in select("gohil2020", [("resnet50", "cifar10")])]
    ['CIFAR-10 ticket', 'CIFAR-100 ticket', 'random ticket']
    """
    keys = sorted({curve.key for curve in CURVES})
    if ":" in name:
        found = [curve for curve in CURVES if curve.key == name]
        problem = f"there are no published numbers {name!r}"
    else:
        runs = list(settings)
        found = [
            curve
            for curve in CURVES
            if curve.publication.key == name and (curve.network, curve.data) in runs
        ]
        wanted = " or ".join(dict.fromkeys(f"{network} on {data}" for network, data in runs))
        known = name in {curve.publication.key for curve in CURVES}
        problem = f"{name} has no numbers of {wanted}" if known else f"unknown publication {name!r}"
    if not found:
        raise ConfigError(f"--reference: {problem}; choose from {', '.join(keys)}")
    return found


def differences(curve: Curve, config: Mapping[str, Any]) -> list[str]:
    """Describe the known differences between the training of a published curve and of a run.

    Args:
        curve: the published curve.
        config: the run's config, nested, as in config.json.

    >>> config = {"train": {"epochs": 10, "batch_size": 128}, "seeds": [0, 1, 2]}
    >>> differences(CURVES[-1], config)[0]
    'epochs 160 (here 10)'
    """
    here = dict(flatten(config))
    there = {**curve.settings, "model.name": curve.network, "data.name": curve.data}
    if here.get("optimizer.schedule", "step") != "step":
        here["optimizer.milestones"] = ()
    if here.get("optimizer.name") != there["optimizer.name"]:
        here.pop("optimizer.momentum", None)  # only SGD has one
    pairs = [
        (word, there[key], here[key]) for key, word in WORDS.items() if key in there and key in here
    ]
    if "seeds" in here:
        pairs.append(("seeds", curve.publication.replicates, len(here["seeds"])))
    shown = [(word, value_text(there, "/"), value_text(own, "/")) for word, there, own in pairs]
    return [
        f"{word} {published} (here {own})" for word, published, own in shown if published != own
    ]


def notes(curves: Sequence[Curve], configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the sentences to print with published curves: citations and differences.

    Args:
        curves: the curves drawn.
        configs: the configs of the runs in the same figure, by the runs' names.

    Returns:
        Sentences; those of a publication begin with its citation.
    """
    sentences = []
    for publication in dict.fromkeys(curve.publication for curve in curves):
        chosen = [curve for curve in curves if curve.publication == publication]
        sentences.append(f"{publication.name}: {publication.citation}.")
        pairs_by_text: dict[str, dict[str, None]] = {}  # differences -> pairs that have them
        for curve, run in itertools.product(chosen, configs):
            text = ", ".join(differences(curve, configs[run])) or "none that is known"
            pair = [curve.ticket] if len(chosen) > 1 else []
            pair += [f"against {run}"] if len(configs) > 1 else []
            pairs_by_text.setdefault(text, {})[" ".join(pair)] = None
        for text, pairs in pairs_by_text.items():
            named = f" ({'; '.join(pairs)})" if len(pairs_by_text) > 1 else ""
            sentences.append(f"Differences in training{named}: {text}.")
        more = dict.fromkeys([*publication.notes, *(n for curve in chosen for n in curve.notes)])
        sentences += [f"{note[0].upper()}{note[1:]}." for note in more]
    return sentences
