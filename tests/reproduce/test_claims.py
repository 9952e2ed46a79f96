"""Claims, the plan of their runs, and verdicts from what is on the disk."""

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys

import pytest

from lottery_jax.config import fingerprint, named_configs
from lottery_jax.curve import WINNING
from lottery_jax.errors import ConfigError
from lottery_jax.reproduce import __main__ as command
from lottery_jax.reproduce import analysis_files, planning, results, tables
from lottery_jax.reproduce.claim import READ, SECOND_HAND, Evidence
from lottery_jax.reproduce.claims import all_claims, select
from lottery_jax.reproduce.protocols import PROTOCOLS, SCALES, alone, protocol
from lottery_jax.reproduce.verdict import Outcome, combine, judge
from tests.faults import runs
from tests.helpers import ROOT

QUICK_TO_COMPILE = "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
QUICK = select(["all"], "quick")


def test_every_claim_is_complete():
    claims = all_claims()
    assert {int(re.match(r"\d+", key)[0]) for key in claims} == set(range(1, 23))
    used = {name for claim in claims.values() for name in claim.runs}
    sources = {PROTOCOLS[name].source for name in used} - {""}
    assert used | sources == set(PROTOCOLS)  # nothing is planned that no claim needs
    names = [claim.name for claim in claims.values()]
    assert len({*names}) == len(names)
    for claim in claims.values():
        assert claim.statement.endswith(".") and claim.published and claim.expected
        assert re.search(r"\b(19|20)\d\d\b", claim.source)
        assert claim.access in (READ, SECOND_HAND)
        assert set(claim.scales) <= set(SCALES) and claim.checks
        for kind, run in claim.analyses:
            assert run in claim.runs and kind in ("stability", "levels", "paths", "from_dense")
        for check in claim.checks:
            assert check.rule.low < check.rule.high
            for scale in claim.scales:
                assert set(check.at.split()) <= set(SCALES[scale].densities())


def rows(control, level, accuracy, *, kept=0.64, shift=(0.0, 0.1, -0.1)):
    """Rows as curve.csv has them, of three seeds around an accuracy in percent."""
    return [
        {"seed": seed, "level": level, "control": control, "density": kept**level,
         "test_accuracy": (accuracy + each) / 100}
        for seed, each in enumerate(shift)
    ]  # fmt: skip


def evidence(**curves):
    return Evidence((0, 1, 2), SCALES["small"].densities(), curves)


@pytest.mark.parametrize(
    "reinit, outcome", [(88.0, "holds"), (90.5, "fails"), (89.95, "undecided")]
)
def test_a_claim_is_decided_by_its_own_columns(reinit, outcome):
    """Claim 2 looks at the ticket and at `reinit` at its two densities, and at nothing else."""
    uneven = (0.0, 0.3, -0.3)
    imp = [
        *rows(WINNING, 6, 90), *rows(WINNING, 8, 90),
        *rows("reinit", 6, reinit, shift=uneven), *rows("reinit", 8, reinit, shift=uneven),
        *rows("reinit", 4, 10), *rows(WINNING, 0, 10), *rows("random", 8, 99),
    ]  # fmt: skip
    measured = results.decide(all_claims()["2"], evidence(imp=imp))
    assert [round(each.density, 4) for each in measured] == [0.0687, 0.0281]
    assert {each.verdict.outcome for each in measured} == {outcome}
    assert measured[0].per_seed[1] == pytest.approx(reinit - 90 + 0.2)


def test_a_seed_that_is_missing_leaves_a_claim_undecided():
    imp = [*rows(WINNING, 6, 90), *rows(WINNING, 8, 90), *rows("reinit", 6, 80)]
    imp += rows("reinit", 8, 80)[:2]
    whole, part = results.decide(all_claims()["2"], evidence(imp=imp))
    assert whole.verdict.outcome == Outcome.HOLDS
    assert part.verdict.outcome == Outcome.UNDECIDED and part.verdict.missing == (2,)
    (nothing, *_) = results.decide(all_claims()["4"], evidence())
    assert nothing.verdict.outcome == Outcome.UNDECIDED and nothing.verdict.seeds == 0


def test_every_claim_can_be_decided_from_no_evidence_at_all():
    for claim in all_claims().values():
        for measured in results.decide(claim, evidence()):
            assert measured.verdict.outcome == Outcome.UNDECIDED


def test_ratios_of_paths_are_in_decades():
    """All of 10, 100 and 1,000 kept weights; none of them is on a path, or all are."""
    there = {
        ("paths", f"paths_{method}"): [
            {"seed": seed, "level": 3, "control": WINNING, "density": 0.001, "kept": 10**k,
             "effective": 10**k if method == "synflow" else 0}
            for seed, k in enumerate((1, 2, 3))
        ]
        for method in ("random", "synflow")
    }  # fmt: skip
    found = Evidence((0, 1, 2), SCALES["small"].densities(), {}, there)
    random, synflow = results.decide(all_claims()["21"], found)
    assert list(random.per_seed.values()) == [1, 2, 3]
    assert list(synflow.per_seed.values()) == [0, 0, 0]
    assert synflow.verdict.outcome == Outcome.HOLDS


def test_claims_share_runs(tmp_path):
    claims = select(["2", "14", "18", "16", "17", "19"], "small")
    planned = planning.plan(claims, "small", (), tmp_path)
    assert sum(name == "imp" for name in planned) == 1
    assert planned["a_to_b"].after == (planned["half_a"].name,)
    assert planned["a_to_b"].config.source == str(tmp_path / "runs" / planned["half_a"].name)
    # The ladder with Adam is that on all data, and is trained once.
    assert planned["adam"].name == planned["whole"].name != planned["sgd"].name
    runs = planning.distinct(planned.values())
    names = [run.name for run in runs]
    assert len({*names}) == len(names) == len(planned) - 1
    for run in runs:
        assert all(names.index(source) < names.index(run.name) for source in run.after)
    # A directory's name is that of its config, wherever it lies and whoever asks for it.
    elsewhere = planning.plan(select(["19"], "small"), "small", (), tmp_path / "else")
    assert {each.name for each in elsewhere.values()} <= {*names}
    other_seeds = planning.plan(claims, "small", (7, 8), tmp_path)
    assert not {each.name for each in other_seeds.values()} & {*names}


def test_densities_are_those_of_the_ladder():
    """Methods that need no ladder prune to the densities at which IMP's levels are compared."""
    for scale in ("quick", "small", "full"):
        s, imp, snip = SCALES[scale], protocol("imp", scale), protocol("snip", scale)
        kept = 1 - imp.ladder.prune_fraction
        assert kept == pytest.approx(s.kept)
        for name, sparsity in zip(("sparse", "extreme"), snip.ladder.sparsities, strict=True):
            assert 1 - sparsity == pytest.approx(kept ** s.levels[name])
        assert s.levels["extreme"] == imp.ladder.levels == max(s.levels.values())


def test_the_config_of_a_run_by_itself_is_that_of_the_plan(tmp_path):
    planned = planning.plan(select(["16"], "small"), "small", (), tmp_path)
    assert fingerprint(alone("small_half_a")) == fingerprint(planned["half_a"].config)
    assert alone("full_resnet50_imp").model.name == "resnet50"
    assert "reproduce" in named_configs()


def test_the_small_scale_fits_into_an_afternoon(tmp_path):
    """The estimate of all runs and branches: 8 core-hours are 4 hours on 2 cores."""
    claims = select(["all"], "small")
    planned = planning.plan(claims, "small", (), tmp_path)
    assert planning.claims_core_seconds(claims, planned) < 8 * 3600


def test_the_trainings_of_branches_are_charged(tmp_path):
    """Claim 6 trains, of 5 seeds, the dense network and two tickets at three levels once more."""
    planned = planning.plan(select(["2", "6", "8"], "small"), "small", (), tmp_path)
    without = planning.claims_core_seconds(select(["2"], "small"), planned)
    both = planning.claims_core_seconds(select(["6", "8"], "small"), planned)
    trainings = planning.count_trainings(planned["imp"].config)
    assert both / without == pytest.approx(1 + 5 * (1 + 2 * 3) / trainings)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["run", "reinit_wors"], "did you mean 'reinit_worse'?"),
        (["run", "23"], "unknown claim '23'"),
        (["run", "1", "--scale=smal"], "did you mean 'small'?"),
        (["run", "21", "--scale=full"], "is not there at --scale=full; choose from quick, small"),
        (["run", "quick", "2"], "stands alone"),
        (["run", "2", "--jobs=0"], "--jobs: 0 is not 1 or more"),
        (["run", "2", "--seeds=1,1"], "config.seeds"),
        (["run", "2", "--seeds=a"], "is not a list of whole numbers"),
        (["report"], "has no results"),
        (["list", "--scale=huge"], "unknown value 'huge'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_touched(arguments, says, tmp_path, capsys):
    workdir = tmp_path / "new"
    if arguments[0] != "list":
        arguments = [*arguments, f"--workdir={workdir}"]
    try:
        assert command.main(arguments) == 2
    except SystemExit as ended:  # argparse's own
        assert ended.code == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not workdir.exists()


def test_lists(capsys):
    assert command.main(["list"]) == 0
    listed = capsys.readouterr().out
    for claim in all_claims().values():
        assert claim.name[:20] in listed
    assert command.main(["list", "--published"]) == 0
    lines = capsys.readouterr().out.splitlines()
    replication = [line for line in lines if line.startswith("gohil2020:")]
    assert len({*replication}) == 36 and all("(31 levels)" in line for line in replication)
    assert command.main(["list", "--runs", "--scale=quick"]) == 0
    assert "reproduce:quick_imp" in capsys.readouterr().out


def test_the_page_has_every_claim():
    page = (ROOT / "docs" / "claims.md").read_text()
    for key, claim in all_claims().items():
        assert f"| {key} | {claim.statement} |" in page


def result_of(key, *, seeds=(0, 1, 2), complete=True, **changes):
    """A result as an earlier command may have recorded it: all of its quantities are 1 and more."""
    claim = all_claims()[key]
    measured = []
    for check in claim.checks:
        values = {seed: 1.0 + seed if complete else float("nan") for seed in seeds}
        verdict = judge(values, check.rule)
        args = (check.label, 0.0281, check.rule, check.unit, check.published, values, verdict)
        measured.append(results.Measured(*args))
    outcome = combine(each.verdict.outcome for each in measured)
    runs = {name: f"{name}_00000000" for name in claim.runs}
    result = results.Result(
        claim, outcome, tuple(measured), seeds, runs, ("a" * 40,), "command", "b" * 40, complete
    )
    return dataclasses.replace(result, **changes)


def record(workdir, scale, *recorded):
    file = workdir / scale / results.NAME
    file.parent.mkdir(parents=True)
    file.write_text(results.to_json(recorded, scale))
    return file


def planned_runs(key, scale, seeds, workdir):
    planned = planning.plan([all_claims()[key]], scale, seeds, workdir)
    return {name: run.name for name, run in planned.items()}


def test_results_are_read_as_they_were_recorded(tmp_path):
    """Infinite ends of rules and intervals, missing seeds and texts are among them."""
    there = [result_of("1"), result_of("19", seeds=(4,)), result_of("6", complete=False)]
    file = record(tmp_path, "small", *there)
    again = [*results.recorded(file.parent).values()]
    assert results.to_json(again, "small") == file.read_text()
    assert again[0].measured == there[0].measured


def test_a_report_without_runs_keeps_recorded_results(tmp_path, capsys):
    """A clone may have the results and no run directories."""
    runs = planned_runs("2", "small", (0, 1, 2), tmp_path)
    file = record(tmp_path, "small", result_of("2", runs=runs))
    before = file.read_text()
    assert command.main(["report", f"--workdir={tmp_path}"]) == 0
    assert file.read_text() == before
    assert "claim 2: kept as recorded: runs or analyses" in capsys.readouterr().out
    page = (file.parent / "claims.md").read_text()
    assert "decided at commit bbbbbbbbbbbb" in page and "begun at commit aaaaaaaaaaaa" in page


def test_results_that_nobody_asked_for_are_kept_when_runs_change(tmp_path, capsys):
    """Their runs have other names once a protocol has changed; a claim's file may be gone too."""
    other = result_of("2", complete=False)
    gone = dataclasses.replace(other, claim=dataclasses.replace(other.claim, key="99"))
    file = record(tmp_path, "small", other, gone)
    before = file.read_text()
    assert command.main(["report", f"--workdir={tmp_path}"]) == 0
    assert file.read_text() == before
    out = capsys.readouterr().out
    assert "claim 2: kept as recorded: its runs have other configs now" in out
    assert "claim 99: kept as recorded: this version has no such claim" in out


def test_a_damaged_file_is_one_line(tmp_path, capsys):
    runs = planned_runs("2", "small", (0, 1, 2), tmp_path)
    file = record(tmp_path, "small", result_of("2", runs=runs, complete=False))
    config = tmp_path / "runs" / runs["imp"] / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text("{")
    before = file.read_text()
    assert command.main(["report", f"--workdir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "config.json" in error and error.count("\n") == 1
    assert file.read_text() == before


def test_an_analysis_belongs_to_its_curve(tmp_path):
    """Rows of a run that was trained anew since then are not read, and damaged ones are named."""
    rows = [{"seed": 0, "l2": 1.5}]
    (tmp_path / "curve.csv").write_text("seed\n0\n")
    assert analysis_files.read_rows(tmp_path, "levels") is None
    curve = analysis_files.curve_sha256(tmp_path)
    analysis_files.write_rows(tmp_path, "levels", rows, curve)
    assert analysis_files.read_rows(tmp_path, "levels") == rows
    assert analysis_files.read_rows(tmp_path, "paths") is None
    (tmp_path / "curve.csv").write_text("seed\n1\n")
    assert analysis_files.read_rows(tmp_path, "levels") is None
    for text in ("[]", "{", '{"rows": [1], "curve_sha256": ""}'):
        analysis_files.analysis_file(tmp_path, "levels").write_text(text)
        with pytest.raises(ConfigError, match=r"levels\.json: can't be read .*; remove it"):
            analysis_files.read_rows(tmp_path, "levels")


def test_one_seed_is_not_called_seeds():
    page = tables.markdown([result_of("2", seeds=(3,)), result_of("1")], "small")
    assert "undecided at 1 seed " in page and "1 seeds" not in page


@pytest.mark.slow
def test_an_interrupted_run_leaves_results_that_can_be_reported(tmp_path):
    run = ["run", "21", "--scale=quick", "--seeds=3,4", f"--workdir={tmp_path}"]
    module = [sys.executable, "-m", "lottery_jax.reproduce"]
    with subprocess.Popen([*module, *run], stdout=subprocess.PIPE, text=True) as child:
        next(line for line in child.stdout if line.startswith("---"))
        child.send_signal(signal.SIGTERM)
        child.communicate()
    assert child.returncode == 128 + signal.SIGTERM
    (result,) = results.recorded(tmp_path / "quick").values()
    assert result.outcome == Outcome.UNDECIDED and not result.complete
    assert command.main(["report", f"--workdir={tmp_path}"]) == 0


@pytest.mark.long
def test_a_run_ends_in_a_verdict_and_again_trains_nothing(tmp_path, capfd, monkeypatch):
    """Claim 21, whose runs are short, of two seeds: train, decide, decide again from the disk."""
    for name, value in runs.environment(XLA_FLAGS=QUICK_TO_COMPILE).items():
        monkeypatch.setenv(name, value)  # for the children: one device
    run = ["run", "21", "--scale=quick", "--seeds=3,4", f"--workdir={tmp_path}"]
    assert command.main(run) == 0
    out = capfd.readouterr().out
    assert "2 runs, 0 of them finished" in out and "holds" in out
    claims = json.loads((tmp_path / "quick" / "claims.json").read_text())["claims"]
    assert claims["21"]["outcome"] == "holds" and claims["21"]["seeds"] == [3, 4]
    assert all((tmp_path / "runs" / name).is_dir() for name in claims["21"]["runs"].values())
    assert claims["21"]["command"].startswith("python -m lottery_jax.reproduce run 21 ")
    page = (tmp_path / "quick" / "claims.md").read_text()
    assert "--scale=quick --seeds=3,4" in page and "0.1 %" in page
    (name, *_) = claims["21"]["runs"].values()
    ticket = tmp_path / "runs" / name / "seed_3" / "level_01" / "ticket"
    changed = [path.stat().st_mtime_ns for path in ticket.rglob("*")]
    assert command.main(run) == 0
    assert "2 runs, 2 of them finished" in capfd.readouterr().out
    assert [path.stat().st_mtime_ns for path in ticket.rglob("*")] == changed
    for path in (tmp_path / "quick").glob("claims.[mps]*"):
        path.unlink()
    assert command.main(["report", f"--workdir={tmp_path}"]) == 0
    assert (tmp_path / "quick" / "claims.md").read_text() == page
    assert (tmp_path / "quick" / "claims.png").is_file()
    capfd.readouterr()
    # Another curve makes the analysis one of another run: it is made again, and kept until then.
    curve = tmp_path / "runs" / name / "curve.csv"
    curve.write_text(curve.read_text() + "\n")
    recorded = (tmp_path / "quick" / "claims.json").read_text()
    assert command.main(["report", f"--workdir={tmp_path}"]) == 0
    assert "claim 21: kept as recorded" in capfd.readouterr().out
    assert (tmp_path / "quick" / "claims.json").read_text() == recorded
    assert command.main(run) == 0
    assert f"--- paths of {name}" in capfd.readouterr().out
    assert (tmp_path / "quick" / "claims.json").read_text() == recorded
    # A result of other seeds is replaced by those that are asked for, and a line says so.
    shutil.rmtree(tmp_path / "quick")
    record(tmp_path, "quick", result_of("21", seeds=(0, 1, 2)))
    assert command.main(run) == 0
    assert "claim 21: replaces the recorded result of seeds 0, 1, 2" in capfd.readouterr().out
    assert (tmp_path / "quick" / "claims.json").read_text() == recorded
    # A seed of a run is gone.
    shutil.rmtree(tmp_path / "runs" / name / "seed_4")
    assert command.main(["report", f"--workdir={tmp_path}"]) == 0
    assert (tmp_path / "quick" / "claims.json").read_text() == recorded


@pytest.mark.long
def test_quick_verdicts(tmp_path):
    """What CI asserts: about two minutes of one core."""
    assert command.main(["run", "quick", f"--workdir={tmp_path}"]) == 0
    claims = json.loads((tmp_path / "quick" / "claims.json").read_text())["claims"]
    assert {key: claim["outcome"] for key, claim in claims.items()} == {
        claim.key: "holds" for claim in QUICK
    }
