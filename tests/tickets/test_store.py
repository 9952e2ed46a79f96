"""Tickets: the same bits back, and one clear line for anything else."""

import dataclasses
import json
import os
import resource
import shutil
import signal
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as orbax
import pytest
from orbax.checkpoint import v1 as ocp

from lottery_jax import tickets
from lottery_jax.errors import EnvironmentFault, TicketError, TrainingError
from lottery_jax.models import abstract_variables, build_model, init_variables
from lottery_jax.pruning import masks, scores
from lottery_jax.runs import checkpoints
from lottery_jax.tickets import Ticket, orbax_io, portable
from lottery_jax.tickets.metadata import PARTS, metadata_hash
from lottery_jax.training import optim
from lottery_jax.training.state import EpochProgress, MetricSums, TrainState
from tests.helpers import assert_same

MODEL = {"name": "vgg11", "width": 0.05, "dtype": "float32"}
METADATA = {
    "model": MODEL,
    "num_classes": 10,
    "input_shape": [16, 16, 1],
    "layer_order": ["conv1_1"],
    "data": "digits",
    "mean": [0.3],
    "std": [0.4],
    "note": "é",
}


def example_ticket():
    """Return a ticket of random numbers, always the same ones, drawn without compiling anything."""
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, leaf.dtype),
        abstract_variables(build_model(num_classes=10, **MODEL), (16, 16, 1)),
    )
    mask = masks.prune(
        scores.magnitude(variables["params"]), masks.ones_like(variables["params"]), 0.8
    )
    params = jax.device_get(masks.apply(mask, variables["params"]))
    return Ticket(
        mask=mask,
        params=params,
        batch_stats=variables["batch_stats"],
        trained=jax.tree.map(lambda p: p * 2, params),
        trained_batch_stats=variables["batch_stats"],
        metadata=METADATA,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("tickets") / "ticket"
    return path, tickets.save_ticket(path, example_ticket())


@pytest.fixture
def copy(saved, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(saved[0], tmp_path / "ticket")


def edit_metadata(path, change):
    file = path / "metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["sha256"]["metadata"]  # older tickets have none; test the other checks
    change(metadata)
    file.write_text(json.dumps(metadata))


def test_a_ticket_comes_back_bit_for_bit(saved):
    path, written = saved
    loaded = tickets.load_ticket(path)
    original = example_ticket()
    for part in ("mask", "params", "batch_stats", "trained", "trained_batch_stats"):
        assert_same(getattr(loaded, part), getattr(original, part))
    assert loaded.metadata == written.metadata
    assert loaded.metadata["note"] == "é"
    kept, total = masks.counts(original.mask)
    assert loaded.metadata["weights_remaining"] == kept
    assert loaded.density == kept / total == loaded.metadata["density"]
    assert loaded.metadata["layers"]["conv1_1"] == list(
        masks.layer_counts(original.mask)["conv1_1"]
    )


@pytest.mark.long
def test_settings_of_jax_make_no_ticket_a_bad_one(saved):
    """For example those that let JAX refuse to promote dtypes and ranks."""
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.default_prng_impl("rbg"),
    ):
        loaded = tickets.load_ticket(saved[0])
        effective = tickets.compare_tickets(loaded, loaded)
    assert loaded.metadata == saved[1].metadata
    assert effective == tickets.compare_tickets(loaded, loaded)


class Mine(nn.Module):
    """A network that is in no table."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(10, name="head")(nn.relu(nn.Dense(5, name="hidden")(x.reshape(len(x), -1))))


@pytest.mark.parametrize("name", ["ticket", "ticket.safetensors"])
def test_a_ticket_of_ones_own_network_is_saved_and_loaded(tmp_path, name):
    model = Mine()
    params = jax.device_get(init_variables(model, jax.random.key(0), (4, 4, 1)))["params"]
    mask = masks.prune(scores.magnitude(params), masks.ones_like(params), 0.5)
    params = jax.device_get(masks.apply(mask, params))
    metadata = {**METADATA, "model": {"name": "mine"}, "input_shape": [4, 4, 1]}
    ticket = Ticket(mask, params, {}, metadata, params, {})
    path = tmp_path / name
    tickets.save_ticket(path, ticket)
    assert path.is_file() == (path.suffix == ".safetensors")
    loaded = tickets.load_ticket(path, model=model)
    assert_same(loaded.trained, params)
    assert_same(loaded.mask, mask)
    without = tickets.load_ticket(path)  # the metadata lists the shapes
    assert_same(without.trained, params)
    with pytest.raises(TicketError, match="hidden|dense1"):
        tickets.load_ticket(path, model=build_model("lenet_300_100", 10))


@pytest.mark.parametrize("name", ["ticket", "ticket.safetensors"])
@pytest.mark.parametrize(
    "path, leaf, message",
    [
        ("hidden/kernel", ["float32", [2**31, 2**31]], "hidden/kernel|bytes|memory"),
        ("hidden/kernel", ["float32", [16, 4]], "hidden/kernel|bytes"),
        ("hidden/kernel/a", ["float32", [2, 2]], "does not describe a model"),
        ("other/kernel", ["float32", [2, 2]], "other/kernel|bytes"),
    ],
)
def test_shapes_that_a_stranger_lists_are_not_believed(tmp_path, name, path, leaf, message):
    """Of a network that this package does not have: a wrong list is an error, and takes no memory."""
    model = Mine()
    params = jax.device_get(init_variables(model, jax.random.key(0), (4, 4, 1)))["params"]
    metadata = {**METADATA, "model": {"name": "mine"}, "input_shape": [4, 4, 1]}
    ticket = Ticket(masks.ones_like(params), params, {}, metadata, params, {})
    made = tickets.save_ticket(tmp_path / "made", ticket)
    made.metadata["leaves"]["params"][path] = leaf
    made.metadata["sha256"]["metadata"] = metadata_hash(made.metadata)
    file = tmp_path / name
    if name == "ticket":
        (tmp_path / "made").rename(file)
        (file / "metadata.json").write_text(json.dumps(made.metadata))
    else:
        arrays = {part: jax.tree.map(np.asarray, getattr(made, part)) for part in PARTS}
        with pytest.MonkeyPatch.context() as patched:
            # As whoever writes such a file would do it: without the checks.
            whole = Ticket(**arrays, metadata=made.metadata)
            patched.setattr(portable, "complete", lambda where, _: whole)
            tickets.save_ticket(file, made)
    with pytest.raises(TicketError, match=message):
        tickets.load_ticket(file)


def test_hashes_see_values_names_shapes_and_dtypes():
    base = {"a": np.zeros((2, 3), np.float32)}
    same = {"a": np.zeros((2, 3), ">f4")}
    others = [
        {"b": np.zeros((2, 3), np.float32)},
        {"a": np.zeros((3, 2), np.float32)},
        {"a": np.zeros((2, 3), np.int32)},
        {"a": np.full((2, 3), -0.0, np.float32)},
        {"a": np.zeros((2, 3), jax.numpy.bfloat16)},
        {"a": np.ones((2, 3), jax.numpy.bfloat16)},
    ]
    assert tickets.tree_hash(base) == tickets.tree_hash(same)
    assert len({tickets.tree_hash(tree) for tree in [base, *others]}) == 7


def test_another_model_is_told_by_leaf(saved):
    with pytest.raises(TicketError, match=r"leaf \S+ is \S+ \(.*\), but the model's is"):
        tickets.load_ticket(saved[0], build_model("vgg11", 10, width=0.1))
    with pytest.raises(
        TicketError, match="has no leaf batch_stats/bn1_2/mean, which the model has"
    ):
        tickets.load_ticket(saved[0], build_model("vgg13", 10, width=0.05))
    with pytest.raises(TicketError, match=r"mask/head/bias is bool \(10,\), but .* bool \(7,\)"):
        tickets.load_ticket(saved[0], build_model("vgg11", 7, width=0.05))


def test_what_is_not_a_ticket_is_an_error(copy, tmp_path):
    with pytest.raises(TicketError, match="is not a ticket"):
        tickets.load_ticket(tmp_path / "nothing")
    shutil.rmtree(copy / "arrays")
    with pytest.raises(TicketError, match="not a readable Orbax checkpoint"):
        tickets.load_ticket(copy)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda m: m.update(format_version=99), "has format 99"),
        (lambda m: m["model"].update(name="vgg12"), "does not describe a model"),
        (lambda m: m.pop("num_classes"), "has no num_classes"),
        (lambda m: m.pop("mean"), "has no mean"),
        (lambda m: m.update(layer_order=5), "does not describe a model"),
        (lambda m: m.update(mean=["x"]), "does not describe a model"),
        (lambda m: m.update(note=float("nan")), "NaN is not JSON"),
        (lambda m: m.update(weights_remaining=1), "counts in its metadata"),
        (lambda m: m["layers"].update(head=[1, 2]), "counts in its metadata"),
        (lambda m: m["sha256"].update(mask="0" * 64), "mask is damaged"),
        (lambda m: m["sha256"].update(trained="0" * 64), "trained is damaged"),
        (lambda m: m["sha256"].update(metadata="0" * 64), "its metadata is damaged"),
        (lambda m: m["sha256"].update(more="0" * 64), "sha256 is not of mask, params"),
        (lambda m: m.update(sha256=[]), "sha256 is not of mask, params"),
        (
            lambda m: m.update(format_version=json.loads("[" * 300 + "]" * 300)),
            r"has format \[+\.\.\.\]+;",
        ),
        (lambda m: m.update(mean=[10**400]), "does not describe a model"),
        (lambda m: m.update(data="../secrets"), "does not describe a model"),
        (lambda m: m.update(data="/etc/data"), "does not describe a model"),
        (lambda m: m.update(input_shape=[10**5, 10**5, 1]), "does not describe a model"),
    ],
)
def test_metadata_that_lies_is_an_error(copy, change, says):
    edit_metadata(copy, change)
    with pytest.raises(TicketError, match=says):
        tickets.load_ticket(copy)


def test_damaged_files_are_errors(copy):
    (copy / "metadata.json").write_text('{"format_version": 1, "mo')
    with pytest.raises(TicketError, match="can't be read as a ticket's metadata"):
        tickets.load_ticket(copy)


def test_damaged_arrays_are_errors(copy):
    largest = max((p for p in copy.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 0xFF
    largest.write_bytes(data)
    with pytest.raises(TicketError, match="damaged"):
        tickets.load_ticket(copy)


def test_a_ticket_is_complete_only_with_its_metadata(copy):
    assert tickets.is_complete(copy)
    (copy / "metadata.json").unlink()
    assert not tickets.is_complete(copy)
    tickets.save_ticket(copy, example_ticket())
    assert_same(tickets.load_ticket(copy).mask, example_ticket().mask)


def test_an_untrained_or_undescribed_ticket_is_not_saved(tmp_path):
    ticket = example_ticket()
    with pytest.raises(TicketError, match="untrained"):
        tickets.save_ticket(tmp_path / "a", dataclasses.replace(ticket, trained=None))
    with pytest.raises(TicketError, match="has no mean, std"):
        metadata = {k: v for k, v in METADATA.items() if k not in ("mean", "std")}
        tickets.save_ticket(tmp_path / "a", dataclasses.replace(ticket, metadata=metadata))
    assert not list(tmp_path.iterdir())


def checkpoint_state(step, shift=0.0):
    """The state of a training at some step, of plain arrays: some layers are enough."""
    ticket = example_ticket()
    params, stats, mask = (
        {name: tree[name] for name in ("conv1_1", "bn1_1", "conv5_2", "head") if name in tree}
        for tree in (ticket.params, ticket.batch_stats, ticket.mask)
    )
    optimizer = optim.make_optimizer("adam", weight_decay=0.1)
    opt_state = jax.tree.map(lambda x: np.asarray(x + step + shift), optimizer.init(params))
    return TrainState(np.array(step, np.int32), params, stats, opt_state, mask)


def test_checkpoints_come_back_and_only_the_latest_is_kept(tmp_path):
    like = checkpoint_state(0)
    assert checkpoints.load_state(tmp_path, like) is None
    for step in (99, 100, 1000):
        checkpoints.save_state(tmp_path, checkpoint_state(step))
        assert [p.name for p in tmp_path.iterdir()] == [f"{step:09}"]
    # An interrupted save leaves a folder behind that is not a checkpoint.
    (tmp_path / "000002000.orbax-checkpoint-tmp").mkdir()
    assert checkpoints.latest_step(tmp_path) == 1000
    state, begun = checkpoints.load_state(tmp_path, like)
    assert_same(state, checkpoint_state(1000))
    assert int(begun.sums.count) == begun.seconds == 0


def test_a_checkpoint_keeps_the_sums_of_an_epoch_that_has_begun(tmp_path):
    sums = MetricSums(np.array(1.5, np.float32), np.array(7, np.int32), np.array(9, np.int32))
    checkpoints.save_state(tmp_path, checkpoint_state(3), EpochProgress(sums, 0.25))
    assert_same(
        checkpoints.load_state(tmp_path, checkpoint_state(0)).progress, EpochProgress(sums, 0.25)
    )


def test_a_state_that_is_not_finite_is_not_saved_and_the_last_good_one_stays(tmp_path):
    checkpoints.save_state(tmp_path, checkpoint_state(5))
    with pytest.raises(TrainingError, match="opt_state/.* is not finite at step 6"):
        checkpoints.save_state(tmp_path, checkpoint_state(6, shift=np.nan))
    assert_same(checkpoints.load_state(tmp_path, checkpoint_state(0)).state, checkpoint_state(5))


def test_a_checkpoint_of_other_bytes_is_refused_and_named(tmp_path):
    """Even if Orbax reads it: one array file is in the place of another of the same shape."""
    for name, shift in (("a", 0.0), ("b", 1.0)):
        checkpoints.save_state(tmp_path / name, checkpoint_state(5, shift))
    arrays = ocp.load((tmp_path / "b" / "000000005").absolute())
    recorded = ocp.load((tmp_path / "a" / "000000005").absolute())["sha256"]
    ocp.save(
        (tmp_path / "a" / "000000005").absolute(), {**arrays, "sha256": recorded}, overwrite=True
    )
    with pytest.raises(TicketError, match=r"a/000000005: remove it .*: is damaged .its SHA"):
        checkpoints.load_state(tmp_path / "a", checkpoint_state(0))
    assert_same(
        checkpoints.load_state(tmp_path / "b", checkpoint_state(0)).state, checkpoint_state(5, 1.0)
    )


def test_orbax_itself_writes_the_same_lists_and_is_read_too(tmp_path):
    """Tickets and checkpoints of earlier versions were written by Orbax's own `save`."""
    bits = {"kept": np.array([True, False]), "none": {}}
    scalars = {"step": np.int32(7), "half": np.ones((3, 1), jnp.bfloat16), "key": np.uint32(1)}
    arrays = {"params": {"dense": {"kernel": np.eye(3, 2, dtype=np.float32)}}, **bits, **scalars}
    arrays = jax.tree.map(np.asarray, arrays)
    with orbax.Checkpointer(orbax.PyTreeCheckpointHandler(use_zarr3=True)) as theirs:
        theirs.save(tmp_path / "theirs", arrays)
    orbax_io.save_arrays(tmp_path / "ours", arrays)
    read = {}
    for name in ("theirs", "ours"):
        assert_same(orbax_io.load_arrays(tmp_path / name, arrays), arrays)
        read[name] = [
            json.loads((tmp_path / name / file).read_text())
            for file in ("_METADATA", "_CHECKPOINT_METADATA")
        ]
        for time in ("init_timestamp_nsecs", "commit_timestamp_nsecs"):
            read[name][1].pop(time, None)
    assert read["ours"] == read["theirs"]


def test_an_empty_array_is_named_and_nothing_stays(tmp_path):
    with pytest.raises(TicketError, match="a/kernel is empty"):
        orbax_io.save_arrays(tmp_path / "x", {"a": {"kernel": np.zeros((3, 0), np.float32)}})
    assert list(tmp_path.iterdir()) == []


def test_a_ticket_that_can_not_be_written_leaves_the_one_that_was_there(
    tmp_path, copy, monkeypatch
):
    def full(*args, **kwargs):
        raise ValueError("Failed to write [os_error_code='28']")  # as TensorStore says it

    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    monkeypatch.setattr(orbax_io.tensorstore, "open", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        tickets.save_ticket(copy, example_ticket())
    assert raised.value.errno == 28
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before
    assert [p.name for p in copy.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("what", ["error", "signal"])
def test_a_ticket_that_can_not_be_put_in_its_place_leaves_the_old_one(copy, monkeypatch, what):
    """The old one has already been moved aside by then."""
    before = tickets.read_metadata(copy)
    replace, done = Path.replace, []

    def second_fails(self, target):
        if Path(target) == copy and not done:
            done.append(what)
            if what == "error":
                raise OSError(5, "Input/output error")
            signal.raise_signal(signal.SIGINT)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", second_fails)
    with pytest.raises(OSError if what == "error" else KeyboardInterrupt):
        tickets.save_ticket(copy, example_ticket())
    monkeypatch.undo()
    # After an error the old ticket is there; a signal waits until the new one is.
    assert tickets.load_ticket(copy).metadata["note"] == before["note"]
    assert [p.name for p in copy.parent.iterdir() if p.name.startswith(".")] == []


def test_only_older_checkpoints_are_removed(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "results").mkdir()
    for step in (5, 6):
        checkpoints.save_state(tmp_path, checkpoint_state(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000006", "notes.txt", "results"]


def test_open_files_that_run_out_make_no_ticket_a_bad_one(saved, tmp_path):
    """The error blames the process and not the file."""
    folder, ticket = saved
    tickets.save_portable(tmp_path / "a.safetensors", ticket)
    tickets.load_ticket(folder)  # opens what stays open
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
    try:
        taken = [os.open(os.devnull, os.O_RDONLY)]
        while True:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        for path in (folder, tmp_path / "a.safetensors"):
            with pytest.raises(EnvironmentFault, match="can't be judged on this machine"):
                tickets.load_ticket(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in taken:
            os.close(number)
    tickets.load_ticket(folder)
