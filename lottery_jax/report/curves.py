"""Read a run's files into curves of accuracy over weights remaining."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lottery_jax.curve import ACCURACY, WINNING, curve_columns, is_share, metric_of
from lottery_jax.errors import ConfigError
from lottery_jax.methods import METHODS, method_label
from lottery_jax.report.names import data_name, network_name, optimizer_name
from lottery_jax.system.imports import short_name

RANDOM = "random"  # the control that a transfer matrix shows beside the tickets
LABELS = {
    WINNING: "winning ticket",
    "reinit": "same mask, new weights",
    RANDOM: "random ticket",
    "random_preserved": "new weights, shuffled within layers",
    "shuffle_layers": "mask shuffled within layers",
    "shuffle_global": "mask shuffled globally",
    "init": "same mask, weights of step 0",
    "dense_sign": "same mask, signs only",
    "noise": "noise of 1 sigma on the start",
    "resample": "same mask, survivors resampled",
    "rescaled": "same mask, new weights rescaled",
    "invert": "worst-ranked weights",
    "smart_ratio": "random mask, smart ratios",
    "replayed_random": "replay of a mistake: trained weights, mask shuffled",
    "aligned": "mask aligned to other weights",
    "unaligned": "same mask, other rewind point",
}

# Keys that do not tell runs apart: their seeds, and where else they are shown.
SHOWN_ELSEWHERE = ("seeds", "tensorboard", "wandb")
_IMP = METHODS["imp"].label

_PRUNABLE = "prunable weights"
_DENSE_HEAD = ", the dense re-initialised head included"

# Exceptions that reading a missing or damaged file raises.
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    csv.Error,
)


@dataclasses.dataclass(frozen=True)
class Point:
    """One level of one series, in percent.

    Attributes:
        level: the level of the ladder; 0 is the dense network.
        remaining: prunable weights that remain, the mean over seeds.
        accuracies: test accuracies by seed.
    """

    level: int
    remaining: float
    accuracies: dict[int, float]

    @property
    def mean(self) -> float:
        """The mean accuracy over seeds."""
        return statistics.fmean(self.accuracies.values())

    @property
    def std(self) -> float:
        """The standard deviation of the accuracy over seeds."""
        return deviation(self.accuracies)


def series_label(series: str) -> str:
    """Return the name of a series in tables and figures.

    >>> [series_label(name) for name in ("reinit", "noise_0.5", "my_control")]
    ['same mask, new weights', 'noise of 0.5 sigma on the start', 'my_control']
    """
    if amount := re.fullmatch(r"noise_([\d.]+)", series):
        return f"noise of {amount[1]} sigma on the start"
    return LABELS.get(series, series)


def deviation(values: Mapping[int, float]) -> float:
    """Return the sample standard deviation (n - 1) of values by seed; 0 for a single seed."""
    return statistics.stdev(values.values()) if len(values) > 1 else 0.0


@dataclasses.dataclass(frozen=True)
class RunCurve:
    """The contents of one run's curve.csv and config.json.

    Attributes:
        workdir: the run directory; of pooled runs that of the first.
        network: the network's name.
        data: the name of the data set trained on.
        optimizer: the optimizer's name as papers write it.
        method: how the tickets were drawn, in a word or two.
        source: data and optimizer of the run that drew the tickets; empty: this run.
        counted_weights: which weights make up 100 %.
        dense: level 0.
        series: the points of `winning`, then of each control, by level and without level 0.
        seeds: the seeds that have at least one row.
        config: the whole config, nested.
        folders: the run directory that has the tickets of each seed.
        metric: the metric of the run's task, whose values the points hold: in percent for
            accuracy, else as they are.
    """

    workdir: Path
    network: str
    data: str
    optimizer: str
    method: str
    source: str
    counted_weights: str
    dense: Point
    series: dict[str, list[Point]]
    seeds: tuple[int, ...]
    config: dict[str, Any]
    folders: dict[int, Path]
    metric: str = ACCURACY

    @property
    def quantity(self) -> str:
        """The metric and its unit, for headings."""
        return f"test {self.metric} in %" if is_share(self.metric) else f"test {self.metric}"

    @property
    def setting(self) -> str:
        """Network, data and optimizer."""
        return f"{network_name(self.network)} on {data_name(self.data)}, {self.optimizer}"

    @property
    def origin(self) -> str:
        """The run that the tickets come from, in words."""
        return f"tickets of {self.source}" if self.source else "native tickets"

    @property
    def unusual_method(self) -> str:
        """The method, or nothing if it is IMP, the usual one."""
        return "" if self.method == _IMP else self.method

    @property
    def title(self) -> str:
        """The setting, the method if it is not IMP, and the source if it is another run."""
        more = f"{self.unusual_method} {self.origin if self.source else ''}".strip()
        return f"{self.setting}, {more}" if more else self.setting

    @property
    def tickets(self) -> dict[int, Point]:
        """The points of the winning tickets by level, with the dense network as level 0."""
        return self.points(WINNING)

    def points(self, series: str) -> dict[int, Point]:
        """Return a series by level; the dense network is level 0 of the winning tickets."""
        dense = [self.dense] if series == WINNING else []
        return {point.level: point for point in [*dense, *self.series.get(series, [])]}


class NothingYetError(ConfigError):
    """The run has begun but has no complete level."""


def read_run(workdir: Path) -> RunCurve:
    """Read a run's curve.csv and config.json.

    Raises:
        NothingYetError: no level is complete.
        ConfigError: the directory is not a run, or a file is damaged.
    """
    try:
        config, rows = read_config(workdir), read_rows(workdir)
        points = _points(rows)
        network, data, optimizer = _trained_on(config)
        folder = source_dir(workdir, config)
        drawn = read_config(folder) if folder else config
        if folder:
            _, drawn_on, optimizer_there = _trained_on(drawn)
            source = f"{data_name(drawn_on)}, {optimizer_there}"
        else:  # the source's directory is gone; its name is all that is known
            source = Path(config.get("source") or "").name
        counted_weights = _PRUNABLE + (_DENSE_HEAD if _has_dense_head(config, rows, folder) else "")
        method = _method(drawn)
    except UNREADABLE as error:
        raise ConfigError(f"{workdir}: is not a run that can be reported on: {error}") from error
    if (WINNING, 0) not in points:
        raise NothingYetError(f"{workdir}: no level is complete yet")
    series = {
        name: [points[key] for key in sorted(points) if key[0] == name and key[1] > 0]
        for name in dict.fromkeys([WINNING, *(name for name, _ in points)])
    }
    seeds = tuple(sorted({seed for point in points.values() for seed in point.accuracies}))
    dense = points[WINNING, 0]
    return RunCurve(
        workdir, network, data, optimizer, method, source, counted_weights, dense, series, seeds,
        config, dict.fromkeys(seeds, workdir), metric_of(rows[0]),
    )  # fmt: skip


def pooled(runs: Iterable[RunCurve]) -> list[RunCurve]:
    """Combine runs whose configs differ in their seeds alone into one run with all the seeds.

    Where two runs have the same seed, the first one counts.
    """
    groups: dict[str, list[RunCurve]] = {}
    for run in runs:
        key = json.dumps({**run.config, **dict.fromkeys(SHOWN_ELSEWHERE)}, sort_keys=True)
        groups.setdefault(key, []).append(run)
    return [_combine(group) for group in groups.values()]


def _combine(runs: Sequence[RunCurve]) -> RunCurve:
    """Return one run whose points have the seeds of all."""

    def join(points: Sequence[Point]) -> Point:
        seeds = {seed: a for p in reversed(points) for seed, a in p.accuracies.items()}
        remaining = statistics.fmean(point.remaining for point in points)
        return Point(points[0].level, remaining, dict(sorted(seeds.items())))

    if len(runs) == 1:
        return runs[0]
    series = {}
    for name in dict.fromkeys(name for run in runs for name in run.series):
        levels: dict[int, list[Point]] = {}
        for point in (point for run in runs for point in run.series.get(name, [])):
            levels.setdefault(point.level, []).append(point)
        series[name] = [join(levels[level]) for level in sorted(levels)]
    return dataclasses.replace(
        runs[0],
        dense=join([run.dense for run in runs]),
        series=series,
        seeds=tuple(sorted({seed for run in runs for seed in run.seeds})),
        folders={seed: folder for run in reversed(runs) for seed, folder in run.folders.items()},
    )


def read_record(workdir: Path) -> dict[str, Any]:
    """Return a directory's config.json, or raise one of `UNREADABLE`."""
    return dict(json.loads((workdir / "config.json").read_text(encoding="utf-8")))


def read_config(workdir: Path) -> dict[str, Any]:
    """Return the config in a directory's config.json, or raise one of `UNREADABLE`."""
    stored = read_record(workdir)["config"]
    if not isinstance(stored, dict):
        raise ValueError('config.json has no table of keys and values under "config"')
    return stored


def read_rows(workdir: Path) -> list[dict[str, str]]:
    """Return the rows of a run's curve.csv, or raise one of `UNREADABLE`."""
    with (workdir / "curve.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if missing := [c for c in curve_columns(metric_of(row)) if row.get(c) is None]:
            raise ValueError(f"a row of curve.csv has no {missing[0]}")
    return rows


def _points(rows: Iterable[Mapping[str, str]]) -> dict[tuple[str, int], Point]:
    """Return the points by series and level, in the order of the rows."""
    found: dict[tuple[str, int], list[Mapping[str, str]]] = {}
    metric = ACCURACY
    for row in rows:
        metric = metric_of(row)
        found.setdefault((row["control"], int(row["level"])), []).append(row)
    scale = 100 if is_share(metric) else 1
    return {
        key: Point(
            key[1],
            statistics.fmean(100 * _number(row, "density") for row in group),
            {int(row["seed"]): scale * _number(row, f"test_{metric}") for row in group},
        )
        for key, group in found.items()
    }


def _number(row: Mapping[str, str], column: str) -> float:
    value = float(row[column])
    if not math.isfinite(value):
        raise ValueError(f"curve.csv has {column} {row[column]}, which is not a finite number")
    return value


def _trained_on(config: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the names of network, data and optimizer; of import paths the last part.

    >>> names = {"model": "mypkg.nets:Net", "data": "digits", "optimizer": "optax:lion"}
    >>> _trained_on({key: {"name": name} for key, name in names.items()})
    ('Net', 'digits', 'lion')
    """
    model, data, optimizer = (config[key]["name"] for key in ("model", "data", "optimizer"))
    return short_name(model), data, optimizer_name(optimizer)


def _method(config: Mapping[str, Any]) -> str:
    """Return the name of the method by which this config draws tickets.

    >>> _method({"ladder": {"scores": "snip", "draw": "init_nested"}}), _method({"ladder": {}})
    ('iterative SNIP', 'IMP')
    >>> _method({"ladder": {"retrain": "lr"}})
    'IMP, rate rewound'
    """
    ladder = config.get("ladder", {})
    draw, scores = ladder.get("draw", "iterative"), ladder.get("scores", "magnitude")
    return method_label(draw, scores, ladder.get("retrain", ""))


def source_dir(workdir: Path, config: Mapping[str, Any]) -> Path | None:
    """Return the directory of a transfer's source, also if it was moved together with the run."""
    source = config.get("source")
    if not source:
        return None
    places = (Path(source).expanduser(), workdir / source, workdir.parent / Path(source).name)
    return next((place for place in places if (place / "config.json").is_file()), None)


def _has_dense_head(
    config: Mapping[str, Any], rows: Iterable[Mapping[str, str]], source: Path | None
) -> bool:
    """Return whether a transfer run trained a new output layer without pruning it.

    If the config leaves the choice to the data (`auto`), the layer is new if the run's tickets keep
    another number of weights than the source's.
    """
    transfer = config.get("transfer", {})
    head = transfer.get("head", "auto")
    if not config.get("source") or head == "keep" or transfer.get("head_mask", "dense") != "dense":
        return False
    if head == "reinit":
        return True
    if source is None or not (source / "curve.csv").is_file():
        return False

    def kept_weights(rows: Iterable[Mapping[str, str]]) -> dict[tuple[str, str], str]:
        pruned = [row for row in rows if row["control"] == WINNING and int(row["level"]) > 0]
        return {(row["seed"], row["level"]): row["weights_remaining"] for row in pruned}

    in_source = kept_weights(read_rows(source))
    return any(in_source.get(key, n) != n for key, n in kept_weights(rows).items())
