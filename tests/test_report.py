"""Reports: the numbers of a CSV written by hand, worked out by hand."""

import json
import struct

import pytest

from lottery_jax import report
from lottery_jax.errors import ConfigError
from lottery_jax.logs import CURVE_COLUMNS

ROWS = """
0,0,winning,1000,1000,1.0,0.90,0.3,0.1,2,1.0
1,0,winning,1000,1000,1.0,0.92,0.3,0.1,2,1.0
0,1,winning,1000,100,0.1,0.89,0.3,0.1,2,1.0
1,1,winning,1000,100,0.1,0.91,0.3,0.1,2,1.0
0,1,random,1000,100,0.1,0.50,0.3,0.1,2,1.0
1,1,random,1000,100,0.1,0.60,0.3,0.1,2,1.0
""".lstrip()


def make_run(path, rows=ROWS, model="lenet_300_100"):
    path.mkdir()
    (path / "curve.csv").write_text(",".join(CURVE_COLUMNS) + "\n" + rows)
    config = {"model": {"name": model}, "data": {"name": "digits"}, "optimizer": {"name": "sgd"}}
    (path / "config.json").write_text(json.dumps({"config": config}))
    return path


def test_means_and_deviations_over_seeds(tmp_path):
    run = report.read_run(make_run(tmp_path / "run"))
    assert run.seeds == (0, 1) and run.title == "lenet_300_100 on digits, SGD"
    assert run.dense.mean == pytest.approx(91.0)
    (random,) = run.series["random"]
    assert random.remaining == pytest.approx(10.0)
    assert random.mean == pytest.approx(55.0)
    assert random.std == pytest.approx(50**0.5)  # ((5**2 + 5**2) / (2 - 1)) ** 0.5


def test_the_markdown_table(tmp_path):
    table = report.markdown_table([report.read_run(make_run(tmp_path / "run"))])
    assert "| level | weights left, % | winning ticket | random ticket |" in table
    assert "| 0 | 100.00 | 91.00 ± 1.41 |  |" in table
    assert "| 1 | 10.00 | 90.00 ± 1.41 | 55.00 ± 7.07 |" in table


def test_one_seed_has_no_deviation(tmp_path):
    rows = "".join(line for line in ROWS.splitlines(keepends=True) if line.startswith("0,"))
    table = report.markdown_table([report.read_run(make_run(tmp_path / "run", rows))])
    assert "| 1 | 10.00 | 89.00 | 50.00 |" in table and "1 seed" in table


def test_figures_of_one_and_of_several_runs(tmp_path, capsys):
    a = make_run(tmp_path / "a")
    b = make_run(tmp_path / "b", model="conv2")
    assert report.main([str(a)]) == 0
    assert {p.name for p in (a / "report").iterdir()} == {"curve.png", "curve.svg", "table.md"}
    width, height = struct.unpack(">II", (a / "report/curve.png").read_bytes()[16:24])
    assert width > 1000 and height > 600
    assert report.main([str(a), str(b), "--out", str(tmp_path / "both")]) == 0
    svg = (tmp_path / "both" / "curve.svg").read_text()
    assert "<svg" in svg
    assert str(tmp_path / "both" / "table.md") in capsys.readouterr().out
    figure = report.accuracy_figure([report.read_run(a), report.read_run(b)])
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "conv2 on digits, SGD, winning ticket" in labels and len(labels) == 6
    line = next(x for x in axes.get_lines() if x.get_label() == labels[0])
    assert list(line.get_xdata()) == pytest.approx([100.0, 10.0])
    assert list(line.get_ydata()) == pytest.approx([91.0, 90.0])


def test_runs_of_the_same_kind_are_told_apart_by_their_directories(tmp_path):
    runs = [make_run(tmp_path / name) for name in ("one", "two")]
    report.write_report(runs, tmp_path / "both")
    table = (tmp_path / "both" / "table.md").read_text()
    assert "SGD (one), 2 seeds" in table and "SGD (two), 2 seeds" in table


def test_a_damaged_ticket_is_an_error_that_names_it(tmp_path):
    run = make_run(tmp_path / "run")
    ticket = run / "seed_0" / "level_01" / "ticket"
    ticket.mkdir(parents=True)
    (ticket / "metadata.json").write_text("{")
    with pytest.raises(ConfigError, match="level_01/ticket/metadata.json: can't be read"):
        report.write_report([run])


def test_the_same_run_gives_the_same_files(tmp_path):
    run = make_run(tmp_path / "run")
    first = {p: p.read_bytes() for p in report.write_report([run])}
    second = {p: p.read_bytes() for p in report.write_report([run])}
    assert first == second


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda run: (run / "curve.csv").unlink(), "can be reported on"),
        (lambda run: (run / "config.json").write_text("{}"), "can be reported on"),
        (lambda run: (run / "curve.csv").write_text("seed,level\n1,2\n"), "can be reported on"),
        (lambda run: (run / "curve.csv").write_text(",".join(CURVE_COLUMNS)), "no level is"),
    ],
)
def test_damaged_runs_are_errors_that_name_the_directory(tmp_path, damage, says):
    run = make_run(tmp_path / "run")
    damage(run)
    with pytest.raises(ConfigError, match=says) as caught:
        report.write_report([run])
    assert str(run) in str(caught.value)
