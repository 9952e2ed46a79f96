"""Objects by import path: what is found, and one line for what is not."""

import sys

import pytest

from lottery_jax.errors import ConfigError
from lottery_jax.system.imports import load_object


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current directory; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_in_the_current_directory_is_found(folder):
    (folder / "own_pkg").mkdir()
    (folder / "own_pkg" / "data.py").write_text("class Sets:\n    def two():\n        return 2\n")
    assert load_object("own_pkg.data:Sets.two", "config.data.name")() == 2
    assert sys.path[-1] == str(folder)


def test_an_installed_module_wins_over_one_in_the_current_directory(folder):
    (folder / "colorsys.py").write_text("rgb_to_hls = None\n")
    sys.modules.pop("colorsys", None)
    assert load_object("colorsys:rgb_to_hls", "config.data.name")(0.0, 0.0, 0.0) == (0, 0, 0)


@pytest.mark.parametrize(
    "path, message",
    [
        ("own:", "not an import path"),
        ("own data:f", "not an import path"),
        (":f", "not an import path"),
        ("a:b:c", "not an import path"),
        ("nowhere_at_all:f", "there is no module 'nowhere_at_all' in .*PYTHONPATH"),
        ("own.inner:f", "there is no module 'own.inner' in "),
        ("own:lod", r"own: unknown name 'lod' \(did you mean 'load'\?\)"),
        ("needs:f", r"needs fails when it is imported: ModuleNotFoundError: .*not_there.*needs.py:1"),
        ("breaks:f", r"breaks fails when it is imported: ValueError: two lines \(.*breaks.py:2\)"),
        ("unfinished:f", r"unfinished fails .*SyntaxError: .*unfinished.py:2\)"),
        ("leaves:f", r"leaves fails when it is imported: SystemExit: 3"),
    ],
)  # fmt: skip
def test_a_path_that_leads_nowhere_is_one_line(folder, path, message):
    (folder / "own.py").write_text("def load():\n    pass\n")
    (folder / "needs.py").write_text("import not_there\n")
    (folder / "breaks.py").write_text("\nraise ValueError('two lines\\nsecond')\n")
    (folder / "unfinished.py").write_text("x = 1\ny = = 2\n")
    (folder / "leaves.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(ConfigError, match=f"^config.data.name: .*{message}") as caught:
        load_object(path, "config.data.name")
    assert "\n" not in str(caught.value)
