"""From the files of runs to tables and figures. Imports no JAX.

python -m lottery_jax.report WORKDIR [WORKDIR ...] [--out DIR]
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from lottery_jax.errors import ConfigError, exit_status
from lottery_jax.files import replacing, write_text
from lottery_jax.logs import CURVE_COLUMNS, WINNING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, distinguishable with colour-blind eyes.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "osD^vP"
_LABELS = {
    WINNING: "winning ticket",
    "reinit": "same mask, new weights",
    "random": "random ticket",
}


@dataclasses.dataclass(frozen=True)
class Point:
    """One level of one series: means over seeds, in percent.

    Attributes:
        level: 0 is the dense network.
        remaining: prunable weights that remain.
        accuracies: one for each seed.
    """

    level: int
    remaining: float
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """One standard deviation over seeds (n - 1); 0 for a single seed."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0


@dataclasses.dataclass(frozen=True)
class RunCurve:
    """What curve.csv says of one run.

    Attributes:
        workdir: the run directory.
        title: network, data and optimizer.
        dense: level 0.
        series: for each series (`winning`, then controls), its points by level, dense left out.
        seeds: those that have at least one row.
    """

    workdir: Path
    title: str
    dense: Point
    series: dict[str, list[Point]]
    seeds: tuple[int, ...]


def read_run(workdir: Path) -> RunCurve:
    """Reads a run's curve.csv and config.json.

    Raises:
        ConfigError: there is no run, nothing has been completed, or a file is damaged.
    """
    try:
        config = json.loads((workdir / "config.json").read_text(encoding="utf-8"))["config"]
        with (workdir / "curve.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        optimizer = config["optimizer"]["name"].upper()
        title = f"{config['model']['name']} on {config['data']['name']}, {optimizer}"
        values: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for row in rows:
            if missing := [column for column in CURVE_COLUMNS if row.get(column) is None]:
                raise ValueError(f"a row of curve.csv has no {missing[0]}")
            point = (100 * float(row["density"]), 100 * float(row["test_accuracy"]))
            values.setdefault((row["control"], int(row["level"])), []).append(point)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{workdir}: is not a run that can be reported on: {error}") from error
    if (WINNING, 0) not in values:
        raise ConfigError(f"{workdir}: no level is complete yet")
    points = {
        key: Point(key[1], statistics.fmean(d for d, _ in pairs), tuple(a for _, a in pairs))
        for key, pairs in values.items()
    }
    names = dict.fromkeys(control for control, _ in points)
    series = {
        name: [points[key] for key in sorted(points) if key[0] == name and key[1] > 0]
        for name in names
    }
    seeds = tuple(sorted({int(row["seed"]) for row in rows}))
    return RunCurve(workdir, title, points[WINNING, 0], series, seeds)


def write_report(workdirs: Sequence[str | Path], out: Path | None = None) -> list[Path]:
    """Draws one figure of all runs and writes the tables.

    Args:
        workdirs: run directories; several are drawn into the same figure, with the directory's
            name where network, data and optimizer are the same.
        out: where to; default: `report/` in the first run directory.

    Returns:
        The files: curve.png, curve.svg, table.md, and layers.png, layers.svg of the first run.

    Raises:
        ConfigError: a directory is not a run.
    """
    runs = [read_run(Path(workdir)) for workdir in workdirs]
    titles = [run.title for run in runs]
    runs = [
        dataclasses.replace(run, title=f"{run.title} ({run.workdir.name})")
        if titles.count(run.title) > 1
        else run
        for run in runs
    ]
    out = out or runs[0].workdir / "report"
    files = _save(accuracy_figure(runs), out / "curve")
    layers = _layer_densities(runs[0])
    if layers:
        files += _save(layer_figure(runs[0], layers), out / "layers")
    write_text(out / "table.md", markdown_table(runs))
    return [*files, out / "table.md"]


def markdown_table(runs: Sequence[RunCurve]) -> str:
    """The accuracies as a Markdown table for each run."""
    parts = []
    for run in runs:
        header, rows = _cells(run)
        parts.append(f"### {run.title}, {_seeds(run)}\n")
        parts.append("| " + " | ".join(header) + " |")
        parts.append("|" + "---:|" * len(header))
        parts += ["| " + " | ".join(row) + " |" for row in rows]
        parts.append(
            "\nTest accuracy in %, mean ± one standard deviation over seeds; the share of "
            "weights counts prunable weights.\n"
        )
    return "\n".join(parts)


def closing_table(workdirs: Sequence[Path]) -> Table:
    """The same as a table for the terminal, of the first run."""
    run = read_run(workdirs[0])
    header, rows = _cells(run)
    table = Table(title=f"{run.title}: test accuracy in %, {_seeds(run)}", title_justify="left")
    for name in header:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _seeds(run: RunCurve) -> str:
    return f"{len(run.seeds)} seed{'s' if len(run.seeds) > 1 else ''}"


def _cells(run: RunCurve) -> tuple[list[str], list[list[str]]]:
    def cell(point: Point | None) -> str:
        if point is None:
            return ""
        spread = f" ± {point.std:.2f}" if len(point.accuracies) > 1 else ""
        return f"{point.mean:.2f}{spread}"

    by_level = {name: {p.level: p for p in points} for name, points in run.series.items()}
    by_level[WINNING] = {0: run.dense, **by_level.get(WINNING, {})}
    header = ["level", "weights left, %", *(_LABELS.get(name, name) for name in by_level)]
    rows = [
        [str(level), f"{point.remaining:.2f}", *(cell(p.get(level)) for p in by_level.values())]
        for level, point in sorted(by_level[WINNING].items())
    ]
    return header, rows


def accuracy_figure(runs: Sequence[RunCurve]) -> Figure:
    """Accuracy over weights remaining: a line a series, a band of one standard deviation."""
    axes = _new_axes(7.2, 4.4)
    for i, run in enumerate(runs):
        for j, (name, points) in enumerate(run.series.items()):
            if not points:
                continue
            colour = _COLOURS[(i if len(runs) > 1 else j) % len(_COLOURS)]
            label = _LABELS.get(name, name)
            line = [run.dense, *points] if name == WINNING else points
            x = [p.remaining for p in line]
            mean = [p.mean for p in line]
            axes.plot(
                x,
                mean,
                marker=_MARKERS[j % len(_MARKERS)],
                markersize=4.5,
                linewidth=1.8,
                linestyle="-" if name == WINNING else "--",
                color=colour,
                label=f"{run.title}, {label}" if len(runs) > 1 else label,
            )
            low = [p.mean - p.std for p in line]
            high = [p.mean + p.std for p in line]
            axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
        dense = "dense network" if len(runs) == 1 else f"{run.title}, dense"
        colour = "0.35" if len(runs) == 1 else _COLOURS[i % len(_COLOURS)]
        axes.axhline(run.dense.mean, color=colour, linewidth=1, linestyle=":", label=dense)
    _weights_axis(axes, [p for run in runs for points in run.series.values() for p in points])
    axes.set_ylabel("test accuracy, %")
    title = runs[0].title if len(runs) == 1 else "Accuracy over weights remaining"
    seeds = {_seeds(run) for run in runs}
    spread = " (mean ± 1 s.d.)" if any(len(run.seeds) > 1 for run in runs) else ""
    axes.set_title(f"{title}, {' / '.join(sorted(seeds))}{spread}", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9, loc="best")
    return _figure(axes)


def layer_figure(run: RunCurve, layers: dict[str, list[tuple[float, float]]]) -> Figure:
    """Which share of each layer's weights remains, over that of the whole network."""
    from matplotlib import colormaps

    axes = _new_axes(7.2, 4.4)
    names = list(layers)
    for i, name in enumerate(names):
        colour = colormaps["viridis"](0.92 * i / max(1, len(names) - 1))
        x, y = zip(*layers[name], strict=True)
        axes.plot(x, y, marker="o", markersize=3, linewidth=1.5, color=colour, label=name)
    everything = sorted({x for points in layers.values() for x, _ in points})
    axes.plot(everything, everything, color="0.6", linewidth=1, linestyle=":", label="uniform")
    points = run.series.get(WINNING, [])
    _weights_axis(axes, points)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("weights remaining in the layer, %")
    axes.set_title(
        f"{run.title}: winning tickets by layer, input to output", loc="left", fontsize=11
    )
    columns = -(-len(names) // 18)
    axes.legend(
        frameon=False, fontsize=8, ncols=columns, loc="center left", bbox_to_anchor=(1.0, 0.5)
    )
    return _figure(axes)


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


def _new_axes(width: float, height: float) -> Axes:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "lottery_jax"  # the same figure is the same file
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    figure.set_facecolor("white")
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes


def _weights_axis(axes: Axes, points: Sequence[Point]) -> None:
    """Weights remaining in percent, log scale, from dense on the left to sparse on the right."""
    axes.set_xscale("log")
    lowest = min([p.remaining for p in points], default=10.0)
    axes.set_xlim(115, lowest * 0.87)
    ticks = [t for t in (100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05) if t >= lowest * 0.87]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("weights remaining, % (log scale)")


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def _save(figure: Figure, stem: Path) -> list[Path]:
    import matplotlib.pyplot as plt

    files = []
    for kind in ("png", "svg"):
        file = stem.with_suffix(f".{kind}")
        metadata = {"Date": None} if kind == "svg" else None
        with replacing(file) as temporary:
            figure.savefig(temporary, format=kind, dpi=160, metadata=metadata)
        files.append(file)
    plt.close(figure)
    return files


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m lottery_jax.report",
        description="Draw accuracy over weights remaining from one or several run directories.",
    )
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR")
    parser.add_argument("--out", type=Path, help="default: report/ in the first run directory")
    args = parser.parse_args(argv)

    def command() -> None:
        for file in write_report(args.workdirs, args.out):
            print(file)

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main())
