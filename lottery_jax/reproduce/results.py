"""Verdicts from what is on the disk, as rows for people and machines."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lottery_jax.errors import ConfigError
from lottery_jax.reproduce.claim import Claim, Evidence, Row
from lottery_jax.reproduce.claims import all_claims
from lottery_jax.reproduce.planning import plan
from lottery_jax.reproduce.protocols import SCALES
from lottery_jax.reproduce.running import analysis_file
from lottery_jax.reproduce.verdict import Outcome, Rule, Verdict, combine, judge
from lottery_jax.runs.directory import curve_rows

NAME = "claims.json"


@dataclasses.dataclass(frozen=True)
class Measured:
    """One check at one density, with its verdict.

    Attributes:
        label: what is compared.
        density: as a fraction.
        rule: the range that is claimed.
        unit: of the quantity.
        published: the paper's own value; None if it has none.
        per_seed: the quantity of each seed; NaN where it is missing.
        verdict: the verdict.
    """

    label: str
    density: float
    rule: Rule
    unit: str
    published: float | None
    per_seed: dict[int, float]
    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class Result:
    """A claim, its checks and how to run it again.

    Attributes:
        claim: the claim.
        outcome: of all checks together.
        measured: the checks.
        seeds: the seeds that were asked for.
        runs: the directory of each run, within `runs/`, by the run's name.
        commits: the commits that began the runs.
        command: runs the claim again.
    """

    claim: Claim
    outcome: Outcome
    measured: tuple[Measured, ...]
    seeds: tuple[int, ...]
    runs: dict[str, str]
    commits: tuple[str, ...]
    command: str


def decide(claim: Claim, evidence: Evidence) -> tuple[Measured, ...]:
    """Return the checks of a claim with their verdicts."""
    found = []
    for check in claim.checks:
        for name in check.at.split():
            density = evidence.densities[name]
            values = check.value(evidence, density)
            found.append(
                Measured(
                    check.label,
                    density,
                    check.rule,
                    check.unit,
                    check.published,
                    dict(values),
                    judge(values, check.rule),
                )
            )
    return tuple(found)


def read(claim: Claim, scale: str, seeds: tuple[int, ...], workdir: Path) -> Result:
    """Return the result of a claim from what is on the disk; nothing is trained."""
    planned = plan([claim], scale, seeds, workdir)
    seeds = seeds or SCALES[scale].seeds
    curves: dict[str, list[Row]] = {}
    analyses: dict[tuple[str, str], list[Row]] = {}
    commits: dict[str, None] = {}
    for name, run in planned.items():
        folder = workdir / "runs" / run.name
        curves[name] = [*curve_rows(run.config, folder)]
        if (record := folder / "config.json").is_file():
            commits[json.loads(record.read_text("utf-8")).get("git_commit") or "not known"] = None
    for kind, name in claim.analyses:
        file = analysis_file(workdir, kind, planned[name].name)
        if file.is_file():
            analyses[kind, name] = json.loads(file.read_text("utf-8"))
    measured = decide(claim, Evidence(seeds, SCALES[scale].densities(), curves, analyses))
    command = (
        f"python -m lottery_jax.reproduce run {claim.key} --scale={scale} "
        f"--seeds={','.join(map(str, seeds))} --workdir={_shown(workdir)}"
    )
    return Result(
        claim,
        combine(each.verdict.outcome for each in measured),
        measured,
        seeds,
        {name: run.name for name, run in planned.items()},
        tuple(commits),
        command,
    )


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def to_json(results: Sequence[Result], scale: str) -> str:
    """Return the results as JSON text; numbers that are not finite are null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    claims = {}
    for result in results:
        claim = result.claim
        claims[claim.key] = {
            "name": claim.name,
            "statement": claim.statement,
            "source": claim.source,
            "access": claim.access,
            "published": claim.published,
            "expected": claim.expected,
            "outcome": result.outcome,
            "seeds": result.seeds,
            "checks": [
                dataclasses.asdict(each) | {"rule_text": str(each.rule)} for each in result.measured
            ],
            "runs": result.runs,
            "commits": result.commits,
            "command": result.command,
        }
    record = {"scale": scale, "network": SCALES[scale].text, "claims": claims}
    return json.dumps(plain(record), indent=1) + "\n"


def recorded(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the claims that a directory's claims.json has, with their seeds.

    Raises:
        ConfigError: it can't be read.
    """
    file = folder / NAME
    if not file.is_file():
        return {}
    try:
        claims = json.loads(file.read_text(encoding="utf-8"))["claims"]
        found = {str(key): tuple(map(int, each["seeds"])) for key, each in claims.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file}: can't be read ({error}); remove it to begin anew") from error
    known = all_claims()
    return {key: seeds for key, seeds in found.items() if key in known}
