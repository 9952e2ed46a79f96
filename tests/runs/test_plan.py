"""The plan of a run, its dry run, and what the display says of the time."""

import io
import json
import os
import re
import subprocess
import sys

import jax
import pytest
from rich.console import Console

from lottery_jax import recipes
from lottery_jax.config import validate
from lottery_jax.datasets import load_dataset
from lottery_jax.datasets.registry import BUILT_IN
from lottery_jax.errors import DataError
from lottery_jax.models import build_model
from lottery_jax.models.network import LinenNetwork
from lottery_jax.runs import display
from lottery_jax.runs.directory import list_trials
from lottery_jax.runs.dry_run import Timing, dry_run, missing_data
from lottery_jax.runs.experiment import set_up
from lottery_jax.runs.ladder import run_ladder
from lottery_jax.runs.plan import make_plan
from lottery_jax.sweep.__main__ import main as sweep
from tests.helpers import make_tiny_config, some_arrays


def plan_of(config, workdir, name="lenet_300_100", shape=(28, 28, 1)):
    network = LinenNetwork(build_model(name, 10), shape)
    return make_plan(
        validate(config), network, network.layer_names(), workdir, jax.local_devices()[:2]
    )


def shown(config, workdir, **options):
    out = io.StringIO()
    dry_run(validate(config), workdir, Console(file=out, width=300), **{"measure": False} | options)
    return out.getvalue()


def test_the_plan_has_the_sizes_of_the_paper(tmp_path):
    """LeNet-300-100 has 266,610 parameters; three seeds, 17 levels, two controls at six of them."""
    plan = plan_of(recipes.short_ladder(recipes.lenet("fashion_mnist")), tmp_path)
    assert (plan.weights, plan.prunable, plan.multiply_adds) == (266_610, 266_200, 266_200)
    assert (plan.trainings, plan.complete) == (3 * (18 + 2 * 6), 0)
    assert plan.ticket_bytes == 266_610 * (1 + 4 + 4)  # mask, start, trained
    text = "\n".join(plan.lines())
    for part in ("266,610 weights, 266,200 prunable", "90 of 10 epochs", "seeds 0, 1, 2",
                 "levels 0 to 17", "controls reinit, random", "devices    2 x cpu", str(tmp_path),
                 "90 tickets of 2.4 MB, 216.0 MB at most"):  # fmt: skip
        assert part in text


def test_layers_that_are_skipped_are_not_prunable(tmp_path):
    config = recipes.lenet("fashion_mnist")
    config.ladder.skip_first = config.ladder.skip_last = True
    assert plan_of(config, tmp_path).prunable == 300 * 100


def test_a_tickets_size_counts_the_statistics_of_batchnorm(tmp_path):
    plan = plan_of(recipes.vgg16("cifar10"), tmp_path, "vgg11", (32, 32, 3))
    channels = 64 + 128 + 2 * 256 + 4 * 512  # each with a mean and a variance
    assert plan.ticket_bytes == 9_231_114 * 9 + 2 * 4 * 2 * channels


def test_a_run_begins_with_its_plan_and_says_what_remains_after_level_0(tmp_path, one_device):
    config = make_tiny_config(**{"ladder.levels": 1, "train.epochs": 3})
    out = io.StringIO()
    run_ladder(config, tmp_path / "run", devices=one_device, console=Console(file=out, width=300))
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines[:4]] == [
        "network", "trainings", "devices", "directory",
    ]  # fmt: skip
    assert lines[4] == "compiling the training step"
    assert lines[5].startswith("seed 0  level  0")
    assert re.fullmatch(r"about \d+ s left, judging by the last 2 epochs", lines[6])
    assert lines[7].startswith("seed 0  level  1") and len(lines) == 8
    again = shown(config, tmp_path / "run")
    assert again.splitlines()[:1] == lines[:1]  # the same header
    assert "2 of 3 epochs, 2 of them complete" in again


def test_a_dry_run_of_data_that_are_here_checks_all_that_the_run_checks(tmp_path):
    text = shown(make_tiny_config(**{"data.name": "digits_a"}), tmp_path / "run")
    assert "lenet_300_100 on digits_a: 50,610 weights" in text and "nothing was written" in text
    with pytest.raises(Exception, match=r"config\.ladder\.rewind.*is step"):
        shown(make_tiny_config(**{"ladder.rewind": "2ep"}), tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "config, weights",
    [(recipes.lenet("fashion_mnist"), "266,610"), (recipes.lenet("cifar10a"), "953,010")],
)
def test_a_dry_run_without_the_data_says_what_is_missing_and_fetches_nothing(
    tmp_path, config, weights
):
    config.data.dir = str(tmp_path / "data")
    text = shown(config, tmp_path / "run")
    assert f"{weights} weights" in text
    name = config.data.name.removesuffix("a")
    assert f"data       {name} is not in {tmp_path / 'data'}; the first run fetches it" in text
    with pytest.raises(DataError, match="without the data no step can be measured"):
        shown(config, tmp_path / "run", measure=True)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_a_matrix_lists_its_cells(tmp_path):
    config = make_tiny_config(**{"transfer.sources": ("digits_a", "digits_b")})
    config.transfer.targets = ("digits_b",)
    text = shown(config, tmp_path / "run")
    titles = [line for line in text.splitlines() if line.endswith(":")]
    assert titles == ["tickets of digits_a:", "tickets of digits_b:",
                      "tickets of digits_a on digits_b:"]  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_data_that_need_no_preparation_are_not_missing(tmp_path):
    from lottery_jax.datasets import write_npz

    def missing(name):
        return missing_data(make_tiny_config(**{"data.name": name, "data.dir": str(tmp_path)}))

    write_npz(tmp_path / "mine.npz", some_arrays())
    assert missing("digits") is missing("digits_b") is missing("mine") is missing("minea") is None
    prepared = tmp_path / "cifar10" / "3.0.2"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").write_text(json.dumps({}))
    assert "cifar10 is prepared in" in missing("cifar10_a")
    assert "imagenet2012: is not prepared in" in missing("imagenet2012")
    with pytest.raises(DataError, match="unknown value 'cifar11'"):
        missing("cifar11")


def test_the_shape_that_is_known_of_digits_is_the_true_one():
    assert BUILT_IN["digits"].image_shape == load_dataset("digits").image_shape


def test_a_sweeps_dry_run_fetches_nothing(tmp_path, capsys):
    grid = ["--grid", "data.name=digits,cifar10", "--config.train.epochs=2"]
    where = [f"--workdir={tmp_path / 'sweep'}", f"--config.data.dir={tmp_path / 'data'}"]
    assert sweep(["run", "--config=quickstart", *where, *grid, "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["data.name=digits", "data.name=cifar10"]
    assert len(lines) == 3 and lines[2].startswith("data.name=cifar10: cifar10 is not in ")
    assert sweep(["run", "--config=quickstart", *where, "--grid=data.name=cifar11", "--dry_run"])
    assert "error: data.name=cifar11: config.data.name: unknown" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_time_of_a_run_is_that_of_its_trainings_side_by_side(tmp_path, one_device):
    """On one CPU device trainings follow each other; winners start at the rewind point."""
    config = make_tiny_config(
        **{"seeds": (0, 1), "controls": ("random", "shuffle_layers"), "ladder.levels": 2}
    )
    experiment = set_up(config, one_device)
    per_epoch, end = experiment.program.steps_per_epoch, experiment.end_step
    assert (experiment.start_step, end) == (per_epoch, 2 * per_epoch)
    timing = Timing(step=1.0, evaluation=1000.0, compilation=0.5, together=1)
    whole = 2 * (1 + 2)  # level 0, and two random tickets, of each seed
    rewound = 2 * (2 + 2)  # two winners and two with shuffled layers
    expected = 0.5 + whole * (end + 2 * 1000) + rewound * (per_epoch + 1000)
    assert timing.of_run(experiment, tmp_path) == expected
    for trial in list_trials(config, tmp_path):
        (trial.ticket_dir).mkdir(parents=True)
        (trial.ticket_dir / "metadata.json").touch()
    assert timing.of_run(experiment, tmp_path) == 0.5


def test_the_bar_says_compiling_until_the_first_step_is_done(monkeypatch):
    now, out = [100.0], io.StringIO()
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    bar = display.Display(10, Console(file=out, width=200))
    status = lambda: bar._progress.tasks[0].fields["status"]  # noqa: E731
    bar.describe("level 0")
    assert status() == "compiling"
    bar.step_done()
    assert status() == ""
    bar.say_remaining()  # nothing is measured yet
    for _ in range(3):
        bar.epoch_done("", 1.0, 2)
        now[0] += 60
    bar.describe("level 1")
    assert status() != "compiling"
    bar.say_remaining()
    bar.say_remaining()
    # 120 seconds for the four epochs after the first two; four are left.
    said = "compiling the training step\nabout 2 min left, judging by the last 4 epochs\n"
    assert out.getvalue() == said


@pytest.mark.long
def test_a_measured_dry_run_estimates_the_time_and_writes_nothing(tmp_path):
    """As a user's command: without a directory, a cache of programs or data."""
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS",)}
    done = subprocess.run(
        [sys.executable, "-m", "lottery_jax", "run", "--config=quickstart", "--dry_run=measure"],
        cwd=tmp_path, env=environment | home, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "57 of 20 epochs" in done.stdout
    assert re.search(r"^measured   [\d.]+ ms a step", done.stdout, re.MULTILINE)
    (line,) = re.findall(r"^time       about (.+) in all", done.stdout, re.MULTILINE)
    assert re.fullmatch(r"(\d+ min ?)?(\d+ s)?", line), line  # the whole run takes a minute
    assert not list(tmp_path.iterdir())
