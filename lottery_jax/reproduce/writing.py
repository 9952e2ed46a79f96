"""Write what claims have come to: claims.json, claims.md and claims.png of a scale."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lottery_jax.report.claims import claims_figure_files
from lottery_jax.reproduce import tables
from lottery_jax.reproduce.claim import Claim
from lottery_jax.reproduce.claims import all_claims
from lottery_jax.reproduce.protocols import SCALES
from lottery_jax.reproduce.results import NAME, Result, read, recorded, to_json
from lottery_jax.system.files import write_text


def write(
    workdir: Path, scale: str, asked_for: Iterable[tuple[Claim, tuple[int, ...]]]
) -> tuple[list[Result], list[Path]]:
    """Write claims.json, claims.md and claims.png of a scale, and return the results and the files.

    Claims that claims.json has from before are read from the disk again, with their own seeds.
    """
    folder, known = workdir / scale, all_claims()
    wanted = recorded(folder)
    wanted |= {claim.key: seeds or SCALES[scale].seeds for claim, seeds in asked_for}
    results = [
        read(claim, scale, wanted[key], workdir) for key, claim in known.items() if key in wanted
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / NAME, to_json(results, scale))
    write_text(folder / "claims.md", tables.markdown(results, scale))
    figure = claims_figure_files(tables.forest_rows(results), SCALES[scale].text, folder / "claims")
    return results, [folder / NAME, folder / "claims.md", *figure]
