"""What tickets cost, against sums by hand."""

import dataclasses
import json
import math

import pytest

from lottery_jax import report
from lottery_jax.errors import ConfigError
from lottery_jax.report.panels import COSTS, budget_panels
from lottery_jax.report.tables import budget_markdown
from lottery_jax.report.trained import layer_densities
from tests.report.written_runs import make_run, rows

# Layer b is a convolution with 10 positions. Ten steps an epoch, three epochs, batches of 4.
FORWARD = {"a": 100, "b": 500}
LAYERS = [{"a": [100, 100], "b": [50, 50]}, {"a": [50, 100], "b": [10, 50]},
          {"a": [20, 100], "b": [5, 50]}]  # fmt: skip
CURVE = rows((0, 1.0, 0.9), (1, 0.4, 0.92), (2, 1 / 6, 0.88))


def begin(path, draw="iterative", *, per_epoch=10, starts=(5, 5, 5), forward=FORWARD, **more):
    """A run whose rewind point is step 5; the numbers in `starts` are those of its tickets."""
    config = {"ladder": {"draw": draw}, "train": {"epochs": 3, "batch_size": 4}, **more}
    make_run(path, CURVE, **config)
    record = json.loads((path / "config.json").read_text())
    record["cost"] = {"steps_per_epoch": per_epoch, "multiply_adds": forward}
    (path / "config.json").write_text(json.dumps(record))
    for level, (layers, start) in enumerate(zip(LAYERS, starts, strict=True)):
        ticket = path / f"seed_0/level_{level:02d}/ticket"
        ticket.mkdir(parents=True)
        metadata = {"level": level, "rewind_step": 5, "start_step": start, "layers": layers,
                    "layer_order": ["a", "b"], "density": 0.5}  # fmt: skip
        (ticket / "metadata.json").write_text(json.dumps(metadata))
    return report.read_run(path)


# A step costs 3 * 4 * 600 = 7200 multiply-adds with the zeros; without them 3 * 4 * (50 + 100) = 1800
# at level 1 and 3 * 4 * (20 + 50) = 840 at level 2. Level 0 takes 30 steps and the others 25.
DENSE = (3, 216_000, 216_000)


@pytest.mark.parametrize(
    "draw, expected",
    [
        ("iterative", [DENSE, (3 + 2.5, 216_000 + 180_000, 216_000 + 45_000),
                       (3 + 2.5 + 2.5, 216_000 + 2 * 180_000, 216_000 + 45_000 + 21_000)]),
        ("oneshot", [DENSE, (3 + 2.5, 216_000 + 180_000, 216_000 + 45_000),
                     (3 + 2.5, 216_000 + 180_000, 216_000 + 21_000)]),
        # Five steps of the dense network lead to the rewind point.
        ("init", [DENSE, (0.5 + 2.5, 36_000 + 180_000, 36_000 + 45_000),
                  (0.5 + 2.5, 36_000 + 180_000, 36_000 + 21_000)]),
        ("init_nested", [DENSE, (3, 216_000, 81_000), (3, 216_000, 57_000)]),
    ],
)  # fmt: skip
def test_a_ticket_is_charged_with_every_training_that_leads_to_it(tmp_path, draw, expected):
    costs = report.ticket_costs(begin(tmp_path / "run", draw))
    assert list(map(dataclasses.astuple, costs.values())) == [pytest.approx(c) for c in expected]
    assert list(costs) == [0, 1, 2]


def test_trainings_that_start_anew_or_fine_tune_take_their_own_steps(tmp_path):
    restart = report.ticket_costs(begin(tmp_path / "restart", starts=(5, 0, 0)))
    assert [cost.epochs for cost in restart.values()] == [3, 6, 9]
    # Fine-tuning goes on at step 30 + 5, and takes the 25 steps of a rewound ticket.
    finetune = report.ticket_costs(begin(tmp_path / "finetune", starts=(5, 35, 35)))
    assert [cost.epochs for cost in finetune.values()] == [3, 5.5, 8]


def test_a_transferred_ticket_pays_for_its_source(tmp_path):
    """The target has twice the steps an epoch and starts at step 10 of 60: 50 steps, 2.5 epochs."""
    begin(tmp_path / "source")
    more = {"source": str(tmp_path / "source"), "per_epoch": 20, "starts": (10, 10, 10)}
    costs = report.ticket_costs(begin(tmp_path / "target", **more))
    assert list(map(dataclasses.astuple, costs.values())) == [
        pytest.approx(cost)
        for cost in [
            # The way to the source's rewind point; then what the source's mask has cost.
            (0.5 + 2.5, 36_000 + 360_000, 36_000 + 360_000),
            (3 + 2.5, 216_000 + 360_000, 216_000 + 50 * 1800),
            (5.5 + 2.5, 396_000 + 360_000, 261_000 + 50 * 840),
        ]
    ]
    (tmp_path / "source" / "config.json").unlink()
    assert report.ticket_costs(report.read_run(tmp_path / "target")) == {}


def test_a_ticket_of_a_transferred_ticket_pays_for_the_run_that_drew_it(tmp_path):
    """The run between the two trained the same tickets, too, and nothing depends on that."""
    begin(tmp_path / "first")
    begin(tmp_path / "between", source=str(tmp_path / "first"), per_epoch=7)
    direct = begin(tmp_path / "direct", source=str(tmp_path / "first"))
    last = begin(tmp_path / "last", source=str(tmp_path / "between"))
    assert report.ticket_costs(last) == report.ticket_costs(direct) != {}
    begin(tmp_path / "a", source=str(tmp_path / "b"))
    begin(tmp_path / "b", source=str(tmp_path / "a"))
    assert report.ticket_costs(report.read_run(tmp_path / "a")) == {}
    begin(tmp_path / "between_2", source=str(tmp_path / "first"), transfer={"align": True})
    assert report.ticket_costs(begin(tmp_path / "z", source=str(tmp_path / "between_2"))) == {}


@pytest.mark.parametrize(
    "draw, drawing",
    [("iterative", [3, 5.5]), ("oneshot", [3, 3]), ("init", [3, 3]), ("init_nested", [3, 3])],
)
def test_an_aligned_ticket_pays_for_the_two_dense_networks_that_are_matched(
    tmp_path, draw, drawing
):
    """The target trains its own dense network: 3 epochs, the way to the rewind point included."""
    begin(tmp_path / "source", draw)
    more = {"source": str(tmp_path / "source"), "transfer": {"align": True}}
    costs = report.ticket_costs(begin(tmp_path / "target", draw, **more))
    assert [cost.epochs for cost in costs.values()] == [3, *(3 + 2.5 + cost for cost in drawing)]
    assert costs[0].dense == 216_000 and costs[1].sparse == 216_000 + 216_000 + 45_000


def test_pooled_runs_are_charged_and_drawn_as_one_run_of_their_seeds(tmp_path):
    """The tickets of seed 1 lie in another folder, with other layers and costs."""
    one = begin(tmp_path / "one", seeds=[0])
    begin(tmp_path / "two", seeds=[1])
    (tmp_path / "two/curve.csv").write_text(
        (tmp_path / "two/curve.csv").read_text().replace("\n0,", "\n1,")
    )
    (tmp_path / "two/seed_0").rename(tmp_path / "two/seed_1")
    file = tmp_path / "two/seed_1/level_01/ticket/metadata.json"
    other = {"a": [30, 100], "b": [30, 50]}
    file.write_text(json.dumps({**json.loads(file.read_text()), "layers": other}))
    (both,) = report.pooled([one, report.read_run(tmp_path / "two")])
    assert both.seeds == (0, 1)
    costs = report.ticket_costs(both)
    assert costs[1].sparse == pytest.approx(216_000 + (99_000 + 45_000) / 2)
    assert layer_densities(both)["a"][1] == (50, pytest.approx((50 + 30) / 2))


def test_several_seeds_are_charged_as_their_mean(tmp_path):
    folder = tmp_path / "run"
    begin(folder)
    other = {"a": [30, 100], "b": [30, 50]}
    for level, layers in enumerate((LAYERS[0], other, LAYERS[2])):
        metadata = json.loads(
            (folder / f"seed_0/level_{level:02d}/ticket/metadata.json").read_text()
        )
        ticket = folder / f"seed_1/level_{level:02d}/ticket"
        ticket.mkdir(parents=True)
        (ticket / "metadata.json").write_text(json.dumps({**metadata, "layers": layers}))
    with (folder / "curve.csv").open("a") as file:
        file.write(rows((0, 1.0, 0.9), (1, 0.4, 0.9), (2, 1 / 6, 0.9), seed=1))
    costs = report.ticket_costs(report.read_run(folder))
    # 12 * 25 * (30 + 300) beside 12 * 25 * (50 + 100)
    assert costs[1].sparse == pytest.approx(216_000 + (99_000 + 45_000) / 2)
    assert costs[1].epochs == 5.5


@pytest.mark.slow
def test_the_report_has_the_figure_and_the_table(tmp_path):
    begin(tmp_path / "run")
    files = {file.name for file in report.write_report([tmp_path / "run"])}
    assert {"budget.png", "budget.svg", "curve.png"} <= files
    text = (tmp_path / "run" / "report" / "table.md").read_text()
    assert text.count("what each winning ticket cost") == 1


def test_the_figure_and_the_table_hold_the_costs(tmp_path):
    imp, oneshot = tmp_path / "imp", tmp_path / "oneshot"
    runs = [begin(imp), begin(oneshot, "oneshot")]
    table = budget_markdown(runs, [report.ticket_costs(run) for run in runs])
    head = "| level | weights left, % | test accuracy in % | epochs trained | multiply-adds as computed |"
    assert table.count(head) == 2
    assert "| 2 | 16.67 | 88.00 | 8 | 5.760e+05 | 2.820e+05 |" in table
    assert "| 2 | 16.67 | 88.00 | 5.5 | 3.960e+05 | 2.370e+05 |" in table
    panels = budget_panels(runs, [report.ticket_costs(run) for run in runs])
    assert [panel.cost for panel in panels] == list(COSTS.values())
    (epochs, dense, _) = ([line.x for line in panel.lines] for panel in panels)
    assert epochs == [(3, 5.5, 8), (3, 5.5, 5.5)]
    assert dense == [pytest.approx((216e3, 396e3, 576e3)), pytest.approx((216e3, 396e3, 396e3))]
    assert panels[0].lines[0].mean == pytest.approx((90, 92, 88))
    assert panels[0].lines[0].texts == ("100 %", "", "16.7 %")
    *axes, legend = report.budget_figure(runs).axes
    assert legend.get_legend() and not legend.axison
    assert [a.get_xscale() for a in axes] == ["log"] * 3
    assert [text.get_text() for text in axes[0].texts if text.get_text()] == [
        "100 %",
        *["16.7 %"] * 2,
    ]


def test_a_network_whose_multiply_adds_nobody_knows_has_its_epochs(tmp_path):
    run = begin(tmp_path / "run", forward=None)
    costs = report.ticket_costs(run)
    assert costs[2].epochs == 8 and math.isnan(costs[2].dense)
    (panel,) = budget_panels([run], [costs])
    assert panel.cost == "epochs trained"
    assert "| 2 | 16.67 | 88.00 | 8 |  |  |" in budget_markdown([run], [costs])


def test_a_run_of_an_earlier_version_has_no_budget(tmp_path):
    run = begin(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    del record["cost"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    assert report.ticket_costs(run) == {} and report.budget_figure([run]) is None
    assert budget_markdown([run], [{}]) == ""


@pytest.mark.parametrize("cost", [{"steps_per_epoch": 0, "multiply_adds": FORWARD}, {"x": 1}, [1]])
def test_a_damaged_record_is_an_error_that_names_the_run(tmp_path, cost):
    run = begin(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({**record, "cost": cost}))
    with pytest.raises(ConfigError, match=f"{tmp_path / 'run'}.*reported on"):
        report.ticket_costs(run)
