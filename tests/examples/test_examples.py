"""The examples run as they stand, and the page shows what is in them."""

import itertools
import os
import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# Of the loops, two stand for the rest, which differ in the library that holds the weights.
IN_CI = ("own_loop_linen", "own_loop_nnx")
PAGE = (ROOT / "docs" / "own_loop.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.long] * (p.stem not in IN_CI)) for p in EXAMPLES],
    ids=[path.stem for path in EXAMPLES],
)
def test_an_example_runs_and_its_own_checks_hold(path):
    """Each asserts that pruned weights are 0 and that its network is no worse for the pruning."""
    # Programs that run for milliseconds are compiled with less care, as in conftest.py.
    flags = "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    table = [line.split()[:2] for line in done.stdout.splitlines() if line.strip()[0].isdigit()]
    assert [level for level, _ in table] == ["0", "1", "2", "3"]
    densities = [float(density.removesuffix("%")) for _, density in table]
    assert densities[0] == 100 and all(a > b for a, b in itertools.pairwise(densities))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_checks_itself_and_is_on_the_page(path):
    text = path.read_text(encoding="utf-8")
    compile(text, str(path), "exec")
    assert len(re.findall(r"^ *assert ", text, re.M)) == 2
    assert f"(../examples/{path.name})" in PAGE


def test_the_page_shows_what_is_in_the_files():
    """Each block of code is a part of the file that was named last before it, line for line."""
    shown = []
    for part in re.split(r"(?=\]\(\.\./examples/\w+\.py\))", PAGE)[1:]:
        name = re.match(r"\]\(\.\./examples/(\w+\.py)\)", part)[1]
        source = (ROOT / "examples" / name).read_text(encoding="utf-8")
        for block in re.findall(r"```python\n(.*?)```", part, re.S):
            assert f"\n{block}" in source, (name, block)
            shown.append(name)
    assert {path.name for path in EXAMPLES} <= set(shown)
    assert len(shown) == len(re.findall("```python", PAGE))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_pruning_takes_no_more_than_fifteen_lines(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    about_pruning = [line for line in lines if re.search(r"\blj\.|\bmask\b|rewind_point", line)]
    assert 5 <= len(about_pruning) <= 15
