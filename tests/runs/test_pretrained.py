"""A rewind point from elsewhere: the other run's weights, and masks of one's own."""

import json
import shutil

import jax
import numpy as np
import pytest

from lottery_jax import tickets
from lottery_jax.errors import ConfigError, LotteryError
from lottery_jax.pruning import masks
from lottery_jax.runs import experiment
from lottery_jax.runs.directory import Trial
from lottery_jax.training.loop import fit
from lottery_jax.training.program import init_device_state
from tests.helpers import assert_same, make_tiny_config, run_quietly, some_arrays
from tests.helpers import load_trained as load


def config_of(**overrides):
    return make_tiny_config(
        **{"model.width": 0.1, "ladder.levels": 1, "ladder.rewind": "4st", **overrides}
    )


def elsewhere(weights, **overrides):
    return config_of(
        **{
            "ladder.pretrained": str(weights),
            "data.name": "digits_b",
            "ladder.rewind": "3st",
            **overrides,
        }
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A finished ladder on one half of the classes."""
    workdir = tmp_path_factory.mktemp("source") / "run"
    run_quietly(config_of(**{"data.name": "digits_a", "ladder.levels": 1}), workdir)
    return workdir


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("elsewhere") / "run"
    config = elsewhere(source, controls=("reinit", "shuffle_layers"), **{"transfer.head": "keep"})
    run_quietly(config, workdir)
    return workdir


@pytest.mark.slow
def test_tickets_start_from_the_other_weights_under_their_own_masks(source, run):
    theirs = load(source, 0, 0)
    for level in (0, 1):
        ticket = load(run, 0, level)
        start = jax.tree.map(lambda m, p: np.where(m, p, np.float32(0)), ticket.mask, theirs.params)
        assert_same(ticket.params, start)
        assert (ticket.metadata["start_step"], ticket.metadata["rewind_step"]) == (3, 4)
        found_by = ticket.metadata["found_by"]
        assert found_by["data"] == "digits_b"
        assert found_by["pretrained"] == {
            "data": "digits_a", "seed": 0, "params_sha256": theirs.metadata["sha256"]["params"],
        }  # fmt: skip
    own, other = load(run, 0, 1).mask, load(source, 0, 1).mask
    assert masks.counts(own) == masks.counts(other)
    assert not np.array_equal(own["head"]["kernel"], other["head"]["kernel"])
    control = load(run, 0, 1, "shuffle_layers")
    assert (control.params["head"]["kernel"][control.mask["head"]["kernel"]] != 0).all()


@pytest.mark.slow
def test_the_dense_network_is_trained_from_them_on_these_data(source, run):
    setup = experiment.set_up(elsewhere(source), jax.devices()[:1])
    variables = load(source, 0, 0).variables
    state = init_device_state(setup.program, variables, masks.ones_like(variables["params"]), 3)
    train_key = jax.random.split(jax.random.key(0), 4)[1]
    state = fit(setup.program, state, setup.train, train_key, until=setup.end_step)
    assert_same(load(run, 0, 0).trained, jax.device_get(state.params))


@pytest.mark.slow
def test_other_weights_are_not_mixed_into_a_run(source, run, tmp_path):
    """The path may change, the weights may not."""
    moved, begun = tmp_path / "moved", tmp_path / "run"
    shutil.copytree(source, moved)
    shutil.copytree(run, begun)
    options = {"controls": ("reinit", "shuffle_layers"), "transfer.head": "keep"}
    assert run_quietly(elsewhere(moved, **options), begun)
    ticket = tickets.load_ticket(Trial(moved, 0, 0, "winning").ticket_dir)
    changed = jax.tree.map(lambda w: w * 2, ticket.params)
    ticket = tickets.Ticket(**{**vars(ticket), "params": changed})
    tickets.save_ticket(Trial(moved, 0, 0, "winning").ticket_dir, ticket)
    with pytest.raises(ConfigError, match="the source's fingerprint"):
        run_quietly(elsewhere(moved, **options), begun)


@pytest.mark.long
def test_one_ticket_serves_all_seeds_with_a_new_head_for_other_classes(source, tmp_path):
    np.savez(tmp_path / "four.npz", **some_arrays(n=60, shape=(8, 8, 1)))
    folder = Trial(source, 0, 0, "winning").ticket_dir
    config = elsewhere(
        folder, seeds=(0, 5),
        **{"data.name": "four", "data.dir": str(tmp_path), "train.batch_size": 10,
           "ladder.levels": 0, "optimizer.learning_rate": 0.01},
    )  # fmt: skip
    run_quietly(config, tmp_path / "run")
    theirs, first, second = load(source, 0, 0), *(load(tmp_path / "run", s, 0) for s in (0, 5))
    for name in ("dense1", "dense2"):
        assert_same(first.params[name], theirs.params[name])
        assert_same(second.params[name], theirs.params[name])
    heads = [ticket.params["head"]["kernel"] for ticket in (first, second)]
    assert heads[0].shape[-1] == 4 and not np.array_equal(*heads)
    assert not np.array_equal(first.trained["head"]["kernel"], second.trained["head"]["kernel"])


@pytest.mark.slow
def test_a_transfer_has_no_weights_of_step_0_either(run, tmp_path):
    """What its seed draws belongs to no ticket of the source."""
    config = config_of(
        source=str(run), controls=("init",), **{"data.name": "digits_b", "ladder.rewind": "3st"}
    )
    with pytest.raises(ConfigError, match="has config.ladder.pretrained, so .*leave it out"):
        run_quietly(config, tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides, says",
    [
        ({"ladder.pretrained": "nowhere"}, "nowhere is neither a run directory nor a ticket"),
        ({"seeds": (0, 3)}, "no complete level 0 of seed 3"),
        ({"model.width": 0.3}, "config.ladder.pretrained: .* leaf dense1/bias is float32"),
        ({"data.input_shape": (9, 9, 1)}, "config.ladder.pretrained: .* leaf dense1/kernel"),
        ({"ladder.optimizer_state": "restored"}, "no optimizer state to restore"),
        ({"source": "run"}, "a transfer has the weights of its source"),
        ({"controls": ("init",), "ladder.levels": 1}, "no weights of step 0 for the control"),
    ],
)
def test_weights_that_can_not_be_had_are_refused(source, overrides, says, tmp_path):
    with pytest.raises(LotteryError, match=says):
        run_quietly(elsewhere(source, **overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_pruned_ticket_is_no_rewind_point(source, tmp_path):
    folder = Trial(source, 0, 1, "winning").ticket_dir
    with pytest.raises(ConfigError, match="is pruned, .*; name a dense ticket"):
        run_quietly(elsewhere(folder), tmp_path / "run")


@pytest.mark.slow
def test_config_json_says_which_weights_they_are(run):
    record = json.loads((run / "config.json").read_text())
    assert record["config"]["ladder"]["pretrained"] and len(record["source_fingerprint"]) == 64
