"""What a report consists of: figures and tables in files, and one table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.table import Table

from lottery_jax.errors import ConfigError, FigureError
from lottery_jax.report import figures, published
from lottery_jax.report.curves import RunCurve, layer_densities, pooled, read_run
from lottery_jax.report.labels import counted, headings, spread
from lottery_jax.report.panels import accuracy_panel, heat_rows, matrix_panels
from lottery_jax.report.tables import (
    markdown_table,
    matrix_csv,
    matrix_markdown,
    matrix_table,
    run_table,
)
from lottery_jax.report.transfers import TransferMatrix, is_matrix, read_matrix
from lottery_jax.system.files import write_text


def write_report(
    workdirs: Sequence[str | Path],
    out: Path | None = None,
    *,
    reference: Sequence[str] = (),
    density: float | None = None,
    pool_seeds: bool = False,
) -> list[Path]:
    """Draws one figure of all runs, or the figures of a transfer matrix, and writes the tables.

    Args:
        workdirs: run directories, all drawn into the same figure, or one transfer matrix.
        out: where to; default: `report/` in the first directory.
        reference: published curves to draw behind: `gohil2020`, or `gohil2020:vgg19_cifar10`
            where network or data differ.
        density: of a matrix, which level to compare; default: its config's `transfer.density`.
        pool_seeds: whether runs that differ in their seeds alone are drawn as one, with its spread.

    Returns:
        The files. Of runs: curve.png, curve.svg, layers.png, layers.svg of the first run, and
        table.md. Of a matrix: matrix.png, matrix.svg, heatmap.png, heatmap.svg, matrix.csv,
        table.md.

    Raises:
        ConfigError: a directory is not a run, or there is nothing published of that name.
        FigureError: Matplotlib can't draw; the tables are written.
    """
    folders = [Path(workdir) for workdir in workdirs]
    out = out or folders[0] / "report"
    if any(map(is_matrix, folders)):
        if len(folders) > 1 or reference:
            raise ConfigError("a transfer matrix is reported on alone and without --reference")
        return _write_matrix(read_matrix(folders[0], density), out)
    if density is not None:
        raise ConfigError(f"--density is for transfer matrices; {folders[0]} is a run")
    runs = [read_run(folder) for folder in folders]
    return _write_runs(pooled(runs) if pool_seeds else runs, out, reference)


def closing_table(workdirs: Sequence[Path]) -> Table:
    """The same as a table for the terminal, of the first run or of a transfer matrix."""
    if is_matrix(workdirs[0]):
        return matrix_table(read_matrix(workdirs[0]))
    return run_table(read_run(workdirs[0]))


def _write_runs(runs: Sequence[RunCurve], out: Path, reference: Sequence[str]) -> list[Path]:
    settings = [(run.network, run.data) for run in runs]
    curves: list[published.Curve] = []
    for name in reference:
        curves += [c for c in published.select(name, settings) if c not in curves]
    configs = {name: run.config for name, run in zip(headings(runs), runs, strict=True)}
    notes = published.notes(curves, configs)
    if len(runs) == 1:
        title = runs[0].title
    else:
        shared = len({run.setting for run in runs}) == 1
        title = runs[0].setting if shared else "Accuracy over weights remaining"
    text = markdown_table(runs)
    if notes:
        text += "\n### Published numbers\n\n" + "".join(f"- {note}\n" for note in notes)
    write_text(out / "table.md", text)
    layers = layer_densities(runs[0])
    with _drawing(out):
        figure = figures.accuracy_figure(
            [accuracy_panel(runs, curves)], title, spread(runs), counted(runs), notes
        )
        files = figures.save(figure, out / "curve")
        if layers:
            subtitle = "the tickets layer by layer, from input to output"
            figure = figures.layer_figure(layers, runs[0].title, subtitle, runs[0].counted)
            files += figures.save(figure, out / "layers")
    return [*files, out / "table.md"]


@contextmanager
def _drawing(out: Path) -> Iterator[None]:
    """Has whatever Matplotlib raises be one line; a full disk stays what it is."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and out in Path(str(error.filename)).parents:
            raise
        raise FigureError(_cannot_draw(out, error)) from error
    except Exception as error:  # what a damaged font or installation makes of it
        raise FigureError(_cannot_draw(out, error)) from error


def _cannot_draw(out: Path, error: Exception) -> str:
    return f"{out}: the figures can't be drawn (Matplotlib: {type(error).__name__}: {error})"


def _write_matrix(matrix: TransferMatrix, out: Path) -> list[Path]:
    runs = list(matrix.runs.values())
    notes = [f"Not there yet: {', '.join(matrix.missing)}."] if matrix.missing else []
    write_text(out / "matrix.csv", matrix_csv(matrix))
    write_text(out / "table.md", matrix_markdown(matrix))
    panels, rows = matrix_panels(matrix), heat_rows(matrix)
    framed = f"Framed: the target's own ticket and its accuracy in %. {matrix.paired()}"
    with _drawing(out):
        figure = figures.accuracy_figure(panels, matrix.title, spread(runs), counted(runs), notes)
        files = figures.save(figure, out / "matrix")
        figure = figures.heat_figure(
            rows,
            matrix.targets,
            f"{matrix.title}, at level {matrix.level}, {matrix.densities} of the weights",
            "accuracy less that of the target's own ticket, percentage points",
            apart=1,
            labels=("tickets drawn on", "trained on", "difference, percentage points"),
            notes=[framed, *matrix.incomparable(), *notes],
        )
        files += figures.save(figure, out / "heatmap")
    return [*files, out / "matrix.csv", out / "table.md"]
