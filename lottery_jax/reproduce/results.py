"""Verdicts from what is on the disk, as rows for people and machines."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lottery_jax.errors import ConfigError
from lottery_jax.reproduce.analysis_files import read_rows
from lottery_jax.reproduce.claim import Claim, Evidence, Row
from lottery_jax.reproduce.planning import plan
from lottery_jax.reproduce.protocols import SCALES
from lottery_jax.reproduce.verdict import Outcome, Rule, Verdict, combine, judge
from lottery_jax.runs.directory import curve_rows, is_finished
from lottery_jax.runs.record import git_commit, recorded_commit
from lottery_jax.sweep.grid import PlannedRun

NAME = "claims.json"
# What claims.json has of a claim itself.
_OF_CLAIM = ("name", "statement", "source", "access", "published", "expected")


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
        decided_by: the commit whose rules decided.
        complete: whether all runs were finished and all analyses there.
    """

    claim: Claim
    outcome: Outcome
    measured: tuple[Measured, ...]
    seeds: tuple[int, ...]
    runs: dict[str, str]
    commits: tuple[str, ...]
    command: str
    decided_by: str
    complete: bool


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
    """Return the result of a claim from what is on the disk; nothing is trained.

    Raises:
        ConfigError: the config.json of a run or the file of an analysis is damaged.
        TicketError: a ticket is damaged.
    """
    planned = plan([claim], scale, seeds, workdir)
    seeds = seeds or SCALES[scale].seeds
    curves: dict[str, list[Row]] = {}
    analyses: dict[tuple[str, str], list[Row]] = {}
    commits: dict[str, None] = {}
    unfinished = {n for n, r in planned.items() if not is_finished(_folder(workdir, r), r.config)}
    for name, run in planned.items():
        folder = _folder(workdir, run)
        curves[name] = [*curve_rows(run.config, folder)]
        if (folder / "config.json").is_file():
            commits[recorded_commit(folder) or "not known"] = None
    for kind, name in claim.analyses:
        rows = None if name in unfinished else read_rows(_folder(workdir, planned[name]), kind)
        if rows is not None:
            analyses[kind, name] = rows
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
        git_commit() or "not known",
        not unfinished and len(analyses) == len(claim.analyses),
    )


def _folder(workdir: Path, run: PlannedRun) -> Path:
    return workdir / "runs" / run.name


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
            **{name: getattr(claim, name) for name in _OF_CLAIM},
            "outcome": result.outcome,
            "seeds": result.seeds,
            "checks": [
                dataclasses.asdict(each) | {"rule_text": str(each.rule)} for each in result.measured
            ],
            "runs": result.runs,
            "commits": result.commits,
            "command": result.command,
            "decided_by": result.decided_by,
            "complete": result.complete,
        }
    record = {"scale": scale, "network": SCALES[scale].text, "claims": claims}
    return json.dumps(plain(record), indent=1) + "\n"


def recorded(folder: Path) -> dict[str, Result]:
    """Return the results in a directory's claims.json, by the keys of the claims.

    The claims are as they were then, without their checks.

    Raises:
        ConfigError: it can't be read.
    """
    file = folder / NAME
    if not file.is_file():
        return {}
    try:
        claims = json.loads(file.read_text(encoding="utf-8"))["claims"]
        return {key: _recorded(key, entry) for key, entry in claims.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file}: can't be read ({error}); remove it to begin anew") from error


def _recorded(key: str, entry: Mapping[str, Any]) -> Result:
    texts = {name: entry[name] for name in _OF_CLAIM}
    return Result(
        Claim(checks=(), runs=tuple(entry["runs"]), key=key, **texts),
        Outcome(entry["outcome"]),
        tuple(_recorded_check(each) for each in entry["checks"]),
        tuple(map(int, entry["seeds"])),
        dict(entry["runs"]),
        tuple(entry["commits"]),
        entry["command"],
        entry.get("decided_by", "not known"),
        entry.get("complete", True),
    )


def _recorded_check(entry: Mapping[str, Any]) -> Measured:
    def ends(of: Mapping[str, Any]) -> tuple[float, float]:
        return _number(of["low"], -math.inf), _number(of["high"], math.inf)

    verdict, per_seed = entry["verdict"], entry["per_seed"].items()
    return Measured(
        entry["label"],
        entry["density"],
        Rule(*ends(entry["rule"])),
        entry["unit"],
        entry["published"],
        {int(seed): _number(value, math.nan) for seed, value in per_seed},
        Verdict(
            Outcome(verdict["outcome"]),
            _number(verdict["mean"], math.nan),
            *ends(verdict),
            verdict["sign_p"],
            verdict["seeds"],
            tuple(verdict["missing"]),
        ),
    )


def _number(value: float | None, null: float) -> float:
    return null if value is None else float(value)
