"""The table of a ticket's metadata is what runs and imports write, and what is documented."""

import pytest
from safetensors.numpy import save_file

from lottery_jax import tickets
from lottery_jax.errors import TicketError
from lottery_jax.runs.ladder import run_ladder
from lottery_jax.tickets import pytorch
from lottery_jax.tickets.metadata import KEYS, check_metadata, markdown_table
from tests.helpers import ROOT, load_trained, make_tiny_config, quiet_console, synthetic_ticket


def keys_of(*writers):
    return {name for name, key in KEYS.items() if set(key.writers) & set(writers)}


def test_a_runs_ticket_has_exactly_the_keys_of_the_table(tmp_path, one_device):
    config = make_tiny_config(
        **{"train.epochs": 1, "ladder.levels": 0, "ladder.rewind": 0, "model.width": 0.1},
        **{"data.input_shape": (9, 9, 1), "data.resize": "bilinear"},
        **{"task.options": '{"label_smoothing": 0.1}'},
    )
    run_ladder(config, tmp_path, devices=one_device, console=quiet_console())
    ticket = load_trained(tmp_path, 0, 0)
    assert set(ticket.metadata) == keys_of("maker", "save", "run")
    assert all(ticket.metadata[name] is not None for name in ticket.metadata)


def test_an_imported_ticket_has_exactly_the_keys_of_the_table(tmp_path):
    ticket = synthetic_ticket("vgg11", (16, 16, 1), 0.5, width=0.001)
    state = pytorch.from_flax(ticket.trained_variables, "vgg11", (16, 16, 1))
    save_file(state, tmp_path / "a.safetensors")
    imported = tickets.import_pytorch(
        tmp_path / "a.safetensors", {"name": "vgg11", "width": 0.001},
        data="digits", input_shape=(16, 16, 1), mean=[0.5], std=[0.25],
    )  # fmt: skip
    assert set(imported.metadata) == keys_of("maker", "save", "import")


# For each key that loading looks at, a value that it must refuse.
WRONG = {
    "model": "vgg11",
    "num_classes": 10.0,
    "input_shape": [16, 16],
    "resize": "nearest",
    "data": "../digits",
    "mean": ["x"],
    "std": 0.25,
    "layer_order": [1],
    "task": {"name": "regression", "options": 5},
    "layer_kinds": {"conv1": 2},
    "leaves": {"params": {"a//b": ["float32", [2]]}, "batch_stats": {}},
}


@pytest.mark.parametrize("name", [name for name, key in KEYS.items() if key.fits])
def test_a_value_that_does_not_fit_the_table_is_refused(tmp_path, name):
    ticket = synthetic_ticket("lenet_300_100", (8, 8, 1), 0.5, width=0.1)
    saved = tickets.save_portable(tmp_path / "a.safetensors", ticket).metadata
    saved["sha256"].pop("metadata")  # as in older tickets; else any change is refused
    assert check_metadata("a", saved) == saved
    with pytest.raises(TicketError, match="a: its metadata does not describe a model"):
        check_metadata("a", {**saved, name: WRONG[name]})


def test_the_documented_table_is_the_table():
    text = (ROOT / "docs" / "tickets.md").read_text(encoding="utf-8")
    assert f"\n\n{markdown_table()}\n" in text
