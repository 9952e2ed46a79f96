"""Learning-rate rewinding and fine-tuning (Renda et al. 2020), against trainings written by hand."""

import json

import jax
import numpy as np
import pytest

from lottery_jax.errors import ConfigError
from lottery_jax.pruning import masks
from lottery_jax.runs import experiment
from lottery_jax.runs.store import RunStore
from lottery_jax.training.loop import fit
from lottery_jax.training.program import init_device_state
from tests.helpers import assert_same, make_tiny_config, run_quietly
from tests.helpers import load_trained as load

REWIND, END = 7, 22  # eleven steps an epoch


def config_of(retrain, model="lenet_300_100", **overrides):
    return make_tiny_config(
        model,
        **{
            "ladder.retrain": retrain,
            "ladder.rewind": f"{REWIND}st",
            "optimizer.milestones": (1,),
            **overrides,
        },
    )


def by_hand(config, ticket, start, until):
    """Train a ticket's weights with the steps of another program, and return the state."""
    setup = experiment.set_up(config, jax.devices()[:1])
    state = init_device_state(setup.program, ticket.variables, ticket.mask, step=start)
    train_key = jax.random.split(jax.random.key(0), 4)[1]
    return jax.device_get(fit(setup.program, state, setup.train, train_key, until=until))


def assert_starts_from_trained(ticket, before):
    start = jax.tree.map(lambda m, p: np.where(m, p, np.float32(0)), ticket.mask, before.trained)
    assert_same(ticket.params, start)
    assert_same(ticket.batch_stats, before.trained_batch_stats)
    assert masks.density(ticket.mask) < masks.density(before.mask)


@pytest.mark.long
@pytest.mark.parametrize(
    "model, draw",
    [
        ("lenet_300_100", "iterative"),
        ("vgg11", "iterative"),  # with BatchNorm
        ("lenet_300_100", "oneshot"),
    ],
)
def test_rates_are_rewound_and_weights_are_not(model, draw, tmp_path):
    overrides = {"ladder.draw": draw} if draw == "oneshot" else {}
    width = {} if model == "vgg11" else {"model.width": 0.1}
    config = config_of("lr", model, **overrides, **width)
    run_quietly(config, tmp_path)
    for level in (1, 2):
        ticket = load(tmp_path, 0, level)
        assert_starts_from_trained(ticket, load(tmp_path, 0, 0 if draw == "oneshot" else level - 1))
        assert ticket.metadata["start_step"] == REWIND
        assert ticket.metadata["method"]["retrain"] == "lr"
    plain = config_of("weights", model, **width)
    state = by_hand(plain, load(tmp_path, 0, 2), REWIND, END)
    assert_same(load(tmp_path, 0, 2).trained, state.params)
    assert_same(load(tmp_path, 0, 2).trained_batch_stats, state.batch_stats)


@pytest.mark.slow
def test_fine_tuning_keeps_the_last_rate_for_as_many_steps(tmp_path, monkeypatch):
    """The control has new weights, and so the whole schedule; nothing is compiled for it."""
    programs, real = [], experiment.make_program

    def make_program(*args, **kwargs):
        programs.append(real(*args, **kwargs))
        return programs[-1]

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "make_program", make_program)
        overrides = {"model.width": 0.1, "ladder.levels": 1}
        run_quietly(config_of("finetune", controls=("reinit",), **overrides), tmp_path)
    (program,) = programs
    steps = (program.train_step, program.stacked.train_step)  # a run uses one of the two
    assert sum(step._cache_size() for step in steps) == 1
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert_starts_from_trained(load(tmp_path, 0, 1), load(tmp_path, 0, 0))
    own = [row for row in rows if (row["level"], row["control"]) == (1, "winning")]
    assert [row["step"] for row in own] == [33, 44]
    assert {row["lr"] for row in own} == {float(np.float32(0.1) * np.float32(0.1))}
    control = [row for row in rows if (row["level"], row["control"]) == (1, "reinit")]
    assert [row["step"] for row in control] == [11, 22]
    assert control[0]["lr"] == pytest.approx(0.1) and control[1]["lr"] == own[0]["lr"]
    assert load(tmp_path, 0, 1).metadata["start_step"] == END + REWIND
    # The same batches and a constant rate.
    constant = config_of("weights", **{
        "optimizer.schedule": "constant", "optimizer.learning_rate": 0.01, "train.epochs": 4,
        "optimizer.milestones": (), "model.width": 0.1,
    })  # fmt: skip
    state = by_hand(constant, load(tmp_path, 0, 1), END + REWIND, 2 * END)
    for ours, theirs in zip(
        jax.tree.leaves(load(tmp_path, 0, 1).trained), jax.tree.leaves(state.params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("retrain", ["finetune", "lr"])
def test_an_interrupted_run_goes_on_from_the_same_weights(retrain, tmp_path, monkeypatch):
    """A crash between levels, and one after a checkpoint of level 1."""
    config = config_of(retrain, **{"model.width": 0.1})
    run_quietly(config, tmp_path / "whole")
    write, seen = RunStore.write_rows, []

    def disturbed(store, rows, densities):
        write(store, rows, densities)
        seen.extend(rows)
        if len(seen) in (4, 7):
            raise RuntimeError("a crash")

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "write_rows", disturbed)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="a crash"):
                run_quietly(config, tmp_path / "run")
    run_quietly(config, tmp_path / "run")
    for level in (0, 1, 2):
        assert_same(
            load(tmp_path / "run", 0, level).trained, load(tmp_path / "whole", 0, level).trained
        )


@pytest.mark.parametrize(
    "overrides, says",
    [
        ({"ladder.draw": "init"}, "draw=init scores weights that are not trained"),
        ({"ladder.draw": "init_nested"}, "draw=init_nested scores weights that are not trained"),
        ({"source": "run"}, "a transfer starts from rewound weights"),
        ({"ladder.optimizer_state": "restored"}, "use config.ladder.optimizer_state=fresh"),
        ({"controls": ("shuffle_layers",)}, "shuffle_layers starts at a rewind point"),
        ({"optimizer.name": "optax:lion"}, "an optimizer of your own has a learning rate"),
        ({"optimizer.schedule": "cosine"}, "the last rate of config.optimizer.schedule=cosine"),
    ],
)
def test_what_makes_no_sense_with_trained_weights_is_refused(overrides, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        run_quietly(config_of("finetune", **overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()
