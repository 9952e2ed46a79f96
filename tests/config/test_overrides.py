"""Values on the command line."""

import sys

import pytest
from absl import flags
from ml_collections import config_flags

from lottery_jax import config as configuration
from lottery_jax.config import default_config, validate
from lottery_jax.errors import ConfigError


def test_booleans_on_the_command_line_are_booleans(monkeypatch):
    def parsed(*arguments):
        command = ["", *(f"--config.ladder.{argument}" for argument in arguments)]
        monkeypatch.setattr("sys.argv", command)  # where the library looks for overrides
        values = flags.FlagValues()
        config_flags.DEFINE_config_dict("config", default_config(), flag_values=values)
        values(command)
        return values.config.ladder

    ladder = parsed("skip_first=false", "skip_last=true")
    assert ladder.skip_first is False and ladder.skip_last is True
    with pytest.raises(flags.IllegalFlagValueError):
        parsed("skip_first=maybe")


@pytest.mark.parametrize(
    "arguments, seeds, controls",
    [
        (["--config.seeds=0", "--config.seeds=5"], (5,), ()),
        (["--config.seeds", "0,1", "-config.seeds=(2,3)"], (2, 3), ()),
        (["--config.seeds=0,1", "--config.controls=reinit", "--config.controls=init"], (0, 1), ("init",)),
        (["--config.seeds=4"], (4,), ()),
    ],
)  # fmt: skip
def test_of_a_tuple_given_twice_the_last_one_wins(arguments, seeds, controls, monkeypatch):
    levels = ["main", "--config.ladder.levels=3", "--config.ladder.levels=2"]
    monkeypatch.setattr(sys, "argv", [*levels, *arguments])  # says which keys become flags
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_dict("config", default_config(), flag_values=values)
    values(configuration.with_last_overrides(["main", *arguments]))
    assert holder.value.seeds == seeds and holder.value.controls == controls
    # Of others the library itself takes the last one.
    values(levels)
    assert holder.value.ladder.levels == 2


def test_a_tuple_that_is_given_nothing_is_empty(monkeypatch):
    def parsed(*arguments):
        monkeypatch.setattr(sys, "argv", ["main", *arguments])
        values = flags.FlagValues()
        config = default_config()
        config.controls, config.control_levels = ("random",), (1, 2)
        holder = config_flags.DEFINE_config_dict("config", config, flag_values=values)
        values(["main", *arguments])
        return holder.value

    checked = validate(parsed("--config.control_levels=", "--config.controls="))
    assert checked.control_levels == () and checked.controls == ()
    checked = validate(parsed("--config.wandb.artifacts=report,ticket", "--config.wandb.tags=a,b"))
    assert checked.wandb.artifacts == ("report", "ticket") and checked.wandb.tags == ("a", "b")
    with pytest.raises(ConfigError, match="config.wandb.artifacts"):
        validate(parsed("--config.wandb.artifacts=report,tickets"))
    with pytest.raises(ConfigError, match="config.seeds"):
        validate(parsed("--config.seeds="))
