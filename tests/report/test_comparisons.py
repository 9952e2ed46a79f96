"""The figure of a run: the tickets enlarged, paired differences, single seeds, bands within the axes."""

import math

import numpy as np
import pytest

from lottery_jax import report
from lottery_jax.report.comparisons import difference_panel, enlarged_panel
from lottery_jax.report.intervals import t_interval
from lottery_jax.report.panels import DenseLine, Line, Panel, accuracy_panel, shared_ranges
from lottery_jax.report.write import runs_figure
from tests.report.written_runs import make_run, rows

# Three seeds by (level, density): the winner loses little, and the control nearly everything.
WINNING = {(0, 1.0): (0.990, 0.988, 0.992), (1, 0.1): (0.985, 0.988, 0.991),
           (2, 0.01): (0.975, 0.980, 0.976)}  # fmt: skip
RANDOM = {(1, 0.1): (0.95, 0.93, 0.96), (2, 0.01): (0.20, 0.55, 0.60)}


def write_rows(series, control):
    return "".join(
        rows((*key, accuracy), control=control, seed=seed)
        for key, accuracies in series.items()
        for seed, accuracy in enumerate(accuracies)
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    text = write_rows(WINNING, "winning") + write_rows(RANDOM, "random")
    folder = make_run(tmp_path_factory.mktemp("runs") / "run", text, data="fashion_mnist")
    return report.read_run(folder)


@pytest.fixture(scope="module")
def figure(run):
    figure = runs_figure([run])
    figure.draw_without_rendering()
    return figure


def drawn_line(axes, label):
    return next(line for line in axes.get_lines() if line.get_label() == label)


def test_the_winner_is_enlarged_where_a_control_sets_the_range(figure):
    everything, enlarged, differences, legend = figure.axes
    assert figure.get_suptitle() == "LeNet-300-100 on Fashion-MNIST, SGD"
    assert everything.get_ylim()[0] < 45 and everything.get_ylim()[1] > 99
    low, high = enlarged.get_ylim()
    assert 96.5 < low < 97.5 and 99.2 < high <= 100.1  # every seed of the winner is within
    assert differences.get_title(loc="left") == "winning ticket less each of the others"
    names = [text.get_text() for text in legend.get_legend().get_texts()]
    assert names == ["winning ticket", "random ticket", "dense network"]
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_ticks_are_plain_percentages_and_signed_points(figure):
    everything, _, differences, _ = figure.axes
    ticks = [label.get_text() for label in everything.get_xticklabels()]
    assert ticks[:3] == ["1 %", "2 %", "5 %"] and ticks[-1] == "100 %"
    assert {"60 %", "80 %"} <= {label.get_text() for label in everything.get_yticklabels()}
    assert everything.get_ylabel() == "test accuracy"
    signed = {label.get_text() for label in differences.get_yticklabels()}
    assert {"0", "+1", "+20", "\u22121"} <= signed


def test_bands_end_within_the_axes_and_at_the_outermost_seed_and_the_notes_say_so(figure):
    for axes in figure.axes[:2]:
        low, high = axes.get_ylim()
        for band in axes.collections:
            ends = band.get_paths()[0].vertices[:, 1]
            assert low <= ends.min() and ends.max() <= high
    # The control's 45 +- 21.8 would reach up to 66.8, but its best seed has 60.
    control = figure.axes[0].collections[1].get_paths()[0].vertices
    assert control[np.isclose(control[:, 0], 1.0), 1].max() == pytest.approx(60)
    text = figure.get_supxlabel().replace("\n", " ")
    assert "Bands end at the outermost seed" in text and "beyond the axes are cut off" in text
    assert "Differences beyond ±1 are on a log scale" in text


def test_each_seed_has_a_thin_mark(figure):
    marks = [line for line in figure.axes[0].get_lines() if line.get_marker() == "_"]
    values = sorted(float(y) for line in marks for y in line.get_ydata())
    expected = [100 * a for series in (WINNING, RANDOM) for v in series.values() for a in v]
    assert values == pytest.approx(sorted(expected))
    assert all(line.get_linestyle() == "None" for line in marks)


def test_differences_are_paired_by_seed_with_students_interval(run, figure):
    panel = difference_panel([run])
    dense, random = panel.lines
    assert dense.mean == pytest.approx((-0.2, -1.3)) and random.mean == pytest.approx(
        (4.1333333, 52.7)
    )
    low, high = t_interval([-1.5, -0.8, -1.6])
    assert dense.reach()[1] == pytest.approx((low, high)) and low < -1.6 and high > -0.8
    drawn = drawn_line(figure.axes[2], "random ticket")
    assert list(drawn.get_ydata()) == pytest.approx(random.mean)
    assert panel.limits[0] < -1.3 and panel.limits[1] > 52.7


def test_a_single_seed_has_differences_without_bars(tmp_path):
    text = rows((0, 1.0, 0.9), (1, 0.1, 0.92)) + rows((1, 0.1, 0.8), control="random")
    run = report.read_run(make_run(tmp_path / "run", text))
    dense, random = difference_panel([run]).lines
    assert dense.mean == pytest.approx((2,)) and random.mean == pytest.approx((12,))
    assert dense.std == random.std == (0.0,)
    assert report.accuracy_panel([run]).lines[0].seeds == ()


def test_only_seeds_that_both_have_are_compared(tmp_path):
    text = rows((0, 1.0, 0.9), (1, 0.1, 0.91)) + rows((0, 1.0, 0.8), seed=1)
    text += rows((1, 0.1, 0.7), seed=2)
    (dense,) = difference_panel([report.read_run(make_run(tmp_path / "run", text))]).lines
    assert dense.mean == pytest.approx((1,)) and dense.std == (0.0,)
    alone = report.read_run(make_run(tmp_path / "dense", rows((0, 1.0, 0.9))))
    assert difference_panel([alone]) is None


def test_a_single_pair_beside_several_has_no_bar_and_the_small_print_says_so(tmp_path):
    text = rows((0, 1.0, 0.9), (1, 0.1, 0.91), (2, 0.01, 0.89))
    text += rows((0, 1.0, 0.8), (1, 0.1, 0.82), seed=1)
    figure = runs_figure([report.read_run(make_run(tmp_path / "run", text))])
    lines = next(a for a in figure.axes if "less" in a.get_title(loc="left")).get_lines()
    bars = [line for line in lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) > 1]
    assert [bar.get_xdata()[0] for bar in bars] == pytest.approx([10])
    assert "No bar: a single seed." in figure.get_supxlabel().replace("\n", " ")


@pytest.mark.parametrize(
    "metrics, label, tick",
    [
        (("mse", "accuracy"), "test mse / test accuracy (%)", "90"),
        (("accuracy", "top5_accuracy"), "test accuracy / test top5_accuracy", "90 %"),
    ],
)
def test_an_axis_is_in_percent_if_all_its_metrics_are(tmp_path, metrics, label, tick):
    runs = []
    for metric in metrics:
        folder = make_run(tmp_path / metric, rows((0, 1.0, 0.9), (1, 0.1, 0.8)))
        text = (folder / "curve.csv").read_text().replace("test_accuracy", f"test_{metric}")
        (folder / "curve.csv").write_text(text)
        runs.append(report.read_run(folder))
    axes = runs_figure(runs).axes[0]
    assert axes.get_ylabel() == label
    assert axes.yaxis.get_major_formatter()(90) == tick


def test_several_runs_have_a_difference_line_each(tmp_path):
    text = write_rows(WINNING, "winning")
    ladders = [{"draw": "init", "scores": name} for name in ("snip", "grasp")]
    runs = [
        report.read_run(make_run(tmp_path / ladder["scores"], text, ladder=ladder))
        for ladder in ladders
    ]
    lines = difference_panel(runs).lines
    assert [line.label for line in lines] == ["SNIP", "GraSP"]
    assert [line.colour for line in lines] == [0, 1] and lines[0].mean == pytest.approx(
        (-0.2, -1.3)
    )


def test_tickets_that_can_be_seen_are_not_enlarged(run):
    panel = accuracy_panel([run])
    tickets = tuple(line for line in panel.lines if line.kind == "ticket")
    assert enlarged_panel(panel) is not None
    assert enlarged_panel(Panel("", tickets, panel.dense)) is None
    # A winner that falls to chance is enlarged where it is within 5 points of the dense network.
    fallen = Line("t", (100.0, 10.0, 1.0), (91.0, 89.0, 10.0))
    low, high = enlarged_panel(Panel("", (fallen,), (DenseLine("d", 91.0),))).range
    assert 86 < low < 89 and 91 < high < 93


def test_panels_share_their_axis_if_that_flattens_none():
    def panel(*values):
        return Panel("", (Line("t", (100.0,) * len(values), values),), ())

    a, b, far = panel(80.0, 84.0), panel(82.0, 87.0), panel(20.0, 90.0)
    assert shared_ranges([a, b]) == [(79.5, 87.5)] * 2
    ranges = shared_ranges([a, b, far])
    assert ranges == [a.range, b.range, far.range]


@pytest.mark.parametrize("values, half", [([1.0, 1.0, 1.0], 0.0), ([1.0], math.inf)])
def test_intervals_of_equal_and_of_single_values(values, half):
    assert t_interval(values) == (1 - half, 1 + half)
