"""`tickets compact`: smaller tickets, and files that compute the same without this package."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest

from lottery_jax import tickets
from lottery_jax.errors import ConfigError
from lottery_jax.pruning import masks
from lottery_jax.tickets.__main__ import main
from lottery_jax.tickets.compacted import compact_ticket, compiled, export_stablehlo
from lottery_jax.tickets.torch_module import export_torch_module
from tests.helpers import assert_same, synthetic_ticket

SHAPE = (32, 32, 3)


def dead(name="lenet_300_100", shape=(8, 8, 1), density=0.5, **options):
    """A ticket some of whose units nothing reads, and others nothing feeds."""
    ticket = synthetic_ticket(name, shape, density, **({"width": 0.1} | options))
    rng = np.random.default_rng(0)

    def cut(path, kept):
        kept = np.array(kept)
        if path[-1].key == "kernel":
            kept[..., rng.random(kept.shape[-1]) < 0.2] = False
            kept[..., rng.random(kept.shape[-2]) < 0.2, :] = False
        return kept

    mask = jax.tree_util.tree_map_with_path(cut, ticket.mask)
    trained_stats = jax.tree.map(np.abs, ticket.trained_batch_stats)  # variances are positive
    trees = {
        n: jax.device_get(masks.apply(mask, getattr(ticket, n))) for n in ("params", "trained")
    }
    return dataclasses.replace(ticket, mask=mask, trained_batch_stats=trained_stats, **trees)


def test_a_smaller_ticket(tmp_path, capsys):
    """It loads as any other, has the outputs of the larger one, and says what it is."""
    large, out = tmp_path / "large.safetensors", tmp_path / "small.safetensors"
    tickets.save_ticket(large, dead())
    assert main(["compact", str(large), str(out)]) == 0
    shown = capsys.readouterr().out
    small = tickets.load_ticket(out)
    widths = small.metadata["model"]["widths"]
    assert 1 < widths["dense1"] < 30 and 1 < widths["dense2"] <= 10
    assert small.metadata["compacted"]["units"] == [sum(widths.values()), 40]
    assert not small.metadata["compacted"]["trainable"]
    for text in ("units of dense1", "parameters", "multiply-adds", "batch of 256"):
        assert text in shown
    images = np.random.default_rng(1).normal(size=(5, 8, 8, 1)).astype(np.float32)
    before, after = (compiled(each)(images) for each in (tickets.load_ticket(large), small))
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())
    assert out.stat().st_size < large.stat().st_size
    assert main(["compact", str(large), str(out)]) == 2
    assert "--force" in capsys.readouterr().err


def test_where_nothing_can_go(tmp_path, capsys):
    large = tmp_path / "large.safetensors"
    tickets.save_ticket(large, synthetic_ticket("lenet_300_100", (8, 8, 1), 0.9, width=0.1))
    assert main(["compact", str(large), str(tmp_path / "small")]) == 0
    assert "no unit can go" in capsys.readouterr().out
    assert_same(tickets.load_ticket(tmp_path / "small").trained, tickets.load_ticket(large).trained)


def test_a_smaller_start():
    """Without units that nothing reads, the start has the outputs of the larger one's start, too."""
    large = dead()
    small, found = compact_ticket(large, fold=False)
    assert found.folded == 0 and small.metadata["compacted"]["trainable"]
    images = np.random.default_rng(1).normal(size=(5, 8, 8, 1)).astype(np.float32)
    starts = [
        dataclasses.replace(t, trained=t.params, trained_batch_stats=t.batch_stats)
        for t in (large, small)
    ]
    before, after = (compiled(each)(images) for each in starts)
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def test_a_network_of_ones_own():
    ticket = dead()
    ticket.metadata["model"] = {"name": "mine:Net"}
    with pytest.raises(ConfigError, match="lottery_jax.pruning.compaction.compact"):
        compact_ticket(ticket)


CHECK = """
import sys
sys.modules["lottery_jax"] = None  # whoever imports it fails
import numpy as np
import jax, importlib.util, torch

for name in sys.argv[2:]:
    folder = sys.argv[1] + "/" + name
    known = np.load(folder + ".npz")
    exported = jax.export.deserialize(bytearray(open(folder + ".stablehlo", "rb").read()))
    spec = importlib.util.spec_from_file_location(name, folder + ".py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.Network()
    model.load_state_dict(torch.load(folder + ".pth", weights_only=True))
    model.eval()
    images, expected = known["images"], known["outputs"]
    with torch.no_grad():
        theirs = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    for found in (theirs, np.asarray(exported.call(images)), exported.call(images[:1])):
        error = np.abs(found - expected[: len(found)]).max() / np.abs(expected).max()
        assert error < 1e-4, (name, error)
    print(name, error)
"""


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("conv2", "vgg11"), marks=pytest.mark.slow),
        pytest.param(
            ("lenet_300_100", "conv6", "alexnet", "resnet20", "resnet18", "resnet50", "vit_tiny"),
            marks=pytest.mark.long,
        ),
        pytest.param(("resnet50_imagenet",), marks=pytest.mark.long),
    ],
)
def test_files_for_others(tmp_path, names):
    """A PyTorch module and a StableHLO program, in a process that can't import this package."""
    for name in names:
        built, imagenet, _ = name.partition("_imagenet")
        options = {"stem": "imagenet"} if imagenet else {}
        shape = (8, 8, 2) if name == "conv2" else SHAPE
        width = 0.1 if name == "conv2" else 0.06
        small, found = compact_ticket(dead(built, shape, width=width, **options))
        assert found.widths != found.widths_before
        images = np.random.default_rng(1).normal(size=(3, *shape)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", images=images, outputs=compiled(small)(images))
        export_torch_module(tmp_path / f"{name}.py", small)
        export_stablehlo(tmp_path / f"{name}.stablehlo", small)
    check = [sys.executable, "-c", CHECK, str(tmp_path), *names]
    done = subprocess.run(check, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(names)
