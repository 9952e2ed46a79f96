"""What can't be run is known before anything is computed."""

import pytest

from lottery_jax.config import default_config
from lottery_jax.errors import ConfigError
from lottery_jax.runs.experiment import set_up


@pytest.mark.parametrize(
    "values, says",
    [
        ({"model.width": 10_000.0}, "config.model.width: 10000 makes lenet_300_100 a network of 3,00"),
        ({"train.epochs": 2**31 - 1}, "config.train.epochs: 2147483647 epochs of 11 steps are more"),
        ({"ladder.levels": 60}, "prune_fraction: 0.2 prunes none of the 2 weights that level 45"),
        ({"ladder.prune_fraction": 1e-6}, "1e-06 prunes none of the 50200 weights that level 0"),
        ({"ladder.sparsities": (0.5, 0.500001)}, "sparsities: 0.500001 prunes none of the 25100"),
        ({"ladder.sparsities": (0.5, 0.999999)}, "sparsities: no weight would be left at level 2"),
    ],
)  # fmt: skip
def test_what_can_not_be_run_is_known_before_it_is(values, says):
    config = default_config()
    config.update_from_flattened_dict(values)
    with pytest.raises(ConfigError) as caught:
        set_up(config)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("optimizer, bytes_each", [("sgd", 13), ("adam", 17)])
def test_a_network_may_fill_the_memory_and_not_more(monkeypatch, optimizer, bytes_each):
    """Weights, gradients, one or two moments in float32, and a mask; Adam counts its steps."""
    weights = 64 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10
    least = bytes_each * weights + (4 if optimizer == "adam" else 0)
    config = default_config()
    config.optimizer.name = optimizer
    monkeypatch.setattr("lottery_jax.system.host.memory", lambda: least)
    assert set_up(config).end_step == 220
    monkeypatch.setattr("lottery_jax.system.host.memory", lambda: least - 1)
    with pytest.raises(ConfigError, match="config.model.width: 1 makes .* of 50,610 weights"):
        set_up(config)
