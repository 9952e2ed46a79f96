"""What the site does to a page before it is rendered: links out of docs/, files, help texts, the API."""

from __future__ import annotations

import ast
import os
import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

from . import api

DOCS = api.ROOT / "docs"
LINK = re.compile(r"\]\(((?!\w+:)[^)#\s]+)(#[^)\s]*)?\)")
FILE = re.compile(r"^```\{file\}\n(.*?)\n```$", re.M)
HELP = re.compile(r"^```\{help\}\n(.*?)^```$", re.M | re.S)
# A file beside docs/ -> the page that shows it.
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
}
_SHOWN: set[str] = set()


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
    content[0] = api.expand(text, _SHOWN)


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
    return f"```text\n{ast.get_docstring(ast.parse(file.read_text()))}\n```"


def check(app: Sphinx, error: Exception | None) -> None:
    """Fail if a public name is on no page."""
    missing = sorted(set(api.public_names()) - _SHOWN)
    if missing and error is None and app.builder.name == "html":
        raise ExtensionError(
            f"public names that no page under docs/api shows: {', '.join(missing)}"
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the changes."""
    app.connect("config-inited", copy_notebooks)
    app.connect("source-read", read)
    app.connect("build-finished", check)
    # One process reads all pages: `check` has to know of each.
    return {"parallel_read_safe": False, "parallel_write_safe": True}
