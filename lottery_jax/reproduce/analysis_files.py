"""The rows of an analysis, kept in the directory of the run that they were made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from lottery_jax.errors import ConfigError
from lottery_jax.reproduce.claim import Row
from lottery_jax.runs.record import git_commit
from lottery_jax.system.files import write_text


def analysis_file(run_dir: Path, kind: str) -> Path:
    """Return the file of an analysis."""
    return run_dir / "analysis" / f"{kind}.json"


def curve_sha256(run_dir: Path) -> str | None:
    """Return the SHA-256 of a run's curve.csv; None if there is none."""
    file = run_dir / "curve.csv"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def write_rows(run_dir: Path, kind: str, rows: Sequence[Row], curve: str | None) -> None:
    """Write the rows of an analysis with the hash of the curve.csv that the run had, and the commit."""
    record = {"curve_sha256": curve, "git_commit": git_commit(), "rows": rows}
    file = analysis_file(run_dir, kind)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(record, indent=1, default=float) + "\n")


def read_rows(run_dir: Path, kind: str) -> list[Row] | None:
    """Return the rows of an analysis; None if there are none, or the run has another curve.csv.

    Raises:
        ConfigError: the file is damaged.
    """
    file = analysis_file(run_dir, kind)
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text("utf-8"))
        rows: list[Row] = [dict(row) for row in record["rows"]]
        curve = record["curve_sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{file}: can't be read ({error}); remove it, and `run` makes it again"
        raise ConfigError(message) from error
    return rows if curve == curve_sha256(run_dir) else None
