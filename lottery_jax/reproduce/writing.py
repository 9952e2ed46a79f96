"""Write what claims have come to: claims.json, claims.md, claims.html and claims.png of a scale."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lottery_jax.report.claims import claims_figure_files
from lottery_jax.report.claims_page import write_claims_page
from lottery_jax.reproduce import tables
from lottery_jax.reproduce.claim import Claim
from lottery_jax.reproduce.claims import all_claims
from lottery_jax.reproduce.protocols import SCALES
from lottery_jax.reproduce.results import NAME, Result, read, recorded, to_json
from lottery_jax.system.files import write_text


def write(
    workdir: Path, scale: str, asked_for: Iterable[tuple[Claim, tuple[int, ...]]]
) -> tuple[list[Result], list[Path], list[str]]:
    """Write claims.json, claims.md, claims.html and claims.png of a scale.

    Claims that claims.json has from before are read from the disk again, with their own seeds. Their
    recorded result is kept if its runs are gone, or if other runs are planned now and nobody asked
    for the claim.

    Returns:
        The results, the files, and a line for each recorded result that is kept or replaced.
    """
    folder, known = workdir / scale, all_claims()
    before = recorded(folder)
    asked = {claim.key: seeds or SCALES[scale].seeds for claim, seeds in asked_for}
    results, notes = [], []
    for key in dict.fromkeys((*(key for key in known if key in {*before, *asked}), *before)):
        old = before.get(key)
        if key in known:
            new = read(known[key], scale, asked.get(key) or before[key].seeds, workdir)
            result, note = _choose(old, new, key in asked)
        else:
            result, note = before[key], "kept as recorded: this version has no such claim"
        results.append(result)
        notes += [f"claim {key}: {note}"] if note else []
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / NAME, to_json(results, scale))
    write_text(folder / "claims.md", tables.markdown(results, scale))
    page = write_claims_page(
        folder / "claims.html", SCALES[scale].text, tables.HEADER, tables.page_rows(results)
    )
    figure = claims_figure_files(tables.forest_rows(results), SCALES[scale].text, folder / "claims")
    return results, [folder / NAME, folder / "claims.md", page, *figure], notes


def _choose(old: Result | None, new: Result, asked: bool) -> tuple[Result, str]:
    """Return the recorded result of a claim or the new one, and a line on it where one is needed."""
    if old is None:
        return new, ""
    if old.complete and not new.complete:
        return old, "kept as recorded: runs or analyses that it needs are missing; `run` it again"
    if old.runs == new.runs:
        return new, ""
    if not asked:
        return old, "kept as recorded: its runs have other configs now; `run` it to replace it"
    return new, f"replaces the recorded result of seeds {', '.join(map(str, old.seeds))}"
