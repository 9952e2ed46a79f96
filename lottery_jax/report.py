"""From the files of runs to tables and figures. Imports no JAX.

python -m lottery_jax.report WORKDIR [WORKDIR ...] [--out DIR] [--reference NAME] [--density D]

A directory whose config names `transfer.sources` and `transfer.targets` is a transfer matrix and
is reported on as a whole.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from lottery_jax import references
from lottery_jax.errors import ConfigError, exit_status
from lottery_jax.files import write_text
from lottery_jax.logs import CURVE_COLUMNS, WINNING

if TYPE_CHECKING:
    from lottery_jax.figures import Dense, Heat, Line, Panel

_LABELS = {
    WINNING: "winning ticket",
    "reinit": "same mask, new weights",
    "random": "random ticket",
    "random_preserved": "new weights, shuffled within layers",
    "shuffle_layers": "mask shuffled within layers",
    "shuffle_global": "mask shuffled globally",
    "init": "same mask, weights of step 0",
    "dense_sign": "same mask, signs only",
}
_RANDOM = "random"  # the control that a transfer matrix shows beside the tickets

# (ladder.draw, ladder.scores) -> what the tickets are called.
_METHODS = {
    ("iterative", "magnitude"): "IMP",
    ("oneshot", "magnitude"): "one-shot magnitude",
    ("init", "snip"): "SNIP",
    ("init_nested", "snip"): "iterative SNIP",
    ("init", "grasp"): "GraSP",
    ("init", "synflow"): "SynFlow",
    ("init", "random"): "random pruning",
    ("init", "erk"): "ERK",
    ("init", "magnitude_at_init"): "magnitude at init",
}
_IMP = _METHODS["iterative", "magnitude"]

_PRUNABLE = "prunable weights"
_DENSE_HEAD = ", the dense re-initialised head included"
# Densities that differ by less, relatively, stand in one row of a table of several runs.
_SAME_DENSITY = 0.02
# Cells of a transfer matrix that differ by more are marked.
_COMPARABLE_DENSITY = 0.05
# More series than this do not fit a terminal of 100 columns with two decimals.
_WIDE = 5


@dataclasses.dataclass(frozen=True)
class Point:
    """One level of one series: means over seeds, in percent.

    Attributes:
        level: 0 is the dense network.
        remaining: prunable weights that remain.
        accuracies: one for each seed.
        seeds: those, in the same order.
    """

    level: int
    remaining: float
    accuracies: tuple[float, ...]
    seeds: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """One standard deviation over seeds (n - 1); 0 for a single seed."""
        return _std(self.accuracies)

    @property
    def by_seed(self) -> dict[int, float]:
        """The accuracy of each seed."""
        return dict(zip(self.seeds, self.accuracies, strict=True))


@dataclasses.dataclass(frozen=True)
class RunCurve:
    """What curve.csv and config.json say of one run.

    Attributes:
        workdir: the run directory.
        network: its name.
        data: the data set trained on.
        optimizer: in capitals.
        method: how the tickets were drawn, in a word or two.
        source: data and optimizer of the run that drew the tickets; empty: this run.
        counted: what 100 % of the weights are.
        dense: level 0.
        series: for each series (`winning`, then controls), its points by level, dense left out.
        seeds: those that have at least one row.
        config: the whole config, nested.
    """

    workdir: Path
    network: str
    data: str
    optimizer: str
    method: str
    source: str
    counted: str
    dense: Point
    series: dict[str, list[Point]]
    seeds: tuple[int, ...]
    config: dict[str, Any]

    @property
    def setting(self) -> str:
        """Network, data and optimizer."""
        return f"{self.network} on {self.data}, {self.optimizer}"

    @property
    def origin(self) -> str:
        """Where the tickets are from."""
        return f"tickets of {self.source}" if self.source else "native tickets"

    @property
    def title(self) -> str:
        """The setting, the method unless it is IMP, and the source if it is another run."""
        method = "" if self.method == _IMP else self.method
        if self.source:
            return f"{self.setting}, {method} {self.origin}".replace(",  ", ", ")
        return f"{self.setting}, {method}" if method else self.setting

    @property
    def tickets(self) -> dict[int, Point]:
        """The winning series by level, with the dense network as level 0."""
        return {0: self.dense, **{p.level: p for p in self.series.get(WINNING, [])}}


class _NothingYetError(ConfigError):
    """A run that has begun but has no complete level."""


def read_run(workdir: Path) -> RunCurve:
    """Reads a run's curve.csv and config.json.

    Raises:
        ConfigError: there is no run, nothing has been completed, or a file is damaged.
    """
    try:
        config = _read_config(workdir)
        rows = _read_rows(workdir)
        values: dict[tuple[str, int], list[tuple[float, float, int]]] = {}
        for row in rows:
            point = (100 * float(row["density"]), 100 * float(row["test_accuracy"]))
            key = (row["control"], int(row["level"]))
            values.setdefault(key, []).append((*point, int(row["seed"])))
        optimizer = config["optimizer"]["name"].upper()
        network, data = config["model"]["name"], config["data"]["name"]
        method, source = _method(config), ""
        if config.get("source"):
            found = _source_dir(workdir, config["source"])
            if found is None:  # its name is all that is known
                source = Path(config["source"]).name
            else:
                drawn = _read_config(found)
                method = _method(drawn)
                source = f"{drawn['data']['name']}, {drawn['optimizer']['name'].upper()}"
        counted = _PRUNABLE + (_DENSE_HEAD if _has_dense_head(workdir, config) else "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{workdir}: is not a run that can be reported on: {error}") from error
    if (WINNING, 0) not in values:
        raise _NothingYetError(f"{workdir}: no level is complete yet")
    points = {
        key: Point(
            key[1],
            statistics.fmean(density for density, _, _ in found),
            tuple(accuracy for _, accuracy, _ in found),
            tuple(seed for _, _, seed in found),
        )
        for key, found in values.items()
    }
    names = dict.fromkeys(control for control, _ in points)
    series = {
        name: [points[key] for key in sorted(points) if key[0] == name and key[1] > 0]
        for name in names
    }
    seeds = tuple(sorted({int(row["seed"]) for row in rows}))
    dense = points[WINNING, 0]
    return RunCurve(
        workdir, network, data, optimizer, method, source, counted, dense, series, seeds, config
    )


def _read_config(workdir: Path) -> dict[str, Any]:
    stored = json.loads((workdir / "config.json").read_text(encoding="utf-8"))["config"]
    if not isinstance(stored, dict):
        raise ValueError("config.json holds no table of keys and values")
    return stored


def _read_rows(workdir: Path) -> list[dict[str, str]]:
    with (workdir / "curve.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if missing := [column for column in CURVE_COLUMNS if row.get(column) is None]:
            raise ValueError(f"a row of curve.csv has no {missing[0]}")
    return rows


def _method(config: Mapping[str, Any]) -> str:
    """What tickets drawn by this config are called.

    >>> _method({"ladder": {"scores": "snip", "draw": "init_nested"}}), _method({"ladder": {}})
    ('iterative SNIP', 'IMP')
    """
    ladder = config.get("ladder", {})
    draw, scores = ladder.get("draw", "iterative"), ladder.get("scores", "magnitude")
    return _METHODS.get((draw, scores), f"{scores}, {draw}")


def _source_dir(workdir: Path, source: str) -> Path | None:
    """Where the source of a transfer is; beside the run if it was moved along with it."""
    places = (Path(source).expanduser(), workdir / source, workdir.parent / Path(source).name)
    return next((place for place in places if (place / "config.json").is_file()), None)


def _has_dense_head(workdir: Path, config: Mapping[str, Any]) -> bool:
    """Whether a transfer run trained a new output layer, none of it pruned.

    Where the config leaves it to the data (`auto`), its tickets have one if they do not keep as
    many weights as those of the source.
    """
    transfer = config.get("transfer", {})
    head = transfer.get("head", "auto")
    if not config.get("source") or head == "keep" or transfer.get("head_mask", "dense") != "dense":
        return False
    if head == "reinit":
        return True
    source = _source_dir(workdir, config["source"])
    if source is None or not (source / "curve.csv").is_file():
        return False

    def kept(rows: Iterable[Mapping[str, str]]) -> dict[tuple[str, str], str]:
        pruned = [row for row in rows if row["control"] == WINNING and int(row["level"]) > 0]
        return {(row["seed"], row["level"]): row["weights_remaining"] for row in pruned}

    theirs = kept(_read_rows(source))
    return any(theirs.get(key, n) != n for key, n in kept(_read_rows(workdir)).items())


@dataclasses.dataclass(frozen=True)
class TransferMatrix:
    """Tickets of several data sets, each trained on several.

    Attributes:
        workdir: the directory that holds the runs.
        sources: data sets that tickets were drawn on.
        targets: data sets that they were trained on.
        density: which level to compare, as the fraction of weights that remains.
        runs: by (source, target); where both are the same, the native run.
        missing: what is not there yet; each is a phrase.
    """

    workdir: Path
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    density: float
    runs: dict[tuple[str, str], RunCurve]
    missing: tuple[str, ...]

    @property
    def title(self) -> str:
        """Network, optimizer, and the method unless it is IMP."""
        run = next(iter(self.runs.values()))
        method = "" if run.method == _IMP else f", {run.method}"
        return f"{run.network}, {run.optimizer}{method}: tickets across data sets"

    @property
    def level(self) -> int:
        """The level whose density, in the native runs, is nearest to the one asked for."""
        natives = [run for (source, target), run in self.runs.items() if source == target]
        points = [
            point
            for run in natives or self.runs.values()
            for level, point in run.tickets.items()
            if level > 0
        ]
        if not points:
            return 0
        return min(points, key=lambda p: (abs(p.remaining - 100 * self.density), p.level)).level

    def point(self, source: str, target: str, level: int) -> Point | None:
        """The tickets of a source on a target at a level; the source `random`: random tickets."""
        if source == _RANDOM:
            run = self.runs.get((target, target))
            points = run.series.get(_RANDOM, []) if run else []
            return next((p for p in points if p.level == level), None)
        run = self.runs.get((source, target))
        return run.tickets.get(level) if run else None

    def differences(self, source: str, target: str, level: int) -> dict[int, float]:
        """For each seed, the accuracy less that of the target's own ticket of the same seed."""
        point, native = self.point(source, target, level), self.point(target, target, level)
        if point is None or native is None:
            return {}
        own = native.by_seed
        return {seed: a - own[seed] for seed, a in point.by_seed.items() if seed in own}

    def is_comparable(self, source: str, target: str, level: int) -> bool:
        """Whether as many weights remain as in the target's own ticket of the level, or nearly."""
        point, native = self.point(source, target, level), self.point(target, target, level)
        if point is None or native is None:
            return True
        return math.isclose(point.remaining, native.remaining, rel_tol=_COMPARABLE_DENSITY)


def read_matrix(workdir: Path, density: float | None = None) -> TransferMatrix:
    """Reads the runs of a transfer matrix that there are.

    Args:
        workdir: holds config.json, `DATASET/` and `SOURCE_to_TARGET/`.
        density: which level to compare; default: the config's.

    Raises:
        ConfigError: it is no transfer matrix, a run is damaged, or there is none yet.
    """
    try:
        transfer = _read_config(workdir)["transfer"]
        sources, targets = tuple(transfer["sources"]), tuple(transfer["targets"])
        density = float(transfer.get("density", 0.03)) if density is None else density
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{workdir}: is not a transfer matrix: {error}") from error
    if not 0 < density <= 1:
        raise ConfigError(f"the density {density:g} is not above 0 and up to 1 (0.03 for 3 %)")
    natives = [(name, name) for name in dict.fromkeys((*sources, *targets))]
    cells = [(s, t) for s in sources for t in targets if s != t]
    runs: dict[tuple[str, str], RunCurve] = {}
    missing = []
    for source, target in [*natives, *cells]:
        name = source if source == target else f"{source}_to_{target}"
        try:
            if not (workdir / name / "curve.csv").is_file():
                raise _NothingYetError
            runs[source, target] = read_run(workdir / name)
        except _NothingYetError:
            missing.append(f"{name} (no level yet)")
    if not runs:
        raise ConfigError(f"{workdir}: no run of the matrix has a complete level yet")
    done = {key: _trainings(run) for key, run in runs.items()}
    wanted = set().union(*done.values())
    for (source, target), trainings in done.items():
        if trainings < wanted:
            name = source if source == target else f"{source}_to_{target}"
            missing.append(f"{name} ({len(wanted - trainings)} of {len(wanted)} trainings to go)")
    return TransferMatrix(workdir, sources, targets, density, runs, tuple(missing))


def _trainings(run: RunCurve) -> set[tuple[int, int]]:
    return {(seed, level) for level, point in run.tickets.items() for seed in point.seeds}


def is_matrix(workdir: Path) -> bool:
    """Whether a directory is a transfer matrix and not a single run."""
    try:
        transfer = _read_config(workdir).get("transfer", {})
        named = bool(transfer.get("sources") and transfer.get("targets"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return named and not (workdir / "curve.csv").is_file()


def write_report(
    workdirs: Sequence[str | Path],
    out: Path | None = None,
    *,
    reference: Sequence[str] = (),
    density: float | None = None,
) -> list[Path]:
    """Draws one figure of all runs, or the figures of a transfer matrix, and writes the tables.

    Args:
        workdirs: run directories, all drawn into the same figure, or one transfer matrix.
        out: where to; default: `report/` in the first directory.
        reference: published curves to draw behind: `gohil2020`, or `gohil2020:vgg19_cifar10`
            where network or data differ.
        density: of a matrix, which level to compare; default: its config's `transfer.density`.

    Returns:
        The files. Of runs: curve.png, curve.svg, layers.png, layers.svg of the first run, and
        table.md. Of a matrix: matrix.png, matrix.svg, heatmap.png, heatmap.svg, matrix.csv,
        table.md.

    Raises:
        ConfigError: a directory is not a run, or there is nothing published of that name.
    """
    folders = [Path(workdir) for workdir in workdirs]
    out = out or folders[0] / "report"
    if any(map(is_matrix, folders)):
        if len(folders) > 1 or reference:
            raise ConfigError("a transfer matrix is reported on alone and without --reference")
        return _write_matrix(read_matrix(folders[0], density), out)
    if density is not None:
        raise ConfigError(f"--density is for transfer matrices; {folders[0]} is a run")
    return _write_runs([read_run(folder) for folder in folders], out, reference)


def _write_runs(runs: Sequence[RunCurve], out: Path, reference: Sequence[str]) -> list[Path]:
    from lottery_jax import figures

    settings = [(run.network, run.data) for run in runs]
    curves: list[references.Curve] = []
    for name in dict.fromkeys(reference):
        curves += [c for c in references.select(name, settings) if c not in curves]
    configs = {name: run.config for name, run in zip(_headings(runs), runs, strict=True)}
    notes = references.notes(curves, configs)
    shared = len({run.setting for run in runs}) == 1
    if len(runs) == 1:
        title = runs[0].title
    else:
        title = runs[0].setting if shared else "Accuracy over weights remaining"
    figure = figures.accuracy_figure(
        [accuracy_panel(runs, curves)], title, _spread(runs), _counted(runs), notes
    )
    files = figures.save(figure, out / "curve")
    layers = _layer_densities(runs[0])
    if layers:
        subtitle = "the tickets layer by layer, from input to output"
        figure = figures.layer_figure(layers, runs[0].title, subtitle, runs[0].counted)
        files += figures.save(figure, out / "layers")
    text = markdown_table(runs)
    if notes:
        text += "\n### Published numbers\n\n" + "".join(f"- {note}\n" for note in notes)
    write_text(out / "table.md", text)
    return [*files, out / "table.md"]


def _write_matrix(matrix: TransferMatrix, out: Path) -> list[Path]:
    from lottery_jax import figures

    runs = list(matrix.runs.values())
    notes = [f"Not there yet: {', '.join(matrix.missing)}."] if matrix.missing else []
    figure = figures.accuracy_figure(
        matrix_panels(matrix), matrix.title, _spread(runs), _counted(runs), notes
    )
    files = figures.save(figure, out / "matrix")
    figure = figures.heat_figure(
        heat_rows(matrix),
        matrix.targets,
        f"{matrix.title}, at level {matrix.level}, {_densities(matrix)} of the weights",
        "accuracy less that of the target's own ticket, percentage points",
        apart=1,
        labels=("tickets drawn on", "trained on", "difference, percentage points"),
        notes=[
            f"Framed: the target's own ticket and its accuracy in %. {_paired(matrix)}",
            *_incomparable(matrix),
            *notes,
        ],
    )
    files += figures.save(figure, out / "heatmap")
    write_text(out / "matrix.csv", matrix_csv(matrix))
    write_text(out / "table.md", matrix_markdown(matrix))
    return [*files, out / "matrix.csv", out / "table.md"]


def accuracy_panel(runs: Sequence[RunCurve], curves: Sequence[references.Curve] = ()) -> Panel:
    """The lines of a figure of accuracy over weights remaining.

    Of a single run every series has its colour. Of several runs each has its colour: its tickets
    are solid, its controls dashed, and each kind of control has one legend entry for all runs.
    """
    from lottery_jax.figures import Dense, Line, Panel

    lines = [
        Line(
            curve.label([(run.network, run.data) for run in runs]),
            tuple(100 - pruned for pruned, _ in curve.points),
            tuple(accuracy for _, accuracy in curve.points),
            marker=i,
            kind="reference",
        )
        for i, curve in enumerate(curves)
    ]
    single = len(runs) == 1
    controls = [n for n in dict.fromkeys(n for r in runs for n in r.series) if n != WINNING]
    for i, (run, name) in enumerate(zip(runs, legend_names(runs), strict=True)):
        label = _LABELS[WINNING] if single else name
        lines.append(_line(label, run.tickets.values(), colour=i, marker=i))
        for control in controls:
            if points := run.series.get(control):
                label = _LABELS.get(control, control) if single else ""
                look = _look(control)
                colour = look if single else i
                lines.append(_line(label, points, colour=colour, marker=look, kind="control"))
    if not single:
        lines += [
            Line(_LABELS.get(control, control), marker=_look(control), kind="control")
            for control in controls
        ]
    accuracies = [run.dense.mean for run in runs]
    dense: tuple[Dense, ...]
    if all(math.isclose(accuracy, accuracies[0], abs_tol=1e-9) for accuracy in accuracies):
        dense = (Dense("dense network", accuracies[0]),)
    else:
        dense = (
            Dense("dense networks, each in its colour"),
            *(Dense("", accuracy, i) for i, accuracy in enumerate(accuracies)),
        )
    return Panel("", tuple(lines), dense)


def matrix_panels(matrix: TransferMatrix) -> list[Panel]:
    """For each target: the tickets of every source and its own, random tickets, and dense."""
    from lottery_jax.figures import Dense, Panel

    panels = []
    sources = _all_sources(matrix)
    for target in matrix.targets:
        lines: list[Line] = []
        for i, source in enumerate(sources):
            run = matrix.runs.get((source, target))
            if run:
                label = f"tickets of {source}"
                lines.append(_line(label, run.tickets.values(), colour=i, marker=i))
        native = matrix.runs.get((target, target))
        dense: tuple[Dense, ...] = ()
        if native:
            dense = (Dense("dense network", native.dense.mean),)
            if points := native.series.get(_RANDOM):
                label = _LABELS[_RANDOM]
                lines.append(_line(label, points, marker=_look(_RANDOM), kind="control"))
        panels.append(Panel(f"trained on {target}", tuple(lines), dense))
    return panels


def heat_rows(matrix: TransferMatrix) -> dict[str, list[Heat]]:
    """The heat map of a matrix: a row for each source, and one for the random tickets."""
    from lottery_jax.figures import Heat

    def cell(source: str, target: str) -> Heat:
        point = matrix.point(source, target, matrix.level)
        if point is not None and source == target:
            return Heat(0.0, f"{point.mean:.2f}", _plus_minus(point.accuracies), framed=True)
        found = list(matrix.differences(source, target, matrix.level).values())
        if not found:
            return Heat(None, "missing")
        mark = "" if matrix.is_comparable(source, target, matrix.level) else "†"
        mean = statistics.fmean(found)
        return Heat(mean, f"{_signed(mean)}{mark}", _plus_minus(found))

    rows = {s: [cell(s, t) for t in matrix.targets] for s in matrix.sources}
    rows["random ticket"] = [cell(_RANDOM, t) for t in matrix.targets]
    return rows


def _look(series: str) -> int:
    """A number for colour and marker, for a series the same in every figure."""
    names = list(_LABELS)
    return names.index(series) if series in names else len(names)


def _line(
    label: str,
    points: Iterable[Point],
    *,
    colour: int | None = None,
    marker: int,
    kind: str = "ticket",
) -> Line:
    from lottery_jax.figures import Line

    found = sorted(points, key=lambda p: p.level)
    return Line(
        label,
        tuple(p.remaining for p in found),
        tuple(p.mean for p in found),
        tuple(p.std for p in found),
        colour,
        marker,
        kind,
    )


def legend_names(runs: Sequence[RunCurve]) -> list[str]:
    """What tells runs apart: setting, method and source as far as they differ, or directories."""
    shared = len({run.setting for run in runs}) == 1
    choices: list[Callable[[RunCurve], str]] = [lambda run: run.title]
    if shared:
        choices = [
            lambda run: run.method,
            lambda run: run.origin,
            lambda run: f"{run.method}, {run.origin}",
        ]
    for choice in choices:
        names = [choice(run) for run in runs]
        if len(set(names)) == len(names):
            return names
    if shared:
        return _directories(runs)
    return _headings(runs)


def _headings(runs: Sequence[RunCurve]) -> list[str]:
    """The runs' titles, with the directory where two have the same."""
    titles = [run.title for run in runs]
    return [
        f"{title} ({folder})" if titles.count(title) > 1 else title
        for title, folder in zip(titles, _directories(runs), strict=True)
    ]


def _directories(runs: Sequence[RunCurve]) -> list[str]:
    """The last parts of the runs' directories, as many as tell them apart."""
    parts = [run.workdir.resolve().parts for run in runs]
    for n in range(1, max(map(len, parts))):
        names = ["/".join(p[-n:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [str(run.workdir) for run in runs]  # the same run twice


def markdown_table(runs: Sequence[RunCurve]) -> str:
    """The accuracies as a Markdown table for each run, and of comparable runs one by method."""
    parts = []
    for setting in dict.fromkeys(run.setting for run in runs):
        group = [run for run in runs if run.setting == setting]
        header, rows = _joint_cells(group)
        if len(group) > 1 and len(rows) > 1:
            parts.append(f"### {setting}, {_seeds(group)}: the densities in common\n")
            parts += _markdown(header, rows)
            parts.append(_explained(group))
    for run, heading in zip(runs, _headings(runs), strict=True):
        parts.append(f"### {heading}, {_seeds([run])}\n")
        parts += _markdown(*_cells(_columns(run), _LABELS))
        parts.append(_explained([run]))
    return "\n".join(parts)


def matrix_markdown(matrix: TransferMatrix) -> str:
    """A matrix as Markdown: the differences at one level, then a table for each target."""
    header, rows = _matrix_cells(matrix)
    runs = list(matrix.runs.values())
    parts = [
        f"### {matrix.title}, {_seeds(runs)}\n",
        f"At level {matrix.level}, {_densities(matrix)} of the weights; "
        f"{100 * matrix.density:g} % was asked for.\n",
        *_markdown(header, rows),
        "\nAccuracy less that of the target's own ticket, in percentage points. Bold: the target's "
        f"own ticket and its accuracy in %. {_paired(matrix)}\n",
    ]
    parts += [f"{note}\n" for note in _incomparable(matrix)]
    if matrix.missing:
        parts.append("Not there yet:\n")
        parts += [f"- {what}" for what in matrix.missing]
        parts.append("")
    for target in matrix.targets:
        columns = {
            source: run.tickets
            for source in _all_sources(matrix)
            if (run := matrix.runs.get((source, target)))
        }
        native = matrix.runs.get((target, target))
        if native and native.series.get(_RANDOM):
            columns["random ticket"] = {p.level: p for p in native.series[_RANDOM]}
        if columns:
            # The target's own densities, where there are any, head the rows.
            first = sorted(columns, key=lambda name: name != target)
            parts.append(f"### trained on {target}, tickets of\n")
            parts += _markdown(*_cells({name: columns[name] for name in first}, {}))
            parts.append(_explained(runs))
    return "\n".join(parts)


def _explained(runs: Sequence[RunCurve]) -> str:
    return (
        "\nTest accuracy in %, mean ± one standard deviation over seeds; the share of weights "
        f"counts {_counted(runs)}.\n"
    )


def matrix_csv(matrix: TransferMatrix) -> str:
    """Every training of a matrix as a row; density, accuracy and difference are fractions.

    The difference is to the target's own ticket of the same level and seed; the source `random`
    is the native run's control.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("target", "source", "seed", "level", "density", "accuracy", "difference"))
    levels = sorted({level for run in matrix.runs.values() for level in run.tickets})
    for target in matrix.targets:
        for source in (*_all_sources(matrix), _RANDOM):
            for level in levels:
                point = matrix.point(source, target, level)
                differ = matrix.differences(source, target, level)
                for seed, accuracy in point.by_seed.items() if point else ():
                    numbers = [point.remaining / 100 if point else 0.0, accuracy / 100]
                    numbers += [differ[seed] / 100] if seed in differ else []
                    cells = [f"{number:.6g}" for number in numbers]
                    writer.writerow((target, source, seed, level, *cells, *[""] * (3 - len(cells))))
    return text.getvalue()


def closing_table(workdirs: Sequence[Path]) -> Table:
    """The same as a table for the terminal, of the first run or of a transfer matrix."""
    if is_matrix(workdirs[0]):
        return _matrix_table(read_matrix(workdirs[0]))
    run = read_run(workdirs[0])
    columns = _columns(run)
    title = f"{run.title}: test accuracy in %, {_seeds([run])}"
    table = Table(title=title, title_justify="left")
    if len(columns) <= _WIDE:
        header, rows = _cells(columns, _LABELS)
    else:
        header, rows = _cells(columns, {name: name.replace("_", " ") for name in columns}, digits=1)
        header[1] = "left, %"
        table = Table(
            title=title,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            show_edge=False,
            pad_edge=False,
        )
    for name in header:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _matrix_table(matrix: TransferMatrix) -> Table:
    title = (
        f"{matrix.title}, {_seeds(list(matrix.runs.values()))}\n"
        f"level {matrix.level}, {_densities(matrix)} of the weights: accuracy less that of the "
        "target's own ticket, in percentage points"
    )
    table = Table(title=title, title_justify="left", caption_justify="left")
    if matrix.missing:
        table.caption = f"not there yet: {', '.join(matrix.missing)}"
    header, rows = _matrix_cells(matrix, own="({})")
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _columns(run: RunCurve) -> dict[str, dict[int, Point]]:
    """The series of a run by name and level, the winning one first and with the dense network."""
    controls = {name: points for name, points in run.series.items() if name != WINNING}
    return {WINNING: run.tickets, **{n: {p.level: p for p in ps} for n, ps in controls.items()}}


def _cells(
    columns: Mapping[str, Mapping[int, Point]], labels: Mapping[str, str], digits: int = 2
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table by level; the first column with a level says its density."""
    header = ["level", "weights left, %", *(labels.get(name, name) for name in columns)]
    rows = []
    for level in sorted({level for points in columns.values() for level in points}):
        found = [points.get(level) for points in columns.values()]
        remaining = next(point.remaining for point in found if point)
        rows.append([str(level), f"{remaining:.2f}", *(_cell(point, digits) for point in found)])
    return header, rows


def _joint_cells(runs: Sequence[RunCurve]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table of runs' tickets, at the densities that at least two have."""

    def near(run: RunCurve, remaining: float) -> Point | None:
        point = min(run.tickets.values(), key=lambda p: abs(p.remaining - remaining))
        close = math.isclose(point.remaining, remaining, rel_tol=_SAME_DENSITY)
        return point if close else None

    names = legend_names(runs)
    if len({len(run.seeds) for run in runs}) > 1:
        names = [f"{name}, {_seeds([run])}" for name, run in zip(names, runs, strict=True)]
    densities: list[float] = []
    for point in (point for run in runs for point in run.tickets.values()):
        if not any(math.isclose(point.remaining, d, rel_tol=_SAME_DENSITY) for d in densities):
            densities.append(point.remaining)
    rows = []
    for density in sorted(densities, reverse=True):
        found = [near(run, density) for run in runs]
        if sum(point is not None for point in found) > 1:
            rows.append([f"{density:.2f}", *(_cell(point, 2) for point in found)])
    return ["weights left, %", *names], rows


def _matrix_cells(matrix: TransferMatrix, own: str = "**{}**") -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table of a matrix at its level."""
    rows = []
    for name, cells in heat_rows(matrix).items():
        texts = [f"{cell.text} {cell.small}".strip() for cell in cells]
        rows.append(
            [name, *(own.format(t) if c.framed else t for c, t in zip(cells, texts, strict=True))]
        )
    return ["tickets of, trained on", *matrix.targets], rows


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---:|" * len(header)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def _cell(point: Point | None, digits: int) -> str:
    """An accuracy with its spread; with a single digit as narrow as can be.

    >>> point = Point(1, 10.0, (70.0, 90.0))
    >>> _cell(point, 2), _cell(point, 1)
    ('80.00 ± 14.14', '80.0±14')
    """
    if point is None:
        return ""
    mean = f"{point.mean:.{digits}f}"
    if len(point.accuracies) == 1:
        return mean
    if digits > 1:
        return f"{mean} ± {point.std:.{digits}f}"
    return f"{mean}±{point.std:.{0 if point.std >= 9.95 else digits}f}"


def _plus_minus(values: Sequence[float]) -> str:
    return f"± {_std(values):.2f}" if len(values) > 1 else ""


def _signed(value: float) -> str:
    """A difference with its sign; one that rounds to nothing has none.

    >>> _signed(1.234), _signed(-0.001)
    ('+1.23', '0.00')
    """
    text = f"{value:+.2f}".replace("-", "\u2212")
    return text[1:] if float(text[1:]) == 0 else text


def _std(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _seeds(runs: Sequence[RunCurve]) -> str:
    """How many seeds the runs have.

    >>> [_count(n) for n in ([3], [1, 1], [1, 3])]
    ['3 seeds', '1 seed', '1 to 3 seeds']
    """
    return _count([len(run.seeds) for run in runs])


def _count(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{f'{low} to {high}' if low < high else high} seed{'s' if high > 1 else ''}"


def _spread(runs: Sequence[RunCurve]) -> str:
    several = any(len(run.seeds) > 1 for run in runs)
    return f"{_seeds(runs)}{', mean ± 1 standard deviation' if several else ''}"


def _counted(runs: Sequence[RunCurve]) -> str:
    """What the x-axis counts; where runs differ, whichever says more."""
    return max((run.counted for run in runs), key=len)


def _all_sources(matrix: TransferMatrix) -> list[str]:
    """Every data set that tickets in the matrix are from: the targets have tickets of their own."""
    return list(dict.fromkeys((*matrix.sources, *matrix.targets)))


def _densities(matrix: TransferMatrix) -> str:
    """The densities at the matrix's level, in words."""
    points = (matrix.point(source, target, matrix.level) for source, target in matrix.runs)
    found = sorted(f"{p.remaining:.2f}" for p in points if p)
    if not found:
        return "no density"
    low, high = min(found, key=float), max(found, key=float)
    return f"{low} %" if low == high else f"{low} to {high} %"


def _paired(matrix: TransferMatrix) -> str:
    if all(len(run.seeds) == 1 for run in matrix.runs.values()):
        return "One seed."
    return "± is one standard deviation over seeds, differences being taken seed by seed."


def _incomparable(matrix: TransferMatrix) -> list[str]:
    """A sentence for each cell whose density is not that of the target's own ticket."""
    sentences = []
    for target in matrix.targets:
        native = matrix.point(target, target, matrix.level)
        for source in matrix.sources:
            point = matrix.point(source, target, matrix.level)
            if point and native and not matrix.is_comparable(source, target, matrix.level):
                sentences.append(
                    f"† Of {source} on {target} {point.remaining:.2f} % of the weights remain, of "
                    f"the target's own ticket {native.remaining:.2f} %."
                )
    return sentences


def _layer_densities(run: RunCurve) -> dict[str, list[tuple[float, float]]]:
    """For each layer: (weights remaining in all, in this layer), in %, means over seeds."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    levels = [0, *(p.level for p in run.series.get(WINNING, []))]
    for seed in run.seeds:
        for level in levels:
            file = run.workdir / f"seed_{seed}/level_{level:02d}/ticket/metadata.json"
            if not file.is_file():
                continue
            try:
                metadata: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
                counts = metadata["layers"]
                for name in metadata["layer_order"]:
                    kept, total = counts[name]
                    pair = (100 * metadata["density"], 100 * kept / total)
                    found.setdefault(name, {}).setdefault(level, []).append(pair)
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{file}: can't be read as a ticket's metadata: {error}"
                ) from error
    return {
        name: [
            (statistics.fmean(d for d, _ in pairs), statistics.fmean(s for _, s in pairs))
            for pairs in by_level.values()
        ]
        for name, by_level in found.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m lottery_jax.report",
        description="Draw accuracy over weights remaining from one or several run directories, or "
        "the figures of a transfer matrix.",
    )
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR")
    parser.add_argument("--out", type=Path, help="default: report/ in the first directory")
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="NAME",
        help="draw published curves behind: gohil2020, tanaka2020, or one of them with network and "
        "data, as gohil2020:vgg19_cifar10; may be repeated",
    )
    parser.add_argument(
        "--density",
        type=float,
        help="of a transfer matrix: at which fraction of weights to compare",
    )
    args = parser.parse_args(argv)

    def command() -> None:
        for file in write_report(
            args.workdirs, args.out, reference=args.reference, density=args.density
        ):
            print(file)

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main())
