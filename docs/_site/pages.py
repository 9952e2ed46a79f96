"""What the site does to a page before it is rendered.

It sends links to files beside docs/ to the pages that show them, and fills fences: `{file}` with a file
of the repository, `{help}` with what commands say of themselves, `{configs}` with what configs say of
themselves, `{api}` with docstrings.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

from . import api

DOCS = api.ROOT / "docs"
LINK = re.compile(r"\]\(((?!\w+:)[^)#\s]+)(#[^)\s]*)?\)")
FILE = re.compile(r"^```\{file\}\n(.*?)\n```$", re.M)
HELP = re.compile(r"^```\{help\}\n(.*?)^```$", re.M | re.S)
CONFIGS = re.compile(r"^```\{configs\}\n```$", re.M)
# A file beside docs/ -> the page that shows it.
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
}


def copy_notebooks(app: Sphinx, config: Config) -> None:
    """Copy the notebooks to docs/notebooks, since Sphinx reads nothing outside of docs/."""
    shutil.rmtree(DOCS / "notebooks", ignore_errors=True)
    ignored = shutil.ignore_patterns(".*")
    shutil.copytree(api.ROOT / "notebooks", DOCS / "notebooks", ignore=ignored)


def read(app: Sphinx, name: str, content: list[str]) -> None:
    """Fill the fences of a page, and send its links to files beside docs/ to their pages."""
    folder, text = (DOCS / name).parent, content[0]
    if folder == DOCS / "notebooks":
        return
    if name.startswith("results/") and not name.endswith("/README"):
        text = _generated(name, text)
    text = redirect(text, folder, folder)
    text = FILE.sub(lambda f: redirect((api.ROOT / f[1]).read_text(), api.ROOT, folder), text)
    text = HELP.sub(lambda fence: "\n".join(map(_help, fence[1].split())), text)
    text = CONFIGS.sub(lambda _: "\n\n".join(map(_config, configs())), text)
    content[0] = api.expand(text)


def redirect(text: str, start: Path, end: Path) -> str:
    """Return Markdown with links that lead from `end` to where they lead from `start`."""

    def rewrite(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(start / link[1]))
        if not target.exists():
            return link[0]  # Sphinx reports it
        if target.parent == api.ROOT:
            target = DOCS / PAGES.get(target.name, target)
        elif target.parent == api.ROOT / "notebooks":
            target = DOCS / "notebooks" / target.name
        return f"]({os.path.relpath(target, end)}{link[2] or ''})"

    return LINK.sub(rewrite, text)


def _generated(name: str, text: str) -> str:
    """Return a table of results as a page: with a title, and reached by links alone."""
    title = name.split("/")[-2].replace("_", " ").capitalize()
    return f"---\norphan: true\n---\n\n# {title}\n\n" + re.sub(r"^#+ ", "## ", text, flags=re.M)


def _help(module: str) -> str:
    """Return what `python -m lottery_jax.MODULE` says of itself."""
    path = api.ROOT / "lottery_jax" / module
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    return f"```text\n{_docstring(file)}\n```"


def configs() -> list[Path]:
    """Return the files of configs, the quickstart first."""
    files = (api.ROOT / "configs").glob("*.py")
    return sorted(files, key=lambda file: (file.stem != "quickstart", file.stem))


def _config(file: Path) -> str:
    """Return a section of what a config's docstring says: the recipe, its cost, what to expect."""
    first, _, rest = _docstring(file).partition("\n")
    return f"## {file.stem}\n\n{first}\n\n```text\n{rest.strip()}\n```"


def _docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text())) or ""


def check(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names that are on no page."""
    text = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    shown = " ".join(api.FENCE.findall(text)).split()
    for name in sorted(set(api.public_names()) - set(shown)):
        logging.getLogger(__name__).warning("no page of docs/api shows the public name %s", name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the changes."""
    app.connect("config-inited", copy_notebooks)
    app.connect("source-read", read)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
