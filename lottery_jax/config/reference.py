"""The table of keys for people: docs/config.md, and a part of `--help`."""

from __future__ import annotations

import textwrap

from lottery_jax.config.keys import GROUPS

_INTRODUCTION = """\
# The keys of a config

`python -m lottery_jax.config` writes this page from the table in `lottery_jax/config/keys.py`.

A config file has a function `get_config()`, which starts from `lottery_jax.config.default_config()`
or a function of `lottery_jax.recipes` and sets keys. On the command line `--config.KEY=VALUE` sets
a key, for a run or for all runs of a sweep. The values of a tuple are separated by commas:
`--config.seeds=0,1,2`, `--config.controls=random,reinit`; `--config.controls=()` is an empty one. A
misspelt key or name is an error that names the nearest one.

A run directory belongs to one config. Keys that are marked with * say where things are, how often
they are saved and how devices are used. With the same data they can't change a result by more than
the rounding of sums in another order: a run resumes with other values of them, and they are no part
of its fingerprint.
"""


def _written(default: object) -> str:
    """A default as the command line takes it.

    >>> [_written(value) for value in ("pad", "", (0,), 1e-4, False)]
    ['pad', "''", '0', '0.0001', 'False']
    """
    if isinstance(default, tuple) and default:
        return ",".join(map(str, default))
    return default if isinstance(default, str) and default else repr(default)


def as_markdown() -> str:
    """Return the text of docs/config.md: a table for each group of keys."""
    lines = [_INTRODUCTION]
    for title, keys in GROUPS.items():
        lines += [
            f"## {title}\n",
            "| key | default | meaning | legal values |",
            "|---|---|---|---|",
        ]
        for name, key in keys.items():
            mark = "" if key.affects_results else " *"
            cells = (f"`{name}`{mark}", f"`{_written(key.default)}`", key.meaning, key.rule.text)
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def as_text(width: int = 80) -> str:
    """Return the keys with their defaults and meanings, for a terminal of so many columns."""
    lines = ["Keys of the config, with their defaults:"]
    for title, keys in GROUPS.items():
        lines += ["", f"  {title}"]
        for name, key in keys.items():
            lines.append(f"    --config.{name}={_written(key.default)}")
            indent = " " * 8
            lines += textwrap.wrap(
                key.meaning, width, initial_indent=indent, subsequent_indent=indent
            )
    return "\n".join(lines)
