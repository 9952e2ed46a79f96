"""Turn the files of runs into tables and figures, without JAX.

    python -m lottery_jax.report --help

`curves.py` reads a run, `trained.py` its tickets, and `transfers.py` a transfer matrix. `labels.py`
names runs so that readers can tell them apart, and `published.py` has published accuracies.
`panels.py` prepares what `figures.py` draws, `tables.py` makes the tables, `page_data.py` and `page.py`
the page that opens in a browser, and `write.py` writes the files.
"""

from __future__ import annotations

from lottery_jax.report.command import main
from lottery_jax.report.curves import Point, RunCurve, pooled, read_run
from lottery_jax.report.figures import for_notebooks
from lottery_jax.report.labels import legend_names, spread
from lottery_jax.report.panels import accuracy_panel, heat_columns, heat_rows, matrix_panels
from lottery_jax.report.tables import markdown_table, matrix_csv, matrix_markdown
from lottery_jax.report.trained import Cost, ticket_costs
from lottery_jax.report.transfers import TransferMatrix, cell_names, is_matrix, read_matrix
from lottery_jax.report.write import (
    budget_figure,
    closing_table,
    matrix_figure,
    matrix_heat_map,
    runs_figure,
    write_report,
)

__all__ = [
    "Cost",
    "Point",
    "RunCurve",
    "TransferMatrix",
    "accuracy_panel",
    "budget_figure",
    "cell_names",
    "closing_table",
    "for_notebooks",
    "heat_columns",
    "heat_rows",
    "is_matrix",
    "legend_names",
    "main",
    "markdown_table",
    "matrix_csv",
    "matrix_figure",
    "matrix_heat_map",
    "matrix_markdown",
    "matrix_panels",
    "pooled",
    "read_matrix",
    "read_run",
    "runs_figure",
    "spread",
    "ticket_costs",
    "write_report",
]
