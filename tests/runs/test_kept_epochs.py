"""Weights that are kept after epochs: they are those of the training, and outlive it."""

import shutil

import jax
import numpy as np
import pytest

from lottery_jax import evaluate, tickets
from lottery_jax.errors import TicketError
from lottery_jax.opened import open_run
from lottery_jax.runs import experiment
from lottery_jax.runs.directory import Trial
from lottery_jax.runs.store import RunStore
from lottery_jax.training.loop import fit
from lottery_jax.training.program import init_device_state
from tests.helpers import assert_same, make_tiny_config, run_quietly
from tests.helpers import load_trained as load


def config_of(**overrides):
    return make_tiny_config(
        controls=("reinit",),
        **{
            "model.width": 0.1,
            "train.epochs": 4,
            "train.keep_epochs": (1, -2),
            "ladder.levels": 1,
            "ladder.rewind": "1ep",
            **overrides,
        },
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("kept") / "run"
    return workdir, run_quietly(config_of(), workdir)


@pytest.mark.slow
def test_the_epochs_that_a_training_reaches_are_kept(run):
    """Tickets start at the end of epoch 1; the last epoch has the weights of the ticket itself."""
    workdir, _ = run
    for level, control, epochs in [
        (0, "winning", [1, 2, 4]),
        (1, "winning", [2, 4]),
        (1, "reinit", [1, 2, 4]),
    ]:
        folder = Trial(workdir, 0, level, control).ticket_dir
        assert tickets.kept_epochs(folder) == epochs
        last, whole = tickets.load_epoch(folder, 4), tickets.load_ticket(folder)
        assert_same(last.trained, whole.trained)
        assert_same(last.mask, whole.mask)
        assert not np.array_equal(
            tickets.load_epoch(folder, 2).trained["head"]["kernel"], whole.trained["head"]["kernel"]
        )


@pytest.mark.slow
def test_a_kept_epoch_is_that_of_a_hand_written_training(run):
    workdir, _ = run
    setup = experiment.set_up(config_of(), jax.devices()[:1])
    ticket = load(workdir, 0, 1)
    state = init_device_state(setup.program, ticket.variables, ticket.mask, step=11)
    train_key = jax.random.split(jax.random.key(0), 4)[1]
    state = jax.device_get(fit(setup.program, state, setup.train, train_key, until=22))
    assert_same(open_run(workdir).ticket(0, 1, epoch=2).trained, state.params)


@pytest.mark.slow
def test_evaluate_measures_a_kept_epoch(run, capsys):
    workdir, _ = run
    folder = Trial(workdir, 0, 1, "winning").ticket_dir
    measured = evaluate.evaluate_ticket(tickets.load_epoch(folder, 2))
    assert evaluate.main([f"--ticket={folder}", "--epoch=2"]) == 0
    assert f"{measured.accuracy:.2%} on the test set" in capsys.readouterr().out
    assert evaluate.main([f"--ticket={folder}", "--epoch=3"]) == 2
    assert "epoch 3 was not kept; kept epochs: 2, 4" in capsys.readouterr().err


@pytest.mark.slow
def test_a_damaged_epoch_is_refused(run, tmp_path):
    """A bit of the weights, in the largest file, is another."""
    shutil.copytree(run[0] / "seed_0" / "level_01", tmp_path / "level_01")
    kept = tmp_path / "level_01" / "epochs" / "ticket" / "00004"
    file = max((path for path in kept.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    with pytest.raises(TicketError, match="00004"):
        tickets.load_epoch(tmp_path / "level_01" / "ticket", 4)
    assert tickets.load_epoch(tmp_path / "level_01" / "ticket", 2).metadata["result"] == {}


@pytest.mark.long
def test_a_crash_loses_no_kept_epoch_and_leaves_nothing_else(run, tmp_path, monkeypatch):
    """Right after an epoch's row, before it is kept; and right after it is kept."""
    workdir, _ = run
    save, calls = RunStore.save_epochs, []

    def disturbed(store, reached):
        calls.append(reached)
        if len(calls) == 2:
            raise RuntimeError("a crash")
        save(store, reached)
        if len(calls) == 4:
            raise RuntimeError("a crash")

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "save_epochs", disturbed)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="a crash"):
                run_quietly(config_of(), tmp_path / "run")
    run_quietly(config_of(), tmp_path / "run")
    for level, control in [(0, "winning"), (1, "winning"), (1, "reinit")]:
        folders = [Trial(w, 0, level, control).ticket_dir for w in (workdir, tmp_path / "run")]
        assert tickets.kept_epochs(folders[0]) == tickets.kept_epochs(folders[1])
        for epoch in tickets.kept_epochs(folders[0]):
            assert_same(*(tickets.load_epoch(folder, epoch).trained for folder in folders))
    assert not list((tmp_path / "run").glob("seed_*/level_*/state"))
