"""Portable tickets: one small file, the same bits back, and one clear line for anything else."""

import dataclasses
import functools
import hashlib
import json
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lottery_jax import tickets
from lottery_jax.errors import TicketError
from lottery_jax.leaves import by_path
from lottery_jax.models import build_model
from lottery_jax.pruning import masks
from lottery_jax.tickets import portable
from lottery_jax.tickets.metadata import metadata_hash
from tests.helpers import assert_same, synthetic_ticket

PARTS = ("mask", "params", "batch_stats", "trained", "trained_batch_stats")


@functools.cache
def small_ticket():
    return synthetic_ticket("vgg11", (16, 16, 1), 0.2, width=0.05)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("portable") / "ticket.safetensors"
    return path, tickets.save_portable(path, small_ticket())


@pytest.fixture(params=[1, 2])
def edit(saved, tmp_path, request):
    """Changes the tensors, and the text, of a copy of the file, as either version.

    The hash of the contents is made to match, so that the other checks are tested. Returns the
    function that takes the change; it returns the copy's path.
    """
    path = tmp_path / "edited.safetensors"

    def edited(change):
        tensors, entry = load_file(saved[0]), header_of(saved[0])["__metadata__"]
        entry = {**json.loads(entry["ticket"])}
        del entry["metadata"]["sha256"]["metadata"]  # older tickets have none
        if request.param == 1:
            entry = {"format": entry["format"], "version": 1, "metadata": entry["metadata"]}
        change(tensors, entry)
        if request.param == 2:
            entry["sha256"] = contents_hash(entry["leaves"], tensors)
        save_file(tensors, path, {"ticket": json.dumps(entry)})
        return path

    return edited


def contents_hash(listed, tensors):
    """The hash of the contents of a file, as docs/format.md says."""
    text = b""
    for leaf in listed:
        text += " ".join(str(leaf[key]) for key in ("name", "dtype", "shape", "stored")).encode()
        text += b"\n" + (tensors[leaf["name"]].tobytes() if leaf["name"] in tensors else b"")
    return hashlib.sha256(text).hexdigest()


def header_of(path):
    """The JSON at the beginning of a safetensors file, read as its specification says."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])


def test_a_ticket_comes_back_bit_for_bit(saved, tmp_path):
    path, written = saved
    loaded = tickets.load_ticket(path)
    original = small_ticket()
    for part in PARTS:
        assert_same(getattr(loaded, part), getattr(original, part))
    assert loaded.metadata == written.metadata == tickets.read_metadata(path)
    # Through a directory and back: the same ticket, and the same file to the byte.
    in_directory = tickets.save_ticket(tmp_path / "ticket", loaded)
    assert in_directory.metadata == loaded.metadata
    again = tmp_path / "again.safetensors"
    tickets.save_portable(again, tickets.load_ticket(tmp_path / "ticket"))
    assert again.read_bytes() == path.read_bytes()


def test_a_file_that_is_there_is_replaced(saved, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("something else")
    tickets.save_portable(path, small_ticket())
    assert path.read_bytes() == saved[0].read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_file_holds_what_the_format_says(saved):
    """Read by hand: bits in C order, highest first, and the surviving values alone."""
    path, ticket = saved
    content, header = path.read_bytes(), header_of(path)
    data = content[8 + struct.unpack("<Q", content[:8])[0] :]

    def tensor(name, dtype):
        begin, end = header[name]["data_offsets"]
        return np.frombuffer(data[begin:end], dtype)

    for layer, kernel in masks.kernels(ticket.mask).items():
        packed = tensor(f"mask/{layer}/kernel", np.uint8)
        bits = [(packed[i // 8] >> (7 - i % 8)) & 1 for i in range(8 * packed.size)]
        assert bits[: kernel.size] == kernel.ravel().tolist() and not any(bits[kernel.size :])
        for part in ("params", "trained"):
            values = masks.kernels(getattr(ticket, part))[layer].ravel()
            kept = [values[i] for i, bit in enumerate(bits) if bit]
            assert tensor(f"{part}/{layer}/kernel", "<f4").tolist() == kept
    mean = ticket.trained_batch_stats["bn1_1"]["mean"]
    assert tensor("trained_batch_stats/bn1_1/mean", "<f4").tolist() == mean.tolist()
    entry = json.loads(header["__metadata__"]["ticket"])
    assert (entry["format"], entry["version"]) == ("lottery_jax ticket", 2)
    assert entry["metadata"] == ticket.metadata


def test_the_file_describes_its_leaves(saved):
    """In order, with shape and dtype; which are packed, which sparse; and what they hash to."""
    path, ticket = saved
    header = header_of(path)
    entry = json.loads(header.pop("__metadata__")["ticket"])
    assert (entry["bit_order"], entry["value_order"]) == ("big", "C")
    table = [tuple(leaf.values()) for leaf in entry["leaves"]]
    assert [*entry["leaves"][0]] == ["name", "dtype", "shape", "stored"]
    assert ("mask/head/kernel", "bool", [26, 10], "bits") in table
    assert ("mask/head/bias", "bool", [10], "ones") in table
    assert ("trained/head/kernel", "float32", [26, 10], "kept") in table
    assert ("trained/head/bias", "float32", [10], "whole") in table
    assert ("batch_stats/bn1_1/var", "float32", [3], "whole") in table
    whole = {
        f"{part}/{name}": leaf
        for part in PARTS
        for name, leaf in by_path(getattr(ticket, part)).items()
    }
    assert [leaf[0] for leaf in table] == [*whole]
    for name, dtype, shape, _ in table:
        assert (whole[name].dtype, [*whole[name].shape]) == (dtype, shape)
    assert {leaf[0] for leaf in table if leaf[3] != "ones"} == header.keys()
    assert entry["sha256"] == contents_hash(entry["leaves"], load_file(path))


@pytest.mark.parametrize("name", ["lenet", "vgg11"])
def test_a_file_of_version_1_is_read(name, tmp_path):
    """It was written before there was a version 2; read and written again it is the same ticket."""
    path = Path(__file__).parent / "data" / f"version_1_{name}.safetensors"
    assert json.loads(header_of(path)["__metadata__"]["ticket"])["version"] == 1
    ticket = tickets.load_ticket(path)
    assert tickets.read_metadata(path) == ticket.metadata
    new = tmp_path / "new.safetensors"
    tickets.save_portable(new, ticket)
    again = tickets.load_ticket(new)
    assert again.metadata == ticket.metadata
    for part in PARTS:
        assert_same(getattr(again, part), getattr(ticket, part))
    old, header = header_of(path), header_of(new)
    assert {**old, "__metadata__": 0} == {**header, "__metadata__": 0}
    if name == "lenet":
        assert ticket.metadata["weights_remaining"] == 170 and ticket.metadata["seed"] == 1


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda t, e: e.update(sha256="0" * 64), "the SHA-256 of its contents"),
        (lambda t, e: e.pop("sha256"), "the SHA-256 of its contents"),
        (
            lambda t, e: t["batch_stats/bn1_1/var"].__setitem__(0, 9.0),
            "the SHA-256 of its contents",
        ),
        (
            lambda t, e: e.update(bit_order="little"),
            "has bit_order 'little'; this version reads 'big'",
        ),
        (lambda t, e: e.pop("value_order"), "has value_order None; this version reads 'C'"),
        (lambda t, e: e.pop("leaves"), "has no list of its leaves"),
        (lambda t, e: e["leaves"].pop(), "the network's at trained_batch_stats/bn5_2/var"),
        (lambda t, e: e["leaves"].append(e["leaves"][0]), "the network's at the end"),
        (lambda t, e: e["leaves"].reverse(), "the network's at mask/bn1_1/bias"),
        (lambda t, e: e["leaves"][0].update(stored="whole"), "the network's at mask/bn1_1/bias"),
        (lambda t, e: e["leaves"][0].update(shape=[4]), "the network's at mask/bn1_1/bias"),
        (lambda t, e: e["leaves"][0].update(shape=[10**30]), "the network's at mask/bn1_1/bias"),
        (lambda t, e: e["leaves"][0].update(dtype="float32"), "the network's at mask/bn1_1/bias"),
        (lambda t, e: e["leaves"].__setitem__(0, 7), "the network's at mask/bn1_1/bias"),
        # The short readers take the values of each leaf in order.
        (
            lambda t, e: e["leaves"].__setitem__(1, dict(sorted(e["leaves"][1].items()))),
            "the network's at mask/bn1_1/scale",
        ),
    ],
)
def test_a_description_that_lies_is_an_error(saved, tmp_path, change, says):
    path = tmp_path / "edited.safetensors"
    tensors, header = load_file(saved[0]), header_of(saved[0])
    entry = json.loads(header["__metadata__"]["ticket"])
    change(tensors, entry)
    save_file(tensors, path, {"ticket": json.dumps(entry)})
    with pytest.raises(TicketError, match=says):
        tickets.load_ticket(path)


def own_ticket(arrays, **metadata):
    """A ticket of a network that this package does not have, from its params."""
    mask = masks.ones_like(arrays)
    for kernel in masks.kernels(mask).values():
        kernel.ravel()[::3] = False
    params = jax.tree.map(lambda m, p: np.where(m, p, p.dtype.type(0)), mask, arrays)
    given = small_ticket().metadata
    model = {"model": {"name": "mine"}, "layer_order": ["a"]}
    return tickets.Ticket(mask, params, {}, {**given, **model, **metadata}, params, {})


def test_own_networks_of_any_naming_come_back(tmp_path):
    """NNX's numbers in lists and values; Haiku's and Equinox's names; scalars and other dtypes."""
    rng = np.random.default_rng(0)
    arrays = {
        "layers": {
            str(i): {"kernel": {"value": rng.random((3, 5), np.float32)}} for i in range(11)
        },
        "linear": {"w": rng.random((7, 2), np.float32), "b": np.ones(2, np.float32)},
        "conv": {"weight": rng.random((2, 3, 3, 1)).astype(np.float16), "scale": np.float32(2.5)},
        "tied": {"kernel": np.ones((2, 2), np.float32), "weight": np.ones((3, 1), np.float32)},
        "count": np.arange(3, dtype=np.int32),
    }
    path = tmp_path / "own.safetensors"
    written = tickets.save_portable(path, own_ticket(arrays))
    assert written.metadata["layers"]["tied/kernel"] == [2, 4]
    loaded = tickets.load_ticket(path)
    for part in PARTS:
        assert_same(getattr(loaded, part), getattr(written, part))
    assert loaded.metadata == written.metadata
    stored = {
        leaf["name"]: leaf
        for leaf in json.loads(header_of(path)["__metadata__"]["ticket"])["leaves"]
    }
    assert stored["params/layers/10/kernel/value"]["stored"] == "kept"
    assert stored["mask/linear/w"]["stored"] == "bits"
    assert stored["params/conv/scale"] == {
        "name": "params/conv/scale", "dtype": "float32", "shape": [], "stored": "whole"
    }  # fmt: skip


def test_a_dtype_that_no_reader_takes_is_not_written(tmp_path):
    """A directory can hold the same ticket."""
    path, bias = tmp_path / "own.safetensors", np.ones(1, jnp.bfloat16)
    ticket = own_ticket({"a": {"kernel": np.ones((2, 2), np.float32), "bias": bias}})
    with pytest.raises(TicketError, match="params/a/bias is bfloat16, .* as a directory") as error:
        tickets.save_portable(path, ticket)
    assert str(path) in str(error.value) and not path.exists()
    tickets.save_ticket(tmp_path / "own", ticket)
    assert_same(tickets.load_ticket(tmp_path / "own").params["a"]["bias"], bias)


@pytest.mark.parametrize("shape", [[0, 10**30], [0, 2**31, 2**31], [1] * 70])
def test_shapes_that_numpy_can_not_make_are_an_error(tmp_path, monkeypatch, shape):
    path = tmp_path / "own.safetensors"
    good = own_ticket(
        {"a": {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(1, np.float32)}}
    )
    whole = tickets.save_portable(path, good)
    whole.metadata["leaves"]["params"]["a/bias"] = ["float32", shape]
    whole.metadata["sha256"]["metadata"] = metadata_hash(whole.metadata)
    monkeypatch.setattr(portable, "complete", lambda where, _: whole)
    tickets.save_portable(path, whole)
    with pytest.raises(TicketError, match="does not describe a model"):
        tickets.load_ticket(path)


def test_vgg19_at_two_percent_is_below_six_megabytes(tmp_path):
    path = tmp_path / "vgg19.safetensors"
    written = tickets.save_portable(path, synthetic_ticket("vgg19", (32, 32, 3), 0.02))
    assert written.metadata["weights_total"] == 20_024_000
    assert written.density == pytest.approx(0.02, abs=1e-6)
    assert path.stat().st_size <= 6_000_000
    loaded = tickets.load_ticket(path)
    for part in PARTS:
        assert_same(getattr(loaded, part), getattr(written, part))


@pytest.mark.parametrize("kept", [0, 1])
def test_empty_and_whole_layers_come_back(tmp_path, kept):
    path = tmp_path / "a.safetensors"
    written = tickets.save_portable(path, synthetic_ticket("lenet_300_100", (4, 4, 1), kept))
    assert_same(tickets.load_ticket(path).trained, written.trained)


def test_another_model_is_an_error_that_names_the_layer(saved):
    with pytest.raises(TicketError, match="counts that fit conv1_2/kernel"):
        tickets.load_ticket(saved[0], build_model("vgg13", 10, width=0.05))
    with pytest.raises(TicketError, match="counts that fit head/kernel"):
        tickets.load_ticket(saved[0], build_model("vgg11", 7, width=0.05))


HEAD = "head/kernel"  # 260 weights, so its last byte has four bits to spare


def set_last_bit(tensors, entry):
    tensors[f"mask/{HEAD}"][-1] |= 1


def move_a_weight(tensors, entry):
    bits = tensors[f"mask/{HEAD}"]
    bits[:2] = (0x80, 0x00) if (bits[0], bits[1]) != (0x80, 0x00) else (0x40, 0x00)


def one_value_more(tensors, entry):
    tensors[f"params/{HEAD}"] = np.append(tensors[f"params/{HEAD}"], np.float32(1))


def consistently_one_more(tensors, entry):
    for part in ("params", "trained"):
        values = tensors[f"{part}/{HEAD}"]
        tensors[f"{part}/{HEAD}"] = np.append(values, np.float32(1))
    entry["metadata"]["layers"]["head"][0] += 1


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda t, e: t[f"params/{HEAD}"].__setitem__(0, 9.0), "params is damaged"),
        (lambda t, e: t["trained/head/bias"].__setitem__(0, 9.0), "trained is damaged"),
        (lambda t, e: t["batch_stats/bn1_1/var"].__setitem__(0, 9.0), "batch_stats is damaged"),
        (set_last_bit, "mask of head/kernel has bits beyond its last weight"),
        (move_a_weight, "mask of head/kernel does not keep as many as recorded"),
        (consistently_one_more, "mask of head/kernel does not keep as many as recorded"),
        (one_value_more, r"leaf params/head/kernel is float32 \(\d+,\), but the model's is"),
        (lambda t, e: t.pop("trained/head/bias"), "has no leaf trained/head/bias"),
        (lambda t, e: t.update(more=np.zeros(3, np.float32)), "has a leaf more, which"),
        (lambda t, e: t.update({"trained/head/bias": np.zeros(10)}), "bias is F64, which no"),
        (lambda t, e: t.update({"mask/head/kernel": np.zeros(33, np.float32)}), "is float32"),
        (lambda t, e: e.update(version=3), "'lottery_jax ticket' 3; this version reads .* 1 and 2"),
        (lambda t, e: e.update(version=True), "has format 'lottery_jax ticket' True"),
        (lambda t, e: e.update(version=[2]), r"has format 'lottery_jax ticket' \[2\]"),
        (lambda t, e: e.update(format="other"), "has format 'other' [12];"),
        (lambda t, e: e.pop("metadata"), "can't be read as a ticket's metadata"),
        (lambda t, e: e.update(metadata=[1]), "can't be read as a ticket's metadata"),
        (lambda t, e: e["metadata"].pop("data"), "has no data"),
        (lambda t, e: e["metadata"]["layers"].update(head=[-1, 260]), "counts that fit head"),
        (lambda t, e: e["metadata"]["layers"].update(head=[1.5, 260]), "counts that fit head"),
        (lambda t, e: e["metadata"]["layers"].update(head=[10**9, 260]), "counts that fit head"),
        (lambda t, e: e["metadata"].pop("layers"), "counts that fit"),
        (lambda t, e: e["metadata"].update(density=0.5), "counts in its metadata"),
        (lambda t, e: e["metadata"].pop("sha256"), "mask is damaged"),
        (lambda t, e: e["metadata"]["model"].update(name="vgg12"), "not describe a model"),
        (lambda t, e: e["metadata"].update(input_shape="wide"), "not describe a model"),
        # A network of terabytes is refused before any of it is allocated.
        (lambda t, e: e["metadata"]["model"].update(width=1e4), "counts that fit"),
    ],
)
def test_a_file_that_lies_is_an_error(edit, change, says):
    path = edit(change)
    with pytest.raises(TicketError, match=says) as error:
        tickets.load_ticket(path)
    assert str(error.value).startswith(str(path))


def test_damaged_and_other_files_are_errors(saved, tmp_path):
    path = tmp_path / "a.safetensors"
    whole = saved[0].read_bytes()
    for content in (b"", whole[:5], whole[:1000], whole[:-1], whole + b"\0", b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(TicketError, match="is not a readable safetensors file"):
            tickets.load_ticket(path)
    save_file({"weight": np.zeros(3, np.float32)}, path)
    assert not tickets.is_portable(path)
    with pytest.raises(TicketError, match="without its metadata"):
        tickets.load_ticket(path)


def test_a_ticket_that_would_not_come_back_is_not_written(tmp_path):
    ticket = small_ticket()
    path = tmp_path / "a.safetensors"

    def refused(says, **parts):
        for save in (tickets.save_portable, tickets.save_ticket):
            with pytest.raises(TicketError, match=says):
                save(path, dataclasses.replace(ticket, **parts))

    refused("untrained", trained=None)
    refused("has no model", metadata={"data": "digits"})
    # A -0.0 does not survive in the file, and would be read back as +0.0.
    negative = jax.tree.map(
        lambda m, p: np.where(m, p, np.float32(-0.0)), ticket.mask, ticket.params
    )
    refused("params/conv1_1/kernel is not 0.0 where the mask prunes it", params=negative)
    no_bias = jax.tree.map(np.array, ticket.mask)
    no_bias["head"]["bias"][0] = False
    pruned = jax.tree.map(lambda m, p: np.where(m, p, np.float32(0)), no_bias, ticket.params)
    refused("the mask prunes head/bias", mask=no_bias, params=pruned, trained=pruned)
    assert not list(tmp_path.iterdir())
