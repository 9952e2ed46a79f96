"""The pages for users who bring something of their own: their snippets run as they stand.

Snippets in Python find one device, as on a user's CPU.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import COMPILE_QUICKLY, ROOT


def run_page(name, folder):
    """Run a page's snippets in order; returns the names that those in Python leave behind.

    A snippet that begins with the name of a file is written there.
    """
    (folder / "configs").symlink_to(ROOT / "configs")
    names = {"__name__": "page"}
    text = (ROOT / "docs" / f"{name}.md").read_text()
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S):
        if file := re.match(r"# (\w+\.py)\n", code):
            (folder / file[1]).write_text(code)
        elif language == "python":
            exec(compile(code, f"{name}.md", "exec"), names)
        else:
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            env = {
                **os.environ,
                "PATH": path,
                "PYTHONPATH": str(ROOT),
                "XLA_FLAGS": COMPILE_QUICKLY,
            }
            done = subprocess.run(["bash", "-ec", code], capture_output=True, text=True, env=env)
            assert done.returncode == 0, done.stderr
    return names


@pytest.mark.slow
def test_your_network(tmp_path, monkeypatch, alone):
    monkeypatch.chdir(tmp_path)
    names = run_page("your_network", tmp_path)
    assert names["ticket"].metadata["model"]["name"] == "given:Net"
    assert (tmp_path / "runs/lion/seed_0/level_01/ticket/metadata.json").is_file()


@pytest.mark.long
def test_your_loss(tmp_path, monkeypatch, alone):
    monkeypatch.chdir(tmp_path)
    names = run_page("your_loss", tmp_path)
    assert "test_mae" in names["rows"][0]
    header = (tmp_path / "runs/top/curve.csv").read_text().splitlines()[0]
    assert "test_top3_accuracy" in header


@pytest.mark.long
def test_your_data(tmp_path, monkeypatch, alone):
    monkeypatch.chdir(tmp_path)
    names = run_page("your_data", tmp_path)
    assert names["pictures"].class_names == ("dark", "light")
    for folder, data in (("pictures", "pictures"), ("own", "own_data_load")):
        metadata = tmp_path / "runs" / folder / "seed_0" / "level_01" / "ticket" / "metadata.json"
        assert f'"data": "{data}"' in metadata.read_text()
