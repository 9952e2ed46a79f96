"""Whole small ladders: what Morcos et al. describe, checked on the files a run leaves."""

import csv
import functools
import itertools
import json
import shutil

import jax
import numpy as np
import pytest
from rich.console import Console

from lottery_jax import curve, report
from lottery_jax.config import validate
from lottery_jax.curve import WINNING
from lottery_jax.datasets.dataset import chance
from lottery_jax.errors import ConfigError, LotteryError, TrainingError
from lottery_jax.models.cost import multiply_adds_by_layer
from lottery_jax.parallel.mesh import to_mesh
from lottery_jax.pruning import masks
from lottery_jax.pruning.controls import CONTROLS, ControlInputs, UntrainedTicket
from lottery_jax.runs import checkpoints, directory, experiment, ladder, record, results
from lottery_jax.runs.ladder import run_ladder
from lottery_jax.training.loop import fit
from lottery_jax.training.program import init_device_state
from tests.helpers import assert_same, load_trained, make_tiny_config, pruned_values, quiet_console

LEVELS, FRACTION = 2, 0.3
# Many tests read the same tickets, and none changes a ticket that it has read.
load = functools.cache(load_trained)


@pytest.fixture(scope="module")
def config():
    return validate(
        make_tiny_config(
            "tests.own:small_vgg",
            seeds=(3, 4),
            controls=("reinit", "random"),
            **{
                "ladder.rewind": "7st",
                "ladder.prune_fraction": FRACTION,
                "ladder.levels": LEVELS,
                "optimizer.learning_rate": 0.02,
                "data.augment": "crop",
            },
        )
    )


@pytest.fixture(scope="module")
def traces():
    return []


@pytest.fixture(scope="module")
def run(config, traces, tmp_path_factory):
    """A finished run: (directory, rows). Records how often each step was compiled."""
    workdir = tmp_path_factory.mktemp("run")
    real = experiment.make_program

    def make_program(*args, **kwargs):
        program = real(*args, **kwargs)
        traces.append(program)
        return program

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "make_program", make_program)
        rows = run_ladder(config, workdir, devices=jax.devices()[:1], console=quiet_console())
    return workdir, rows


@pytest.fixture(scope="module")
def setup(config):
    """What the config means, to train by hand what the run has trained."""
    return experiment.set_up(config, jax.devices()[:1])


def rewind_state(setup, workdir, seed):
    variables = setup.init(jax.random.key(0))
    like = init_device_state(setup.program, variables, masks.ones_like(variables["params"]), 0)
    return checkpoints.load_state(workdir / f"seed_{seed}" / "rewind", like).state


def test_one_compilation_serves_all_levels_seeds_and_controls(run, traces):
    (program,) = traces
    assert program.train_step._cache_size() == 1
    assert program.eval_pass._cache_size() == 1


def test_curve_has_a_row_for_every_training(run, config):
    workdir, rows = run
    with (workdir / "curve.csv").open() as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == curve.CURVE_COLUMNS
    expected = [
        (seed, level, control)
        for seed in (3, 4)
        for level in range(LEVELS + 1)
        for control in ("winning", *(("reinit", "random") if level else ()))
    ]
    assert [(int(r["seed"]), int(r["level"]), r["control"]) for r in read] == expected
    assert [(r["seed"], r["level"], r["control"]) for r in rows] == expected
    assert all(r["epochs"] == "2" and 0 <= float(r["test_accuracy"]) <= 1 for r in read)


def test_the_run_records_what_its_trainings_cost(run, setup):
    """Level 0 takes all 22 steps, a ticket those from step 7 on; each of 128 images, three passes."""
    workdir, _ = run
    forward = multiply_adds_by_layer(setup.program.network, setup.layers)
    assert json.loads((workdir / "config.json").read_text())["cost"] == {
        "steps_per_epoch": 11, "multiply_adds": forward,
    }  # fmt: skip
    costs = report.ticket_costs(report.read_run(workdir))
    for level, steps in enumerate((22, 22 + 15, 22 + 15 + 15)):
        assert costs[level].epochs == pytest.approx(steps / 11)
        assert costs[level].dense == 3 * 128 * steps * sum(forward.values())
    kept = [masks.layer_counts(load(workdir, seed, 1).mask) for seed in (3, 4)]
    share = sum(forward[n] * k / size / 2 for by in kept for n, (k, size) in by.items())
    expected = 3 * 128 * (22 * sum(forward.values()) + 15 * share)
    assert costs[1].sparse == pytest.approx(expected, rel=1e-9)


def test_counts_are_exact_and_masks_nest(run):
    workdir, rows = run
    total = rows[0]["weights_total"]
    alive = [total, round(total * 0.7), round(round(total * 0.7) * 0.7)]
    assert all(row["weights_remaining"] == alive[row["level"]] for row in rows)
    assert all(row["density"] == row["weights_remaining"] / total for row in rows)
    for seed in (3, 4):
        ladder_of_masks = [load(workdir, seed, level).mask for level in range(LEVELS + 1)]
        for above, below in itertools.pairwise(ladder_of_masks):
            for a, b in zip(jax.tree.leaves(above), jax.tree.leaves(below), strict=True):
                assert not (b & ~a).any()


def test_each_mask_keeps_the_largest_trained_weights_of_the_level_before(run):
    workdir, _ = run
    for level in range(1, LEVELS + 1):
        before, after = load(workdir, 3, level - 1), load(workdir, 3, level)
        values, old, new = (
            np.concatenate([np.abs(k).ravel() for _, k in sorted(masks.kernels(tree).items())])
            for tree in (before.trained, before.mask, after.mask)
        )
        old, new = old.astype(bool), new.astype(bool)
        assert values[new].min() >= values[old & ~new].max()


def test_weights_and_statistics_are_rewound_bit_for_bit(run, setup):
    workdir, _ = run
    rewind = rewind_state(setup, workdir, 3)
    assert int(rewind.step) == 7
    for level in range(LEVELS + 1):
        ticket = load(workdir, 3, level)
        start = jax.tree.map(lambda m, p: np.where(m, p, np.float32(0)), ticket.mask, rewind.params)
        assert_same(ticket.params, start)
        assert_same(ticket.batch_stats, rewind.batch_stats)
        assert ticket.metadata["rewind_step"] == 7
    fresh = rewind_state(setup, workdir, 4)
    assert not np.array_equal(fresh.params["head"]["kernel"], rewind.params["head"]["kernel"])


def test_trained_weights_are_exactly_zero_where_pruned(run):
    workdir, rows = run
    for row in rows:
        ticket = load(workdir, row["seed"], row["level"], row["control"])
        for params in (ticket.params, ticket.trained):
            assert (pruned_values(ticket.mask, params) == 0).all()
        assert not np.array_equal(ticket.trained["head"]["kernel"], ticket.params["head"]["kernel"])


def test_the_dense_level_is_an_ordinary_training(run, setup):
    """Saving the rewind point changes nothing: level 0 equals one uninterrupted fit."""
    workdir, _ = run
    init_key, train_key, _ = jax.random.split(jax.random.key(3), 3)
    variables = setup.init(init_key)
    state = init_device_state(setup.program, variables, masks.ones_like(variables["params"]), 0)
    state = fit(setup.program, state, setup.train, train_key, until=setup.end_step)
    assert_same(load(workdir, 3, 0).trained, jax.device_get(state.params))


def test_controls_with_new_weights_train_from_step_0(run, setup):
    workdir, _ = run
    _, train_key, _ = jax.random.split(jax.random.key(4), 3)
    ticket = load(workdir, 4, 2, "random")
    state = init_device_state(setup.program, ticket.variables, ticket.mask, step=0)
    state = fit(setup.program, state, setup.train, train_key, until=setup.end_step)
    assert_same(ticket.trained, jax.device_get(state.params))


def test_a_ticket_trains_from_the_rewind_step_with_fresh_momentum(run, setup):
    workdir, _ = run
    _, train_key, _ = jax.random.split(jax.random.key(4), 3)
    ticket = load(workdir, 4, 2)
    state = init_device_state(setup.program, ticket.variables, ticket.mask, step=7)
    state = fit(setup.program, state, setup.train, train_key, until=setup.end_step)
    assert_same(ticket.trained, jax.device_get(state.params))
    assert_same(ticket.trained_batch_stats, jax.device_get(state.batch_stats))


def test_controls_have_the_density_but_not_the_weights_or_the_mask(run):
    workdir, _ = run
    for level in range(1, LEVELS + 1):
        winner = load(workdir, 3, level)
        reinit, random = load(workdir, 3, level, "reinit"), load(workdir, 3, level, "random")
        assert_same(reinit.mask, winner.mask)
        assert masks.counts(random.mask) == masks.counts(winner.mask)
        assert masks.layer_counts(random.mask) != masks.layer_counts(winner.mask)
        for control in (reinit, random):
            for name, kernel in masks.kernels(control.params).items():
                kept = masks.kernels(control.mask)[name]
                # No weight at the mask's places is a zero left over from elsewhere.
                assert (kernel[kept] != 0).all()
                common = kept & masks.kernels(winner.mask)[name]
                assert not (kernel == masks.kernels(winner.params)[name])[common].any()
    again = load(workdir, 3, 2, "reinit").params["head"]["kernel"]
    assert not np.array_equal(again, load(workdir, 3, 1, "reinit").params["head"]["kernel"])
    assert not np.array_equal(again, load(workdir, 4, 2, "reinit").params["head"]["kernel"])


def test_reinitialised_weights_come_from_the_models_initialisers(setup):
    """The same distribution as a fresh network's, layer by layer."""
    variables = jax.device_get(setup.init(jax.random.key(0)))
    start = UntrainedTicket(masks.ones_like(variables["params"]), variables, 7)
    for control in ("reinit", "random", "random_preserved"):
        others = ControlInputs(setup.init, variables)
        _, drawn, step = CONTROLS[control](start, jax.random.key(7), others)
        assert step == 0
        for name, kernel in masks.kernels(drawn["params"]).items():
            fresh = np.asarray(masks.kernels(variables["params"])[name])
            np.testing.assert_allclose(np.std(kernel), fresh.std(), rtol=0.35)
            assert not np.array_equal(kernel, fresh)
        assert not np.asarray(drawn["params"]["head"]["bias"]).any()


def test_metrics_have_one_line_an_epoch(run):
    workdir, rows = run
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    keys = [(r["seed"], r["level"], r["control"], r["epoch"], r["step"]) for r in lines]
    expected = [
        (r["seed"], r["level"], r["control"], epoch, 11 * epoch) for r in rows for epoch in (1, 2)
    ]
    assert keys == expected
    final = {key[:3]: line for key, line in zip(keys, lines, strict=True)}
    for row in rows:
        line = final[row["seed"], row["level"], row["control"]]
        assert line["test_accuracy"] == row["test_accuracy"]
        assert line["train_loss"] == row["train_loss"]


def test_a_finished_run_does_nothing(run, config):
    workdir, rows = run

    def state_of_files():
        return {p: p.stat().st_mtime_ns for p in workdir.rglob("*")
                if p.is_file()}  # fmt: skip

    before = state_of_files()
    with pytest.MonkeyPatch.context() as patch:
        # Neither data nor a compiled program is needed any more.
        patch.setattr(ladder, "make_experiment", None)
        assert run_ladder(config, workdir, console=quiet_console()) == rows
    assert state_of_files() == before
    assert not list(workdir.glob("seed_*/level_*/state"))


def test_config_json_says_what_made_the_run(run, config):
    written = json.loads((run[0] / "config.json").read_text())
    assert written["config"]["ladder"]["rewind"] == "7st"
    assert set(written["versions"]) >= {"lottery_jax", "jax", "flax", "optax"}
    assert record.read_config(run[0]).to_dict() == config.to_dict()


@pytest.mark.slow
def test_restored_optimizer_state_and_restarted_schedule_are_other_trainings(tmp_path, one_device):
    """Each option changes level 1 and leaves level 0 as it was."""
    results = {}
    for name, override in {
        "base": {},
        "restored": {"ladder.optimizer_state": "restored"},
        "restart": {"ladder.schedule": "restart"},
    }.items():
        config = make_tiny_config(**{"ladder.levels": 1, "model.width": 0.2, **override})
        run_ladder(config, tmp_path / name, devices=one_device, console=quiet_console())
        results[name] = [load(tmp_path / name, 0, level) for level in (0, 1)]
    for name in ("restored", "restart"):
        assert_same(results[name][0].trained, results["base"][0].trained)
        assert_same(results[name][1].params, results["base"][1].params)
        a, b = (results[n][1].trained["head"]["kernel"] for n in (name, "base"))
        assert not np.array_equal(a, b)


def test_layers_that_are_left_out_stay_dense(tmp_path, one_device):
    config = make_tiny_config(
        **{"ladder.skip_first": True, "ladder.skip_last": True, "ladder.prune_fraction": 0.5,
           "model.width": 0.2}
    )  # fmt: skip
    run_ladder(config, tmp_path, devices=one_device, console=quiet_console())
    counts = masks.layer_counts(load(tmp_path, 0, 2).mask)
    assert counts == {"dense1": (3840, 3840), "dense2": (300, 1200), "head": (200, 200)}


@pytest.mark.parametrize("scope, level", [("global", 5), ("layer", 5)])
def test_a_ladder_that_would_end_in_nothing_is_refused_at_once(tmp_path, scope, level):
    config = make_tiny_config(
        **{"ladder.levels": 40, "ladder.prune_fraction": 0.9, "ladder.scope": scope}
    )
    with pytest.raises(
        ConfigError, match=f"no weight would be left at level {level}; at most {level - 1}"
    ):
        run_ladder(config, tmp_path / "run", devices=jax.devices()[:1], console=quiet_console())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "override, says",
    [
        ({"ladder.rewind": "2ep"}, "step 22, but training ends at step 22"),
        ({"controls": ("randon",)}, "did you mean 'random'"),
        ({"ladder.scores": "magnitud"}, "did you mean 'magnitude'"),
        ({"data.name": "digit"}, "did you mean 'digits'"),
        ({"model.name": "vgg19"}, "does not take images of"),
        ({"train.batch_size": 5000}, "more than the 1438 training images"),
        ({"model.dtype": "float16"}, "bfloat16, float32"),
        ({"optimizer.schedule": "steps"}, "did you mean 'step'"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(tmp_path, override, says):
    config = make_tiny_config(**override)
    with pytest.raises(LotteryError, match=says):
        run_ladder(config, tmp_path / "run", devices=jax.devices()[:1], console=quiet_console())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rewind", [0, "1ep"])
def test_a_diverging_level_is_named_and_earlier_files_stay(tmp_path, one_device, rewind):
    """After the rewind point and on the way to it."""
    config = make_tiny_config(
        **{"optimizer.learning_rate": 1e30, "ladder.rewind": rewind, "model.width": 0.2}
    )
    with pytest.raises(TrainingError, match=r"seed 0, level 0, winning: .* step 11"):
        run_ladder(config, tmp_path, devices=one_device, console=quiet_console())
    assert (tmp_path / "config.json").is_file()


def test_weights_that_only_the_evaluation_finds_broken_stop_the_level(tmp_path, one_device):
    """One step an epoch: the loss is that of the weights before it."""
    config = make_tiny_config(
        **{"optimizer.learning_rate": 1e30, "ladder.rewind": 0, "train.batch_size": 1438,
           "model.width": 0.2}
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"seed 0, level 0, winning: the test loss is"):
        run_ladder(config, tmp_path, devices=one_device, console=quiet_console())
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_checkpoints_before_the_rewind_point_are_not_returned_to(tmp_path, one_device):
    """The last checkpoint is of epoch 2, the rewind point is after epoch 3."""
    config = make_tiny_config(
        **{
            "train.epochs": 5,
            "train.checkpoint_every_epochs": 2,
            "ladder.rewind": "3ep",
            "ladder.levels": 0,
            "model.width": 0.2,
        }
    )
    run_ladder(config, tmp_path, devices=one_device, console=quiet_console())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert not list(tmp_path.glob("seed_*/level_*/state"))


def test_what_a_process_killed_at_the_wrong_moment_leaves_is_no_obstacle(tmp_path, one_device):
    """A half-written config.json; a checkpoint of a ticket that was complete; a torn line."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / ".config.json.host-12-abcd1234.tmp").write_text("{")
    config = make_tiny_config(**{"ladder.levels": 1, "model.width": 0.2})
    rows = run_ladder(config, workdir, devices=one_device, console=quiet_console())
    stale = directory.Trial(workdir, 0, 0, WINNING).checkpoint_dir / "000000011"
    stale.mkdir(parents=True)
    shutil.rmtree(directory.Trial(workdir, 0, 1, WINNING).ticket_dir)
    metrics = (workdir / "metrics.jsonl").read_text()
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"seed": 0, "lev')
    again = run_ladder(config, workdir, devices=one_device, console=quiet_console())
    assert not stale.exists()
    for row in [*rows, *again]:
        del row["seconds"]
    assert again == rows
    epochs = [json.loads(line)["step"] for line in metrics.splitlines()]
    resumed = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in resumed] == epochs


def test_logs_that_other_programs_have_spoilt_do_not_stop_a_run(tmp_path, one_device):
    """A spreadsheet's encoding, lines that are no rows: what can be read stays, the rest is made."""
    config = make_tiny_config(**{"ladder.levels": 0, "model.width": 0.2})
    rows = run_ladder(config, tmp_path, devices=one_device, console=quiet_console())
    curve, metrics = tmp_path / "curve.csv", tmp_path / "metrics.jsonl"
    good_curve, good_metrics = curve.read_bytes(), metrics.read_bytes()
    curve.write_bytes("größe;1\n".encode("latin-1"))
    assert run_ladder(config, tmp_path, devices=one_device, console=quiet_console()) == rows
    assert curve.read_bytes() == good_curve
    metrics.write_bytes(good_metrics + b'"\xe9"\n[1]\n{"seed": 0}\n3\n')
    shutil.rmtree(directory.Trial(tmp_path, 0, 0, WINNING).ticket_dir)
    run_ladder(config, tmp_path, devices=one_device, console=quiet_console())
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == [json.loads(line)["step"] for line in good_metrics.splitlines()]


def test_a_collapsed_layer_is_named(tmp_path, one_device):
    config = make_tiny_config(
        **{"ladder.levels": 1, "ladder.prune_fraction": 0.999, "model.width": 0.2}
    )
    with (tmp_path / "out").open("w") as file:
        run_ladder(
            config, tmp_path / "run", devices=one_device, console=Console(file=file, width=300)
        )
    said = (tmp_path / "out").read_text()
    assert "warning: seed 0, level 1, winning: no weight is left in" in said
    empty = masks.collapsed_layers(load(tmp_path / "run", 0, 1).mask)
    assert empty and all(name in said for name in empty)


def what_is_said(config, folder, devices):
    with (folder / "out").open("w") as file:
        console = Console(file=file, width=400)
        run_ladder(config, folder / "run", devices=devices, console=console)
    return (folder / "out").read_text()


def test_a_network_that_learns_nothing_is_named_once_a_seed(tmp_path, one_device):
    config = make_tiny_config(
        seeds=(0, 1),
        **{"ladder.levels": 1, "optimizer.learning_rate": 1e-9, "data.input_shape": (12, 12, 1),
           "model.width": 0.1},
    )  # fmt: skip
    warnings = [
        line for line in what_is_said(config, tmp_path, one_device).splitlines()
        if "has learned nothing" in line
    ]  # fmt: skip
    for seed, warning in enumerate(warnings):
        assert warning.startswith(f"warning: seed {seed}, level 0, winning: ")
        for cause in ("config.optimizer.learning_rate", "data.resize=bilinear", "labels"):
            assert cause in warning
    assert len(warnings) == 2


def test_a_network_that_learns_is_not_warned_of(tmp_path, one_device):
    config = make_tiny_config(**{"ladder.levels": 0, "model.width": 0.2})
    assert "warning" not in what_is_said(config, tmp_path, one_device)


@pytest.mark.parametrize(
    "losses, accuracy, signs",
    [
        ([2.0, 1.5], 0.106, "accuracy of 10.6% is no better than chance"),
        ([2.0, 1.5], 0.107, ""),
        ([2.31, 2.30], 0.11, "loss has stayed at ln(10) = 2.30"),
        ([2.30, 2.27], 0.11, ""),
        ([2.27, 2.30], 0.11, ""),
    ],
)
def test_a_network_at_chance_is_told_by_accuracy_or_loss(losses, accuracy, signs):
    rows = [{"train_loss": loss} for loss in losses]
    rows[-1]["test_accuracy"] = accuracy
    found = results.signs_of_chance(rows, 10, chance(share=0.1, images=10_000))
    assert signs in found and bool(signs) == bool(found)


def test_a_run_begun_before_a_key_was_added_goes_on(tmp_path, one_device):
    config = make_tiny_config(**{"ladder.levels": 1, "model.width": 0.2})
    rows = run_ladder(config, tmp_path, devices=one_device, console=quiet_console())
    written = json.loads((tmp_path / "config.json").read_text())
    del written["config"]["data"]["resize"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    shutil.rmtree(directory.Trial(tmp_path, 0, 1, WINNING).ticket_dir)
    again = run_ladder(config, tmp_path, devices=one_device, console=quiet_console())
    for row in (*rows, *again):
        del row["seconds"]
    assert again == rows
    assert "resize" not in load(tmp_path, 0, 0).metadata
    config.data.resize = "bilinear"
    with pytest.raises(ConfigError, match=r"config.data.resize: 'pad', 'bilinear'"):
        run_ladder(config, tmp_path, devices=one_device, console=quiet_console())


@pytest.mark.slow
def test_bfloat16_and_validation_split_run(tmp_path, one_device):
    config = make_tiny_config(
        **{"model.dtype": "bfloat16", "data.validation_fraction": 0.2, "ladder.levels": 0}
    )
    run_ladder(config, tmp_path, devices=one_device, console=quiet_console())
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"val_accuracy", "val_loss"} <= set(line)
    trained = load(tmp_path, 0, 0).trained
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(trained))


def test_sharded_ladders_give_the_same_masks(tmp_path):
    config = make_tiny_config(**{"train.batch_size": 64, "model.width": 0.2})
    for devices in (1, 8):
        run_ladder(
            config, tmp_path / str(devices), devices=jax.devices()[:devices],
            console=quiet_console(),
        )  # fmt: skip
    for level in (1, 2):
        one, eight = (load(tmp_path / name, 0, level) for name in ("1", "8"))
        assert_same(one.mask, eight.mask)
        for a, b in zip(jax.tree.leaves(one.trained), jax.tree.leaves(eight.trained), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_data_on_the_device_is_what_was_loaded(config):
    setup = experiment.set_up(config, jax.devices()[:2])
    np.testing.assert_array_equal(setup.test.images, setup.dataset.x_test)
    assert setup.train.images.dtype == np.uint8
    assert_same(
        to_mesh(setup.program.mesh, {"a": np.arange(3)}), {"a": np.arange(3, dtype=np.int32)}
    )
