"""The benchmarks: both sides are the same network and the same training, and the scripts run."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lottery_jax import tickets
from lottery_jax.models import build_model, init_variables
from lottery_jax.parallel.mesh import make_mesh, to_mesh
from lottery_jax.pruning import masks
from lottery_jax.tickets.metadata import PARTS
from lottery_jax.tickets.orbax_io import load_arrays
from lottery_jax.training import optim
from lottery_jax.training.batches import DeviceData
from lottery_jax.training.loop import fit
from lottery_jax.training.program import init_device_state, make_program
from tests.helpers import assert_same, synthetic_ticket

torch = pytest.importorskip("torch")
FOLDER = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def reference(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import torch_reference

    return torch_reference


@pytest.fixture
def train_step(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import train_step

    return train_step


def test_both_sides_have_the_same_networks(train_step):
    for model in train_step.MODELS:
        train_step.check_same_network(model)


@pytest.mark.long
def test_both_sides_train_alike(reference):
    """LeNet-300-100 from the same weights with half a mask: three masked steps of SGD."""
    shape, batch = (28, 28, 1), 16
    model = build_model("lenet_300_100", 10)
    variables = jax.jit(lambda key: init_variables(model, key, shape))(jax.random.key(0))
    params = variables["params"]
    mask = masks.prune(jax.tree.map(np.abs, params), masks.ones_like(params), 0.5)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, *shape), dtype=np.uint8)
    labels = rng.integers(0, 10, batch).astype(np.int32)
    program = make_program(
        model,
        optim.make_optimizer("sgd", momentum=0.9, weight_decay=0.01),
        optim.make_schedule("constant", 0.1, steps_per_epoch=1, epochs=3),
        mesh=make_mesh(jax.devices()[:1]),
        examples=batch,
        batch_size=batch,
        mean=(0.5,),
        std=(0.25,),
    )
    state = init_device_state(program, variables, mask, 0)
    state = fit(
        program,
        state,
        to_mesh(program.mesh, DeviceData(images, labels)),
        jax.random.key(0),
        until=3,
    )

    network = reference.build("lenet_300_100", shape, 10)
    linear = [m for m in network if isinstance(m, torch.nn.Linear)]
    names = ("dense1", "dense2", "head")
    # The order of a batch changes no sum; our pixels are flattened as PyTorch's of one channel are.
    with torch.no_grad():
        for layer, name in zip(linear, names, strict=True):
            layer.weight.copy_(torch.from_numpy(np.array(params[name]["kernel"].T)))
            layer.bias.copy_(torch.from_numpy(np.array(params[name]["bias"])))
    kept = {
        key: torch.from_numpy(np.array(mask[name]["kernel"].T, np.float32))
        for key, name in zip(reference.prunable(network), names, strict=True)
    }
    reference.apply_masks(network, kept)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    pixels = (images / 255.0 - 0.5) / 0.25
    x = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))
    for _ in range(3):
        y = torch.from_numpy(labels).long()
        reference.step(network, optimizer, kept, x, y, torch.float32)
    for layer, name in zip(linear, names, strict=True):
        ours = state.params[name]["kernel"].T
        np.testing.assert_allclose(layer.weight.detach().numpy(), ours, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_a_benchmark_runs_and_writes_its_table(tmp_path):
    command = [
        sys.executable, str(FOLDER / "train_step.py"), "--models=lenet_300_100", "--batches=8",
        "--dtypes=float32", "--repeats=1", f"--out={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "train_step.json").read_text())["rows"]
    assert row["ratio"] > 0 and row["peak_mb"] > 100
    assert "| lenet_300_100 | float32 | 8 |" in (tmp_path / "train_step.md").read_text()


@pytest.mark.long
def test_the_benchmark_of_images_runs(tmp_path):
    command = [
        sys.executable, str(FOLDER / "images.py"), "--images=16", "--batch=8", "--repeats=1",
        f"--out={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "images.json").read_text())["rows"]
    assert len(rows) == 4 and all(row["rate"] > 0 for row in rows)
    assert rows[1]["of_crop"] == rows[0]["of_decode"] == 1


def test_all_sides_of_saving_write_the_same_arrays(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import ticket_saving

    ticket = ticket_saving.make_ticket("lenet_300_100", 0.107)
    sides = ticket_saving.sides(ticket, tmp_path)
    assert list(sides) == ["ticket", "arrays", "orbax", "disk"]
    for run in sides.values():
        run()
    arrays = {part: getattr(ticket, part) for part in PARTS}
    for folder in ("1/arrays", "2/arrays", "3", "4"):
        assert_same(load_arrays(tmp_path / folder, arrays), arrays)
    size = sum(file.stat().st_size for file in (tmp_path / "1").rglob("*") if file.is_file())
    assert (tmp_path / "5").stat().st_size == size


@pytest.mark.long
def test_the_benchmark_of_compaction_runs(tmp_path):
    """On a ladder of two levels, of which the second has lost a unit."""
    run = tmp_path / "run"
    config = {"model": {"name": "lenet_300_100", "width": 0.1}, "data": {"name": "digits"},
              "train": {"batch_size": 8}}  # fmt: skip
    for level in range(2):
        ticket = synthetic_ticket("lenet_300_100", (8, 8, 1), 1.0, width=0.1)
        ticket.metadata["level"] = level
        for tree in (ticket.mask, ticket.params, ticket.trained):
            tree["dense2"]["kernel"][3:][:level] = 0
        tickets.save_ticket(run / "seed_0" / f"level_0{level}" / "ticket", ticket)
    (run / "config.json").write_text(json.dumps({"config": config}))
    command = [
        sys.executable, str(FOLDER / "compaction.py"), str(run), "--repeats=1", "--steps=5",
        f"--out={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    whole, smaller, all_levels = json.loads((tmp_path / "compaction.json").read_text())["rows"]
    assert whole["units"] == whole["units_of"] == 40 and whole["multiply_adds"] == 1
    assert smaller["units"] == 39 and smaller["folded"] == smaller["multiply_adds"] < 1
    assert smaller["whole_ms"] > 0 and all_levels["compile"] > 0
    assert all_levels["multiply_adds"] == (1 + smaller["multiply_adds"]) / 2


@pytest.mark.parametrize("name", ["train_step", "ladder", "masks", "startup", "ticket_saving"])
def test_committed_tables_are_those_of_the_committed_figures(name):
    """The Markdown says what the JSON says: as many rows, on the same machine."""
    results = json.loads((FOLDER / "results" / f"{name}.json").read_text())
    table = (FOLDER / "results" / f"{name}.md").read_text()
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(lines) == len(results["rows"]) + 2
    assert results["machine"]["device"] in table
    for row in results["rows"]:
        assert any(f"{row['ratio']:.2f}" in line for line in lines) if "ratio" in row else True
