"""Tickets of the zoo in other runs: as the source of a transfer, and as a rewind point."""

import numpy as np
import pytest

from lottery_jax import config as configuration
from lottery_jax import tickets
from lottery_jax.errors import ConfigError, TicketError
from lottery_jax.runs import pretrained
from lottery_jax.runs.record import source_fingerprint
from lottery_jax.runs.transfer import open_source, resolve
from lottery_jax.runs.zoo_source import ZooSource, open_zoo
from lottery_jax.tickets import zoo
from tests.helpers import assert_same, make_tiny_config, run_quietly
from tests.helpers import load_trained as load


def config_with(**overrides):
    defaults = {"model.width": 1.0, "data.name": "digits_b", "seeds": (1,), "controls": ()}
    return make_tiny_config(**{**defaults, **overrides})


@pytest.mark.slow
def test_tickets_of_the_zoo_are_trained_bit_for_bit(tmp_path):
    """Level 0 is the zoo's dense network, and levels 1 and 2 the first ones that the zoo has."""
    config = config_with(source="zoo://lenet_digits/imp", **{"ladder.levels": 2})
    run_quietly(config, tmp_path)
    for level, theirs in ((0, 0), (1, 5), (2, 6)):
        ours = load(tmp_path, 1, level)
        ticket = tickets.load_ticket(f"zoo://lenet_digits/imp/seed_1/level_{theirs:02d}")
        assert_same(ours.mask, ticket.mask)
        assert_same(ours.params, ticket.params)
        assert ours.metadata["found_by"] == ticket.metadata["found_by"]
        assert ours.metadata["data"] == "digits_b"
    assert run_quietly(config, tmp_path)  # finished, and recognised as the same run


def test_without_a_dense_network_the_seed_draws_the_weights(tmp_path):
    """SNIP's tickets start from step 0, and the zoo has no dense networks of them."""
    config = config_with(
        source="zoo://lenet_digits/snip", **{"ladder.levels": 1, "ladder.rewind": 0}
    )
    run_quietly(config, tmp_path)
    ticket = tickets.load_ticket("zoo://lenet_digits/snip/seed_1/level_01")
    dense, ours = load(tmp_path, 1, 0), load(tmp_path, 1, 1)
    assert_same(ours.mask, ticket.mask)
    assert_same(ours.params, ticket.params)
    for layer in ("dense1", "dense2", "head"):
        kept = ticket.mask[layer]["kernel"]
        drawn = dense.params[layer]["kernel"]
        assert np.array_equal(drawn[kept], ticket.params[layer]["kernel"][kept])
        assert (drawn != 0).all() and dense.mask[layer]["kernel"].all()


@pytest.mark.slow
def test_a_ladder_begins_at_the_rewind_point_of_a_ticket_of_the_zoo(tmp_path):
    name = "zoo://lenet_digits/imp/seed_0/level_00"
    run_quietly(config_with(**{"ladder.pretrained": name, "ladder.levels": 0}), tmp_path)
    assert_same(load(tmp_path, 1, 0).params, tickets.load_ticket(name).params)
    pruned = config_with(**{"ladder.pretrained": "zoo://lenet_digits/imp/seed_0/level_05"})
    with pytest.raises(ConfigError, match="is pruned"):
        run_quietly(pruned, tmp_path / "pruned")


def test_a_series_is_a_ladder_of_its_levels():
    source = open_zoo("zoo://lenet_fashion_mnist/imp")
    assert (source.seeds, source.levels) == ((0, 1, 2, 3, 4), (0, *range(5, 13)))
    assert source.config.ladder.levels == 8 and not source.has_dense
    assert source.config.ladder.sparsities[-1] == pytest.approx(1 - 0.64**12, abs=1e-5)
    config = resolve(config_with(source="zoo://lenet_digits/imp", **{"ladder.levels": 30}))
    assert config.ladder.levels == 8 and config.ladder.rewind == "1ep"
    there = open_source(config)
    assert (there.input_shape, there.num_classes, there.has_dense) == ((8, 8, 1), 10, True)
    assert source_fingerprint(config) != source_fingerprint(
        config_with(source="zoo://lenet_digits/snip")
    )


@pytest.mark.parametrize(
    "overrides, says",
    [
        ({"source": "zoo://lenet_digits/imp_random"}, "are controls; a transfer trains winning"),
        (
            {"source": "zoo://lenet_digit/imp"},
            "is not a series of the zoo, which has lenet_digits/grasp, ",
        ),
        ({"source": "zoo://lenet_digits/imp", "seeds": (1, 4)}, "has no seed 4; it has 0, 1"),
        ({"source": "zoo://lenet_digits/imp", "model.width": 0.5}, "fits its own network only"),
        (
            {"source": "zoo://lenet_digits/snip", "seeds": (1,), "transfer.align": True},
            "config.transfer.align: zoo://lenet_digits/snip has no dense networks",
        ),
        ({"source": "hf://me/lenet"}, "is a URL of hf"),
        ({"source": "gs://bucket/run"}, "is a URL of gs"),
    ],
)
def test_what_can_not_be_a_source_is_one_line(overrides, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        run_quietly(config_with(**overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_order_of_the_data_needs_what_the_zoo_does_not_keep(tmp_path):
    """A branch continues from the optimizer's state at the rewind point; with a new head it does not."""
    config = open_zoo("zoo://lenet_digits/imp").config
    with config.unlocked():
        config.source, config.train.order = "zoo://lenet_digits/imp", 7
    with pytest.raises(
        ConfigError, match=r"^config.train.order: .*the zoo does not keep; leave it"
    ):
        run_quietly(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for key, value in (("transfer.head", "reinit"), ("data.name", "digits_b")):
        other = configuration.default_config()
        other.update_from_flattened_dict({**configuration.flatten(config), key: value})
        assert open_source(resolve(other)).has_dense


def test_a_run_knows_its_source_by_the_tickets(monkeypatch):
    """A series that was trained again is another one, also by the same config."""
    config = resolve(config_with(source="zoo://lenet_digits/snip", **{"ladder.rewind": 0}))
    before = source_fingerprint(config)
    assert source_fingerprint(config_with(source="zoo://lenet_digits/snip/")) == before
    index = dict(zoo.index())
    for name, same in (("grasp", True), ("snip", False)):
        key = f"lenet_digits/{name}/seed_1/level_02"
        index[key] = index[key]._replace(sha256="0" * 64)
        monkeypatch.setattr(zoo, "index", lambda: index)
        assert (source_fingerprint(config) == before) is same


def test_an_address_is_asked_for_once_in_a_run(monkeypatch):
    """So that what is recorded is what was used, whatever is published meanwhile."""
    fetch, asked = zoo.fetch, []

    def counted(name):
        asked.append(name)
        return fetch(name)

    monkeypatch.setattr(zoo, "fetch", counted)
    pretrained._fetched.cache_clear()
    config = config_with(**{"ladder.pretrained": "zoo://lenet_digits/imp/seed_1/level_00"})
    there = pretrained.open_pretrained(config)
    assert source_fingerprint(config) == source_fingerprint(config) == there.sha256
    assert asked == ["lenet_digits/imp/seed_1/level_00"]


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [1, 2])
def test_weights_that_are_not_drawn_here_are_refused_first(wrong, tmp_path, monkeypatch):
    """As by another version of JAX: here a ticket of seed 0 is taken for another's."""
    original = ZooSource.ticket
    monkeypatch.setattr(
        ZooSource,
        "ticket",
        lambda self, seed, level: original(self, 0 if level == wrong else seed, level),
    )
    with pytest.raises(TicketError, match=f"of level {wrong} is not what seed 1 draws here"):
        run_quietly(config_with(source="zoo://lenet_digits/snip", **{"ladder.rewind": 0}), tmp_path)
    assert not list(tmp_path.rglob("ticket")) and not list(tmp_path.rglob("state"))
