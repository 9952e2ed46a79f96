"""Describe in words what runs have in common and what distinguishes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lottery_jax.report.curves import SHOWN_ELSEWHERE, RunCurve


def legend_names(runs: Sequence[RunCurve]) -> list[str]:
    """Name runs by setting, method and source as far as they differ, or by directory."""
    if len({run.setting for run in runs}) > 1:
        return headings(runs)
    for names in (
        [run.method for run in runs],
        [run.origin for run in runs],
        [f"{run.method}, {run.origin}" for run in runs],
    ):
        if len(set(names)) == len(runs):
            return names
    return _differences(runs)


def headings(runs: Sequence[RunCurve]) -> list[str]:
    """Return the runs' titles, with something that distinguishes runs of the same title."""
    titles = [run.title for run in runs]
    return [
        f"{title} ({folder})" if titles.count(title) > 1 else title
        for title, folder in zip(titles, _differences(runs), strict=True)
    ]


WORDS = {
    "model.name": "network",
    "data.name": "data",
    "train.epochs": "epochs",
    "train.batch_size": "batch size",
    "optimizer.name": "optimizer",
    "optimizer.learning_rate": "learning rate",
    "optimizer.momentum": "momentum",
    "optimizer.weight_decay": "weight decay",
    "optimizer.schedule": "schedule",
    "optimizer.milestones": "rate drops after epochs",
    "ladder.rewind": "rewind",
}  # for the keys of a config

_MOST_KEYS = 3  # more do not fit a legend
# Runs that differ in these alone have the same winning tickets for the same seed.
_NOT_OF_TICKETS = (*SHOWN_ELSEWHERE, "controls", "control_levels")


def _differences(runs: Sequence[RunCurve]) -> list[str]:
    """Name runs by the keys in which their configs differ, or by directory if there are many."""
    flat = [dict(flatten(run.config)) for run in runs]
    keys = [key for key in flat[0] if any(f.get(key) != flat[0][key] for f in flat)]
    keys = [key for key in keys if key.split(".")[0] not in _NOT_OF_TICKETS]
    names = [
        ", ".join(f"{WORDS.get(key, key)} {value_text(f.get(key))}" for key in keys) for f in flat
    ]
    if 0 < len(keys) <= _MOST_KEYS and len(set(names)) == len(runs):
        return names
    return _directories(runs)


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of a nested config."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def value_text(value: Any, separator: str = "+") -> str:
    """Return a config's value as text for a legend or a note.

    >>> [value_text(v) for v in (0.1, [], ["random", "init"], "", "1ep", "100st")]
    ['0.1', 'none', 'random+init', 'none', '1 epoch', '100 steps']
    """
    if isinstance(value, (list, tuple)):
        return separator.join(value_text(v) for v in value) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value) or "none"
    if not (found := re.fullmatch(r"(\d+)(ep|st)", text)):
        return text
    unit = {"ep": "epoch", "st": "step"}[found[2]]
    return f"{found[1]} {unit}{'' if found[1] == '1' else 's'}"


def _directories(runs: Sequence[RunCurve]) -> list[str]:
    """Name runs by the last parts of their directories, as many as make the names differ."""
    parts = [run.workdir.resolve().parts for run in runs]
    for n in range(1, max(map(len, parts))):
        names = ["/".join(p[-n:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [str(run.workdir) for run in runs]  # the same run twice


def count_seeds(runs: Sequence[RunCurve]) -> str:
    """Return how many seeds the runs have, in words."""
    return _seeds_text([len(run.seeds) for run in runs])


def _seeds_text(numbers: Sequence[int]) -> str:
    """Return numbers of seeds in words.

    >>> [_seeds_text(n) for n in ([3], [1, 1], [1, 3])]
    ['3 seeds', '1 seed', '1 to 3 seeds']
    """
    low, high = min(numbers), max(numbers)
    return f"{f'{low} to {high}' if low < high else high} seed{'s' if high > 1 else ''}"


def spread(runs: Sequence[RunCurve]) -> str:
    """Return how many seeds there are and, for several, which statistics are shown."""
    several = any(len(run.seeds) > 1 for run in runs)
    return f"{count_seeds(runs)}{', mean ± 1 standard deviation' if several else ''}"


def counted_weights(runs: Sequence[RunCurve]) -> str:
    """Return which weights make up 100 %; where runs differ, the longest description."""
    return max((run.counted_weights for run in runs), key=len)
