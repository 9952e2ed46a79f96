"""Reports of a CSV written by hand, against numbers worked out by hand."""

import csv
import io
import json
import struct

import pytest
from rich.console import Console

from lottery_jax import report
from lottery_jax.curve import CURVE_COLUMNS
from lottery_jax.errors import ConfigError
from lottery_jax.pruning.controls import CONTROLS
from lottery_jax.report import published
from lottery_jax.report.curves import LABELS
from tests.report.written_runs import ROWS, make_run, rows

FILES = {"curve.png", "curve.svg", "table.md", "report.html"}


def ladder(draw, scores):
    return {"ladder": {"draw": draw, "scores": scores}}


def test_means_and_deviations_over_seeds(tmp_path):
    run = report.read_run(make_run(tmp_path / "run"))
    assert run.seeds == (0, 1) and run.title == "LeNet-300-100 on digits, SGD"
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
    assert {p.name for p in (a / "report").iterdir()} == FILES
    width, height = struct.unpack(">II", (a / "report/curve.png").read_bytes()[16:24])
    assert width > 1000 and height > 600
    assert report.main([str(a), str(b), "--out", str(tmp_path / "both")]) == 0
    svg = (tmp_path / "both" / "curve.svg").read_text()
    assert "<svg" in svg
    assert str(tmp_path / "both" / "table.md") in capsys.readouterr().out
    panel = report.accuracy_panel([report.read_run(a), report.read_run(b)])
    labels = [line.label for line in panel.lines]
    assert labels == [
        "LeNet-300-100 on digits, SGD", "", "Conv-2 on digits, SGD", "", "random ticket"
    ]  # fmt: skip
    ticket, random, _, other_random, entry = panel.lines
    assert ticket.x == pytest.approx((100, 10)) and ticket.mean == pytest.approx((91, 90))
    assert ticket.std == pytest.approx((2**0.5, 2**0.5)) and ticket.kind == "ticket"
    assert random.x == pytest.approx((10,)) and random.mean == pytest.approx((55,))
    assert random.kind == "control" and random.colour == ticket.colour == 0
    assert other_random.colour == 1 and other_random.marker == random.marker == entry.marker
    assert entry.x == () and entry.colour is None  # a legend entry alone


@pytest.mark.parametrize(
    "config, method",
    [
        ({}, "IMP"),  # the config of a run of an earlier version
        (ladder("iterative", "magnitude"), "IMP"),
        (ladder("oneshot", "magnitude"), "one-shot magnitude"),
        (ladder("init", "snip"), "SNIP"),
        (ladder("init_nested", "snip"), "iterative SNIP"),
        (ladder("init", "grasp"), "GraSP"),
        (ladder("init", "synflow"), "SynFlow"),
        (ladder("init", "random"), "random pruning"),
        (ladder("init", "erk"), "ERK"),
        (ladder("init", "magnitude_at_init"), "magnitude at init"),
        (ladder("init_nested", "grasp"), "grasp, init_nested"),
    ],
)
def test_a_method_has_a_name_and_imp_goes_without_saying(tmp_path, config, method):
    run = report.read_run(make_run(tmp_path / "run", **config))
    assert run.method == method
    named = "" if method == "IMP" else f", {method}"
    assert run.title == f"LeNet-300-100 on digits, SGD{named}"


def test_a_transfer_run_names_its_source_wherever_that_is(tmp_path):
    make_run(tmp_path / "a", data="cifar100", **ladder("init", "snip"))
    run = report.read_run(make_run(tmp_path / "b", source=str(tmp_path / "a")))
    assert run.source == "CIFAR-100, SGD" and run.method == "SNIP"
    assert run.title == "LeNet-300-100 on digits, SGD, SNIP tickets of CIFAR-100, SGD"
    (tmp_path / "moved").mkdir()
    for name in ("a", "b"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert report.read_run(tmp_path / "moved" / "b").source == "CIFAR-100, SGD"
    (tmp_path / "moved" / "a").rename(tmp_path / "elsewhere")
    lost = report.read_run(tmp_path / "moved" / "b")
    assert lost.title == "LeNet-300-100 on digits, SGD, tickets of a"


@pytest.mark.parametrize(
    "transfer, remaining, dense",
    [
        ({"head": "reinit", "head_mask": "dense"}, 100, True),
        ({"head": "reinit", "head_mask": "density"}, 110, False),
        ({"head": "keep"}, 110, False),
        ({"head": "auto"}, 110, True),  # more weights than the source's ticket
        ({"head": "auto"}, 100, False),
        ({}, 110, True),
    ],
)
def test_a_dense_new_head_is_said_to_be_counted(tmp_path, transfer, remaining, dense):
    make_run(tmp_path / "source")
    text = ROWS.replace("1000,100,0.1", f"1000,{remaining},0.1")
    run = make_run(tmp_path / "run", text, source="source", transfer=transfer)
    counted = report.read_run(run).counted_weights
    assert counted == "prunable weights" + (", the dense re-initialised head included" * dense)
    assert ("the dense re-initialised head included" in report.markdown_table(
        [report.read_run(run)])) == dense  # fmt: skip


def test_methods_of_one_setting_share_a_dense_line(tmp_path):
    imp = report.read_run(make_run(tmp_path / "imp"))
    snip = report.read_run(make_run(tmp_path / "snip", **ladder("init", "snip")))
    panel = report.accuracy_panel([imp, snip])
    assert [line.label for line in panel.lines if line.label] == ["IMP", "SNIP", "random ticket"]
    (dense,) = panel.dense
    assert dense.label == "dense network" and dense.accuracy == pytest.approx(91)
    better = make_run(tmp_path / "better", ROWS.replace("1.0,0.92", "1.0,0.94"))
    panel = report.accuracy_panel([imp, report.read_run(better)])
    assert [d.accuracy for d in panel.dense] == [None, pytest.approx(91), pytest.approx(92)]
    assert [d.colour for d in panel.dense] == [None, 0, 1]


def test_what_tells_runs_apart(tmp_path):
    def names(*runs):
        return report.legend_names([report.read_run(run) for run in runs])

    a = make_run(tmp_path / "x" / "run")
    b = make_run(tmp_path / "y" / "run")
    snip = make_run(tmp_path / "snip", **ladder("init", "snip"))
    svhn = make_run(tmp_path / "svhn", data="svhn")
    moved = make_run(tmp_path / "moved", source=str(svhn))
    assert names(a, snip) == ["IMP", "SNIP"]
    assert names(a, moved) == ["native tickets", "tickets of SVHN, SGD"]
    assert names(a, snip, moved) == [
        "IMP, native tickets", "SNIP, native tickets", "IMP, tickets of SVHN, SGD"
    ]  # fmt: skip
    assert names(a, b) == ["x/run", "y/run"]
    assert names(a, a) == [str(a), str(a)]
    assert names(a, svhn)[1] == "LeNet-300-100 on SVHN, SGD"
    # Controls are series of their own, so they don't name a run.
    late = make_run(tmp_path / "late", ladder={"rewind": "2ep"}, controls=["random"])
    start = make_run(tmp_path / "start", ladder={"rewind": 0}, controls=[])
    assert names(late, start) == ["rewind 2 epochs", "rewind 0"]


def test_the_joint_table_holds_the_densities_in_common(tmp_path):
    points = [(0, 1.0, 0.9), (1, 0.512, 0.88), (2, 0.1, 0.8)]
    a = make_run(tmp_path / "a", rows(*points))
    points = [(0, 1.0, 0.9), (1, 0.5, 0.7), (2, 0.101, 0.6), (3, 0.05, 0.5)]
    b = make_run(tmp_path / "b", rows(*points), **ladder("init", "snip"))
    c = make_run(tmp_path / "c", rows(*points[:2]), **ladder("init", "erk"))
    table = report.markdown_table([report.read_run(run) for run in (a, b, c)])
    joint = table.split("\n\n")[1]
    assert joint.splitlines() == [
        "| weights left, % | IMP | SNIP | ERK |",
        "|---:|---:|---:|---:|",
        "| 100.00 | 90.00 | 90.00 | 90.00 |",
        "| 50.00 |  | 70.00 | 70.00 |",  # 51.2 is more than 2 % away
        "| 10.00 | 80.00 | 60.00 |  |",
    ]


def test_eight_series_fit_a_terminal_of_100_columns(tmp_path):
    controls = ("reinit", "random", "random_preserved", "shuffle_layers", "shuffle_global",
                "init", "dense_sign")  # fmt: skip
    random = "".join(ROWS.splitlines(keepends=True)[-2:])
    text = ROWS + "".join(random.replace("random", c) for c in controls if c != "random")
    run = make_run(tmp_path / "run", text)
    console = Console(width=100, soft_wrap=True, record=True, file=io.StringIO())
    console.print(report.closing_table([run]))
    printed = console.export_text()
    assert "…" not in printed and max(map(len, printed.splitlines())) <= 100
    assert "90.0±1.4" in printed and "55.0±7.1" in printed and "preserved" in printed
    panel = report.accuracy_panel([report.read_run(run)])
    labels = [line.label for line in panel.lines]
    assert labels[0] == "winning ticket" and "same mask, signs only" in labels
    assert len({line.colour for line in panel.lines}) == len(set(labels)) == 8


def test_every_control_has_a_label_and_up_to_seven_have_a_look_of_their_own(tmp_path):
    assert set(CONTROLS) < set(LABELS)
    for controls in (
        ["noise_0.5", "noise_3", "noise", "resample", "reinit"],
        ["noise", "rescaled", "resample", "invert", "smart_ratio", "mine"],
    ):
        text = ROWS + "".join(rows((1, 0.1, 0.5), control=name) for name in controls)
        run = make_run(tmp_path / controls[1], text.replace("random,1000,100,", "reinit,1000,100,"))
        lines = report.accuracy_panel([report.read_run(run)]).lines
        looks = [(line.colour, line.marker) for line in lines]
        assert len({colour for colour, _ in looks}) == len({m for _, m in looks}) == len(lines)
        labels = [line.label for line in lines]
        assert len(set(labels)) == len(labels)
        table = report.markdown_table([report.read_run(run)])
        assert all(f"| {label} |" in table for label in labels)
    assert "noise of 0.5 sigma on the start" in report.markdown_table(
        [report.read_run(tmp_path / "noise_3")]
    )


def test_published_curves_stand_behind_with_what_differs(tmp_path, capsys):
    run = make_run(tmp_path / "run", model="vgg16", data="cifar10", seeds=[0, 1],
                   train={"epochs": 10})  # fmt: skip
    both = ["--reference", "tanaka2020", "--reference", "gohil2020:vgg19_svhn"]
    assert report.main([str(run), *both]) == 0
    table = (run / "report" / "table.md").read_text()
    assert "NeurIPS 2020" in table
    assert "epochs 160 (here 10), seeds 3 (here 2)" in table
    assert "ReScience C" in table and "network vgg19 (here vgg16), data svhn" in table
    found = published.select("tanaka2020", [("vgg16", "cifar10")])
    panel = report.accuracy_panel([report.read_run(run)], found)
    line = next(x for x in panel.lines if x.label == "Tanaka et al. 2020: SynFlow")
    assert line.kind == "reference" and line.x == pytest.approx((100, 10, 3.2, 1, 0.1))
    assert line.mean == (93.5, 93.26, 92.12, 90.08, 80.39)
    capsys.readouterr()
    assert report.main([str(run), "--reference", "gohil2020"]) == 2
    error = capsys.readouterr().err
    assert "no numbers of vgg16 on cifar10" in error and error.count("\n") == 1


def make_matrix(path):
    """Make a matrix: tickets of a and b on a and c, at densities 0.5 and 0.1, of two seeds.

    On c at level 2 the native accuracies are 80 and 82 and those of a's tickets 81 and 81, so the
    differences are +1 and -1. The tickets of b on c have 12 % of the weights, and only seed 0.
    """
    config = {"transfer": {"sources": ["a", "b"], "targets": ["a", "c"], "density": 0.12}}
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"config": config}))

    def two(first, second, low=0.1, control="winning", start=0):
        points = [[(0, 1.0, 0.9), (1, 0.5, 0.85), (2, low, x)][start:] for x in (first, second)]
        return "".join(rows(*p, control=control, seed=s) for s, p in enumerate(points))

    make_run(path / "a", two(0.7, 0.71), data="a")
    make_run(path / "b", two(0.6, 0.6), data="b")
    make_run(path / "c", two(0.8, 0.82) + two(0.3, 0.2, control="random", start=1), data="c")
    make_run(path / "a_to_c", two(0.81, 0.81), data="c", source=str(path / "a"))
    one = rows((0, 1.0, 0.9), (1, 0.5, 0.8), (2, 0.12, 0.79))
    make_run(path / "b_to_c", one, data="c", source=str(path / "b"))
    return path


def test_a_transfer_matrix_compares_by_level_and_seed(tmp_path):
    matrix = report.read_matrix(make_matrix(tmp_path / "matrix"))
    assert matrix.level == 2  # 10 % is nearer to 12 % than 50 % is
    assert matrix.differences("a", "c", 2) == pytest.approx({0: 1, 1: -1})
    assert matrix.differences("b", "c", 2) == pytest.approx({0: -1})
    assert matrix.differences("random", "c", 2) == pytest.approx({0: -50, 1: -62})
    assert matrix.differences("c", "c", 2) == {0: 0, 1: 0}
    assert matrix.differences("b", "a", 2) == {}
    assert matrix.is_comparable("a", "c", 2) and not matrix.is_comparable("b", "c", 2)
    assert matrix.missing == ("b_to_a (no level yet)", "b_to_c (3 of 6 trainings to go)")
    assert report.read_matrix(matrix.workdir, density=0.4).level == 1
    cells = {
        name: [(c.text, c.small) for c in row] for name, row in report.heat_rows(matrix).items()
    }
    assert cells == {
        "a": [("own ticket", ""), ("0.00", "± 1.41")],
        "b": [("missing", ""), ("\u22121.00†", "")],
        "random ticket": [("missing", ""), ("\u221256.00", "± 8.49")],
    }
    assert report.heat_columns(matrix) == ["a\nown: 70.50 ± 0.71 %", "c\nown: 81.00 ± 1.41 %"]
    faded = {n: [c.faded for c in row] for n, row in report.heat_rows(matrix).items()}
    assert faded == {"a": [False, True], "b": [False] * 2, "random ticket": [False] * 2}
    values = {name: [c.value for c in row] for name, row in report.heat_rows(matrix).items()}
    assert values["a"] == [0, pytest.approx(0)] and values["b"] == [None, pytest.approx(-1)]
    assert values["random ticket"] == [None, pytest.approx(-56)]


def test_data_sets_whose_printed_names_are_the_same_keep_their_rows(tmp_path):
    """One's own data set "MNIST" beside the built-in "mnist"."""
    path = tmp_path / "matrix"
    path.mkdir()
    names = ["mnist", "MNIST", "svhn"]
    config = {"transfer": {"sources": names, "targets": ["svhn"], "density": 0.1}}
    (path / "config.json").write_text(json.dumps({"config": config}))
    for name, run in zip(names, ("mnist_to_svhn", "MNIST_to_svhn", "svhn"), strict=True):
        make_run(path / run, rows((0, 1.0, 0.9), (1, 0.1, 0.5 + names.index(name) / 10)))
    matrix = report.read_matrix(path)
    texts = {name: row[0].text for name, row in report.heat_rows(matrix).items()}
    assert list(texts) == ["mnist", "MNIST", "SVHN", "random ticket"]
    assert (texts["mnist"], texts["MNIST"]) == ("\u221220.00", "\u221210.00")
    assert "| level | weights left, % | SVHN | mnist | MNIST |" in report.matrix_markdown(matrix)
    labels = [line.label for line in report.matrix_panels(matrix)[0].lines]
    assert labels == ["tickets of mnist", "tickets of MNIST", "tickets of SVHN"]


def test_the_files_of_a_transfer_matrix(tmp_path):
    path = make_matrix(tmp_path / "matrix")
    files = report.write_report([path])
    assert [file.name for file in files] == [
        "matrix.png", "matrix.svg", "heatmap.png", "heatmap.svg", "matrix.csv", "table.md",
        "report.html",
    ]  # fmt: skip
    with (path / "report" / "matrix.csv").open(newline="") as file:
        table = [tuple(row.values()) for row in csv.DictReader(file)]
    assert ("c", "a", "0", "2", "0.1", "0.81", "0.01") in table
    assert ("c", "a", "1", "2", "0.1", "0.81", "-0.01") in table
    assert ("c", "c", "1", "2", "0.1", "0.82", "0") in table
    assert ("c", "random", "1", "2", "0.1", "0.2", "-0.62") in table
    # Two seeds of three levels for a, c and a on c; one seed for b on c; two levels for random.
    assert len(table) == 6 + 6 + 6 + 3 + 4
    text = (path / "report" / "table.md").read_text()
    assert "At level 2, 10.00 to 12.00 % of the weights; 12 % was asked for." in text
    assert "| a | **70.50 ± 0.71** | 0.00 ± 1.41 |" in text
    assert "† b on c: 12.00 % of the weights remain; in the target's own ticket 10.00 %." in text
    assert "- b_to_a (no level yet)" in text
    assert "| level | weights left, % | c | a | b | random ticket |" in text
    console = Console(width=100, soft_wrap=True, record=True, file=io.StringIO())
    console.print(report.closing_table([path]))
    assert "(70.50 ± 0.71)" in console.export_text()
    sparse = report.matrix_markdown(report.read_matrix(path, density=0.4))
    assert "At level 1, 50.00 % of the weights; 40 % was asked for." in sparse
    panels = report.matrix_panels(report.read_matrix(path))
    assert [p.title for p in panels] == ["trained on a", "trained on c"]
    assert [x.label for x in panels[1].lines] == [
        "tickets of a", "tickets of b", "tickets of c", "random ticket"
    ]  # fmt: skip
    # One source has one colour in every panel.
    assert [x.colour for x in panels[0].lines] == [0]
    assert [x.colour for x in panels[1].lines] == [0, 1, 2, None]


def test_what_a_transfer_matrix_does_not_go_with(tmp_path, capsys):
    path, run = make_matrix(tmp_path / "matrix"), make_run(tmp_path / "run")
    assert report.main([str(path), str(run)]) == 2
    assert report.main([str(path), "--reference", "gohil2020"]) == 2
    assert report.main([str(run), "--density", "0.1"]) == 2
    assert report.main([str(path), "--density", "3"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4 and "alone" in errors[0] and "alone" in errors[1]
    assert "is a run" in errors[2] and "0.03 for 3 %" in errors[3]
    (path / "a" / "curve.csv").write_text("seed,level\n1,2\n")
    with pytest.raises(ConfigError, match="matrix/a: is not a run that can be reported on"):
        report.write_report([path])


def test_a_matrix_without_any_run_is_an_error(tmp_path):
    config = {"transfer": {"sources": ["a"], "targets": ["c"]}}
    (tmp_path / "config.json").write_text(json.dumps({"config": config}))
    with pytest.raises(ConfigError, match="no run of the matrix has a complete level yet"):
        report.write_report([tmp_path])


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
