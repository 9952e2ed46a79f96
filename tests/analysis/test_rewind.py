"""The search for a rewind step, and the command that prints what analyses find."""

import csv

import pytest

from lottery_jax import analyse
from lottery_jax.analysis.rewind import RewindSearch, rewind
from lottery_jax.config import validate
from lottery_jax.errors import ConfigError
from lottery_jax.runs import record
from lottery_jax.runs.ladder import run_ladder
from tests.helpers import make_tiny_config, quiet_console

TINY = {"model.width": 0.1, "ladder.prune_fraction": 0.5, "train.epochs": 1, "ladder.rewind": "2st"}


def steps_of(workdir):
    return sorted(int(path.name.removesuffix("st")) for path in workdir.glob("*st"))


@pytest.mark.long
def test_the_earliest_step_that_will_do_is_found_by_halving(alone, tmp_path, capsys):
    """If little is asked for, the first step will do; if too much is, none.

    Another level is searched beside it.
    """
    record.record_config(tmp_path, make_tiny_config(**TINY))
    probes, asked = (
        tmp_path / "analysis/rewind/level_01",
        ["--level=1", "--steps=2,0", "--alphas=3"],
    )
    easy = ["--stable_only", "--stable_below=200"]
    assert analyse.main(["rewind", str(tmp_path), *asked, *easy]) == 0
    assert "config.ladder.rewind = 0\n" in capsys.readouterr().out
    assert (probes / "rewind.txt").read_text() == "config.ladder.rewind = 0\n"
    rows = columns_of(tmp_path / "analysis" / "rewind_level_01.csv")
    assert [row["step"] for row in rows] == ["0", "2"] and steps_of(probes) == [0, 2]
    assert (tmp_path / "analysis" / "rewind_level_01.png").stat().st_size > 0
    before = {path: path.stat().st_mtime_ns for path in probes.rglob("metadata.json")}
    hard = rewind(
        tmp_path, level=1, steps=(0, 2), alphas=3, stable_below=-1.0, within=None,
        console=quiet_console(),
    )  # fmt: skip
    assert hard.step is None and hard.config_line == "# no rewind step up to 2 will do"
    # The later step fails, so the earlier one is not looked at; nothing is trained again.
    assert [row["step"] for row in hard.rows] == [2]
    assert {path: path.stat().st_mtime_ns for path in probes.rglob("metadata.json")} == before
    assert hard.rows[0]["barrier"] == float(rows[1]["barrier"])
    assert (
        analyse.main(["rewind", str(tmp_path), "--level=2", "--steps=0", "--alphas=3", *easy]) == 0
    )
    assert steps_of(probes.parent / "level_02") == [0] and steps_of(probes) == [0, 2]
    assert columns_of(tmp_path / "analysis" / "rewind_level_01.csv") == rows


def test_the_answer_is_a_line_of_a_config():
    search = RewindSearch(500, [{"step": 500}])
    assert search.config_line == "config.ladder.rewind = '500st'"
    config = make_tiny_config()
    exec(search.config_line, {"config": config})
    assert validate(config).ladder.rewind == "500st"


@pytest.mark.parametrize(
    "keys, arguments, message",
    [
        ({}, {"level": 0}, "level: 0 is the dense network"),
        ({"source": "elsewhere"}, {"level": 1}, "has the rewind point of its source"),
    ],
)
def test_a_search_that_makes_no_sense_is_one_line(tmp_path, keys, arguments, message):
    config = make_tiny_config(**keys)
    with pytest.raises(ConfigError, match=message):
        rewind(config, workdir=tmp_path, console=quiet_console(), **arguments)
    with pytest.raises(ConfigError, match="name a directory for the probes"):
        rewind(config, console=quiet_console(), level=1)


@pytest.mark.parametrize(
    "keys, arguments, message",
    [
        ({}, {"level": 1, "steps": (0, 2, 1000)}, "'1000st' is step 1000, but training ends"),
        ({"ladder.sparsities": (0.5, 0.7)}, {"level": 3, "steps": (0,)}, "beyond the 2 levels"),
        ({}, {"level": 1, "steps": (-5, 0)}, "steps: -5 is not 0 or more"),
        ({}, {"level": 1, "orders": 0}, "orders: 0 is not 1 or more"),
        ({}, {"level": 1, "alphas": 1}, "alphas: 1 leave none"),
    ],
)
def test_a_search_that_must_fail_trains_nothing(tmp_path, keys, arguments, message):
    config = make_tiny_config(**TINY, **keys)
    with pytest.raises(ConfigError, match=message):
        rewind(config, workdir=tmp_path, console=quiet_console(), **arguments)
    assert not [*tmp_path.iterdir()]


def columns_of(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.long
def test_each_analysis_writes_a_table_and_a_figure(tmp_path, capsys):
    run = tmp_path / "run"
    config = make_tiny_config(**TINY, **{"ladder.levels": 1, "controls": ("reinit",)})
    run_ladder(config, run, console=quiet_console())
    more = {"stability": ["--levels=1", "--alphas=3"], "levels": ["--alphas=3"], "masks": []}
    for name, options in more.items():
        assert analyse.main([name, str(run), *options]) == 0
        printed = capsys.readouterr().out
        for suffix in ("csv", "png", "svg"):
            file = run / "analysis" / f"{name}.{suffix}"
            assert file.stat().st_size > 0 and str(file) in printed
    rows = columns_of(run / "analysis" / "stability.csv")
    assert [(row["level"], row["control"]) for row in rows] == [
        ("1", "winning"), ("1", "reinit"),
    ]  # fmt: skip
    assert {"l2", "cosine", "barrier", "error_a", "error_b", "density"} <= set(rows[0])
    assert len(columns_of(run / "analysis" / "layers.csv")) == 3 * 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["levels", "{tmp}/nothing"], "is not a run"),
        (["stability", "{tmp}", "--levels=one"], "'one' is not whole numbers"),
        (["rewind", "{tmp}"], "required: --level"),
        (["masks"], "required: RUN"),
        (["dance"], "invalid choice: 'dance'"),
    ],
)
def test_mistakes_of_the_command_are_one_line_with_status_2(tmp_path, capsys, arguments, message):
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    try:
        status = analyse.main(given)
    except SystemExit as end:
        status = end.code
    error = capsys.readouterr().err
    assert status == 2 and message in error and error.count("\n") == 1
