"""Transfer: another run's masks and rewind weights, bit for bit, on other data or optimizers."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from rich.console import Console

from lottery_jax import curve, tickets
from lottery_jax.datasets import write_npz
from lottery_jax.datasets.images import fit_shape
from lottery_jax.errors import ConfigError, DataError, TicketError
from lottery_jax.evaluate import evaluate_ticket
from lottery_jax.pruning import masks
from lottery_jax.runs import directory, record
from lottery_jax.runs.feasibility import check_choices
from lottery_jax.runs.ladder import run_ladder
from lottery_jax.runs.matrix import cells, run_matrix
from tests.helpers import assert_same, make_tiny_config, pruned_values, quiet_console, run_quietly
from tests.helpers import load_trained as load

LEVELS = 2


def tree_of_files(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A finished ladder on digits, found by SGD and rewound to step 5."""
    workdir = tmp_path_factory.mktemp("source") / "run"
    config = make_tiny_config(
        seeds=(0, 1),
        **{"ladder.rewind": "5st", "ladder.prune_fraction": 0.6, "model.width": 0.5,
           "train.checkpoint_every_epochs": 0},
    )  # fmt: skip
    run_quietly(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """`four`: coloured images of other sizes and four classes, made up."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 300), ("test", 80)):
        labels = np.arange(count) % 4
        pixels = rng.integers(0, 80, (count, 10, 7, 3)) + 40 * labels[:, None, None, None]
        arrays[f"x_{split}"], arrays[f"y_{split}"] = pixels.astype(np.uint8), labels
    write_npz(folder / "four.npz", arrays)
    return folder


def target_config(source, /, **overrides):
    base = {"source": str(source), "model.width": 0.5, "seeds": (1,),
            "train.checkpoint_every_epochs": 0}  # fmt: skip
    return make_tiny_config(**{**base, **overrides})


def test_the_sources_tickets_are_trained_bit_for_bit(source, tmp_path):
    """Mask and rewind weights are the source's at every level; no mask is drawn on the target."""
    before = tree_of_files(source)
    config = target_config(source, **{"data.name": "digits_b", "controls": ("init", "random")})
    run_quietly(config, tmp_path)
    assert tree_of_files(source) == before
    for level in range(LEVELS + 1):
        theirs, ours = load(source, 1, level), load(tmp_path, 1, level)
        assert_same(ours.mask, theirs.mask)
        assert_same(ours.params, theirs.params)
        assert (pruned_values(ours.mask, ours.trained) == 0).all()
        assert not np.array_equal(ours.trained["head"]["kernel"], theirs.trained["head"]["kernel"])
        assert ours.metadata["data"] == "digits_b"
        assert ours.metadata["found_by"]["data"] == "digits"
        assert ours.metadata["found_by"] == theirs.metadata["found_by"]
    # The weights of step 0 are those that the source began with, and not those of its step 5.
    initial, rewound = load(tmp_path, 1, 1, "init"), load(tmp_path, 1, 1)
    assert_same(initial.mask, rewound.mask)
    assert not np.array_equal(
        initial.params["dense1"]["kernel"], rewound.params["dense1"]["kernel"]
    )
    plain = make_tiny_config(**{"model.width": 0.5, "seeds": (1,), "ladder.levels": 0,
                                "ladder.rewind": 0})  # fmt: skip
    run_quietly(plain, tmp_path / "plain")
    began = load(tmp_path / "plain", 1, 0).params
    kept = initial.mask["dense1"]["kernel"]
    np.testing.assert_array_equal(
        initial.params["dense1"]["kernel"], np.where(kept, began["dense1"]["kernel"], 0)
    )


@pytest.mark.long
def test_images_are_resized_to_the_ticket_and_for_its_evaluation(source, data_dir, tmp_path):
    """Images of 10 x 7 pixels for tickets of 8 x 8: averaged down one way, enlarged the other."""
    config = target_config(
        source, **{"data.name": "four", "data.dir": str(data_dir), "train.batch_size": 50,
                   "ladder.levels": 1, "data.resize": "bilinear"},
    )  # fmt: skip
    rows = run_quietly(config, tmp_path)
    ticket = load(tmp_path, 1, 1)
    assert ticket.metadata["resize"] == "bilinear" and "resize" not in load(source, 1, 1).metadata
    with np.load(data_dir / "four.npz") as arrays:
        images = fit_shape(arrays["x_train"], (8, 8, 1), "bilinear") / 255
    np.testing.assert_allclose(ticket.metadata["mean"], [images.mean()], rtol=1e-6)
    measured = evaluate_ticket(ticket, data_dir)
    assert measured.accuracy == rows[1]["test_accuracy"]
    assert measured.loss == pytest.approx(rows[1]["test_loss"], rel=1e-4)
    padded = {key: value for key, value in ticket.metadata.items() if key != "resize"}
    other = evaluate_ticket(dataclasses.replace(ticket, metadata=padded), data_dir)
    assert other.loss != pytest.approx(rows[1]["test_loss"], rel=1e-2)
    # What it can't be is refused as a ticket.
    file = directory.Trial(tmp_path, 1, 1, curve.WINNING).ticket_dir / "metadata.json"
    file.write_text(file.read_text().replace("bilinear", "bicubic!"))
    with pytest.raises(TicketError, match="a value has the wrong type or range"):
        load(tmp_path, 1, 1)


def test_a_transferred_network_that_learns_nothing_is_named(source, tmp_path):
    config = target_config(
        source, **{"transfer.head": "reinit", "ladder.levels": 0, "optimizer.learning_rate": 1e-9}
    )
    with (tmp_path / "out").open("w") as file:
        console = Console(file=file, width=400)
        run_ladder(config, tmp_path / "run", devices=jax.devices()[:1], console=console)
    said = (tmp_path / "out").read_text()
    assert said.count("seed 1, level 0, winning: the dense network has learned nothing") == 1
    assert "data.resize" not in said  # no image was padded


def test_the_ladder_keys_are_the_sources(source, tmp_path):
    config = target_config(source, **{"ladder.levels": 30, "ladder.prune_fraction": 0.2})
    rows = run_quietly(config, tmp_path)
    assert [row["level"] for row in rows] == [0, 1, 2]
    # Resumed by whatever path leads to the same source; refused for another source.
    same = target_config(f"{source.parent}/./run", **{"ladder.levels": 30})
    assert run_quietly(same, tmp_path) == rows
    stored = record.read_config(tmp_path)
    assert stored.ladder.prune_fraction == 0.6 and stored.ladder.rewind == "5st"
    assert stored.ladder.levels == 2


@pytest.mark.slow
def test_a_new_head_is_dense_and_drawn_anew_and_images_adapt(source, data_dir, tmp_path):
    config = target_config(
        source, **{"data.name": "four", "data.dir": str(data_dir), "train.batch_size": 50,
                   "controls": ("random", "shuffle_layers")},
    )  # fmt: skip
    rows = run_quietly(config, tmp_path)
    heads = []
    for level in range(LEVELS + 1):
        theirs, ours = load(source, 1, level), load(tmp_path, 1, level)
        for layer in ("dense1", "dense2"):
            assert_same(ours.mask[layer], theirs.mask[layer])
            assert_same(ours.params[layer], theirs.params[layer])
        assert ours.metadata["input_shape"] == [8, 8, 1]
        assert ours.mask["head"]["kernel"].shape == (50, 4) and ours.mask["head"]["kernel"].all()
        heads.append(ours.params["head"]["kernel"])
        assert not np.isin(heads[0], theirs.params["head"]["kernel"]).any()
    assert_same(heads[0], heads[1])
    # The rows count what is there: the new layer's 200 weights and the source's others.
    for row in rows:
        body = sum(n for name, (n, _) in masks.layer_counts(load(source, 1, row["level"]).mask).items()
                   if name != "head")  # fmt: skip
        assert row["weights_remaining"] == body + 200
        assert row["weights_total"] == 64 * 150 + 150 * 50 + 200
    # Controls leave it dense too.
    for control in ("random", "shuffle_layers"):
        assert load(tmp_path, 1, 2, control).mask["head"]["kernel"].all()


@pytest.mark.slow
def test_a_new_head_can_keep_its_density(source, data_dir, tmp_path):
    config = target_config(
        source, **{"data.name": "four", "data.dir": str(data_dir), "train.batch_size": 50,
                   "transfer.head_mask": "density"},
    )  # fmt: skip
    run_quietly(config, tmp_path)
    kept = []
    for level in range(LEVELS + 1):
        mask = load(tmp_path, 1, level).mask["head"]["kernel"]
        theirs = load(source, 1, level).mask["head"]["kernel"]
        assert mask.sum() == round(theirs.mean() * 200)
        kept.append(mask)
    assert not (kept[2] & ~kept[1]).any() and kept[2].sum() < kept[1].sum()


@pytest.mark.long
def test_reinit_draws_a_new_head_even_where_the_classes_agree(source, tmp_path):
    configs = {
        policy: target_config(
            source,
            controls=("init",),
            **{"ladder.levels": 1, "transfer.head": policy, "transfer.head_mask": "density"},
        )
        for policy in ("reinit", "keep")
    }
    for policy, config in configs.items():
        run_quietly(config, tmp_path / policy)
    theirs = load(source, 1, 1)
    reinit, keep = (load(tmp_path / policy, 1, 1) for policy in ("reinit", "keep"))
    assert_same(keep.params, theirs.params)
    assert_same(reinit.params["dense2"], theirs.params["dense2"])
    # The same shape: the same places, other weights.
    assert_same(reinit.mask, theirs.mask)
    places = theirs.mask["head"]["kernel"]
    ours, old = reinit.params["head"]["kernel"][places], theirs.params["head"]["kernel"][places]
    assert not (ours == old).any() and (ours != 0).all()
    # The control on the weights of step 0 has the same new head: nothing else differs.
    initial = load(tmp_path / "reinit", 1, 1, "init")
    assert_same(initial.params["head"], reinit.params["head"])
    assert_same(initial.params["dense2"], load(tmp_path / "keep", 1, 1, "init").params["dense2"])


@pytest.mark.long
def test_a_new_head_is_not_the_one_that_the_source_began_with(tmp_path):
    """Rewound to step 0 the source's head is what its key drew: the new one is of another key."""
    common = {"ladder.levels": 0, "train.epochs": 1, "ladder.rewind": 0, "model.width": 0.3}
    run_quietly(make_tiny_config(**common), tmp_path / "source")
    config = make_tiny_config(
        source=str(tmp_path / "source"), **{**common, "transfer.head": "reinit"}
    )
    run_quietly(config, tmp_path / "target")
    theirs, ours = (load(tmp_path / name, 0, 0).params for name in ("source", "target"))
    assert_same(ours["dense1"], theirs["dense1"])
    assert not (ours["head"]["kernel"] == theirs["head"]["kernel"]).any()


def test_a_ticket_of_one_optimizer_is_trained_by_another(source, tmp_path):
    config = target_config(
        source, **{"optimizer.name": "adam", "optimizer.learning_rate": 1e-3, "ladder.levels": 1}
    )
    run_quietly(config, tmp_path)
    theirs, ours = load(source, 1, 1), load(tmp_path, 1, 1)
    assert_same(ours.mask, theirs.mask)
    assert_same(ours.params, theirs.params)
    assert ours.metadata["optimizer"]["name"] == "adam"
    assert ours.metadata["found_by"]["optimizer"]["name"] == "sgd"
    assert not np.array_equal(ours.trained["dense1"]["kernel"], theirs.trained["dense1"]["kernel"])


def test_a_transferred_ticket_trains_as_long_as_a_native_one(source, tmp_path):
    """From the step to which a native one would be rewound, and the same data give the same."""
    config = target_config(source, **{"ladder.levels": 1})
    run_quietly(config, tmp_path)
    assert_same(load(tmp_path, 1, 1).trained, load(source, 1, 1).trained)


@pytest.mark.parametrize(
    "override, says",
    [
        ({"source": "nowhere"}, "nowhere is not a run directory"),
        ({"model.width": 1.0}, "config.model.width 0.5, this config 1.0"),
        ({"model.name": "conv2"}, "a ticket fits its own network only"),
        ({"seeds": (0, 7)}, "has no seed 7; it has 0, 1"),
        ({"data.input_shape": (9, 9, 1)}, "the source's tickets take \\(8, 8, 1\\)"),
        ({"controls": ("innit",)}, "did you mean 'init'"),
        ({"ladder.prune_fraction": 0.5}, "0.5, but the source's ladder has 0.6"),
        ({"control_levels": (2, 9)}, "there is no level 9; config.ladder.levels is 2"),
    ],
)
def test_a_source_that_does_not_fit_is_found_at_once(source, tmp_path, override, says):
    config = target_config(source, **override)
    with pytest.raises(ConfigError, match=says):
        run_quietly(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_head_that_does_not_fit_can_not_be_kept(source, data_dir, tmp_path):
    config = target_config(
        source, **{"data.name": "four", "data.dir": str(data_dir), "train.batch_size": 50,
                   "transfer.head": "keep"},
    )  # fmt: skip
    with pytest.raises(ConfigError, match="the ticket has 10, the target 4"):
        run_quietly(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_another_source_at_the_same_place_is_refused(source, tmp_path):
    config = {"ladder.levels": 0, "train.epochs": 1, "model.width": 0.5, "ladder.rewind": 0}
    for seeds in ((1,), (1, 2)):
        there = tmp_path / "source"
        if there.exists():
            shutil.rmtree(there)
        run_quietly(make_tiny_config(**{**config, "seeds": seeds}), there)
        target = make_tiny_config(source=str(there), **{**config, "seeds": (1,)})
        if seeds == (1,):
            run_quietly(target, tmp_path / "run")
    with pytest.raises(ConfigError, match="the source's fingerprint"):
        run_quietly(target, tmp_path / "run")


def test_an_unfinished_source_is_an_error_that_names_the_level(tmp_path):
    small = {"train.epochs": 1, "model.width": 0.5}
    config = make_tiny_config(**{"ladder.levels": 1, "ladder.rewind": 0, **small})
    run_quietly(config, tmp_path / "source")
    (
        directory.Trial(tmp_path / "source", 0, 1, curve.WINNING).ticket_dir / "metadata.json"
    ).unlink()
    target = make_tiny_config(source=str(tmp_path / "source"), **small)
    with pytest.raises(ConfigError, match="no complete level 1 of seed 0"):
        run_quietly(target, tmp_path / "run")
    target.ladder.levels = 0
    assert len(run_quietly(target, tmp_path / "run")) == 1


def matrix_config(**overrides):
    return make_tiny_config(
        controls=("random",),
        **{
            "transfer.sources": ("digits_a", "digits_b"),
            "transfer.targets": ("digits_b",),
            "train.batch_size": 64,
            "train.epochs": 1,
            "ladder.levels": 1,
            "ladder.rewind": "3st",
            **overrides,
        },
    )


@pytest.mark.slow
def test_a_matrix_is_its_cells_and_resumes_cell_by_cell(tmp_path, one_device):
    workdir = tmp_path / "matrix"
    config = matrix_config()
    run_matrix(config, workdir, devices=one_device, console=quiet_console())
    runs = {p.name for p in workdir.iterdir() if p.is_dir()}
    assert runs == {"digits_a", "digits_b", "digits_a_to_digits_b"}
    theirs = load(workdir / "digits_a", 0, 1)
    ours = load(workdir / "digits_a_to_digits_b", 0, 1)
    assert_same(ours.mask, theirs.mask)
    assert_same(ours.params, theirs.params)
    assert ours.metadata["data"] == "digits_b"
    assert load(workdir / "digits_b", 0, 1, "random").metadata["data"] == "digits_b"
    assert json.loads((workdir / "config.json").read_text())["config"]["transfer"]["sources"]
    # One ticket is missing: it alone is trained again, to the same bits.
    cell = directory.Trial(workdir / "digits_a_to_digits_b", 0, 1, curve.WINNING)
    (cell.ticket_dir / "metadata.json").unlink()
    others = {p: t for p, t in tree_of_files(workdir).items() if cell.workdir not in p.parents}
    run_matrix(config, workdir, devices=one_device, console=quiet_console())
    assert_same(tickets.load_ticket(cell.ticket_dir).trained, ours.trained)
    after = tree_of_files(workdir)
    assert {p: after[p] for p in others} == others


def test_only_the_transfers_of_a_matrix_align_masks(tmp_path):
    each = list(cells(matrix_config(**{"transfer.align": True}), tmp_path))
    assert {bool(cell.source) for _, _, cell in each} == {True, False}
    for _, _, cell in each:
        assert cell.transfer.align == bool(cell.source)
        check_choices(cell)


@pytest.mark.parametrize(
    "override, says",
    [
        ({"transfer.targets": ("digits_c",)}, "did you mean 'digits"),
        ({"transfer.targets": ("four",), "data.dir": "DATA"}, "differ in shape"),
        (
            {
                "transfer.targets": ("four",),
                "data.dir": "DATA",
                "data.input_shape": (8, 8, 1),
                "transfer.head": "keep",
            },
            "the ticket has 10, the target 4",
        ),
        ({"transfer.sources": (), "transfer.targets": ()}, "at least one source"),
        ({"ladder.optimizer_state": "restored"}, "no optimizer state to restore"),
        ({"transfer.targets": ("digitsb", "digits_b")}, "two names"),
    ],
)
def test_a_matrix_that_can_not_work_is_found_before_it_begins(
    data_dir, tmp_path, one_device, override, says
):
    override = {k: str(data_dir) if v == "DATA" else v for k, v in override.items()}
    with pytest.raises((ConfigError, DataError), match=says):
        run_matrix(
            matrix_config(**override), tmp_path / "m", devices=one_device, console=quiet_console()
        )
    assert not (tmp_path / "m").exists()
