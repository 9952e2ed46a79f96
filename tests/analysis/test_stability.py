"""Branches in another order of the data, and what is measured between them and the run."""

import json
import shutil

import jax
import numpy as np
import pytest

from lottery_jax import tickets
from lottery_jax.analysis import distance
from lottery_jax.analysis.levels import levels
from lottery_jax.analysis.rewind import rewind
from lottery_jax.analysis.stability import NOT_IN_BRANCHES, stability, train_branch
from lottery_jax.curve import WINNING
from lottery_jax.errors import ConfigError, TicketError
from lottery_jax.evaluate import evaluate_ticket
from lottery_jax.parallel.mesh import to_mesh
from lottery_jax.pruning.controls import UntrainedTicket
from lottery_jax.runs import directory, record
from lottery_jax.runs.checkpoints import load_state
from lottery_jax.runs.experiment import set_up
from lottery_jax.runs.ladder import run_ladder
from lottery_jax.runs.trials import Keys
from lottery_jax.training.loop import fit
from lottery_jax.training.state import init_state
from tests.helpers import assert_same, load_trained, make_tiny_config, quiet_console

CONTROLS = ("reinit", "shuffle_layers")


@pytest.fixture(scope="module")
def run(alone, tmp_path_factory):
    """Two seeds, two levels, rewound into the middle of an epoch, with a momentum to be kept."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    config = make_tiny_config(
        **{"model.width": 0.1, "seeds": (0, 1), "controls": CONTROLS, "control_levels": (2,),
           "ladder.rewind": "5st", "ladder.prune_fraction": 0.5, "train.keep_epochs": (-1,)},
    )  # fmt: skip
    run_ladder(config, workdir, console=quiet_console())
    return config, workdir


def times_of_tickets(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("metadata.json")}


@pytest.mark.slow
def test_a_branch_trains_what_is_asked_for_once(run):
    config, workdir = run
    rows = stability(workdir, levels=(2,), controls=("reinit",), alphas=3, console=quiet_console())
    named = [(row["seed"], row["level"], row["control"], row["order"]) for row in rows]
    assert named == [(s, 2, c, 1) for s in (0, 1) for c in (WINNING, "reinit")]
    branch = workdir / "orders" / "1"
    before = times_of_tickets(branch)
    assert len(before) == 4
    again = stability(
        workdir, levels=(1, 2), controls=("reinit",), alphas=3, console=quiet_console()
    )
    after = times_of_tickets(branch)
    assert {path: after[path] for path in before} == before and len(after) == 6
    assert [row for row in again if row["level"] == 2] == rows
    earlier, end = (
        stability(
            workdir, levels=(2,), controls=("reinit",), alphas=3, epoch=epoch,
            console=quiet_console(),
        )
        for epoch in (1, 2)
    )  # fmt: skip
    assert end == rows  # epoch 2 is the last
    for row in earlier:
        ours, theirs = (
            tickets.load_epoch(directory.Trial(f, row["seed"], 2, row["control"]).ticket_dir, 1)
            for f in (workdir, branch)
        )
        assert row["l2"] == distance.l2(ours.trained, theirs.trained) > 0
        assert row["error_a"] == pytest.approx(1 - evaluate_ticket(ours).accuracy)
    for row in rows:
        ours, theirs = (
            load_trained(folder, row["seed"], 2, row["control"]) for folder in (workdir, branch)
        )
        assert_same((ours.mask, ours.params), (theirs.mask, theirs.params))
        assert row["l2"] == distance.l2(ours.trained, theirs.trained) > 0
        assert row["density"] == pytest.approx(0.25, abs=0.01)
        errors = [1 - t.metadata["result"]["test_accuracy"] for t in (ours, theirs)]
        assert [row["error_a"], row["error_b"]] == pytest.approx(errors)  # no BatchNorm here
        assert row["barrier"] >= abs(row["error_a"] - row["error_b"]) / 2
    # The run itself is complete, and its curve knows nothing of the branch.
    assert len(run_ladder(config, workdir, console=quiet_console())) == 10


@pytest.mark.slow
def test_the_same_order_gives_the_same_bits(run):
    """A branch in the run's own order is the run again: nothing but the order differs."""
    config, workdir = run
    trials = [t for t in directory.list_trials(config, workdir) if t.level == 2 and t.seed == 1]
    branch = train_branch(workdir, config, trials, 0, quiet_console())
    for trial in trials:
        theirs = load_trained(branch, 1, 2, trial.control).trained
        assert_same(tickets.load_ticket(trial.ticket_dir).trained, theirs)
    assert distance.l2(theirs, theirs) == 0


@pytest.mark.long
def test_the_dense_network_goes_on_with_its_optimizer_state(run):
    """In another order from the rewind point on, which lies within an epoch."""
    config, workdir = run
    trial = directory.Trial(workdir, 0, 0, WINNING)
    branch = train_branch(workdir, config, [trial], 1, quiet_console())
    experiment = set_up(config)
    own = load_trained(workdir, 0, 0)
    start = UntrainedTicket(own.mask, own.variables, 5)
    template = init_state(experiment.program.optimizer, start)
    state = load_state(directory.rewind_dir(workdir, 0), template, zero=None).state
    momenta = jax.tree.leaves(state.opt_state)
    assert any(np.any(np.asarray(leaf)) for leaf in momenta)
    one = set_up(config, jax.devices()[:1])
    trained = fit(
        one.program,
        to_mesh(one.program.mesh, state),
        one.train,
        Keys.from_seed(0, 1).train,
        until=experiment.end_step,
    )
    theirs = load_trained(branch, 0, 0)
    assert_same(theirs.params, own.params)
    for x, y in zip(jax.tree.leaves(trained.params), jax.tree.leaves(theirs.trained), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    assert distance.l2(own.trained, theirs.trained) > 0.01


def test_orders_are_other_keys_and_the_first_is_what_it_was():
    first, same, second = Keys.from_seed(3), Keys.from_seed(3, 0), Keys.from_seed(3, 1)
    data = [jax.random.key_data(keys.train).tolist() for keys in (first, same, second)]
    assert data[0] == data[1] != data[2]
    for name in ("init", "control", "score"):
        assert getattr(first, name) == getattr(second, name)


@pytest.mark.slow
def test_what_starts_elsewhere_is_not_compared(run, tmp_path):
    _, workdir = run
    stability(workdir, levels=(1,), alphas=3, console=quiet_console())
    trial = directory.Trial(workdir / "orders" / "1", 0, 1, WINNING)
    ticket = tickets.load_ticket(trial.ticket_dir)
    kept = (tmp_path / "kept", trial.ticket_dir)
    trial.ticket_dir.rename(kept[0])
    ticket.params["head"]["bias"][0] += 1e-7
    tickets.save_ticket(trial.ticket_dir, ticket)
    with pytest.raises(TicketError, match="does not start from the mask and the weights"):
        stability(workdir, levels=(1,), alphas=3, console=quiet_console())
    shutil.rmtree(kept[1])
    kept[0].rename(kept[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"levels": (3,)}, "has no level 3; it has 0 to 2"),
        ({"controls": ("random",)}, "has no control 'random'; it has reinit, shuffle_layers"),
        ({"orders": 0}, "orders: 0 is not 1 or more"),
        ({"alphas": 1}, "alphas: 1 leave none"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(run, arguments, message):
    _, workdir = run
    with pytest.raises(ConfigError, match=message):
        stability(workdir, console=quiet_console(), **arguments)


@pytest.mark.parametrize(
    "section, key, value, remedy",
    [
        ("ladder", "optimizer_state", "restored", "a run with 'fresh' can be analysed"),
        ("ladder", "retrain", "lr", "a run with 'weights' can be analysed"),
        ("ladder", "retrain", "finetune", "a run with 'weights' can be analysed"),
        ("ladder", "pretrained", "elsewhere", "a run with '' can be analysed"),
        ("transfer", "align", True, "a run with False can be analysed"),
    ],
)
def test_runs_without_branches_are_refused_before_anything_is_trained(
    tmp_path, section, key, value, remedy
):
    record.record_config(tmp_path, make_tiny_config())
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["config"][section][key] = value
    (tmp_path / "config.json").write_text(json.dumps(stored))
    message = f"{tmp_path}: has config.{section}.{key}={value!r}.*{remedy}"
    with pytest.raises(ConfigError, match=message):
        stability(tmp_path, console=quiet_console())
    with pytest.raises(ConfigError, match=message):
        rewind(tmp_path, level=1, console=quiet_console())
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("control", NOT_IN_BRANCHES)
def test_controls_that_no_branch_can_train_are_refused_if_named(tmp_path, control):
    record.record_config(tmp_path, make_tiny_config(controls=(control, "reinit")))
    with pytest.raises(ConfigError, match=f"controls: {control} depends on .*; leave it out"):
        stability(tmp_path, controls=("reinit", control), console=quiet_console())


@pytest.mark.long
def test_a_run_with_every_control_is_branched_without_those_that_no_branch_can_train(tmp_path):
    """Whichever controls are asked for first, the branch is the same run, and others can follow."""
    others = ("reinit", "shuffle_layers", "random", "random_preserved", "dense_sign", "noise_0.5",
              "noise_3", "resample")  # fmt: skip
    config = make_tiny_config(
        **{"model.width": 0.1, "controls": (*NOT_IN_BRANCHES, *others), "train.epochs": 1,
           "ladder.levels": 1, "ladder.rewind": "2st"},
    )  # fmt: skip
    run_ladder(config, tmp_path, console=quiet_console())
    console = quiet_console()
    first = stability(tmp_path, controls=("shuffle_layers",), alphas=3, console=console)
    assert [(row["level"], row["control"]) for row in first] == [
        (0, WINNING), (1, WINNING), (1, "shuffle_layers"),
    ]  # fmt: skip
    before = times_of_tickets(tmp_path / "orders")
    rows = stability(tmp_path, alphas=3, console=console)
    assert [row["control"] for row in rows] == [WINNING, WINNING, *others]
    assert [row for row in rows if row["control"] in (WINNING, "shuffle_layers")] == first
    after = times_of_tickets(tmp_path / "orders")
    assert {path: after[path] for path in before} == before and len(after) == len(rows)


def test_only_is_for_transfers(tmp_path):
    config = make_tiny_config()
    with pytest.raises(ConfigError, match="only: is for transfer runs"):
        run_ladder(config, tmp_path, console=quiet_console(), only=lambda trial: True)


@pytest.mark.slow
def test_levels_are_compared_from_their_tickets(run):
    _, workdir = run
    rows = levels(workdir, alphas=3, within=0.05, console=quiet_console())
    assert [(r["seed"], r["level"], r["next_level"]) for r in rows] == [
        (s, level, level + 1) for s in (0, 1) for level in (0, 1)
    ]
    for row in rows:
        dense, ticket, following = (
            1 - load_trained(workdir, row["seed"], level).metadata["result"]["test_accuracy"]
            for level in (0, row["level"], row["next_level"])
        )
        assert (row["dense_error"], row["error"], row["next_error"]) == (dense, ticket, following)
        assert row["error_a"] == pytest.approx(ticket) and row["error_b"] == pytest.approx(
            following
        )
        assert row["matches"] == (following - dense <= 0.05 + 1e-9)
    assert levels(workdir, alphas=3, within=0.05, epoch=2, console=quiet_console()) == [
        {key: approx_if_number(value) for key, value in row.items()} for row in rows
    ]
    for row in levels(workdir, alphas=3, epoch=1, console=quiet_console()):
        for column, level in {"error": row["level"], "next_error": row["next_level"]}.items():
            kept = tickets.load_epoch(
                directory.Trial(workdir, row["seed"], level, WINNING).ticket_dir, 1
            )
            assert row[column] == pytest.approx(1 - evaluate_ticket(kept).accuracy)


def approx_if_number(value):
    return pytest.approx(value) if isinstance(value, float) else value
