"""What tells runs apart, and what they have in common, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lottery_jax.report.curves import RunCurve


def legend_names(runs: Sequence[RunCurve]) -> list[str]:
    """What tells runs apart: setting, method and source as far as they differ, or directories."""
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
    """The runs' titles, with the directory where two have the same."""
    titles = [run.title for run in runs]
    return [
        f"{title} ({folder})" if titles.count(title) > 1 else title
        for title, folder in zip(titles, _differences(runs), strict=True)
    ]


# More keys than this do not fit a legend.
_FEW = 3


def _differences(runs: Sequence[RunCurve]) -> list[str]:
    """The keys in which the runs' configs differ, if they are few, or directories."""
    flat = [dict(_flat(run.config)) for run in runs]
    keys = [key for key in flat[0] if any(f.get(key) != flat[0][key] for f in flat)]
    keys = [key for key in keys if key != "seeds" and not key.startswith("wandb.")]
    names = [", ".join(f"{key} {_value(f.get(key))}" for key in keys) for f in flat]
    if 0 < len(keys) <= _FEW and len(set(names)) == len(runs):
        return names
    return _directories(runs)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A nested config by dotted key."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _value(value: Any) -> str:
    """A value as it stands in a legend.

    >>> [_value(v) for v in (0.1, [], ["random", "init"], "")]
    ['0.1', 'none', 'random+init', 'none']
    """
    if isinstance(value, (list, tuple)):
        return "+".join(map(str, value)) or "none"
    return str(value) or "none"


def _directories(runs: Sequence[RunCurve]) -> list[str]:
    """The last parts of the runs' directories, as many as tell them apart."""
    parts = [run.workdir.resolve().parts for run in runs]
    for n in range(1, max(map(len, parts))):
        names = ["/".join(p[-n:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [str(run.workdir) for run in runs]  # the same run twice


def count_seeds(runs: Sequence[RunCurve]) -> str:
    """How many seeds the runs have."""
    return _count([len(run.seeds) for run in runs])


def _count(numbers: Sequence[int]) -> str:
    """Numbers of seeds in words.

    >>> [_count(n) for n in ([3], [1, 1], [1, 3])]
    ['3 seeds', '1 seed', '1 to 3 seeds']
    """
    low, high = min(numbers), max(numbers)
    return f"{f'{low} to {high}' if low < high else high} seed{'s' if high > 1 else ''}"


def spread(runs: Sequence[RunCurve]) -> str:
    """How many seeds there are, and what is shown of several."""
    several = any(len(run.seeds) > 1 for run in runs)
    return f"{count_seeds(runs)}{', mean ± 1 standard deviation' if several else ''}"


def counted(runs: Sequence[RunCurve]) -> str:
    """What 100 % of the weights are; where runs differ, whichever says more."""
    return max((run.counted for run in runs), key=len)
