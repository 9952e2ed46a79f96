"""Evaluations between epochs and before training: they change no weight, and no line is lost."""

import csv
import json
import signal

import jax
import numpy as np
import pytest

from lottery_jax import curve
from lottery_jax.errors import ConfigError
from lottery_jax.pruning import masks
from lottery_jax.runs import experiment
from lottery_jax.runs.store import RunStore
from lottery_jax.training.loop import fit
from lottery_jax.training.program import init_device_state
from tests.helpers import assert_same, make_tiny_config, run_quietly
from tests.helpers import load_trained as load

EVERY = 4
TRAININGS = [(0, "winning"), (1, "winning"), (1, "reinit")]


def config_of(**overrides):
    """Ten steps an epoch, a rewind point within the first one."""
    return make_tiny_config(
        controls=("reinit",),
        **{
            "model.width": 0.1,
            "data.validation_fraction": 0.1,
            "ladder.levels": 1,
            "ladder.rewind": "7st",
            **overrides,
        },
    )


def evaluated_config(**overrides):
    return config_of(**{"train.eval_every_steps": EVERY, "train.eval_untrained": True, **overrides})


def lines_of(workdir):
    """The rows of metrics.jsonl without times, in an order that does not depend on groups."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("seconds", None)
        row.pop("images_per_s", None)
    return sorted(rows, key=lambda r: (r["seed"], r["level"], r["control"], r["step"], "kind" in r))


def column_of(workdir, name):
    with (workdir / "curve.csv").open() as file:
        return [row[name] for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with evaluations: (directory, rows)."""
    workdir = tmp_path_factory.mktemp("evaluated") / "run"
    return workdir, run_quietly(evaluated_config(), workdir)


@pytest.fixture(scope="module")
def setup():
    return experiment.set_up(evaluated_config(), jax.devices()[:1])


@pytest.mark.slow
def test_evaluation_changes_no_weight_and_no_row_of_an_epoch(run, tmp_path):
    workdir, _ = run
    run_quietly(config_of(), tmp_path / "without")
    for level, control in TRAININGS:
        ours, plain = (load(w, 0, level, control) for w in (workdir, tmp_path / "without"))
        assert_same(ours.trained, plain.trained)
        assert_same(ours.mask, plain.mask)
    assert [row for row in lines_of(workdir) if "kind" not in row] == lines_of(tmp_path / "without")
    header = (tmp_path / "without" / "curve.csv").read_text().splitlines()[0]
    assert tuple(header.split(",")) == curve.CURVE_COLUMNS


@pytest.mark.slow
def test_rows_stand_at_multiples_and_at_the_end(run):
    workdir, _ = run
    rows = [row for row in lines_of(workdir) if row.get("kind") == "evaluation"]
    for level, control in TRAININGS:
        steps = [r["step"] for r in rows if (r["level"], r["control"]) == (level, control)]
        from_start = control == "reinit" or level == 0
        assert steps == ([4, 8] if from_start else [8]) + [12, 16, 20]
    assert all({"val_loss", "val_accuracy", "test_loss", "test_accuracy"} <= {*r} for r in rows)
    assert not any("epoch" in row for row in rows)


@pytest.mark.slow
def test_a_row_says_what_a_hand_written_training_gives_at_its_step(run, setup):
    workdir, _ = run
    ticket = load(workdir, 0, 1)
    train_key = jax.random.split(jax.random.key(0), 4)[1]
    state = init_device_state(setup.program, ticket.variables, ticket.mask, step=7)
    before = setup.program.evaluate(state, setup.test)
    state = fit(setup.program, state, setup.train, train_key, until=12)
    after = setup.program.evaluate(state, setup.validation)
    rows = [r for r in lines_of(workdir) if (r["level"], r["control"]) == (1, "winning")]
    (untrained,) = (row for row in rows if row.get("kind") == "untrained")
    (at_12,) = (row for row in rows if row.get("kind") == "evaluation" and row["step"] == 12)
    assert untrained["step"] == 7
    np.testing.assert_allclose(untrained["test_accuracy"], before.accuracy, atol=1e-6)
    np.testing.assert_allclose(at_12["val_loss"], after.loss, rtol=1e-5)


@pytest.mark.slow
def test_results_have_the_step_of_the_smallest_validation_loss(run):
    workdir, rows = run
    with (workdir / "curve.csv").open() as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0])[-3:] == ("early_stop_step", "early_stop_accuracy", "untrained_accuracy")
    assert len(read) == len(rows) == 3
    for row in read:
        name = int(row["seed"]), int(row["level"]), row["control"]
        own = [r for r in lines_of(workdir) if (r["seed"], r["level"], r["control"]) == name]
        steps = [r for r in own if r.get("kind") == "evaluation"]
        best = steps[int(np.argmin([r["val_loss"] for r in steps]))]  # the first of equal ones
        began = 7 if name[1:] == (1, "winning") else 0
        assert int(row["early_stop_step"]) == best["step"] - began
        assert float(row["early_stop_accuracy"]) == best["test_accuracy"]
        (untrained,) = (r for r in own if r.get("kind") == "untrained")
        assert float(row["untrained_accuracy"]) == untrained["test_accuracy"]
        result = load(workdir, *name).metadata["result"]
        assert result["early_stop_step"] == int(row["early_stop_step"])
    dense = load(workdir, 0, 0)
    assert masks.density(dense.mask) == 1 and dense.metadata["result"]["untrained_accuracy"] < 0.9


@pytest.mark.long
def test_no_line_is_doubled_or_missing_after_a_stop_and_a_crash(tmp_path, monkeypatch):
    """A signal in the middle of an epoch, then a crash right after a line, then to the end."""
    config, workdir = evaluated_config(seeds=(0, 1)), tmp_path / "undisturbed"
    run_quietly(config, workdir)
    write, seen = RunStore.write_rows, []

    def disturbed(store, rows, densities):
        write(store, rows, densities)
        seen.extend(rows)
        if len(seen) - len(rows) < 14 <= len(seen):
            signal.raise_signal(signal.SIGINT)
        if len(seen) - len(rows) < 24 <= len(seen):
            raise RuntimeError("a crash")

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "write_rows", disturbed)
        with pytest.raises(KeyboardInterrupt):
            run_quietly(config, tmp_path / "run")
        with pytest.raises(RuntimeError, match="a crash"):
            run_quietly(config, tmp_path / "run")
    run_quietly(config, tmp_path / "run")
    assert lines_of(tmp_path / "run") == lines_of(workdir)
    for name in ("early_stop_step", "early_stop_accuracy", "untrained_accuracy", "test_loss"):
        assert column_of(tmp_path / "run", name) == column_of(workdir, name)


def test_without_a_validation_set_there_is_no_step_of_early_stopping(tmp_path):
    config = config_of(**{"train.eval_every_steps": 5, "data.validation_fraction": 0.0})
    with pytest.raises(ConfigError, match=r"eval_every_steps needs config.data.validation_frac"):
        run_quietly(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
