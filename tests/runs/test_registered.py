"""Scores, controls, optimizers and schedules of one's own work in a config by their names."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lottery_jax as lj
from lottery_jax.pruning import controls, masks, scores
from lottery_jax.training import optim
from lottery_jax.training.feeding import InputPipeline
from tests.helpers import load_trained, make_tiny_config, quiet_console

TABLES = (scores.SCORES, scores.OWN_ROUNDS, scores.USES_DATA, scores.GLOBAL_ONLY,
          controls.CONTROLS, controls.FROM_REWIND_POINT, optim.OPTIMIZERS, optim.SCHEDULES)  # fmt: skip


@pytest.fixture(autouse=True)
def tables_as_before():
    before = [table.copy() for table in TABLES]
    yield
    for table, old in zip(TABLES, before, strict=True):
        table.clear()
        table.update(old)


def negated(start, key, inputs):
    minus = jax.tree.map(lambda w: -w, start.variables["params"])
    return start._replace(variables={**start.variables, "params": minus})


@pytest.mark.long
def test_names_that_are_registered_work_in_a_config(tmp_path, monkeypatch):
    """A ladder of the smallest weights; and no image is drawn for a score that needs none."""
    rates = []

    def halving(steps, *, total, milestones, decay):
        rates.append((total, milestones, decay))
        return 0.5 ** (steps / total)

    lj.register_score(
        "smallest", lambda s: jax.tree.map(lambda w: -abs(w), s.params), uses_data=False
    )
    lj.register_control("negated", negated, from_rewind_point=True)
    lj.register_schedule("halving", halving)
    lj.register_optimizer("lion", lambda *, b1, b2: optax.scale_by_lion(b1, b2), ("b1", "b2"))
    monkeypatch.delattr(InputPipeline, "sample")
    config = make_tiny_config(**{
        "model.width": 0.1, "train.epochs": 1, "ladder.levels": 1, "ladder.rewind": 0,
        "ladder.scores": "smallest", "ladder.score_batches": 1000, "controls": ("negated",),
        "optimizer.name": "lion", "optimizer.schedule": "halving", "optimizer.learning_rate": 1e-3,
        "ladder.optimizer_state": "restored",
    })  # fmt: skip
    rows = lj.run_ladder(config, tmp_path, devices=jax.devices()[:1], console=quiet_console())
    assert [row["control"] for row in rows] == ["winning", "winning", "negated"]
    dense, winner = (load_trained(tmp_path, 0, level) for level in (0, 1))
    mask = masks.prune(jax.tree.map(lambda w: -np.abs(w), dense.trained), dense.mask, 0.2)
    jax.tree.map(np.testing.assert_array_equal, winner.mask, mask)
    control = load_trained(tmp_path, 0, 1, "negated")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, -b), winner.params, control.params)
    assert rates and set(map(str, rates)) == {str((11, [], config.optimizer.decay))}


@pytest.mark.parametrize("name, says", [("ticket", "none of"), ("a/b", "directory's")])
def test_a_control_that_would_hide_other_files_is_refused(name, says):
    with pytest.raises(ValueError, match=says):
        lj.register_control(name, negated)


def test_names_that_exist_are_refused():
    for register, name, function in [
        (lj.register_score, "magnitude", lambda s: s.params),
        (lj.register_control, "reinit", negated),
        (lj.register_schedule, "cosine", lambda steps, **_: jnp.ones(())),
        (lj.register_optimizer, "adam", optim.adam),
    ]:
        with pytest.raises(ValueError, match=f"named '{name}' already"):
            register(name, function)


def test_a_score_says_what_it_needs():
    lj.register_score("mine", lambda s: s.params, rounds=7, global_only=True)
    assert scores.OWN_ROUNDS["mine"] == 7
    assert "mine" in scores.GLOBAL_ONLY and "mine" in scores.USES_DATA
    lj.register_score("other", lambda s: s.params, uses_data=False)
    assert "other" not in {*scores.GLOBAL_ONLY, *scores.USES_DATA, *scores.OWN_ROUNDS}
