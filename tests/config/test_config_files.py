"""Every file in configs/ is valid and shows what it sets."""

import itertools
import re

import pytest

from lottery_jax import config as configuration
from lottery_jax import recipes
from lottery_jax.config import validate
from lottery_jax.datasets import BUILT_IN
from lottery_jax.models import MODELS
from lottery_jax.pruning.controls import find_control
from lottery_jax.pruning.scores import SCORES
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
