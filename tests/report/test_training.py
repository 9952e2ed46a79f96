"""Training curves, and layers of deep networks, against files written by hand."""

import json
import math

import pytest

from lottery_jax import report
from lottery_jax.report.heat import heat_figure
from lottery_jax.report.layers import layer_figure
from lottery_jax.report.panels import HeatCell
from lottery_jax.report.training import TrainingCurve, mean_curve, training_curves, training_figure
from tests.report.written_runs import make_run, rows

LEVELS = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    points = [(level, 0.8**level, 0.9) for level in range(LEVELS + 1)]
    make_run(folder, rows(*points) + rows(*points, seed=1))
    lines = []
    for seed in (0, 1):
        for level in range(LEVELS + 1):
            key = {"seed": seed, "level": level, "control": "winning"}
            for step in (0, 10, 20):
                accuracy = 0.1 if step == 0 else 0.9 + 0.01 * seed - 0.001 * level
                lines.append(json.dumps({**key, "step": step, "test_accuracy": accuracy}))
                if step:
                    loss = 2.0 / step + seed
                    lines.append(json.dumps({**key, "step": step, "train_loss": loss}))
    lines.append(
        json.dumps({"seed": 0, "level": 0, "control": "random", "step": 5, "train_loss": 9})
    )
    lines.append('{"seed": 0, "level": 0, "control": "winning", "step": 15, "train_loss": NaN}')
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"seed": 0, "lev')
    return report.read_run(folder)


def test_curves_of_evenly_chosen_levels_by_seed(run):
    curves = training_curves(run)
    assert [curve.level for curve in curves] == [0, 3, 6, 9, 12]
    assert curves[1].remaining == pytest.approx(51.2)
    assert curves[0].loss == ({10: 0.2, 20: 0.1}, {10: 1.2, 20: 1.1})
    assert curves[0].metric[1] == pytest.approx({0: 10, 10: 91, 20: 91})
    assert mean_curve(curves[0].loss) == pytest.approx({10: 0.7, 20: 0.6})


def test_the_figure_shows_loss_and_accuracy_and_does_not_begin_at_chance(run):
    losses, metrics = training_figure(training_curves(run), "t", "s", "test accuracy, %").axes
    assert losses.get_yscale() == "log" and losses.get_xlabel() == metrics.get_xlabel() == "step"
    low, high = metrics.get_ylim()
    assert 85 < low < 89.3 and 90.5 < high < 93
    names = [text.get_text() for text in metrics.get_legend().get_texts()]
    assert names == ["100 %", "51.2 %", "26.2 %", "13.4 %", "6.87 %"]
    means = [line for line in losses.get_lines() if line.get_linewidth() > 1]
    assert [list(line.get_ydata()) for line in means] == [pytest.approx([0.7, 0.6])] * 5
    assert len(losses.get_lines()) == 5 * 3  # two seeds and their mean
    assert [t.get_text() for t in losses.get_yticklabels()] == ["0.1", "0.2", "0.5", "1"]


def drawn_training(loss, metric, quantity="test accuracy, %"):
    """The axes and the small print of a figure of one level."""
    figure = training_figure([TrainingCurve(0, 100.0, loss, metric)], "t", "s", quantity)
    return *figure.axes, figure.get_supxlabel().replace("\n", " ")


def test_the_axis_of_an_error_leaves_out_the_untrained_network():
    mse = ({0: 800.0, 10: 1.0, 20: 0.5},)
    _, metrics, said = drawn_training(({10: 1.0},), mse, "test mse")
    low, high = metrics.get_ylim()
    assert 0.4 < low < 0.5 and 1 < high < 1.1
    assert "spans the means of the second half" in said and "lowest" not in said


def test_losses_that_are_not_positive_are_shown():
    losses, _, _ = drawn_training(({10: 5.0, 20: 0.1, 30: -2.0},), ({10: 90.0},))
    assert losses.get_yscale() == "linear" and losses.get_ylabel() == "training loss"
    assert losses.get_ylim()[0] < -2


@pytest.mark.parametrize("diverged", [False, True])
def test_the_small_print_says_why_a_mean_ends_and_what_thin_lines_are(diverged):
    one, other = {10: 90.0, 20: 91.0}, {10: 90.0}
    _, _, said = drawn_training((one, other if diverged else one), (one, one))
    assert said.startswith("Thin lines: single seeds.")
    assert ("Means are drawn where all seeds have a finite value." in said) == diverged
    assert "Thin lines" not in drawn_training((one,), (one,))[2]


def test_a_run_without_metrics_has_no_training_curves(tmp_path):
    assert training_curves(report.read_run(make_run(tmp_path / "run"))) == []


def test_more_than_eight_layers_are_a_heat_map():
    remaining = (100.0, 50.0, 10.0)
    layers = {f"conv{i}": [(x, x / (i + 1)) for x in remaining] for i in range(8)}
    assert layer_figure(layers, "t", "s", "weights").axes[0].get_yscale() == "log"
    layers["head"] = [(100.0, 100.0), (50.0, 60.0), (10.0, 0.0)]
    axes, bar = layer_figure(layers, "t", "by layer", "weights").axes
    assert len(axes.patches) == 9 * 3
    assert [text.get_text() for text in axes.get_yticklabels()] == list(layers)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["100 %", "50 %", "10 %"]
    (crossed,) = axes.get_lines()  # of the head nothing is left at 10 %
    assert (crossed.get_xdata()[0], crossed.get_ydata()[0]) == (2.5, 8.5)
    assert bar.get_ylim() == pytest.approx((10 / 8, 100))
    assert {"2 %", "50 %"} <= {text.get_text() for text in bar.get_yticklabels()}


def test_small_differences_look_small_and_uncertain_ones_are_faded():
    cells = [HeatCell(0.8, "+0.80", "± 2", faded=True), HeatCell(0.8, "+0.80", "± 0.1")]
    figure = heat_figure({"a": cells}, ["x", "y"], "t", "s", rows_apart=0, axis_labels=("", "", ""))
    axes, bar = figure.axes
    assert bar.get_ylim() == pytest.approx((-2.4, 2.4))  # 2 points and a fifth
    faded, plain = (1 - min(patch.get_facecolor()[:3]) for patch in axes.patches)
    assert math.isclose(faded, plain / 4, rel_tol=1e-3) and plain < 0.5
    inks = {text.get_color() for text in axes.texts if text.get_text() == "+0.80"}
    assert inks == {"0.4", "0.1"}
