"""The documents: every link leads somewhere, nothing is left to be filled in."""

import re

import pytest

import lottery_jax as lj
from lottery_jax.config import misspelt_override, validate
from tests.helpers import CONFIG_FILES, ROOT, load_config_file

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


@pytest.mark.parametrize(
    "path", [*DOCUMENTS, *CONFIG_FILES], ids=lambda p: str(p.relative_to(ROOT))
)
def test_arguments_of_configs_and_keys_that_are_named_are_legal(path):
    text = path.read_text(encoding="utf-8")
    for name, argument in set(re.findall(r"(configs/\w+\.py):([a-z0-9]\w*)", text)):
        validate(load_config_file(ROOT / name).get_config(argument))
    for key in set(re.findall(r"--config\.[a-z][\w.]*(?==)", text)):
        assert misspelt_override(key) is None


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_tests_that_are_named_exist(path):
    for file, name in re.findall(
        r"`((?:\w+/)*test_\w+\.py)(?:::(\w+))?`", path.read_text(encoding="utf-8")
    ):
        assert f"def {name}" in (ROOT / "tests" / file.removeprefix("tests/")).read_text(
            encoding="utf-8"
        ), (file, name)


def test_every_public_name_is_once_in_the_reference():
    """The site's build writes what these fences name."""
    text = "\n".join(page.read_text() for page in sorted((ROOT / "docs" / "api").glob("*.md")))
    fences = re.findall(r"^```\{api\}\n(.*?)^```$", text, re.M | re.S)
    assert sorted("".join(fences).split()) == lj.__all__


def test_every_page_has_a_place_on_the_site():
    """The site's build fails otherwise, but is not part of the tests."""
    lists = re.findall(r"```\{toctree\}\n(.*?)```", (ROOT / "docs/index.md").read_text(), re.S)
    named = " ".join(lists).split()
    assert {p.stem for p in (ROOT / "docs").glob("*.md")} - {"index"} <= set(named)
