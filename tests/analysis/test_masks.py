"""The structure of masks, counted by hand."""

import jax
import numpy as np
import pytest

from lottery_jax.analysis import masks as analysis
from lottery_jax.analysis.opening import measuring_experiment
from lottery_jax.curve import WINNING
from lottery_jax.errors import ConfigError, TicketError
from lottery_jax.runs import record
from lottery_jax.runs.directory import Trial
from lottery_jax.tickets.epochs import save_epoch
from tests.analysis.small_runs import SHAPE, lenet, set_mask, write_run
from tests.helpers import make_tiny_config, synthetic_ticket


def test_fan_in_and_fan_out_of_a_convolution():
    kernel = np.zeros((2, 2, 3, 4), bool)
    kernel[0, 0, 1, 2] = kernel[1, 1, 1, 2] = kernel[0, 1, 2, 3] = True
    assert analysis.fan_in(kernel).tolist() == [0, 0, 2, 1]
    assert analysis.fan_out(kernel).tolist() == [0, 2, 1]


def test_overlap_is_counted_against_chance(tmp_path):
    """Two seeds keep 12 of 24, 12 and 20 weights in layers; 6, 12 and 20 of them are the same."""

    def drawn(seed, level, control):
        ticket = lenet(1.0, seed)
        if level:
            half = np.zeros(24, bool)
            half[6 * seed : 6 * seed + 12] = True
            set_mask(ticket, dense1=half.reshape(4, 6))
        return ticket

    write_run(tmp_path / "run", drawn)
    rows = analysis.overlap([tmp_path / "run"])
    (seeds,) = [row for row in rows if row["kind"] == "seeds"]
    assert (seeds["seed"], seeds["other_seed"], seeds["level"]) == (0, 1, 1)
    assert seeds["jaccard"] == pytest.approx((6 + 12 + 20) / (18 + 12 + 20))
    assert seeds["over_chance"] == pytest.approx(38 / (44 * 44 / 56))
    assert seeds["over_chance_within_layers"] == pytest.approx(38 / (12 * 12 / 24 + 12 + 20))
    nested = [row for row in rows if row["kind"] == "levels"]
    assert [(row["seed"], row["level"], row["other_level"]) for row in nested] == [
        (0, 0, 1),
        (1, 0, 1),
    ]
    assert [row["jaccard"] for row in nested] == pytest.approx([44 / 56] * 2)


def test_runs_are_compared_seed_by_seed_at_the_same_level(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, lambda seed, level, control: lenet(0.5 if level else 1.0, seed))
    rows = [
        row for row in analysis.overlap([tmp_path / "a", tmp_path / "b"]) if row["kind"] == "runs"
    ]
    assert [(r["run"], r["other_run"], r["seed"], r["other_seed"]) for r in rows] == [
        ("a", "b", 0, 0),
        ("a", "b", 1, 1),
    ]
    assert all(row["jaccard"] == row["same_start"] == row["same_trained"] == 1 for row in rows)
    assert [row["over_chance"] for row in rows] == pytest.approx([2.0, 2.0])


def test_effective_density_and_dead_units_are_counted(tmp_path):
    """Unit 0 of the first layer feeds nothing: its 4 weights are on no path."""

    def drawn(seed, level, control):
        ticket = lenet(1.0, seed)
        second = np.ones((6, 2), bool)
        second[0] = False
        return set_mask(ticket, dense2=second) if level else ticket

    write_run(tmp_path, drawn, seeds=(0,))
    dense, pruned = analysis.densities([tmp_path])
    assert dense["effective_density"] == dense["density"] == dense["compression"] == 1
    assert pruned["density"] == pytest.approx(54 / 56)
    assert pruned["effective_density"] == pytest.approx(50 / 56)
    assert pruned["effective_share"] == pytest.approx(50 / 54)
    assert pruned["effective_compression"] == pytest.approx(56 / 50)
    rows = [row for row in analysis.layers([tmp_path]) if row["level"] == 1]
    assert [row["layer"] for row in rows] == ["dense1", "dense2", "head"]
    assert [row["kept"] for row in rows] == [24, 10, 20]
    second = rows[1]
    assert (second["fan_in_min"], second["fan_in_median"], second["fan_in_max"]) == (5, 5, 5)
    assert (second["fan_out_min"], second["fan_out_max"]) == (0, 2)
    assert (second["no_output"], second["no_input"]) == (1, 0)


def test_signs_are_compared_among_the_weights_that_are_kept(tmp_path):
    """Level 1 turns the signs of a quarter of its 12 kept weights of the second layer in training."""

    def drawn(seed, level, control):
        ticket = lenet(1.0)
        for name in ("dense1", "dense2", "head"):
            ticket.trained[name]["kernel"][...] = ticket.params[name]["kernel"]
        if level:
            set_mask(ticket, dense1=False, head=False)
            ticket.trained["dense2"]["kernel"].ravel()[:3] *= -1
        return ticket

    write_run(tmp_path, drawn, seeds=(0,))
    dense, pruned = analysis.densities([tmp_path])
    assert dense["start_sign"] == dense["dense_sign"] == 1
    assert pruned["start_sign"] == pruned["dense_sign"] == 0.75


def test_signs_after_a_kept_epoch_are_those_of_its_weights(tmp_path):
    """All signs of the second layer are turned after epoch 1, and none at the end."""
    ticket = lenet(1.0)
    for name in ("dense1", "dense2", "head"):
        ticket.trained[name]["kernel"][...] = ticket.params[name]["kernel"]
    write_run(tmp_path, lambda seed, level, control: ticket, seeds=(0,))
    turned = jax.tree.map(np.copy, ticket.trained)
    turned["dense2"]["kernel"] *= -1
    for level in (0, 1):
        save_epoch(Trial(tmp_path, 0, level, WINNING).ticket_dir, 1, turned, ticket.batch_stats)
    sizes = [ticket.params[name]["kernel"].size for name in ("dense1", "dense2", "head")]
    after, end = analysis.densities([tmp_path], epoch=1), analysis.densities([tmp_path])
    assert [row["start_sign"] for row in end] == [1, 1]
    assert [row["start_sign"] for row in after] == [pytest.approx(1 - sizes[1] / sum(sizes))] * 2
    assert [row["dense_sign"] for row in after] == [1, 1]  # the dense network after the same epoch
    assert analysis.overlap([tmp_path], epoch=1)[0]["same_trained"] == 1
    with pytest.raises(TicketError, match="epoch 2 was not kept; kept epochs: 1"):
        analysis.densities([tmp_path], epoch=2)


def test_controls_have_rows_of_their_own_and_no_pairs(tmp_path):
    write_run(tmp_path, lambda s, level, c: lenet(0.5 if level else 1.0, s), controls=("random",))
    rows = analysis.densities([tmp_path])
    assert [row["control"] for row in rows] == [WINNING, WINNING, "random"] * 2
    assert len(analysis.overlap([tmp_path])) == 3


def test_nothing_complete_is_one_line(tmp_path):
    record.record_config(tmp_path, make_tiny_config())
    for analyse in (analysis.densities, analysis.layers, analysis.overlap):
        with pytest.raises(ConfigError, match="no ticket is complete; run it to its end first"):
            analyse([tmp_path])


def test_a_run_is_measured_without_the_run_that_its_tickets_came_from(tmp_path):
    """Masks that a transfer aligned, and weights from elsewhere, are in its own tickets."""
    ticket = synthetic_ticket("lenet_300_100", SHAPE, 1.0, width=0.02)
    config = write_run(tmp_path, lambda seed, level, control: ticket, seeds=(0,), levels=0)
    with config.unlocked():
        config.source, config.transfer.align, config.ladder.pretrained = "nowhere", True, "nowhere"
    measured = measuring_experiment(Trial(tmp_path, 0, 0, WINNING), config).config
    assert (measured.source, measured.transfer.align, measured.ladder.pretrained) == ("", False, "")
