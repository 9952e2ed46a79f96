"""Claims, runs and results as tables for the terminal and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from rich.table import Table

from lottery_jax.report.claims import ForestRow
from lottery_jax.reproduce.claim import Claim
from lottery_jax.reproduce.planning import claims_core_seconds, count_trainings, in_time
from lottery_jax.reproduce.protocols import PROTOCOLS, SCALES
from lottery_jax.reproduce.results import Measured, Result
from lottery_jax.reproduce.verdict import Outcome
from lottery_jax.sweep.grid import PlannedRun

HEADER = (
    "claim", "source", "published", "measured (95 % interval)", "sign test", "rule", "verdict",
    "seeds", "weights",
)  # fmt: skip
# Units of quantities that are no differences.
_WITHOUT_SIGN = ("ratio", "share", "accuracy, %")


def interval(each: Measured) -> str:
    """Return the mean and its interval.

    >>> from lottery_jax.reproduce.verdict import Rule, judge
    >>> values = {0: 0.2, 1: 0.4}
    >>> interval(Measured("", 0.1, Rule(), "points", None, values, judge(values, Rule())))
    '+0.30 (-0.97 to +1.57) points'
    """
    verdict = each.verdict
    if math.isnan(verdict.mean):
        return "nothing yet"
    sign = "" if each.unit in _WITHOUT_SIGN else "+"
    ends = ""
    if math.isfinite(verdict.low):
        ends = f" ({verdict.low:{sign}.2f} to {verdict.high:{sign}.2f})"
    return f"{verdict.mean:{sign}.2f}{ends} {each.unit}"


def _verdict(each: Measured) -> str:
    return _said(each.verdict.outcome, each.verdict.seeds)


def _outcome(result: Result) -> str:
    return _said(result.outcome, min((each.verdict.seeds for each in result.measured), default=0))


def _said(outcome: Outcome, n: int) -> str:
    at_n_seeds = f" at {n} seed{'' if n == 1 else 's'}"
    return f"{outcome}{at_n_seeds if outcome == Outcome.UNDECIDED else ''}"


def _seeds(each: Measured) -> str:
    missing = f"; missing {', '.join(map(str, each.verdict.missing))}"
    return f"{each.verdict.seeds}{missing if each.verdict.missing else ''}"


def markdown(results: Sequence[Result], scale: str) -> str:
    """Return a page of results: a table of checks, and where each claim's runs are."""
    lines = [
        f"### {SCALES[scale].text}",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + " --- |" * len(HEADER),
    ]
    for result in results:
        name = f"**{result.claim.key}. {result.claim.statement}** {_outcome(result)}"
        for i, (head, cells) in enumerate(_result_cells(result)):
            shown = (name, *head[1:]) if i == 0 else ("", "", "")
            lines.append("| " + " | ".join((*shown, *cells)) + " |")
    lines += ["", "How to run each again, and what it was measured on:", ""]
    for result in results:
        runs = ", ".join(f"`runs/{folder}`" for folder in result.runs.values())
        commits = ", ".join(commit[:12] for commit in result.commits) or "none yet"
        seeds = ", ".join(map(str, result.seeds))
        lines.append(
            f"- {result.claim.key}: `{result.command}`; seeds {seeds}; {runs}; "
            f"begun at commit {commits}; decided at commit {result.decided_by[:12]}"
        )
    return "\n".join(lines) + "\n"


def _result_cells(result: Result) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield for each quantity the cells of its claim, and its own, as `HEADER` has them."""
    claim = result.claim
    access = "" if claim.access == "read" else f" ({claim.access})"
    head = (f"{claim.key}. {claim.statement}", f"{claim.source}{access}", claim.published)
    for each in result.measured:
        shown, p = f"{each.label}: {interval(each)}", f"p = {each.verdict.sign_p:.2g}"
        judged = (str(each.rule), _verdict(each), _seeds(each), f"{100 * each.density:.3g} %")
        yield head, (shown, p, *judged)


def page_rows(results: Iterable[Result]) -> list[tuple[list[str], ForestRow]]:
    """Return the rows of the page: the cells below `HEADER`, and what is drawn beside them."""
    results = list(results)
    cells = [[*head, *own] for result in results for head, own in _result_cells(result)]
    return list(zip(cells, forest_rows(results), strict=True))


def results_table(results: Iterable[Result]) -> Table:
    """Return the table of results for the terminal."""
    table = Table("claim", "measured (95 % interval)", "sign p", "rule", "weights", "verdict")
    for result in results:
        table.add_row(f"{result.claim.key} {result.claim.name}", *[""] * 4, _outcome(result))
        for each in result.measured:
            shown = f"{each.label}: {interval(each)}"
            p, kept = f"{each.verdict.sign_p:.2g}", f"{100 * each.density:.3g} %"
            table.add_row("", shown, p, str(each.rule), kept, _verdict(each))
        table.add_section()
    return table


def forest_rows(results: Iterable[Result]) -> list[ForestRow]:
    """Return the rows of the figure."""
    return [
        ForestRow(
            label=f"{result.claim.key}. {each.label}, {100 * each.density:.3g} %",
            unit=each.unit,
            mean=each.verdict.mean,
            low=each.verdict.low,
            high=each.verdict.high,
            published=each.published,
            range_low=each.rule.low,
            range_high=each.rule.high,
            outcome=str(each.verdict.outcome),
        )
        for result in results
        for each in result.measured
    ]


def claims_table(claims: Iterable[Claim], plans: dict[str, dict[str, PlannedRun]]) -> Table:
    """Return the table of `list`: statement, source, scales and the time on one core.

    Args:
        claims: the claims.
        plans: the runs that each needs at the scale that is listed, by its key.
    """
    table = Table("claim", "statement", "source", "scales", "one core")
    for claim in claims:
        plan = plans.get(claim.key)
        cost = in_time(claims_core_seconds([claim], plan)) if plan else "-"
        access = "" if claim.access == "read" else f" ({claim.access})"
        table.add_row(
            f"{claim.key} {claim.name}", claim.statement, claim.source + access,
            ", ".join(claim.scales), cost,
        )  # fmt: skip
    return table


def runs_table(claims: Collection[Claim], planned: dict[str, PlannedRun], scale: str) -> Table:
    """Return the table of a scale's runs: what each is, and what it costs with its analyses."""
    table = Table("run", "what it is", "trainings", "epochs", "one core", "by itself")
    for name, run in planned.items():
        table.add_row(
            name, PROTOCOLS[name].text, str(count_trainings(run.config)),
            str(run.config.train.epochs), in_time(claims_core_seconds(claims, {name: run})),
            f"--config=reproduce:{scale}_{name}",
        )  # fmt: skip
    return table
