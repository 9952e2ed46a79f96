"""Write one page about runs, report.html: a single file that opens offline and loads nothing.

The page's data stand in it as JSON, and `assets/page.js` shows them as text. Its policy allows the
scripts and the styles of this package alone, by their hashes, so that names and metadata of
strangers run nothing. The figures are drawn by uPlot, whose file and license are in `assets/`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from lottery_jax.report.curves import RunCurve
from lottery_jax.report.labels import flatten, headings
from lottery_jax.report.page_data import link, page_data
from lottery_jax.report.panels import HeatCell
from lottery_jax.system.files import write_text

_SCRIPTS = ("uplot.min.js", "page.js")
_STYLES = ("uplot.min.css", "page.css")
# Characters that could end the element that holds the data, or a line of JavaScript.
_IN_SCRIPT = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}

Heat = Mapping[str, Sequence[HeatCell]]


def write_page(
    runs: Sequence[RunCurve],
    out: Path,
    title: str,
    *,
    notes: Sequence[str] = (),
    heat: tuple[Sequence[str], Heat] | None = None,
) -> Path:
    """Write `out`/report.html and return its path.

    Args:
        runs: the runs, pooled or not, or those of a transfer matrix.
        out: the directory of the report.
        title: the heading.
        notes: sentences that explain the numbers.
        heat: the columns and the rows of a transfer matrix.
    """
    write_text(out / "report.html", page_html(runs, out, title, notes=notes, heat=heat))
    return out / "report.html"


def page_html(
    runs: Sequence[RunCurve],
    out: Path,
    title: str,
    *,
    notes: Sequence[str] = (),
    heat: tuple[Sequence[str], Heat] | None = None,
) -> str:
    """Return the page as text; the arguments are those of `write_page`."""
    data = page_data(runs, out)
    sections = []
    for run, heading, shown in zip(runs, headings(runs), data["runs"], strict=True):
        section = _run_section(run, shown, out)
        name = f"{heading}{' (warnings)' if shown['warnings'] else ''}"
        folded = f"<details><summary>{escape(name)}</summary>{section}</details>"
        sections.append(folded if len(runs) > 1 else section)
        del shown["facts"], shown["warnings"]  # these are HTML, not data for the script
    figures = _asset("page.html")
    body = [
        *(f"<p>{escape(note)}</p>" for note in notes),
        _heat_table(*heat) if heat else "",
        *([figures, "<h2>Runs</h2>", *sections] if len(runs) > 1 else [*sections, figures]),
    ]
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).translate(_IN_SCRIPT)
    body += [f'<script type="application/json" id="data">{text}</script>']
    return document(title, body, _SCRIPTS, _STYLES)


def document(title: str, body: Iterable[str], scripts: Sequence[str], styles: Sequence[str]) -> str:
    """Return a whole page that runs and loads nothing but these files of `assets/`.

    Args:
        title: the heading, a text.
        body: the markup below it.
        scripts: names of files, in the order in which they run.
        styles: names of files.
    """
    codes, sheets = [_asset(name) for name in scripts], [_asset(name) for name in styles]
    policy = (
        f"default-src 'none'; script-src {_hashes(codes)}; style-src {_hashes(sheets)}; "
        "base-uri 'none'; form-action 'none'"
    )
    page = "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            *(f"<style>{sheet}</style>" for sheet in sheets),
            f"</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>",
            *body,
            "</main>",
            *(f"<script>{code}</script>" for code in codes),
            "</body>\n</html>\n",
        ]
    )
    return page.encode(errors="replace").decode()  # names of files may hold what UTF-8 can't


@cache
def _asset(name: str) -> str:
    text = (files("lottery_jax.report") / "assets" / name).read_text(encoding="utf-8")
    return text.strip()


def _hashes(texts: Iterable[str]) -> str:
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _run_section(run: RunCurve, shown: Mapping[str, Any], out: Path) -> str:
    """Return a run's warnings, facts, links, commands and config."""
    warnings = "".join(f"<li>{escape(text)}</li>" for text in shown["warnings"])
    record = ((key, str(value)) for key, value in flatten(run.config))
    links = {"the run directory": "", "curve.csv": "curve.csv", "metrics.jsonl": "metrics.jsonl"}
    return "\n".join(
        [
            f'<ul class="warnings">{warnings}</ul>' if warnings else "",
            _pairs(shown["facts"], "facts"),
            " · ".join(_anchor(text, run.workdir / name, out) for text, name in links.items()),
            "<details><summary>Commands that repeat it</summary>",
            f"<pre>{escape(commands(run))}</pre></details>",
            f"<details><summary>Config</summary>{_pairs(record, 'config')}</details>",
        ]
    )


def _anchor(text: str, place: Path, out: Path) -> str:
    return f'<a href="{escape(link(place, out))}">{escape(text)}</a>'


def _pairs(pairs: Iterable[tuple[str, str]], kind: str) -> str:
    rows = (f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in pairs)
    return f'<dl class="{kind}">{"".join(rows)}</dl>'


def commands(run: RunCurve) -> str:
    """Return what to type to repeat a run, to draw its report again and to look at its tickets."""
    folder = shlex.quote(str(run.workdir))
    record = str(run.workdir / "config.json")
    return "\n".join(
        [
            "# Repeat the run: its config, from its record",
            "cat > again.py <<'END'",
            "import json",
            "from pathlib import Path",
            "from lottery_jax.config import from_json",
            "def get_config():",
            f"    return from_json(json.loads(Path({record!a}).read_text())['config'])",
            "END",
            "python -m lottery_jax.main --config=again.py --workdir=runs/again",
            "# Make this report again, and list the tickets",
            f"python -m lottery_jax.report {folder}",
            f"python -m lottery_jax.tickets list {folder}",
        ]
    )


def _heat_table(columns: Sequence[str], rows: Heat) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    lines = [
        f'<div class="wide"><table class="heat"><tr><th>tickets of, trained on</th>{head}</tr>'
    ]
    for name, cells in rows.items():
        parts = (
            f'<td class="{_shade(cell)}">{escape(cell.text)} <small>{escape(cell.small)}</small></td>'
            for cell in cells
        )
        lines.append(f"<tr><th>{escape(name)}</th>{''.join(parts)}</tr>")
    return "\n".join([*lines, "</table></div>"])


def _shade(cell: HeatCell) -> str:
    if cell.framed:
        return "own"
    if cell.value is None or abs(cell.value) < 0.05:
        return "none"
    return "better" if cell.value > 0 else "worse"
