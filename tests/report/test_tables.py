"""The closing table: its intervals and what it says in words, against numbers worked out by hand."""

import io
import itertools

import pytest
from rich.console import Console

from lottery_jax import report
from lottery_jax.report.tables import less_dense, near_dense, run_table
from tests.report.written_runs import make_run, rows


def near(tmp_path, *seeds, name="run"):
    """What is said of a run whose seeds have these (level, density, accuracy)."""
    text = "".join(rows(*points, seed=seed) for seed, points in enumerate(seeds))
    return near_dense(report.read_run(make_run(tmp_path / name, text)))


def test_the_smallest_density_at_which_and_above_which_tickets_are_near(tmp_path):
    """Level 2 is below by 2 points, so level 3 does not count though it is near again."""
    points = [(0, 1.0, 0.90), (1, 0.5, 0.89), (2, 0.25, 0.88), (3, 0.125, 0.90)]
    said = near(tmp_path, points)
    assert said.startswith(
        "Down to 50 % of the weights, the winning tickets of the only seed are at"
    )
    assert "at most 1 point below" in said and "\u22121.00 points; one seed" in said
    assert "interval" not in said


def test_the_mean_over_seeds_counts_each_against_its_own_dense_network(tmp_path):
    """-2 and +1 points: -0.5 on average. The interval is -0.5 -+ 12.706 * 2.1213 / sqrt(2)."""
    said = near(tmp_path, [(0, 1.0, 0.90), (1, 0.0441, 0.88)], [(0, 1.0, 0.80), (1, 0.0441, 0.81)])
    assert said == (
        "Down to 4.41 % of the weights, the sparsest level, winning tickets are on average at most "
        "1 point below the dense network (there \u22120.50 points, 95 % interval \u221219.56 to +18.56)."
    )


def test_no_ticket_is_near(tmp_path):
    said = near(tmp_path, [(0, 1.0, 0.90), (1, 0.8, 0.85), (2, 0.64, 0.95)])
    assert said.startswith("At 80 % of the weights already, ") and "more than 1 point below" in said


def test_nothing_is_said_of_levels_that_some_seed_has_not_reached(tmp_path):
    dense = (0, 1.0, 0.90)
    both = near(tmp_path, [dense, (1, 0.8, 0.9), (2, 0.64, 0.9)], [dense, (1, 0.8, 0.9)])
    assert both.startswith("Down to 80 % of the weights, winning") and "sparsest" not in both
    assert near(tmp_path, [dense, (1, 0.8, 0.9)], [dense], name="one") == ""
    assert near(tmp_path, [dense], name="none") == ""


def test_the_closing_table_has_the_paired_differences_with_intervals(tmp_path):
    text = rows((0, 1.0, 0.90), (1, 0.1, 0.89)) + rows((0, 1.0, 0.92), (1, 0.1, 0.93), seed=1)
    run = report.read_run(make_run(tmp_path / "run", text))
    assert less_dense(run) == {1: {0: pytest.approx(-1), 1: pytest.approx(1)}}
    console = Console(width=100, soft_wrap=True, record=True, file=io.StringIO())
    console.print(run_table(run))
    printed = console.export_text()
    assert "less dense [95 %]" in printed and " 0.00 [\u221212.71, +12.71]" in printed
    assert "Down to 10 % of the weights" in printed
    assert max(map(len, printed.splitlines())) <= 100


@pytest.mark.parametrize("soft_wrap", [False, True])
def test_the_sentence_below_the_closing_table_is_broken_once_at_its_width(tmp_path, soft_wrap):
    text = "".join(rows((0, 1.0, 0.90), (1, 0.0441, 0.90), seed=seed) for seed in (0, 1))
    run = report.read_run(make_run(tmp_path / "run", text))
    console = Console(width=80, soft_wrap=soft_wrap, file=io.StringIO())
    console.print(run_table(run))
    table, below = console.file.getvalue().split("\u2518\n")
    width = len(table.splitlines()[-1]) + 1
    lines = [line.rstrip() for line in below.splitlines()]
    assert " ".join(lines) == near_dense(run) and max(map(len, lines)) <= width
    # No word fits the end of the line before.
    for line, following in itertools.pairwise(lines):
        assert len(f"{line} {following.split()[0]}") > width


def test_with_one_control_the_closing_table_fits_a_terminal_of_80_columns(tmp_path):
    text = "".join(
        rows((0, 1.0, 0.92), (1, 0.1, 0.91), seed=seed)
        + rows((1, 0.1, 0.5 + 0.1 * seed), control="random", seed=seed)
        for seed in range(3)
    )
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(run_table(report.read_run(make_run(tmp_path / "run", text))))
    printed = console.export_text()
    assert "\u22121.00 [\u22121.00, \u22121.00]" in printed and "60.00 ± 10.00" in printed


def test_one_seed_has_no_column_of_intervals_and_a_loss_has_no_points(tmp_path):
    one = run_table(report.read_run(make_run(tmp_path / "one", rows((0, 1, 0.9), (1, 0.1, 0.9)))))
    assert [column.header for column in one.columns] == [
        "level",
        "weights left, %",
        "winning ticket",
    ]
    folder = make_run(tmp_path / "loss", rows((0, 1, 0.9), (1, 0.1, 0.9)))
    text = (folder / "curve.csv").read_text().replace("test_accuracy", "test_mse")
    (folder / "curve.csv").write_text(text)
    run = report.read_run(folder)
    assert near_dense(run) == "" and less_dense(run) == {}
    assert run_table(run).caption is None
