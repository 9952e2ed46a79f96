"""Ladders with a network, data, a task and an optimizer of one's own, as objects and by import path."""

import json
import shutil

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from rich.console import Console

import lottery_jax as lj
from lottery_jax import config as configuration
from lottery_jax import evaluate
from lottery_jax.errors import ConfigError, TicketError
from lottery_jax.runs import parts
from lottery_jax.tickets import __main__ as commands
from tests import own
from tests.helpers import load_trained, make_tiny_config, pruned_values

# Enough to share a batch or to train two seeds side by side; eight take longer to compile for.
TWO = jax.devices()[:2]


def config(**overrides):
    """One small level of one seed, with a control."""
    values = {"ladder.levels": 1, "ladder.prune_fraction": 0.5, "controls": ("reinit",),
              "train.checkpoint_every_epochs": 0}  # fmt: skip
    return make_tiny_config(**{**values, **overrides})


@pytest.fixture(scope="module")
def linen_run(tmp_path_factory):
    """A run of a Linen network of one's own, named by its import path, with an optimizer of optax."""
    workdir = tmp_path_factory.mktemp("linen") / "run"
    c = config(
        **{
            "model.name": "tests.own:MLP",
            "model.options": '{"hidden": 12}',
            "optimizer.name": "optax:lion",
            "optimizer.options": '{"learning_rate": 1e-3}',
        }
    )
    return c, workdir, lj.run_ladder(c, workdir, devices=TWO)


def test_a_linen_network_by_import_path(linen_run):
    _, workdir, rows = linen_run
    assert [row["weights_total"] for row in rows] == [64 * 12 + 12 * 10] * 3
    assert [row["weights_remaining"] for row in rows] == [888, 444, 444]
    ticket = load_trained(workdir, 0, 1)
    assert not pruned_values(ticket.mask, ticket.trained).any()
    assert ticket.metadata["model"] == {
        "name": "tests.own:MLP", "options": '{"hidden": 12}', "dtype": "float32"
    }  # fmt: skip
    assert ticket.metadata["layer_order"] == ["Dense_0", "Outputs_0/Dense_0"]
    assert ticket.metadata["layer_kinds"] == {"Dense_0": "Dense", "Outputs_0/Dense_0": "Dense"}
    assert ticket.metadata["optimizer"] == {
        "name": "optax:lion", "options": '{"learning_rate": 1e-3}'
    }  # fmt: skip


@pytest.mark.slow
def test_an_object_trains_as_its_import_path_does(linen_run, tmp_path):
    """Only the names differ: the tickets are the same to the bit."""
    _, workdir, rows = linen_run
    given = {"model": own.MLP(hidden=12), "optimizer": optax.lion(1e-3), "devices": TWO}
    again = lj.run_ladder(config(), tmp_path / "run", **given)
    timed = {"seconds"}
    assert [{k: v for k, v in r.items() if k not in timed} for r in again] == [
        {k: v for k, v in r.items() if k not in timed} for r in rows
    ]
    a, b = load_trained(workdir, 0, 1).metadata, load_trained(tmp_path / "run", 0, 1).metadata
    for part in ("mask", "params", "trained"):
        assert a["sha256"][part] == b["sha256"][part]
    assert b["model"]["name"] == "given:MLP"
    # The run knows its network: another one, or none, does not go on with it.
    shutil.rmtree(tmp_path / "run" / "seed_0" / "level_01")
    with pytest.raises(ConfigError, match="other parameters"):
        lj.run_ladder(config(), tmp_path / "run", **{**given, "model": own.MLP(hidden=13)})
    named = config(**{"model.name": "given:MLP", "optimizer.name": "given:own optimizer"})
    with pytest.raises(ConfigError, match=r"MLP was passed .* pass model=\.\.\. again"):
        lj.run_ladder(named, tmp_path / "run")
    assert lj.run_ladder(config(), tmp_path / "run", **given)[1:] != []


@pytest.mark.slow
def test_an_nnx_network_trains_rewinds_and_is_evaluated(tmp_path, sole_device):
    c = config(**{"model.name": "tests.own:NNX", "ladder.rewind": "5st"})
    lj.run_ladder(c, tmp_path)
    ticket = load_trained(tmp_path, 0, 1)
    assert ticket.metadata["layer_order"] == ["layers/0", "layers/1", "out"]
    assert not pruned_values(ticket.mask, ticket.trained).any()
    assert np.abs(ticket.batch_stats["norm"]["mean"]).max() > 0  # of step 5
    metrics = lj.evaluate_ticket(ticket, model=lj.networks.nnx(lambda rngs: own.NNX(10, rngs=rngs)))
    assert float(metrics.accuracy) == pytest.approx(ticket.metadata["result"]["test_accuracy"])


def test_the_nnx_network_computes_what_the_module_does():
    """In training and in evaluation, with the statistics and the dropout of the module itself."""
    c = config(**{"model.name": "tests.own:NNX"})
    network = parts.make_network(c, 10, (8, 8, 1), "float32", parts.NOTHING_GIVEN)
    variables = network.init(jax.random.key(3))
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype(np.float32)
    weights = jax.device_get(variables["params"])

    def layer(x, path):
        return x @ path["kernel"] + path["bias"]

    hidden = layer(x.reshape(8, -1), weights["layers"]["0"])
    mean, var = hidden.mean(0), hidden.var(0)
    outputs, stats = network.apply_train(
        variables["params"], variables["batch_stats"], x, jax.random.key(1)
    )
    np.testing.assert_allclose(stats["norm"]["mean"], 0.01 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats["norm"]["var"], 0.99 + 0.01 * var, rtol=1e-4)
    other, _ = network.apply_train(
        variables["params"], variables["batch_stats"], x, jax.random.key(2)
    )
    assert np.abs(outputs - other).max() > 0  # dropout has another key
    normal = hidden / np.sqrt(1 + 1e-5)  # of the initial statistics
    inner = np.maximum(layer(np.maximum(normal, 0), weights["layers"]["1"]), 0)
    np.testing.assert_allclose(
        network.apply_eval(variables["params"], variables["batch_stats"], x),
        layer(inner, weights["out"]),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("task", [None, lj.tasks.regression()])
def test_numbers_as_targets_need_a_network_of_ones_own(task, tmp_path):
    with pytest.raises(ConfigError, match=r"lenet_300_100 has one output for each class, but"):
        lj.run_ladder(config(), tmp_path / "run", data=own.smooth_function(), task=task)
    model = own.MLP(outputs=1)  # is one of one's own, and still fits no classification
    with pytest.raises(ConfigError, match="the task does not take outputs"):
        lj.run_ladder(
            config(), tmp_path / "run", data=own.smooth_function(), model=model,
            task=lj.tasks.classification(0.1 if task else 0.0),
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_regression_on_data_of_ones_own_has_its_metric_everywhere(tmp_path, capsys, sole_device):
    """Mse in rows, curve.csv, tickets, the table and `evaluate`; it is the one that NumPy finds."""
    c = config(
        **{"train.batch_size": 24, "train.epochs": 12,
           "optimizer.learning_rate": 0.02, "optimizer.schedule": "constant"}
    )  # fmt: skip
    data, model = own.smooth_function(), own.MLP(outputs=1)
    rows = lj.run_ladder(c, tmp_path, model=model, data=data, task=lj.tasks.regression())
    assert "test_accuracy" not in rows[0]
    ticket = load_trained(tmp_path, 0, 0)
    outputs = model.apply({"params": ticket.trained}, data.x_test)[:, 0]
    mse = float(np.mean((np.asarray(outputs) - data.y_test) ** 2))
    assert rows[0]["test_mse"] == pytest.approx(mse, rel=1e-4)
    assert rows[0]["test_loss"] == pytest.approx(mse / 2, rel=1e-4)
    assert mse < 0.6 * data.y_test.var()  # it has learned something
    header = (tmp_path / "curve.csv").read_text().splitlines()[0]
    assert "test_mse" in header and "accuracy" not in header
    lj.write_report([tmp_path])
    assert "Test mse, mean" in (tmp_path / "report" / "table.md").read_text()
    assert commands.main(["show", str(tmp_path / "seed_0/level_01/ticket")]) == 0
    assert f"mse {rows[1]['test_mse']:.4g}" in capsys.readouterr().out
    metrics = lj.evaluate_ticket(ticket, data=data, model=model, task=lj.tasks.regression())
    assert float(metrics.accuracy) == pytest.approx(rows[0]["test_mse"], rel=1e-5)


def test_a_task_and_data_by_import_path(tmp_path, one_device):
    c = config(
        **{
            "model.name": "tests.own:MLP",
            "model.options": '{"outputs": 1}',
            "data.name": "tests.own:smooth_function",
            "task.name": "tests.own:mean_absolute",
            "task.options": '{"scale": 2.0}',
            "train.batch_size": 24,
            "controls": (),
        }
    )
    rows = lj.run_ladder(c, tmp_path, devices=one_device)
    assert rows[0]["test_mae"] == pytest.approx(rows[0]["test_loss"])
    assert load_trained(tmp_path, 0, 0).metadata["task"] == {
        "name": "tests.own:mean_absolute", "options": '{"scale": 2.0}'
    }  # fmt: skip
    assert "network_sha256" in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.slow
def test_tokens_reach_an_embedding_as_whole_numbers(tmp_path):
    """SNIP sees them, too; the embedding is not pruned; SynFlow is refused."""
    snip = {"ladder.scores": "snip", "ladder.draw": "init", "ladder.rewind": 0}
    c = config(**{"train.batch_size": 24, "controls": (), **snip})
    given = {"model": own.Bag(), "data": own.tokens(), "devices": TWO}
    rows = lj.run_ladder(c, tmp_path / "run", **given)
    assert [row["weights_total"] for row in rows] == [8 * 8 + 8 * 2] * 2
    ticket = load_trained(tmp_path / "run", 0, 1)
    assert ticket.mask["Embed_0"]["embedding"].all()
    assert ticket.metadata["input_shape"] == [9]
    c.ladder.scores = "synflow"
    with pytest.raises(ConfigError, match="an input of ones, which tokens are not"):
        lj.run_ladder(c, tmp_path / "synflow", **given)


def test_tickets_of_ones_own_network_need_no_code_to_be_looked_at(
    linen_run, tmp_path, capsys, sole_device
):
    """show, verify, export and import name nothing; `evaluate` imports what the user names."""
    _, workdir, rows = linen_run
    folder = workdir / "seed_0" / "level_01" / "ticket"
    portable = tmp_path / "mine.safetensors"
    assert commands.main(["verify", str(folder)]) == 0
    assert commands.main(["show", str(folder)]) == 0
    assert commands.main(["export", str(folder), str(portable)]) == 0
    assert commands.main(["import", str(portable), str(tmp_path / "back")]) == 0
    a, b = lj.load_ticket(folder), lj.load_ticket(tmp_path / "back")
    assert a.metadata["sha256"] == b.metadata["sha256"]
    capsys.readouterr()
    assert evaluate.main([f"--ticket={folder}"]) == 2
    assert "--model=package.module:Class" in capsys.readouterr().err
    assert evaluate.main([f"--ticket={folder}", "--model=tests.own:MLP"]) == 0
    assert f"{rows[1]['test_accuracy']:.2%}" in capsys.readouterr().out
    with pytest.raises(TicketError, match="Dense_0"):
        lj.evaluate_ticket(a, model=own.MLP(hidden=3))


def test_a_new_head_in_a_nested_layer(linen_run, tmp_path):
    """The last layer is found, and drawn anew; all others are the source's."""
    c, source, _ = linen_run
    new = config(**{"source": str(source), "transfer.head": "reinit", "controls": ()})
    for key in ("model.name", "model.options", "optimizer.name", "optimizer.options"):
        group, name = key.split(".")
        new[group][name] = c[group][name]
    lj.run_ladder(new, tmp_path, devices=TWO)
    a, b = load_trained(source, 0, 1), load_trained(tmp_path, 0, 1)
    assert np.array_equal(a.params["Dense_0"]["kernel"], b.params["Dense_0"]["kernel"])
    head = b.params["Outputs_0"]["Dense_0"]["kernel"]
    assert not np.array_equal(a.params["Outputs_0"]["Dense_0"]["kernel"], head)
    assert b.mask["Outputs_0"]["Dense_0"]["kernel"].all()


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"model.name": "tests.own:nothing"}, "config.model.name: tests.own"),
        ({"model.name": "nowhere.at:all"}, "there is no module 'nowhere'"),
        ({"model.name": "tests.own:not_a_network"}, "gives dict, not a Linen or NNX module"),
        ({"model.name": "tests.own:MLP", "model.options": '{"depth": 3}'}, "unexpected keyword"),
        ({"model.name": "tests.own:MLP", "model.options": "[1"}, "is not JSON"),
        ({"model.name": "tests.own:MLP", "model.options": '{"outputs": 3}'}, "3 outputs.* 10 class"),
        ({"model.name": "tests.own:MLP", "model.width": 2.0}, "config.model.width: is for networks"),
        ({"model.name": "tests.own:MLP", "model.dtype": "float23"}, "config.model.dtype: .*float23"),
        ({"model.name": "tests.own:Scale"}, "can't be pruned: no leaf is prunable.*factor"),
        ({"model.options": "{}"}, "is for networks of your own, and lenet_300_100"),
        ({"model.name": "tests.own:MLP", "data.name": "tests.own:smooth_function"}, "config.task.name"),
        ({"task.name": "tests.own:fails"}, "tests.own:fails fails: RuntimeError: on purpose"),
        ({"task.name": "classify"}, "did you mean 'classification'|classification"),
        ({"task.options": '{"smoothing": 1}'}, "unexpected keyword"),
        ({"optimizer.name": "optax:nothing"}, "config.optimizer.name: optax"),
        ({"optimizer.name": "optax:lion"}, "missing 1 required .*learning_rate"),
        ({"optimizer.name": "tests.own:not_a_network"}, "gives dict, not an optimizer"),
    ],
)  # fmt: skip
def test_a_misfit_is_one_line_before_anything_is_trained(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        lj.run_ladder(config(**overrides), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_dry_run_of_ones_own_network_and_data(tmp_path, monkeypatch, capsys):
    """With data that are there, and with data that are not."""
    from lottery_jax.runs.dry_run import dry_run

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    shown = Console(width=200)
    own_data = {
        "data.name": "tests.own:tokens",
        "model.name": "tests.own:Bag",
        "train.batch_size": 24,
    }
    for overrides, weights in (
        (own_data, "80 prunable"),
        ({"data.name": "cifar10", "model.name": "tests.own:MLP"}, f"{3072 * 16 + 160:,} prunable"),
    ):
        c = configuration.validate(config(**overrides))
        dry_run(c, tmp_path / "run", shown, measure=False)
        assert weights in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_how_a_module_is_told_that_it_trains():
    """By `train`, `training`, `is_training` or `deterministic`, or by nothing."""
    seen = []

    def module(parameter):
        text = f"lambda self, x{', ' if parameter else ''}{parameter}: self.see(x, {parameter})"
        see = lambda self, x, *mode: (seen.append(mode), nn.Dense(2)(x))[1]  # noqa: E731
        call = nn.compact(eval(text))
        return type("Told", (nn.Module,), {"__call__": call, "see": see})()

    x = np.zeros((2, 3), np.float32)
    for parameter, expected in [
        ("train", (True, False)), ("training", (True, False)), ("is_training", (True, False)),
        ("deterministic", (False, True)), ("", None),
    ]:  # fmt: skip
        network = lj.networks.linen(module(parameter))
        params = jax.device_get(lj.LinenNetwork(network.module, (3,)).init(jax.random.key(0)))
        seen.clear()
        network.apply_train(params["params"], {}, x, jax.random.key(0))
        network.apply_eval(params["params"], {}, x)
        assert seen == ([(), ()] if expected is None else [(mode,) for mode in expected])
