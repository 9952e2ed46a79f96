"""Mistakes in a config are named, with what is legal."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from lottery_jax import config as configuration
from lottery_jax.config import default_config, validate
from lottery_jax.errors import ConfigError

WRONG = [
    ("seeds", (), "at least one"),
    ("seeds", (1, 1), "no two the same"),
    ("seeds", (-1,), "whole number"),
    ("data.name", "", "a name"),
    ("data.input_shape", (28, 28), "height, width, channels"),
    ("data.augment", "crops", "did you mean 'crop'"),
    ("data.resize", "nearest", "legal: bilinear, pad"),
    ("data.validation_fraction", 1.0, "[0, 1)"),
    ("data.workers", -2, "-1 or more, 1,024 at most"),
    ("model.width", 0.0, "above 0"),
    ("optimizer.learning_rate", float("nan"), "above 0"),
    ("optimizer.learning_rate", float("inf"), "above 0"),
    ("optimizer.momentum", 1.0, "[0, 1)"),
    ("optimizer.milestones", (20,), "not before the end"),
    ("train.batch_size", 0, "1 or more"),
    ("train.epochs", 0, "1 or more"),
    ("ladder.prune_fraction", 20.0, "a fraction"),
    ("ladder.rewind", "1", "'1ep'"),
    ("ladder.rewind", "-1ep", "'1ep'"),
    ("ladder.scope", "layers", "did you mean 'layer'"),
    ("ladder.draw", "one_shot", "did you mean 'oneshot'"),
    ("ladder.sparsities", (90.0,), "a fraction"),
    ("ladder.sparsities", (0.9, 0.5), "does not rise"),
    ("ladder.sparsities", (0.5, 0.5), "no two the same"),
    ("ladder.rounds", -1, "0 or more"),
    ("ladder.score_batches", 0, "1 or more"),
    ("transfer.head", "reinitialise", "did you mean 'reinit'"),
    ("transfer.head_mask", "sparse", "legal: dense, density"),
    ("controls", ("random", "random"), "no two the same"),
    ("control_levels", (0,), "1 or more"),
    ("control_levels", (31,), "there is no level 31"),
    ("wandb.mode", "onlin", "did you mean 'online'"),
    ("controls", None, "a tuple"),
    ("seeds", (2**32,), "0 to 2**32 - 1"),
    ("seeds", (True,), "whole number"),
    ("seeds", (1.0,), "whole number"),
    ("model.width", 10_001, "10,000 at most"),
    ("model.width", 1e308, "10,000 at most"),
    ("optimizer.milestones", (10**400,), "below 2**31"),  # no float is that large
    ("optimizer.learning_rate", 3.5e38, "3.4e+38"),
    ("optimizer.learning_rate", 1e-38, "1.2e-38"),
    ("optimizer.weight_decay", 1e-40, "0 or a number"),
    ("optimizer.momentum", 0.99999999, "0.9999999 at most"),
    ("optimizer.b1", 1 - 2**-25, "0.9999999 at most"),
    ("optimizer.b2", -0.1, "[0, 1)"),
    ("optimizer.warmup_epochs", 20.5, "beyond the end of training; config.train.epochs is 20"),
    ("optimizer.milestones", (2**31,), "below 2**31"),
    ("train.epochs", 2**31, "2,147,483,647 at most"),
    ("ladder.levels", 1001, "1,000 at most"),
    ("ladder.rounds", 10_001, "10,000 at most"),
]


def test_what_a_float32_can_hold_is_legal():
    """The limits are those of what would be lost in it, and no narrower."""
    for key, values in {
        "optimizer.learning_rate": (1.2e-38, 3.4e38),
        "optimizer.weight_decay": (0, 1.2e-38, 3.4e38),
        "optimizer.b2": (0, 0.9999999),
        "optimizer.warmup_epochs": (0, 20),
        "ladder.levels": (0, 1000),
    }.items():
        for value in values:
            config = default_config()
            config.update_from_flattened_dict({key: value})
            assert configuration.flatten(validate(config))[key] == value
    assert np.float32(1.2e-38) >= np.finfo(np.float32).tiny and np.isfinite(np.float32(3.4e38))
    assert np.float32(0.9999999) < 1 == np.float32(1 - 2**-25)


@pytest.mark.parametrize("key, value, says", WRONG)
def test_a_bad_value_is_named_with_its_key_and_what_is_legal(key, value, says):
    config = default_config()
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError) as caught:
        validate(config)
    message = str(caught.value)
    assert message.startswith(f"config.{key}: ") and says in message and "\n" not in message


@pytest.mark.parametrize(
    "values, says",
    [
        ({"transfer.sources": ("digits_a",)}, "needs both"),
        (
            {"source": "run", "transfer.sources": ("a",), "transfer.targets": ("b",)},
            "makes its own sources",
        ),
        ({"source": "run", "ladder.optimizer_state": "restored"}, "no optimizer state"),
    ],
)
def test_transfer_keys_that_contradict_each_other_are_errors(values, says):
    config = default_config()
    config.update_from_flattened_dict(values)
    with pytest.raises(ConfigError, match=says):
        validate(config)


def test_sparsities_say_how_many_levels_there_are():
    config = default_config()
    config.ladder.sparsities = (0.5, 0.9, 0.97)
    assert validate(config).ladder.levels == 3
    config.ladder.levels = 2  # the first two of them
    assert validate(config).ladder.levels == 2


def test_unknown_and_missing_keys_are_errors():
    config = default_config()
    config.unlock()
    config.ladder.rewnd = "1ep"
    with pytest.raises(ConfigError, match=r"unknown key 'ladder.rewnd' \(did you mean 'ladder.rew"):
        validate(config)
    with pytest.raises(ConfigError, match=r"config.control_levels is missing"):
        validate(ConfigDict({"controls": ()}))


def test_controls_may_be_given_as_one_string():
    config = default_config()
    config.controls = ("reinit, random",)
    assert validate(config).controls == ("reinit", "random")
