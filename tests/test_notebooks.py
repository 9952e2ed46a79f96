"""Notebooks run from the first cell to the last, and are kept with their outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers import COMPILE_QUICKLY

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def test_there_are_the_notebooks_of_the_readme():
    expected = {"01_find_a_ticket", "02_transfer", "03_snip_vs_imp", "04_your_network"}
    assert expected <= {path.stem for path in NOTEBOOKS}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.long] * (not path.stem.startswith("01")))
        for path in NOTEBOOKS
    ],
    ids=[path.stem for path in NOTEBOOKS],
)
def test_a_notebook_runs_and_has_its_outputs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", COMPILE_QUICKLY)
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
