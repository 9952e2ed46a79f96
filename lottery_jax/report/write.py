"""Write a report's figures and tables, and make the table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from lottery_jax.errors import ConfigError, FigureError
from lottery_jax.report import figures, published
from lottery_jax.report.comparisons import reading_notes, run_panels, with_enlarged
from lottery_jax.report.curves import RunCurve, pooled, read_run
from lottery_jax.report.heat import heat_figure
from lottery_jax.report.labels import count_seeds, counted_weights, headings, spread
from lottery_jax.report.layers import layer_figure
from lottery_jax.report.page import write_page
from lottery_jax.report.panels import budget_panels, heat_columns, heat_rows, matrix_panels
from lottery_jax.report.tables import (
    budget_markdown,
    markdown_table,
    matrix_csv,
    matrix_markdown,
    matrix_table,
    run_table,
)
from lottery_jax.report.trained import Cost, layer_densities, ticket_costs
from lottery_jax.report.training import training_curves, training_figure
from lottery_jax.report.transfers import TransferMatrix, is_matrix, read_matrix
from lottery_jax.system.files import write_text

if TYPE_CHECKING:
    from lottery_jax.report.figures import Figure


def write_report(
    workdirs: Sequence[str | Path],
    out: Path | None = None,
    *,
    reference: Sequence[str] = (),
    density: float | None = None,
    pool_seeds: bool = False,
) -> list[Path]:
    """Draw one figure of all runs, or the figures of a transfer matrix, and write the tables.

    Args:
        workdirs: run directories, all drawn into the same figure, or one transfer matrix.
        out: the directory to write into; default: `report/` in the first directory.
        reference: published curves to draw behind the runs: `gohil2020`, or
            `gohil2020:vgg19_cifar10` if network or data differ from the runs'.
        density: the fraction of weights at which to compare the tickets of a matrix; default: the
            config's `transfer.density`.
        pool_seeds: whether to draw runs that differ in their seeds alone as one, with its spread.

    Returns:
        The paths of the files. For runs: curve.png, budget.png (if the runs recorded what is
        needed), layers.png and training.png (of the first run, if its tickets and metrics are
        there), each also as .svg, table.md, and report.html, which shows all of it and opens
        offline. For a matrix: matrix.png, matrix.svg, heatmap.png, heatmap.svg, matrix.csv,
        table.md and report.html.

    Raises:
        ConfigError: a directory is not a run, or nothing is published under a name in `reference`.
        FigureError: Matplotlib can't draw; the tables are written.
    """
    folders = [Path(workdir) for workdir in workdirs]
    out = out or folders[0] / "report"
    if any(map(is_matrix, folders)):
        if len(folders) > 1 or reference:
            raise ConfigError("a transfer matrix must be reported alone and without --reference")
        return _write_matrix(read_matrix(folders[0], density), out)
    if density is not None:
        raise ConfigError(f"--density is for transfer matrices, but {folders[0]} is a run")
    runs = [read_run(folder) for folder in folders]
    return _write_runs(pooled(runs) if pool_seeds else runs, out, reference)


def closing_table(workdirs: Sequence[Path]) -> Table:
    """Return the table for the terminal: that of the first run or of the transfer matrix."""
    if is_matrix(workdirs[0]):
        return matrix_table(read_matrix(workdirs[0]))
    return run_table(read_run(workdirs[0]))


def runs_figure(
    runs: Sequence[RunCurve], curves: Sequence[published.Curve] = (), notes: Sequence[str] = ()
) -> Figure:
    """Draw runs as accuracy over weights remaining, all of them into one figure."""
    if len(runs) == 1:
        title = runs[0].title
    else:
        shared = len({run.setting for run in runs}) == 1
        title = runs[0].setting if shared else "Accuracy over weights remaining"
    panels = run_panels(runs, curves)
    notes = [*reading_notes(runs, panels), *notes]
    return figures.accuracy_figure(panels, title, spread(runs), counted_weights(runs), notes)


def budget_figure(runs: Sequence[RunCurve]) -> Figure | None:
    """Draw accuracy over what it cost to find and train each ticket; None: no run recorded it."""
    costs = [ticket_costs(run) for run in runs]
    return _budget_figure(runs, costs) if any(costs) else None


def _budget_figure(runs: Sequence[RunCurve], costs: Sequence[Mapping[int, Cost]]) -> Figure:
    known = [run for run, cost in zip(runs, costs, strict=True) if cost]
    panels = budget_panels(known, [cost for cost in costs if cost])
    title = known[0].title if len(known) == 1 else "Accuracy over the cost of the tickets"
    notes = [
        "Charged: every training that leads to a ticket, and its own; not evaluations, scores and "
        "rewind points from elsewhere. Beside points: weights remaining. M, G, T and P: 10⁶, 10⁹, "
        "10¹² and 10¹⁵."
    ]
    return figures.accuracy_figure(panels, title, spread(known), counted_weights(known), notes)


def matrix_figure(matrix: TransferMatrix) -> Figure:
    """Draw accuracy over weights remaining, with a pair of axes for each target of a matrix."""
    runs, panels = list(matrix.runs.values()), with_enlarged(matrix_panels(matrix))
    notes = [*reading_notes(runs, panels), *_missing(matrix)]
    return figures.accuracy_figure(panels, matrix.title, spread(runs), counted_weights(runs), notes)


def matrix_heat_map(matrix: TransferMatrix) -> Figure:
    """Draw how much better or worse the tickets of each source do than the target's own."""
    return heat_figure(
        heat_rows(matrix),
        heat_columns(matrix),
        f"{matrix.title}, at level {matrix.level}, {matrix.densities} of the weights",
        "accuracy less that of the target's own ticket of the same seed",
        rows_apart=1,
        axis_labels=("tickets drawn on", "trained on", "difference, percentage points"),
        notes=[*_heat_notes(matrix), *matrix.incomparable(), *_missing(matrix)],
    )


def _heat_notes(matrix: TransferMatrix) -> list[str]:
    several = any(len(run.seeds) > 1 for run in matrix.runs.values())
    faded = " Faded: the difference is below one standard deviation." if several else ""
    own = "Below each target: the accuracy of its own ticket."
    return [f"{own} {matrix.spread_note()}{faded}"]


def _missing(matrix: TransferMatrix) -> list[str]:
    return [f"Not there yet: {', '.join(matrix.missing)}."] if matrix.missing else []


def _write_runs(runs: Sequence[RunCurve], out: Path, reference: Sequence[str]) -> list[Path]:
    settings = [(run.network, run.data) for run in runs]
    curves: list[published.Curve] = []
    for name in reference:
        curves += [c for c in published.select(name, settings) if c not in curves]
    configs = {name: run.config for name, run in zip(headings(runs), runs, strict=True)}
    notes = published.notes(curves, configs)
    costs = [ticket_costs(run) for run in runs]
    text = markdown_table(runs) + budget_markdown(runs, costs)
    if notes:
        text += "\n### Published numbers\n\n" + "".join(f"- {note}\n" for note in notes)
    write_text(out / "table.md", text)
    title = runs[0].title if len(runs) == 1 else f"{len(runs)} runs"
    page = write_page(runs, out, title, notes=notes)
    layers = layer_densities(runs[0])
    with drawing_errors(out):
        files = figures.save(runs_figure(runs, curves, notes), out / "curve")
        if any(costs):
            files += figures.save(_budget_figure(runs, costs), out / "budget")
        if layers:
            subtitle = "the tickets layer by layer, from input to output"
            figure = layer_figure(layers, runs[0].title, subtitle, runs[0].counted_weights)
            files += figures.save(figure, out / "layers")
        if training := training_curves(runs[0]):
            quantity = runs[0].quantity.replace(" in %", ", %")
            seeds = f"winning tickets, {count_seeds(runs[:1])}"
            figure = training_figure(training, runs[0].title, seeds, quantity)
            files += figures.save(figure, out / "training")
    return [*files, out / "table.md", page]


@contextmanager
def drawing_errors(out: Path) -> Iterator[None]:
    """Raise Matplotlib's errors as `FigureError`, and leave errors of the disk at `out` as they are.

    A damaged font or installation can raise anything.
    """
    try:
        yield
    except Exception as error:
        file = error.filename if isinstance(error, OSError) else None
        if file is not None and out in Path(str(file)).parents:
            raise
        text = f"{out}: the figures can't be drawn (Matplotlib: {type(error).__name__}: {error})"
        raise FigureError(text) from error


def _write_matrix(matrix: TransferMatrix, out: Path) -> list[Path]:
    write_text(out / "matrix.csv", matrix_csv(matrix))
    write_text(out / "table.md", matrix_markdown(matrix))
    notes = [
        f"At level {matrix.level}, {matrix.densities} of the weights: accuracy less that of the "
        f"target's own ticket, percentage points. {matrix.spread_note()} Headings: the accuracy of "
        "the target's own ticket.",
        *matrix.incomparable(),
        *_missing(matrix),
    ]
    heat = ([name.replace("\n", "; ") for name in heat_columns(matrix)], heat_rows(matrix))
    page = write_page(list(matrix.runs.values()), out, matrix.title, notes=notes, heat=heat)
    with drawing_errors(out):
        files = figures.save(matrix_figure(matrix), out / "matrix")
        files += figures.save(matrix_heat_map(matrix), out / "heatmap")
    return [*files, out / "matrix.csv", out / "table.md", page]
