"""The documents: every link leads somewhere, nothing is left to be filled in."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_images_are_there(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("http"):
            assert (path.parent / target.partition("#")[0]).exists(), target
    assert not re.findall(r"@[A-Z_]+@", text)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_configs_and_modules_that_are_named_exist(path):
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"configs/\w+\.py", text):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"-m lottery_jax\.(\w+)", text):
        module = ROOT / "lottery_jax" / name
        assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_tests_that_are_named_exist(path):
    for file, name in re.findall(
        r"`((?:\w+/)*test_\w+\.py)(?:::(\w+))?`", path.read_text(encoding="utf-8")
    ):
        assert f"def {name}" in (ROOT / "tests" / file.removeprefix("tests/")).read_text(
            encoding="utf-8"
        ), (file, name)
