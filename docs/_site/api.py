"""The API reference, written from docstrings when the site is built; nothing is imported.

A page names what it shows in a fence that holds public names of `lottery_jax`, one a line:

    ```{api}
    masks
    ```
"""

from __future__ import annotations

import ast
import re
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```\{api\}\n(.*?)^```$", re.M | re.S)


@cache
def package() -> griffe.Module:
    """Return the package, parsed but not imported."""
    found = griffe.load("lottery_jax", search_paths=[str(ROOT)], docstring_parser="google")
    assert isinstance(found, griffe.Module)
    return found


@cache
def public_names() -> dict[str, str]:
    """Return the full path of each public name, as the tables in `lottery_jax/__init__.py` say."""
    names: dict[str, str] = {}
    for node in ast.parse((ROOT / "lottery_jax/__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            table = node.targets[0].id
            if table == "_MODULES":
                names |= ast.literal_eval(node.value)
            elif table == "_NAMES":
                names |= {name: f"{at}.{name}" for name, at in ast.literal_eval(node.value).items()}
    return names


def expand(text: str) -> str:
    """Return a page with its `{api}` fences filled."""
    return FENCE.sub(lambda fence: "\n".join(map(describe, fence[1].split())), text)


def describe(name: str) -> str:
    """Return the Markdown of a public name: a module with all that it defines, or one object."""
    found = package()[public_names()[name]]
    if found.is_alias:
        found = found.final_target
    if not found.is_module:
        return f"## `lj.{name}`\n\n{_object(found, f'lottery_jax.{name}', ':' * 9)}"
    parts = [f"## `lj.{name}`", _text(found.docstring.value) if found.docstring else ""]
    for key, member in found.members.items():
        if found.exports is not None and key not in found.exports:
            continue
        if key.startswith("_") or (member.is_alias and found.exports is None):
            continue
        target = member.final_target if member.is_alias else member
        if _defined_at().get(key) == target.path:
            parts.append(f"`lj.{name}.{key}` is `lj.{key}`.")
        elif target.docstring and not target.is_module:
            parts.append(_object(target, f"lottery_jax.{name}.{key}", ":" * 9))
    return "\n\n".join(part for part in parts if part) + "\n"


@cache
def _defined_at() -> dict[str, str]:
    """Return the path of the definition of each public name that is not a module."""
    at = {name: package()[path] for name, path in public_names().items()}
    targets = {name: found.final_target if found.is_alias else found for name, found in at.items()}
    return {name: found.path for name, found in targets.items() if not found.is_module}


def _object(found: Any, path: str, fence: str) -> str:
    """Return a function, a class with its methods, or an attribute as a directive of Python's domain."""
    if found.is_function:
        kind, head = "function", found.signature(name=path)
    elif found.is_class:
        kind, head = "class", path + _constructor(found)
    else:
        kind, head = "data", path
    if found.parent and found.parent.is_class:
        is_attribute = not found.is_function
        kind = (
            ("property" if "property" in found.labels else "attribute")
            if is_attribute
            else "method"
        )
    body = [_sections(found)]
    if found.is_class:
        for key, member in found.members.items():
            if not (key.startswith("_") or member.is_alias) and member.docstring:
                body.append(_object(member, f"{path}.{key}", fence[:-1]))
    inside = "\n\n".join(part for part in body if part)
    options = ":no-index-entry:\n" if kind == "attribute" else ""
    if kind == "method" and found.labels & {"classmethod", "staticmethod"}:
        options = f":{'classmethod' if 'classmethod' in found.labels else 'staticmethod'}:\n"
    return f"{fence}{{py:{kind}}} {' '.join(head.split())}\n{options}\n{inside}\n{fence}"


def _constructor(found: Any) -> str:
    shown = [p for p in found.parameters if p.name != "self"]
    texts = [
        p.name
        + (f": {p.annotation}" if p.annotation is not None else "")
        + (f" = {p.default}" if p.default is not None else "")
        for p in shown
    ]
    return f"({', '.join(texts)})" if shown else ""


def _sections(found: Any) -> str:
    parts = []
    for section in found.docstring.parsed if found.docstring else []:
        if section.kind is griffe.DocstringSectionKind.text:
            parts.append(_text(section.value))
        elif section.kind is griffe.DocstringSectionKind.examples:
            parts += [_text(value) for _, value in section.value]
        elif section.kind is griffe.DocstringSectionKind.admonition:
            parts.append(f"**{section.title}.** {_text(section.value.contents)}")
        else:
            rows = [_row(section.kind, item) for item in section.value]
            title = section.title or section.kind.value.capitalize()
            parts.append(f"**{title}**\n\n" + "\n".join(rows))
    return "\n\n".join(parts)


def _row(kind: Any, item: Any) -> str:
    text = textwrap.indent(_text(item.description), "  ").strip()
    if kind is griffe.DocstringSectionKind.raises:
        return f"- `{str(item.annotation).strip('()')}`: {text}"
    name = getattr(item, "name", "")
    return f"- `{name}`: {text}" if name else f"- {text}"


def _text(text: str) -> str:
    """Return a docstring as Markdown: doctests become code, and `<` outside of code is a letter."""
    blocks = []
    for block in re.split(r"\n\s*\n", textwrap.dedent(text).strip("\n")):
        lines = block.splitlines()
        first = next((i for i, line in enumerate(lines) if line.lstrip().startswith(">>>")), None)
        if first is not None:
            prose, code = lines[:first], textwrap.dedent("\n".join(lines[first:]))
            blocks += [_prose("\n".join(prose))] if prose else []
            blocks.append(f"```pycon\n{code}\n```")
        elif lines and all(line.startswith("    ") for line in lines if line):
            blocks.append(f"```text\n{textwrap.dedent(block)}\n```")
        else:
            blocks.append(_prose(block))
    return "\n\n".join(blocks)


def _prose(text: str) -> str:
    """Escape what Markdown would take for markup, but for code and *emphasis*."""
    parts = re.split(r"(`[^`]*`|\*\w+\*)", text)
    return "".join(
        part if i % 2 else re.sub(r"([<*\[\]|])", r"\\\1", part) for i, part in enumerate(parts)
    )
