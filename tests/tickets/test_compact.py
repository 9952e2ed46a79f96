"""`tickets compact`: smaller tickets, and files that compute the same without this package."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lottery_jax import tickets
from lottery_jax.errors import ConfigError, TicketError
from lottery_jax.pruning import masks
from lottery_jax.pruning.compaction import compact
from lottery_jax.tickets import compacted
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
    (row,) = (line.split() for line in shown.splitlines() if "weights remaining" in line)
    counts = [masks.counts(tickets.load_ticket(p).mask)[0] for p in (large, out)]
    assert row[2:4] == [str(count) for count in counts] and counts[0] > counts[1]
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
    assert "no unit can go: all are read" in capsys.readouterr().out
    assert_same(tickets.load_ticket(tmp_path / "small").trained, tickets.load_ticket(large).trained)


def with_one_dead_unit(bias=-1.0):
    """A ticket with one unit that nothing feeds."""
    ticket = synthetic_ticket("lenet_300_100", (8, 8, 1), 1.0, width=0.02)
    ticket.mask["dense1"]["kernel"][:, 2] = False
    for tree in (ticket.params, ticket.trained):
        tree["dense1"]["kernel"][:, 2], tree["dense1"]["bias"][2] = 0, bias
    return ticket


def test_where_weights_go_but_no_unit(tmp_path, capsys):
    """A layer keeps its last unit, even if all weights that lead from it were folded."""
    large = tmp_path / "large.safetensors"
    ticket = synthetic_ticket("lenet_300_100", (8, 8, 1), 1.0, width=0.001)
    for tree in (ticket.mask, ticket.params, ticket.trained):
        tree["dense1"]["kernel"][...] = 0
    tickets.save_ticket(large, ticket)
    assert main(["compact", str(large), str(tmp_path / "small")]) == 0
    shown = capsys.readouterr().out
    assert "no unit can go, but 11 of the kept weights do" in shown and "all are read" not in shown


def test_the_history_of_several_compactions():
    """The counts are those of the first ticket, and what was folded once stays untrainable."""
    first, _ = compact_ticket(with_one_dead_unit())
    assert first.metadata["compacted"] == {
        "units": [7, 8], "weights_remaining": 5 * 64 + 6 * 2 + 2 * 10, "folded": 1, "trainable": False
    }  # fmt: skip
    for fold in (True, False):
        again, found = compact_ticket(first, fold=fold)
        assert found.folded == 0 and again.metadata["compacted"] == first.metadata["compacted"]
    # Where nothing is folded, the start is as good as without folding.
    second, found = compact_ticket(synthetic_ticket("lenet_300_100", (8, 8, 1), 1.0, width=0.02))
    assert found.folded == 0 and second.metadata["compacted"]["trainable"]
    second.metadata["compacted"] = "of a stranger"
    assert compact_ticket(second)[0].metadata["compacted"]["units"] == [8, 8]


def test_the_returned_ticket_is_the_written_one(tmp_path):
    small, _ = compact_ticket(tickets.save_ticket(tmp_path / "large", dead()))
    assert small.metadata["density"] == small.density
    assert small.metadata["sha256"]["trained"] == tickets.tree_hash(small.trained)
    assert tickets.save_ticket(tmp_path / "small", small).metadata == small.metadata


def test_a_wrong_compaction_is_noticed(monkeypatch):
    """The outputs of the narrower network itself are compared, too."""

    def wrong(*args, **kwargs):
        found = compact(*args, **kwargs)
        found.params["head"]["bias"] = found.params["head"]["bias"] + np.float32(0.1)
        return found

    monkeypatch.setattr(compacted, "compact", wrong)
    with pytest.raises(TicketError, match="outputs differ"):
        compact_ticket(dead())


@pytest.mark.slow
def test_all_flags(tmp_path, capsys):
    """All files are written, also of a ticket whose start has a NaN, if that is allowed."""
    pytest.importorskip("torch")
    large, out = tmp_path / "large.safetensors", tmp_path / "small.safetensors"
    module, program = tmp_path / "small.py", tmp_path / "small.stablehlo"
    ticket = with_one_dead_unit(bias=1.0)
    ticket.params["head"]["bias"][0] = np.nan
    tickets.save_ticket(large, ticket)
    command = ["compact", str(large), str(out), f"--torch={module}", f"--stablehlo={program}",
               "--unread_only"]  # fmt: skip
    assert main(command) == 2 and "--allow_nonfinite" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [large]
    assert main([*command, "--allow_nonfinite"]) == 0
    shown = capsys.readouterr().out
    small = tickets.load_ticket(out, allow_nonfinite=True)
    assert small.metadata["model"]["widths"] == {"dense1": 6, "dense2": 2}
    assert small.metadata["compacted"]["folded"] == 0
    for path in (out, module, module.with_suffix(".pth"), program):
        assert f"wrote {path}" in shown and path.stat().st_size > 100


@pytest.mark.parametrize(
    "files, message",
    [
        (["x", "--torch=x.txt"], "must end in .py"),
        (["x", "--torch=taken.py"], "taken.pth: is there already"),
        (["x.safetensors", "--stablehlo=./x.safetensors"], "one name for two files"),
        (["x", "--torch=s.py", "--stablehlo=s.pth"], "one name for two files"),
        (["x", "--stablehlo=x.stablehlo"], "needs flatbuffers"),
    ],
)
def test_mistakes(tmp_path, capsys, monkeypatch, files, message):
    """They are reported before anything is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    (tmp_path / "taken.pth").write_text("kept")
    assert main(["compact", "no_such_ticket", *files]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["taken.pth"]


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


@pytest.mark.slow
def test_training_as_documented(tmp_path, monkeypatch):
    """The lines of docs/compaction.md train the smaller start as they train the larger one."""
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parent.parent.parent / "docs" / "compaction.md").read_text()
    lines = text.partition("```python\n")[2].partition("```")[0]
    assert "range(500)" in lines
    lines = lines.replace("range(500)", "range(4)")  # rounding grows with the steps
    large, trained = dead(), []
    for ticket in (large, compact_ticket(large, fold=False)[0]):
        tickets.save_ticket("trainable.safetensors", ticket)
        names = {}
        exec(lines, names)
        trained.append(dataclasses.replace(ticket, trained=jax.device_get(names["params"])))
    images = np.asarray(names["inputs"][:5])
    before, after = (np.asarray(compiled(ticket)(images)) for ticket in trained)
    untrained = compiled(dataclasses.replace(large, trained=large.params))(images)
    assert np.abs(before - untrained).max() > 0.1 * np.abs(before).max()
    np.testing.assert_allclose(after, before, atol=1e-4 * np.abs(before).max())


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
        pytest.param(("conv2",), marks=pytest.mark.slow),
        pytest.param(
            (
                "lenet_300_100",
                "conv6",
                "vgg11",
                "alexnet",
                "resnet20",
                "resnet18",
                "resnet50",
                "vit_tiny",
            ),
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
