"""Claims, the plan of their runs, and verdicts from what is on the disk."""

import json
import re

import pytest

from lottery_jax.config import fingerprint, named_configs
from lottery_jax.curve import WINNING
from lottery_jax.reproduce import __main__ as command
from lottery_jax.reproduce import planning, results
from lottery_jax.reproduce.claim import READ, SECOND_HAND, Evidence
from lottery_jax.reproduce.claims import all_claims, select
from lottery_jax.reproduce.protocols import PROTOCOLS, SCALES, alone, protocol
from lottery_jax.reproduce.verdict import Outcome
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
    """The estimate of all runs that this version can plan: 8 core-hours are 4 hours on 2 cores."""
    claims = [c for c in all_claims().values() if "small" in c.scales]
    configs = {}
    for name in {name for claim in claims for name in claim.runs}:
        try:
            configs[name] = protocol(name, "small")
        except Exception as error:
            assert "unknown key" in str(error)
    assert sum(planning.core_seconds(config) for config in configs.values()) < 8 * 3600


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


@pytest.mark.long
def test_quick_verdicts(tmp_path):
    """What CI asserts: about two minutes of one core."""
    assert command.main(["run", "quick", f"--workdir={tmp_path}"]) == 0
    claims = json.loads((tmp_path / "quick" / "claims.json").read_text())["claims"]
    assert {key: claim["outcome"] for key, claim in claims.items()} == {
        claim.key: "holds" for claim in QUICK
    }
