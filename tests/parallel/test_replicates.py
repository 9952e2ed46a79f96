"""Replicates that train together: the same tickets as one by one, wherever they are computed."""

import signal

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lottery_jax import tickets
from lottery_jax.errors import TrainingError
from lottery_jax.parallel.mesh import keys_to_mesh, make_mesh, to_host, to_mesh
from lottery_jax.parallel.replicates import (
    REPLICA_SPEC,
    Layout,
    choose_layout,
    cpu_devices,
    stack_keys,
    stack_to_mesh,
    unstack,
)
from lottery_jax.pruning import masks
from lottery_jax.pruning.controls import UntrainedTicket
from lottery_jax.runs import checkpoints, store, trials
from lottery_jax.runs.experiment import set_up
from lottery_jax.runs.ladder import run_ladder
from lottery_jax.system.files import remove
from lottery_jax.training.loop import fit
from lottery_jax.training.state import init_state
from tests.faults import runs
from tests.helpers import make_tiny_config

# Three replicates with a control from step 0 and one from the rewind point.
SEVERAL = {
    "model.width": 0.2,
    "seeds": (0, 1, 2),
    "controls": ("random", "shuffle_layers"),
    "data.augment": "crop",
    "ladder.rewind": "5st",
}


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    """What the replicates find by themselves on one device."""
    workdir = tmp_path_factory.mktemp("apart") / "run"
    run(workdir, 1, **{"train.together": 1})
    return runs.outcome(workdir)


def run(workdir, devices, **overrides):
    config = make_tiny_config(**(SEVERAL | overrides))
    run_ladder(config, workdir, devices=jax.devices()[:devices], console=quiet_console())


def quiet_console():
    from rich.console import Console

    return Console(quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "devices, together",
    [
        (2, 0),
        pytest.param(3, 0, marks=pytest.mark.long),
        pytest.param(1, 3, marks=pytest.mark.long),
    ],
)
def test_together_they_find_what_they_find_one_by_one(tmp_path, one_by_one, devices, together):
    """Bit for bit: weights, masks, optimizer steps, every row; also where a place is left over."""
    run(tmp_path / "run", devices, **{"train.together": together})
    assert runs.outcome(tmp_path / "run") == one_by_one


@pytest.mark.long
def test_replicates_that_are_at_different_points_go_on_alike(tmp_path, one_by_one):
    """As if a run had been killed at a bad moment, then gone on with in other groups."""
    workdir = tmp_path / "run"
    run(workdir, 2)
    for gone in (
        "seed_0/level_02/random",  # one control of one seed
        "seed_1/level_01",  # and all that follows from it
        "seed_1/level_02",
        "seed_2/rewind",  # made again, though all that needs it is there
        "seed_2/level_02/ticket",
    ):
        remove(workdir / gone)
    run(workdir, 2, **{"train.together": 2})
    assert runs.outcome(workdir) == one_by_one


@pytest.mark.long
def test_a_replicate_ahead_of_the_others_does_not_change_them(tmp_path, one_by_one):
    """Stopped where one has a checkpoint and another has not."""
    workdir = tmp_path / "run"
    real, saved = checkpoints.save_state, []

    def save_once(folder, state, progress=None, **more):
        if len(saved) == 4:  # three rewind points, and the first one's checkpoint
            raise OSError(28, "No space left on device", str(folder))
        saved.append(folder)
        real(folder, state, progress, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "save_state", save_once)
        with pytest.raises(OSError, match="No space"):
            run(workdir, 2)
    steps = [
        checkpoints.latest_step(workdir / f"seed_{s}/level_00/state/winning") for s in (0, 1, 2)
    ]
    assert steps == [11, -1, -1]
    run(workdir, 2)
    assert runs.outcome(workdir) == one_by_one


@pytest.mark.slow
def test_one_compilation_serves_all_levels_seeds_and_controls(tmp_path, quiet):
    config = make_tiny_config(**SEVERAL)
    programs = []
    with pytest.MonkeyPatch.context() as patch:
        import lottery_jax.runs.experiment as experiment

        real = experiment.make_program

        def make_program(*args, **kwargs):
            programs.append(real(*args, **kwargs))
            return programs[-1]

        patch.setattr(experiment, "make_program", make_program)
        run_ladder(config, tmp_path / "run", devices=jax.devices()[:2], console=quiet)
    (program,) = programs
    assert program.stacked.train_step._cache_size() == 1
    assert program.stacked.eval_pass._cache_size() == 1
    assert program.train_step._cache_size() == 0


@pytest.mark.parametrize(
    "model, replica, vmapped",
    [
        pytest.param("lenet_300_100", 1, True, marks=pytest.mark.long),
        # Two seeds together in tests/sweep/test_sweep.py are the small form of it.
        pytest.param("lenet_300_100", 2, True, marks=pytest.mark.slow),
        pytest.param("lenet_300_100", 8, False, marks=pytest.mark.slow),
        pytest.param("vgg11", 2, False, marks=pytest.mark.long),
        pytest.param("vgg11", 2, True, marks=pytest.mark.long),
    ],
)
def test_a_stacked_step_is_each_one_by_itself(model, replica, vmapped):
    """On a mesh of replica x data, with BatchNorm and momentum; `vmap` rounds in another way.

    Compared with as many devices as share a batch there.
    """
    config = make_tiny_config(model, **{"data.augment": "crop", "optimizer.learning_rate": 0.01})
    alone = set_up(config, jax.devices()[: 8 // replica])
    seeds = (3, 4)
    starts = {seed: alone.init(jax.random.key(seed)) for seed in seeds}

    def begin(variables):
        mask = masks.ones_like(variables["params"])
        return init_state(alone.program.optimizer, UntrainedTicket(mask, variables, 0))

    expected = [
        jax.device_get(
            fit(
                alone.program,
                to_mesh(alone.program.mesh, begin(starts[seed])),
                alone.train,
                jax.random.key(seed + 10),
                until=12,
            )
        )
        for seed in seeds
    ]
    with pytest.MonkeyPatch.context() as patch:
        import lottery_jax.runs.experiment as experiment

        size = max(2, replica)
        layout = Layout(replica, size, vmapped)
        patch.setattr(experiment, "choose_layout", lambda *args, **kwargs: layout)
        setup = set_up(config, jax.devices()[:8])
    mesh = setup.program.mesh
    assert dict(mesh.shape) == {"replica": replica, "data": 8 // replica}
    losses = []
    state = fit(
        setup.program,
        stack_to_mesh(mesh, [begin(starts[seed]) for seed in seeds], size),
        setup.train,
        stack_keys([jax.random.key(seed + 10) for seed in seeds], size),
        until=12,
        on_epoch=lambda state, report: losses.append(report.train_loss),
    )
    assert losses[0].shape == (size,)
    measured = setup.program.evaluate(state, setup.test)
    for i, (found, wanted) in enumerate(
        zip(unstack(to_host(state), 2, size), expected, strict=True)
    ):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)
        own = alone.program.evaluate(to_mesh(alone.program.mesh, wanted), alone.test)
        assert measured.accuracy[i] == pytest.approx(own.accuracy, abs=0.003)
        assert measured.loss[i] == pytest.approx(own.loss, rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("when", ["training", "saving"])
def test_a_replicate_that_fails_does_not_take_the_others_with_it(tmp_path, one_by_one, when):
    """One of seed 1's weights is infinite from level 1 on; it is named, and the others are kept."""
    workdir = tmp_path / "run"
    real_put, real_save = trials.stack_to_mesh, checkpoints.save_state

    def spoiled(mesh, states, size):
        states = list(states)
        for i, state in enumerate(states):
            if np.array_equal(state.mask["head"]["kernel"], spoil):
                params = jax.tree.map(lambda a: np.full_like(a, np.inf), state.params)
                states[i] = state.replace(params=params)
        return real_put(mesh, states, size)

    def refuse(folder, state, progress=None, **more):
        if np.array_equal(state.mask["head"]["kernel"], spoil):
            raise TrainingError("params is not finite")
        real_save(folder, state, progress, **more)

    # The mask by which that replicate can be told from the others.
    run(tmp_path / "whole", 2)
    spoil = tickets.load_ticket(tmp_path / "whole/seed_1/level_01/ticket").mask["head"]["kernel"]
    with pytest.MonkeyPatch.context() as patch:
        if when == "training":
            patch.setattr(trials, "stack_to_mesh", spoiled)
        else:
            patch.setattr(store, "save_state", refuse)
        with pytest.raises(TrainingError) as raised:
            run(workdir, 2)
    assert str(raised.value).startswith("seed 1, level 1, winning: ")
    assert str(raised.value).count("seed 1") == 1
    # Beside it: another seed's ticket, and its own control.
    beside = [("seed_0", "winning", "ticket"), ("seed_1", "shuffle_layers", "shuffle_layers")]
    for seed, control, name in beside:
        level = workdir / seed / "level_01"
        if when == "training":
            assert tickets.is_complete(level / name)
        else:  # at the end of an epoch, to go on from there
            assert checkpoints.latest_step(level / "state" / control) == 11
    assert not tickets.is_complete(workdir / "seed_1/level_01/ticket")
    run(workdir, 2)
    assert runs.outcome(workdir) == one_by_one


@pytest.mark.long
def test_a_stop_that_comes_while_one_fails_is_not_lost(tmp_path, one_by_one):
    """The others would be trained without it, but are saved."""
    workdir, real = tmp_path / "run", trials.fit

    def failing(*args, **kwargs):
        if kwargs["until"] == 5:  # to the rewind points
            return real(*args, **kwargs)
        patch.setattr(trials, "fit", real)
        signal.raise_signal(signal.SIGINT)
        raise TrainingError("nothing is wrong", replicate=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "fit", failing)
        with pytest.raises(KeyboardInterrupt):
            run(workdir, 2)
    steps = [
        checkpoints.latest_step(workdir / f"seed_{s}/level_00/state/winning") for s in (0, 1, 2)
    ]
    assert steps[0] == steps[2] > 0 and steps[1] == -1
    run(workdir, 2)
    assert runs.outcome(workdir) == one_by_one


@pytest.mark.long
def test_a_rewind_point_made_again_leaves_later_checkpoints_alone(tmp_path, one_by_one):
    """Of a replicate that is beyond it, while another one is only at its start."""
    workdir, config = tmp_path / "run", make_tiny_config(**{**SEVERAL, "ladder.rewind": "1ep"})
    run_ladder(config, tmp_path / "whole", devices=jax.devices()[:2], console=quiet_console())
    real = tickets.save_ticket

    def stop(path, ticket):
        raise OSError(28, "No space left on device", str(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tickets, "save_ticket", stop)
        with pytest.raises(OSError, match="No space"):
            run_ladder(config, workdir, devices=jax.devices()[:2], console=quiet_console())
    assert real is tickets.save_ticket
    for gone in ("seed_0/rewind", "seed_1"):
        remove(workdir / gone)
    run_ladder(config, workdir, devices=jax.devices()[:2], console=quiet_console())
    assert runs.outcome(workdir) == runs.outcome(tmp_path / "whole")


@given(
    st.integers(1, 40), st.integers(1, 64), st.sampled_from(["cpu", "gpu", "tpu"]), st.booleans(),
    st.integers(0, 40),
)  # fmt: skip
def test_a_layout_uses_all_devices_and_asks_for_no_more_than_is_allowed(
    replicates, devices, platform, fully_connected, together
):
    layout = choose_layout(
        replicates, devices, platform, fully_connected=fully_connected, max_stacked=together
    )
    # No place is idle for want of replicates, and unless that is asked for none has two that convolve.
    assert (
        devices % layout.replica_axis_size
        == layout.stack_size % layout.replica_axis_size
        == 0
        < layout.stack_size
    )
    assert layout.replica_axis_size <= replicates
    assert fully_connected or together or layout.stack_size == layout.replica_axis_size
    if together:
        assert layout.stack_size <= together
    assert not (layout.vmapped and (platform == "cpu" or not fully_connected))
    if together == 1 or replicates == 1:
        assert layout == Layout(1, 1, False)


def test_a_cpu_is_as_many_devices_as_replicates_need():
    assert cpu_devices(8, 4, fully_connected=True) == 4
    assert cpu_devices(3, 4, fully_connected=True) == 3
    assert cpu_devices(8, 4, fully_connected=True, max_stacked=2) == 2
    assert cpu_devices(8, 4, fully_connected=False) == 1
    assert cpu_devices(1, 4, fully_connected=True) == 1


def test_a_mesh_has_replicas_outside_and_shares_of_batches_inside():
    mesh = make_mesh(jax.devices(), 4)
    assert mesh.axis_names == ("replica", "data") and mesh.devices.shape == (4, 2)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_on_the_mesh_are_the_same_keys(impl):
    mesh = make_mesh(jax.devices()[:4], replica=4)
    keys = jax.random.split(jax.random.key(3, impl=impl), 4)
    for there, devices in (
        (keys_to_mesh(mesh, keys), 4),
        (keys_to_mesh(mesh, keys, REPLICA_SPEC), 1),
    ):
        assert (jax.random.key_data(there) == jax.random.key_data(keys)).all()
        assert jax.random.key_impl(there) == jax.random.key_impl(keys)
        # Whole on each of the devices, or one on each.
        assert [shard.data.shape for shard in there.addressable_shards] == [(devices,)] * 4
        draws = jax.jit(jax.vmap(jax.random.bits))
        assert (draws(there) == draws(keys)).all()
