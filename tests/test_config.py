"""Config: every file is valid, mistakes are named, the fingerprint is stable."""

import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from lottery_jax import config as configuration
from lottery_jax import recipes
from lottery_jax.config import default_config, fingerprint, from_json, to_json, validate
from lottery_jax.datasets import BUILT_IN
from lottery_jax.datasets.dataset import AUGMENTATIONS
from lottery_jax.errors import ConfigError
from lottery_jax.models import DTYPES, MODELS
from lottery_jax.pruning.controls import CONTROLS, find_control
from lottery_jax.pruning.scores import SCORES
from lottery_jax.runs.experiment import set_up
from lottery_jax.training.optim import OPTIMIZERS, SCHEDULES
from tests.helpers import CONFIG_FILES as FILES
from tests.helpers import ROOT
from tests.helpers import load_config_file as load


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_config_file_is_valid_and_documented(path):
    module = load(path)
    config = validate(module.get_config())
    assert f"python -m lottery_jax.main --config=configs/{path.name}" in module.__doc__
    assert "Cost:" in module.__doc__ and "Expected" in module.__doc__
    assert config.model.name in MODELS
    assert re.sub(r"(\d|_)[ab]$", r"\1", config.data.name).rstrip("_") in BUILT_IN
    assert config.optimizer.name in OPTIMIZERS
    assert config.optimizer.schedule in SCHEDULES
    assert config.ladder.scores in SCORES
    for name in config.controls:
        find_control(name)


def hyperparameters(config):
    """A config's hyperparameters in a sentence, as the docstrings of config files have them."""
    optimizer, train, ladder = config.optimizer, config.train, config.ladder
    momentum = f"momentum {optimizer.momentum:g}, " if optimizer.name == "sgd" else ""
    name = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[optimizer.name]
    rate = f"{optimizer.learning_rate:g}"
    if optimizer.warmup_epochs:
        rate += f" after {optimizer.warmup_epochs:g} epochs of warm-up"
    if optimizer.schedule == "step" and optimizer.milestones:
        drops = ", ".join(map(str, optimizer.milestones))
        rate += f", times {optimizer.decay:g} after epochs {drops}"
    else:
        rate += {"step": ", constant", "constant": ", constant", "cosine": ", cosine"}[
            optimizer.schedule
        ]
    levels = f"{ladder.levels} levels of {100 * ladder.prune_fraction:g} %"
    if ladder.sparsities:
        levels = f"levels at {', '.join(f'{100 * s:.4g}' for s in ladder.sparsities)} %"
    pruning = f"{levels} by {ladder.draw} {ladder.scope} {ladder.scores}"
    return (
        f"batch {train.batch_size}, {train.epochs} epochs; "
        f"{name} ({momentum}weight decay {optimizer.weight_decay:g}) at {rate}; "
        f"{pruning if ladder.levels else 'the dense network alone'}; rewound to {ladder.rewind}."
    )


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_config_file_shows_the_hyperparameters_that_it_sets(path):
    module = load(path)
    shown = " ".join(module.__doc__.split())
    if path.stem == "recipe":
        for network in recipes.NETWORKS:
            config = module.get_config(f"{network}_cifar10")
            assert f"- {network}: {hyperparameters(config)}" in shown
    else:
        (label,) = re.findall(r"Recipe(?: of \w+)?: (?=batch)", shown)
        assert f"{label}{hyperparameters(module.get_config())}" in shown


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_config_files_that_a_config_file_names_are_there(path):
    for name in re.findall(r"configs/\w+\.py", load(path).__doc__):
        assert ROOT / name in FILES, name


def test_the_promised_config_files_are_there():
    stems = {path.stem for path in FILES}
    assert {"quickstart", "vgg19_cifar10", "vgg19_cifar100", "vgg19_svhn", "resnet50_cifar10",
            "vgg19_cifar10a", "vgg19_cifar10b", "lenet_fashion_mnist", "conv2_fashion_mnist",
            "recipe", "dense", "oneshot", "snip", "iterative_snip", "adam", "transfer_vgg19",
            "transfer_resnet50", "transfer_cifar10a_to_b", "transfer_sgd_to_adam",
            "transfer_adam_to_sgd", "transfer_quickstart", "transfer_lenet",
            "lenet_fashion_mnist_methods", "lenet_fashion_mnist_controls", "resnet50_imagenet",
            "resnet50_places365"} <= stems  # fmt: skip


@pytest.mark.parametrize(
    "pair",
    [
        *itertools.product(
            ("vgg19", "resnet50", "alexnet"), ("cifar10", "cifar100", "svhn", "fashion_mnist")
        ),
        ("resnet20", "cifar10"),
        ("vgg16", "cifar10"),
    ],
    ids="_".join,
)
def test_the_ladders_of_the_papers_are_in_one_file_and_some_in_their_own(pair):
    name = "_".join(pair)
    files = {path.stem: path for path in FILES}
    config = validate(load(files["recipe"]).get_config(name))
    assert (config.model.name, config.data.name) == pair
    assert (config.ladder.levels, config.ladder.prune_fraction) == (30, 0.2)
    if name in files:
        own = validate(load(files[name]).get_config())
        assert configuration.flatten(own) == configuration.flatten(config)


def test_the_page_of_keys_is_that_of_the_table():
    """Made by the command, which needs no JAX."""
    code = (
        "import runpy, sys; runpy.run_module('lottery_jax.config', run_name='__main__')\n"
        "assert 'jax' not in sys.modules"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ROOT / "docs" / "config.md").read_text() == made.stdout
    for name in configuration.KEYS:
        assert made.stdout.count(f"\n| `{name}`") == 1


def test_a_key_that_takes_names_of_a_table_lists_them():
    for key, names in {
        "data.name": BUILT_IN,
        "model.name": MODELS,
        "model.dtype": DTYPES,
        "optimizer.name": OPTIMIZERS,
        "optimizer.schedule": SCHEDULES,
        "ladder.scores": SCORES,
        "controls": CONTROLS,
    }.items():
        words = set(re.findall(r"\w+", configuration.KEYS[key].meaning))
        assert set(names) <= words, key
    assert set(configuration.KEYS["data.augment"].rule.choices) == {"auto", *AUGMENTATIONS}


def test_every_row_of_the_table_is_legal_and_says_what_it_means():
    for name, key in configuration.KEYS.items():
        key.rule.check(name, key.default)
        assert key.meaning.endswith(".") and key.rule.text, name


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


def test_sparsities_say_how_many_levels_there_are():
    config = default_config()
    config.ladder.sparsities = (0.5, 0.9, 0.97)
    assert validate(config).ladder.levels == 3
    config.ladder.levels = 2  # the first two of them
    assert validate(config).ladder.levels == 2


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


def test_the_fingerprint_changes_with_what_matters_and_with_nothing_else():
    base = fingerprint(validate(default_config()))
    # Pinned: a change here means that directories of earlier versions are no longer recognised.
    assert base == "4fb515a6d7e7ce84"
    for key, value, same in [
        ("optimizer.learning_rate", 0.2, False),
        ("seeds", (0, 1), False),
        ("ladder.rewind", "2ep", False),
        ("data.resize", "bilinear", False),
        ("data.dir", "/elsewhere", True),
        ("data.workers", 3, True),
        ("wandb.mode", "offline", True),
        ("wandb.tags", ("mine",), True),
        ("wandb.client", "trackio", True),
        ("tensorboard", True, True),
        ("train.checkpoint_every_epochs", 0, True),
    ]:
        config = default_config()
        config.update_from_flattened_dict({key: value})
        assert (fingerprint(validate(config)) == base) == same, key


def test_json_gives_the_same_config_back():
    config = validate(default_config())
    restored = from_json(json.loads(json.dumps(to_json(config))))
    assert configuration.flatten(restored) == configuration.flatten(config)


def test_a_config_from_before_a_key_was_added_is_that_of_its_default():
    config = validate(default_config())
    flat = configuration.flatten(config)
    for key, default in configuration.ADDED_LATER.items():
        assert flat[key] == default
        *groups, name = key.split(".")
        stored = to_json(config)
        node = stored
        for group in groups:
            node = node[group]
        del node[name]
        before = json.dumps(stored)
        assert configuration.flatten(from_json(stored)) == flat
        assert json.dumps(stored) == before  # what was given is not changed
        assert fingerprint(from_json(stored)) == fingerprint(config)
        assert configuration.differing_keys(ConfigDict(stored), config) == []
    other = default_config()
    other.data.resize = "bilinear"
    stored = to_json(config)
    del stored["data"]["resize"]
    (differs,) = configuration.differing_keys(ConfigDict(stored), validate(other))
    assert differs == "config.data.resize: 'pad', 'bilinear'"
    assert from_json(to_json(validate(other))).data.resize == "bilinear"
    with pytest.raises(ConfigError, match="config.data: is a group of keys"):
        from_json({**stored, "data": 3})


def test_values_that_mean_the_same_share_a_fingerprint():
    one, other = default_config(), default_config()
    one.ladder.rewind, other.ladder.rewind = 0, "0"
    assert fingerprint(validate(one)) == fingerprint(validate(other))
    assert configuration.differing_keys(one, other) == []


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
