"""The published experiments: each runs from its committed config, here with narrow networks.

The rows are the scripts of the PyTorch repository; docs/experiments.md has the same table.
"""

import pytest

from lottery_jax import evaluate, recipes
from lottery_jax.config import validate
from lottery_jax.pruning import masks
from lottery_jax.runs.directory import Trial
from tests.helpers import CONFIG_FILES as FILES
from tests.helpers import load_config_file as load
from tests.helpers import load_trained as load_ticket
from tests.helpers import run_quietly

CONFIGS = {path.stem: path for path in FILES}


def shortened(stem, *arguments, source=""):
    """The config of a file for a narrow network, two steps an epoch and real digits."""
    c = load(CONFIGS[stem]).get_config(*arguments)
    c.model.width = 0.02
    c.data.name = "digits"
    c.data.input_shape = (32, 32, 3)
    c.train.batch_size = 512
    c.train.epochs = 2
    c.optimizer.milestones = ()
    c.optimizer.learning_rate = 1e-3
    c.ladder.levels = min(c.ladder.levels, 2)
    c.source = source
    return validate(c)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """iterative_pruning: the ladder that the transfers and the evaluation start from."""
    workdir = tmp_path_factory.mktemp("ladder") / "run"
    config = shortened("vgg19_cifar10")
    config.unlock()
    config.controls, config.control_levels = ("random", "reinit"), (2,)
    rows = run_quietly(config, workdir)
    return workdir, rows


def remaining(rows):
    return [row["weights_remaining"] / row["weights_total"] for row in rows]


@pytest.mark.long
def test_iterative_pruning(ladder):
    workdir, rows = ladder
    assert [row["control"] for row in rows[-2:]] == ["random", "reinit"]
    assert remaining(rows) == pytest.approx([1, 0.8, 0.64, 0.64, 0.64], abs=1e-4)
    assert load_ticket(workdir, 0, 1).metadata["rewind_step"] == 2  # the end of epoch 1


@pytest.mark.long
def test_train(tmp_path):
    (row,) = run_quietly(shortened("dense", "vgg19_cifar10"), tmp_path)
    assert row["level"] == 0 and row["density"] == 1
    assert (tmp_path / "seed_0" / "rewind").is_dir()


@pytest.mark.long
@pytest.mark.parametrize(
    "stem, left",
    [("snip", [1, 0.512, 0.8**10]), ("oneshot", [1, 0.512, 0.8**10]),
     ("iterative_snip", [1, 0.8, 0.64])],
)  # fmt: skip
def test_snip_train_oneshot_lt_and_iterative_snip(stem, left, tmp_path):
    rows = run_quietly(shortened(stem, "vgg19_cifar10"), tmp_path)
    assert remaining(rows) == pytest.approx(left, abs=2e-4)
    rewind = 2 if stem == "oneshot" else 0
    assert load_ticket(tmp_path, 0, 1).metadata["rewind_step"] == rewind


@pytest.mark.long
@pytest.mark.parametrize(
    "stem, argument",
    [("transfer_vgg19", "cifar100_to_cifar10"), ("transfer_sgd_to_adam", "vgg19_cifar10")],
)
def test_transfers_of_data_and_of_optimizers(stem, argument, ladder, tmp_path):
    config = shortened(stem, argument, source=str(ladder[0]))
    rows = run_quietly(config, tmp_path)
    assert len(rows) == 3
    theirs, ours = load_ticket(ladder[0], 0, 2), load_ticket(tmp_path, 0, 2)
    assert (ours.mask["conv3_1"]["kernel"] == theirs.mask["conv3_1"]["kernel"]).all()
    assert (ours.params["conv3_1"]["kernel"] == theirs.params["conv3_1"]["kernel"]).all()
    new_head = (ours.params["head"]["kernel"] != theirs.params["head"]["kernel"]).any()
    assert new_head == (stem == "transfer_vgg19")


@pytest.mark.long
def test_evaluation_prints_the_share_of_pruned_weights_and_the_accuracy(ladder, capsys):
    ticket = Trial(ladder[0], 0, 2, "winning").ticket_dir
    assert evaluate.main([f"--ticket={ticket}"]) == 0
    kept, total = masks.counts(load_ticket(ladder[0], 0, 2).mask)
    accuracy = ladder[1][2]["test_accuracy"]
    out = capsys.readouterr().out
    assert f"{1 - kept / total:.2%}" in out and f"{accuracy:.2%}" in out


def test_recipes_are_the_published_ones():
    """Batch, epochs, drops, rates, weight decay, levels and late reset, as published."""
    expected = {
        "vgg19": (160, (80, 120), 0.1),
        "resnet50": (90, (50, 65, 80), 0.1),
        "alexnet": (500, (450, 470, 480, 490), 0.01),
    }
    for network, (epochs, milestones, rate) in expected.items():
        c = recipes.named(f"{network}_cifar10")
        assert (c.train.epochs, c.optimizer.milestones) == (epochs, milestones)
        assert (c.train.batch_size, c.optimizer.learning_rate) == (512, rate)
        assert (c.optimizer.momentum, c.optimizer.weight_decay) == (0.9, 1e-4)
        assert (c.ladder.levels, c.ladder.prune_fraction, c.ladder.rewind) == (30, 0.2, "1ep")
    for dataset in ("imagenet2012", "places365_small"):
        c = recipes.named(f"resnet50_{dataset}")
        assert (c.data.name, c.data.input_shape, c.model.stem) == (
            dataset,
            (224, 224, 3),
            "imagenet",
        )
        assert (c.train.epochs, c.train.batch_size) == (90, 1024)
        assert (c.optimizer.learning_rate, c.optimizer.warmup_epochs) == (0.4, 5)
        assert (c.optimizer.milestones, c.optimizer.weight_decay) == ((30, 60, 80), 1e-4)
        assert (c.ladder.levels, c.ladder.prune_fraction, c.ladder.rewind) == (30, 0.2, "6ep")
        assert recipes.resnet50_photographs(dataset, "3").ladder.rewind == "3ep"
    adam = recipes.with_adam(recipes.named("vgg19_cifar10")).optimizer
    assert (adam.name, adam.learning_rate, adam.b1, adam.b2, adam.weight_decay) == (
        "adam", 3e-4, 0.9, 0.999, 1e-4
    )  # fmt: skip
