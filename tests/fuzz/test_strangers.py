"""Tickets made by someone who means harm are refused in one line, before they cost anything."""

import collections
import contextlib
import io
import json
import os
import shutil
import signal
import zipfile
import zlib

import jax
import numpy as np
import pytest
import tensorstore
from safetensors.numpy import save_file

from lottery_jax import tickets
from lottery_jax.errors import TicketError
from lottery_jax.pruning import masks
from lottery_jax.system import host
from lottery_jax.tickets import is_portable, pytorch, store
from lottery_jax.tickets.__main__ import main
from lottery_jax.tickets.checkpoints import as_array
from lottery_jax.tickets.untrusted import pickles
from tests.fuzz.cases import example, parts_of, safetensors_of, sealed
from tests.fuzz.worker import peak


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    tickets.save_ticket(folder / "ticket", example("lenet"))
    tickets.save_portable(folder / "ticket.safetensors", example("lenet"))
    return folder


@pytest.fixture
def path(originals, tmp_path):
    """A ticket directory that a test may change."""
    return shutil.copytree(originals / "ticket", tmp_path / "ticket")


@pytest.fixture
def portable(originals, tmp_path):
    return shutil.copy(originals / "ticket.safetensors", tmp_path / "ticket.safetensors")


@contextlib.contextmanager
def within(seconds):
    """End a block that takes longer, such as one that waits for the other end of a pipe."""

    def late(*_):
        raise AssertionError("it hangs")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def refused(path, says, load=tickets.load_ticket, **options):
    with within(30), pytest.raises(TicketError, match=says) as error:
        load(path, **options)
    assert str(path) in str(error.value)


def edit(path, change, *, seal=True):
    """Change the metadata of a ticket of either kind, and its hash to match."""
    if path.is_dir():
        metadata = json.loads((path / "metadata.json").read_text())
        change(metadata)
        text = json.dumps(metadata)
        (path / "metadata.json").write_text(sealed(text) if seal else text)
        return
    header, data = parts_of(path.read_bytes())
    entry = json.loads(header["__metadata__"]["ticket"])
    change(entry["metadata"])
    if seal:
        entry["metadata"] = json.loads(sealed(json.dumps(entry["metadata"])))
    header["__metadata__"]["ticket"] = json.dumps(entry)
    path.write_bytes(safetensors_of(header, data))


# Directories.


@pytest.mark.parametrize("inside", ["arrays", "arrays/d", "arrays/_METADATA"])
def test_a_link_out_of_the_directory_is_not_followed(originals, path, inside):
    """Not even to a file with the very same content."""
    there, whole = path / inside, originals / "ticket" / inside
    shutil.rmtree(there) if there.is_dir() else there.unlink()
    there.symlink_to(whole)
    refused(path, f"ticket/{inside}: is a symbolic link out of the ticket")
    there.unlink()
    there.symlink_to(os.path.relpath(whole, there.parent))
    refused(path, f"ticket/{inside}: is a symbolic link out of the ticket")


def test_a_link_within_the_directory_and_a_link_to_it_are_followed(path, tmp_path):
    (path / "arrays").rename(path / "elsewhere")
    (path / "arrays").symlink_to("elsewhere")
    (tmp_path / "mine").symlink_to("ticket")
    assert tickets.load_ticket(tmp_path / "mine").metadata["level"] == 3


@pytest.mark.parametrize("load", [tickets.load_ticket, tickets.read_metadata])
def test_metadata_is_a_plain_file(originals, path, load):
    file = path / "metadata.json"
    file.unlink()
    file.symlink_to(originals / "ticket" / "metadata.json")
    refused(path, "metadata.json: can't be read as a ticket's metadata: is a symbolic", load)
    file.unlink()
    os.mkfifo(file)
    refused(path, "metadata.json: can't be read as a ticket's metadata: is not a plain", load)


def test_pipes_are_not_waited_for(path, tmp_path, capsys):
    os.mkfifo(path / "arrays" / "more")
    refused(path, "arrays/more: is neither a file nor a folder")
    os.mkfifo(tmp_path / "pipe.safetensors")
    end = os.open(tmp_path / "pipe.safetensors", os.O_RDWR)  # so that a failure can not hang
    refused(tmp_path / "pipe.safetensors", "can't be read as a ticket's metadata")
    refused(tmp_path / "pipe.safetensors", "it is not a file", is_portable)
    with within(30):
        assert main(["list", str(tmp_path)]) == 1
    assert "pipe.safetensors/metadata.json: can't be read" in capsys.readouterr().err
    os.close(end)


def test_links_in_a_circle_are_an_error_and_deep_folders_none(path, capsys):
    (path / "arrays" / "circle").symlink_to("circle")
    refused(path, "can't be read: ")
    (path / "arrays" / "circle").unlink()
    deep = path / "arrays"
    for _ in range(1200):
        deep = deep / "e"
        deep.mkdir()
    assert tickets.load_ticket(path).metadata["level"] == 3
    assert main(["verify", str(path)]) == 0
    assert main(["list", str(path / "arrays")]) == 2
    assert "no ticket is there or below" in (said := capsys.readouterr().err) or "too deep" in said
    for folder in [deep, *deep.parents][:1200]:
        folder.rmdir()


def test_metadata_of_gigabytes_is_not_read(path):
    os.truncate(
        path / "metadata.json", 100 * 2**30
    )  # a sparse file, which takes no room on the disk
    refused(path, "it has 107374182400 bytes")


def test_a_kilobyte_can_not_ask_for_gigabytes(path, monkeypatch):
    """Metadata for 30 billion weights, in a directory that is far too small to hold them."""
    edit(path, lambda m: m["model"].update(width=1e3))
    size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    expected = store.expected_arrays(path, tickets.read_metadata(path))
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(expected))
    assert size < 40_000 and needed > 100e9
    refused(path, f"has {size} bytes, too few for the {needed} of its arrays")
    edit(path, lambda m: m["model"].update(width=1e300))
    refused(path, "too few for the|does not describe a model")


def test_arrays_have_to_fit_the_memory(path, monkeypatch):
    monkeypatch.setattr(host, "memory", lambda: 1000)
    refused(path, r"its arrays take 0.0 GB, this machine has 0.0 GB of memory")


def database(path):
    spec = {"driver": "ocdbt", "base": f"file://{path}/arrays/"}
    return tensorstore.KvStore.open(spec).result()


def large_pieces(description):
    description["chunk_grid"]["configuration"]["chunk_shape"] = [2**20]


def large_pieces_without_shards(description):
    large_pieces(description)
    description["codecs"] = [{"name": "bytes", "configuration": {"endian": "little"}}]


def in_shards(description):
    """Store the array as Orbax's own `save` does: its one piece is a shard of one piece."""
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    shape = description["chunk_grid"]["configuration"]["chunk_shape"]
    shard = {"chunk_shape": shape, "codecs": description["codecs"], "index_codecs": index}
    description["codecs"] = [{"name": "sharding_indexed", "configuration": shard}]


def large_pieces_of_shards(description):
    in_shards(description)
    description["codecs"][0]["configuration"]["chunk_shape"] = [2**20]


def shards_of_shards(description):
    in_shards(description)
    inner = json.loads(json.dumps(description["codecs"]))
    description["codecs"][0]["configuration"]["codecs"] = inner


def deep(description):
    description["dimension_names"] = json.loads("[" * 100 + "]" * 100)


def compressed_otherwise(description):
    description["codecs"] = [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 9}}]


@pytest.mark.parametrize(
    "change",
    [large_pieces, large_pieces_without_shards, large_pieces_of_shards, shards_of_shards, deep,
     compressed_otherwise],
)  # fmt: skip
def test_arrays_stored_otherwise_are_not_read(path, change):
    """TensorStore allocates a whole piece, and ends the process if it can't."""
    key = "params.dense1.bias/zarr.json"
    description = json.loads(database(path).read(key).result().value)
    change(description)
    database(path).write(key, json.dumps(description)).result()
    refused(path, "leaf params/dense1/bias is not stored as a ticket's arrays are")


def test_descriptions_that_no_reader_survives_are_not_read(path):
    database(path).write("params.dense1.bias/zarr.json", "[" * 10**6 + "]" * 10**6).result()
    refused(path, "is not a readable Orbax checkpoint: maximum recursion depth")
    database(path).write("params.dense1.bias/zarr.json", b"\xff").result()
    refused(path, "is not a readable Orbax checkpoint: 'utf-8' codec can't decode")
    database(path).delete_range(
        tensorstore.KvStore.KeyRange("params.dense1.bias/zarr.json")
    ).result()
    refused(path, "is not a readable Orbax checkpoint: Expecting value")


def test_names_of_arrays_are_no_paths(path, tmp_path):
    """If there is no database, Orbax takes the name of an array for the path of its files."""
    outside = tmp_path / "outside"
    spec = {"driver": "zarr3", "kvstore": f"file://{outside}/"}
    shape = {"shape": [6], "data_type": "float32"}
    tensorstore.open({**spec, "metadata": shape}, create=True).result()
    file = path / "arrays" / "_METADATA"
    listed = json.loads(file.read_text())
    for name in (str(outside), "../../../outside", "a/b", "", "."):
        entry = {
            "key_metadata": [{"key": name, "key_type": 2}],
            "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
        }
        file.write_text(json.dumps({**listed, "tree_metadata": {"('x',)": entry}}))
        refused(path, "_METADATA: has an array with a name or a type that tickets do not have")
    entry["key_metadata"][0]["key"] = "mask"
    file.write_text(json.dumps({**listed, "tree_metadata": {"('mask',)": entry}}))
    refused(path, "has a leaf mask, which the model does not have")
    entry["value_metadata"]["value_type"] = "jax.Array"  # Orbax would read further files for it
    file.write_text(json.dumps({**listed, "tree_metadata": {"('mask',)": entry}}))
    refused(path, "_METADATA: has an array with a name or a type that tickets do not have")
    for key in ("use_ocdbt", "use_zarr3"):  # else it looks for arrays elsewhere
        file.write_text(json.dumps({**listed, key: False}))
        refused(path, "_METADATA: has an array with a name or a type that tickets do not have")
    file.unlink()
    refused(path, "is not a readable Orbax checkpoint: it lists no arrays")


# Metadata.


@pytest.mark.parametrize("kind", ["path", "portable"])
def test_a_changed_number_in_the_metadata_is_noticed(request, kind):
    path = request.getfixturevalue(kind)
    edit(path, lambda m: m["result"].update(test_accuracy=0.9976), seal=False)
    for load in (tickets.load_ticket, tickets.read_metadata):
        refused(path, r"its metadata is damaged \(its SHA-256 is not the recorded one\)", load)
    # Renaming the hash does not take it away.
    edit(path, lambda m: m["sha256"].update(more=m["sha256"].pop("metadata")), seal=False)
    refused(
        path, "sha256 is not of mask, params, batch_stats, trained, trained_batch_stats, metadata"
    )


@pytest.mark.parametrize("kind", ["path", "portable"])
def test_tickets_from_before_metadata_had_a_hash_load(request, kind):
    path = request.getfixturevalue(kind)
    edit(path, lambda m: m["sha256"].pop("metadata"), seal=False)
    ticket = tickets.load_ticket(path)
    assert "metadata" not in ticket.metadata["sha256"]
    again = tickets.save_portable(path.with_name("again.safetensors"), ticket)
    assert len(again.metadata["sha256"]["metadata"]) == 64


def test_the_hash_of_the_metadata_can_be_had_without_this_package(originals):
    import hashlib

    metadata = json.loads((originals / "ticket" / "metadata.json").read_text())
    recorded = metadata["sha256"].pop("metadata")
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == recorded


@pytest.mark.parametrize("kind", ["path", "portable"])
def test_text_of_strangers_does_not_reach_the_terminal_as_it_is(request, kind, tmp_path, capsys):
    path = request.getfixturevalue(kind)
    evil = "\x1b[2J\x1b]0;mine\x07\x9b31m\rok\u202e"

    def change(metadata):
        metadata.update(
            seed=evil, control=evil, lottery_jax_version=evil, data=evil, method={evil: evil}
        )
        metadata["result"][evil] = 0.5
        metadata["layer_order"].append(evil)

    edit(path, change)
    folder = path.with_name(f"\x1b[2J{path.name}")
    path.rename(folder)
    for command in ("list", "show", "verify"):
        assert main([command, str(folder)]) == 0
        out, error = capsys.readouterr()
        assert error == "" and all(c.isprintable() or c == "\n" for c in out)
        assert "\\x1b[2J" in out and (command == "verify" or out.count("\\x9b31m ok\\u202e") >= 2)
    for counts, seal, statuses in (
        ([1, 2], True, (0, 0, 1)),
        (3, True, (0, 2, 1)),
        (4, False, (1, 2, 1)),
    ):
        edit(folder, lambda m, counts=counts: m["layers"].update({evil: counts}), seal=seal)
        for command, status in zip(("list", "show", "verify"), statuses, strict=True):
            assert main([command, str(folder)]) == status
            out, error = capsys.readouterr()
            assert all(c.isprintable() or c == "\n" for c in out + error)


@pytest.mark.parametrize(
    "key, value",
    [
        ("result", "good"),
        ("result", 7),
        ("result", {"test_accuracy": 10**400}),
        ("density", 10**400),
    ],
)
def test_list_and_show_survive_metadata_that_makes_no_sense(path, key, value, capsys):
    edit(path, lambda m: m.update({key: value}))
    assert main(["list", str(path)]) == 1 and main(["show", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"error: {path}: its metadata can't be shown") for line in lines)


# Values that are not finite.


def nonfinite(part, path, value):
    ticket = example("vgg")
    tree = jax.tree.map(np.array, getattr(ticket, part))
    layer, name = path.split("/")
    leaf = tree[layer][name]
    kept = ticket.mask[layer][name] if "batch_stats" not in part else np.ones(leaf.shape, bool)
    leaf[np.unravel_index(np.flatnonzero(kept)[0], leaf.shape)] = value
    return ticket.__class__(**{**vars(ticket), part: tree})


@pytest.mark.parametrize("save", [tickets.save_ticket, tickets.save_portable])
@pytest.mark.parametrize(
    "part, leaf, value",
    [
        ("params", "head/kernel", np.nan),
        ("trained", "conv2_1/kernel", np.inf),
        ("trained", "head/bias", -np.inf),
        ("batch_stats", "bn1_1/var", np.nan),
        ("trained_batch_stats", "bn1_1/mean", np.inf),
    ],
)
def test_values_that_are_not_finite_are_refused_unless_asked_for(tmp_path, save, part, leaf, value):
    file = tmp_path / "ticket"
    written = save(file, nonfinite(part, leaf, value))
    refused(
        file,
        f"ticket: {part}/{leaf} has values that are not finite; pass allow_nonfinite=True, or ",
    )
    again = tickets.load_ticket(file, allow_nonfinite=True)
    assert tickets.tree_hash(getattr(again, part)) == tickets.tree_hash(getattr(written, part))


@pytest.mark.long
def test_the_command_asks_for_values_that_are_not_finite(tmp_path, capsys):
    file, exported = tmp_path / "ticket.safetensors", tmp_path / "exported.safetensors"
    written = tickets.save_portable(file, nonfinite("trained", "head/bias", np.nan))
    commands = [
        (1, "verify", file),
        (2, "compare", file, file),
        (2, "export", file, exported),
        (2, "import", file, tmp_path / "imported"),
    ]
    for status, *command in commands:
        assert main([*map(str, command)]) == status
        assert "not finite; pass allow_nonfinite=True, or --allow_nonfinite" in "".join(
            capsys.readouterr()
        )
        assert main([*map(str, command), "--allow_nonfinite"]) == 0
    loaded = tickets.load_ticket(tmp_path / "imported", allow_nonfinite=True)
    assert loaded.metadata == written.metadata
    assert exported.read_bytes() == file.read_bytes()


def test_the_command_asks_for_them_of_pytorch_too(tmp_path, monkeypatch):
    asked = []

    def import_pytorch(*_, allow_nonfinite, **__):
        asked.append(allow_nonfinite)
        raise TicketError("enough")

    monkeypatch.setattr(pytorch, "import_pytorch", import_pytorch)
    command = ["import", "a.pth", str(tmp_path / "ticket"), "--model=vgg11", "--data=digits"]
    assert main(command) == main([*command, "--allow_nonfinite"]) == 2
    assert asked == [False, True]


def test_weights_of_pytorch_that_are_not_finite_are_refused_unless_asked_for(tmp_path):
    ticket = example("vgg")
    state = pytorch.from_flax(ticket.trained_variables, "vgg11", (16, 16, 1))
    whole, other = tmp_path / "whole.safetensors", tmp_path / "other.safetensors"
    save_file(state, whole)
    state["features.1.running_var"][0] = np.nan
    save_file(state, other)

    def load(path, **options):
        model = {"name": "vgg11", "width": 0.001}
        shape = (16, 16, 1)
        return tickets.import_pytorch(
            path, model, data="d", input_shape=shape, mean=[0], std=[1], **options
        )

    refused(
        other, "features.1.running_var has values that are not finite; pass allow_nonfinite", load
    )
    with pytest.raises(TicketError, match=f"^{other}: features.1.running_var has values"):
        load(whole, start=other)
    assert np.isnan(load(other, allow_nonfinite=True).batch_stats["bn1_1"]["var"][0])
    assert masks.counts(load(whole, start=other, allow_nonfinite=True).mask)[0] > 0


# Pickles written by hand, because PyTorch would not write the harmful ones.


def text(value):
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def number(value):
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def name(module, what):
    return f"c{module}\n{what}\n".encode()


def storage(numel, key="0", kind="FloatStorage", view=b""):
    return (
        b"("
        + text("storage")
        + name("torch", kind)
        + text(key)
        + text("cpu")
        + number(numel)
        + view
        + b"tQ"
    )


def tensor(numel, size, stride=1, offset=0, **options):
    hooks = name("collections", "OrderedDict") + b")R"
    shape = number(offset) + number(size) + b"\x85" + number(stride) + b"\x85"
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + storage(numel, **options)
        + shape
        + b"\x89"
        + hooks
        + b"tR"
    )


def state(value, more=b""):
    return b"\x80\x02" + more + b"}" + text("a") + value + b"s."


def archive(pickle, parts=None, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    parts = {"data/0": bytes(8), **(parts or {}), "version": b"3"}
    with zipfile.ZipFile(file, "w", compression) as opened:
        opened.writestr("archive/data.pkl", pickle)
        for part, data in parts.items():
            opened.writestr(f"archive/{part}", data)
    return file.getvalue()


def legacy(pickle, keys=("0",), sizes=(2,), data=bytes(8)):
    """A file from before PyTorch 1.6: three pickles of facts, the object, and the storages."""
    facts = [b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80\x02M\xe9\x03.", b"\x80\x02}."]
    names = b"\x80\x02](" + b"".join(map(text, keys)) + b"e."
    pickle = pickle.replace(b"tQ", b"NtQ")  # a storage is a view of another or, as here, of none
    numbers = b"".join(size.to_bytes(8, "little", signed=True) + data for size in sizes)
    return b"".join([*facts, pickle, names, numbers])


def str_of(value):
    """Return a short name for a parameter of a test, which may be kilobytes."""
    return value if isinstance(value, str) else "bytes"


def twice(count):
    """A tuple that has one twice, that has one twice, …: 2**count steps to hash it."""
    return b")q\x01" + b"h\x01\x86q\x01" * count


def call(function, *arguments):
    return name(*function.rsplit(".", 1)) + b"(" + b"".join(arguments) + b"tR"


def copies(function, length, count):
    """A list that is made once and copied again and again, all copies being kept."""
    items = b"".join(b"J" + i.to_bytes(4, "little") for i in range(length))
    again = name(*function.rsplit(".", 1)) + b"q\x02h\x01\x85R" + b"h\x02h\x01\x85R" * count
    return b"](" + items + b"eq\x01(" + again + b"t\x86"


def repeated(numel):
    return tensor(2, numel, stride=0)


@pytest.mark.parametrize("wrap", [archive, legacy])
def test_these_pickles_by_hand_are_what_pytorch_reads(tmp_path, wrap):
    pytest.importorskip("torch")
    path = tmp_path / "a.pth"
    path.write_bytes(wrap(state(tensor(2, 2))))
    assert pytorch.read_checkpoint(path).entries["a"].tolist() == [0, 0]


@pytest.mark.parametrize("wrap", [archive, legacy])
@pytest.mark.parametrize(
    "value, says",
    [
        # Code that would be run. PyTorch refuses it.
        (name("os", "system") + text("touch sprung") + b"\x85R", r"not read: os\.system"),
        (name("builtins", "exec") + text("open('sprung', 'w')") + b"\x85R", "not read: exec"),
        (name("torch.hub", "load") + text("x") + b"\x85R", r"not read: torch\.hub\.load"),
        (name("torch", "load") + text("sprung") + b"\x85R", r"not read: torch\.load"),
        (b"ios\nsystem\n", "can't be read"),
        (text("x") + b"\x85R", "nothing to work on|calls what is not a function"),
        # Calls that take 4 GB and more at once. PyTorch obeys.
        (call("builtins.bytearray", number(2**32)), r"calls builtins\.bytearray"),
        (call("torch._tensor._rebuild_from_type_v2", name("builtins", "bytearray"),
              name("torch", "Tensor"), number(2**32) + b"\x85", b"N"), r"calls builtins\.bytearray"),
        # An integer that only PyTorch knows to be one.
        (call("builtins.bytearray", tensor(1, 1, kind="LongStorage")), r"calls builtins\.bytearray"),
        (name("builtins", "bytearray") + b"}" + number(2**32) + b"K\x01sR", "not with a tuple"),
        (call("torch.FloatTensor", number(2**31)), r"calls torch\.FloatTensor"),
        (call("torch.storage.UntypedStorage", number(2**32)), "UntypedStorage"),
        (call("torch._utils._rebuild_device_tensor_from_cpu_tensor", repeated(2**30),
              name("torch", "float64"), text("cpu"), b"\x89"), "_from_cpu_tensor, which could take"),
        (call("torch._utils._rebuild_qtensor"), "_rebuild_qtensor, which could take"),
        (call("torch._utils._rebuild_nested_tensor"), "_rebuild_nested_tensor, which could take"),
        (call("torch._utils._rebuild_sparse_tensor"), "_rebuild_sparse_tensor, which could take"),
        # The bytes of a text as hexadecimal digits, as hexadecimal digits, …
        (name("_codecs", "encode") * 40 + call("_codecs.encode", text("x"), text("latin1"))
         + (text("hex") + b"\x86R") * 40, "again and again"),
        # Copies of one long list, all kept: 80 kB for each of the 8 bytes that ask for one.
        (copies("torch.Size", 10_000, 5_000), "again and again"),
        (copies("builtins.set", 10_000, 5_000), "again and again"),
        # Operations that never end.
        (b"}" + twice(100) + b"K\x01s", "again and again"),
        (call("builtins.set", b"]" + twice(100) + b"a"), "again and again"),
        (b"(" + text("storage") + name("torch", "FloatStorage") + twice(100) + text("cpu") + b"K\x02tQ",
         "again and again|is not text|can't be read"),
        # A list that is filled when it is already part of another, whose size then changes.
        (call("collections.OrderedDict", b"]q\x02]q\x03ah\x03(" + twice(100) + b"K\x01e"), "part of"),
        (name("builtins", "set") * 50 + b"](" + b"K\x01" * 5_000 + b"e" + b"\x85R" * 50, "again and again"),
        (call("_codecs.encode", text("x"), text("punycode")), "encode text as punycode"),
        (call("builtins.bytearray", text("x"), text("idna")), "encode text as idna"),
        (call("_codecs.encode", text("x"), text("Rot 13")), "may encode text as rot_13"),
        (b"]q\x01" + b"](h\x01h\x01eq\x01" * 100 + b")R", "calls what is not a function"),
        # A tuple that would overflow the stack of the process.
        (b"})" + b"\x85" * 100_000 + b"K\x01s", "too deep"),
        # Tensors that are not in the file.
        (tensor(2, 10**11), "can't be read"),
        (tensor(2, 2, stride=10**11), "can't be read"),
        (tensor(2, 2, offset=1), "can't be read"),
        (tensor(2, -1), "can't be read"),
        (tensor(-2, 0), "can't be read"),
        (storage(2, key="../../x"), "can't be read"),
        (storage(2, kind="OrderedDict"), "can't be read|not read"),
    ],
    ids=str_of,
)  # fmt: skip
def test_pickles_that_mean_harm_are_not_given_to_pytorch(tmp_path, monkeypatch, wrap, value, says):
    """Our check or PyTorch refuses them, quickly and without taking memory."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pth"
    path.write_bytes(wrap(state(value)))
    before = peak()
    with within(10), pytest.raises(TicketError, match=says) as error:
        pytorch.read_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ")
    assert peak() < before + 2**28
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize(
    "value",
    [
        call("builtins.bytearray", number(2**10)),
        call("torch.FloatTensor", number(2**10)),
        call("torch._utils._rebuild_device_tensor_from_cpu_tensor", repeated(2**10),
             name("torch", "float64"), text("cpu"), b"\x89"),
        name("_codecs", "encode") * 3 + call("_codecs.encode", text("x"), text("latin1"))
        + (text("hex") + b"\x86R") * 3,
        copies("torch.Size", 100, 50),
        b"}" + twice(10) + b"K\x01s",
        b"})" + b"\x85" * 1_000 + b"K\x01s",
        call("_codecs.encode", text("x"), text("punycode")),
    ],
    ids=str_of,
)  # fmt: skip
def test_pytorch_itself_would_do_these(value):
    """The guard is needed: PyTorch obeys these harmless, small forms of the harmful pickles."""
    torch = pytest.importorskip("torch")
    content = io.BytesIO(archive(b"\x80\x02" + value + b"\x85."))
    assert len(torch.load(content, weights_only=True)) == 1


def test_a_tensor_that_repeats_a_number_takes_no_memory(tmp_path):
    pytest.importorskip("torch")
    path, before = tmp_path / "a.pth", peak()
    path.write_bytes(archive(state(repeated(2**30))))
    with pytest.raises(ValueError, match="larger than what the file holds of it"):
        as_array(pytorch.read_checkpoint(path).entries["a"])
    assert peak() < before + 2**28


@pytest.mark.parametrize(
    "content, says",
    [
        # 100 MB of zeros in 100 kB, as PyTorch's own reader would unpack.
        (archive(state(tensor(25_000_000, 1)), {"data/0": bytes(10**8)}, zipfile.ZIP_DEFLATED),
         "a part of it is compressed"),
        (archive(state(tensor(2, 2, key="7"))), r"data/7"),
        (archive(state(tensor(2, 2)), {"data/0": bytes(12)}), "storage 0 has 12 bytes, not 8"),
        (archive(state(tensor(10**11, 2))), "storage 0 has 8 bytes, not 400000000000"),
        (archive(b"\x80\x02(" + tensor(2, 2) + tensor(1, 1, kind="HalfStorage") + b"t."),
         "storage 0 has 8 bytes, not 2"),
        (archive(state(tensor(2, 2)), {"x/data.pkl": state(tensor(2, 2))}), "has not one pickle"),
        (archive(state(tensor(2, 2)), {"DATA.PKL": state(tensor(2, 2))}), "a part twice"),
        (legacy(state(tensor(2, 2)), sizes=(3,)), "wrong byte size"),
        (legacy(state(tensor(2, 2)), sizes=(-1,)), "wrong byte size"),
        (legacy(state(tensor(2, 2)), data=bytes(7)), "can't be read"),
        (legacy(state(tensor(2, 2)), keys=()), "a storage is missing"),
        (legacy(state(tensor(2, 2)), keys=("1",)), "a storage is missing"),
        (legacy(state(tensor(10**11, 2)), sizes=(10**11,)), "can't be read"),
        (legacy(b"\x80\x05N."), "can't be read"),
        (b"\x80\x02}.", "can't be read"),
    ],
    ids=str_of,
)  # fmt: skip
def test_files_whose_parts_do_not_fit_are_not_given_to_pytorch(tmp_path, content, says):
    pytest.importorskip("torch")
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    refused(path, says, pytorch.read_checkpoint)


def test_parts_within_parts_are_not_read(tmp_path):
    """A zip archive can list the same bytes several times under different names."""
    path, payload = tmp_path / "a.pth", bytes(4000)
    inner = zipfile.ZipInfo("archive/data/1")
    inner.file_size = inner.compress_size = len(payload)
    inner.CRC = zlib.crc32(payload)
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("archive/data.pkl", state(tensor(1000, 1000, key="1")))
        opened.writestr("archive/data/0", inner.FileHeader() + payload)
        outer = opened.getinfo("archive/data/0")
        inner.header_offset = outer.header_offset + len(outer.FileHeader())
        opened.filelist.append(inner)
        opened.NameToInfo[inner.filename] = inner
    with zipfile.ZipFile(path) as opened:
        assert opened.namelist()[-1] == "archive/data/1"
    refused(path, "its parts are larger than it is", pickles.checked_for_torch)


def test_pytorch_sees_the_archive_that_was_checked(tmp_path):
    """If a file contains two archives, readers may see either."""
    torch = pytest.importorskip("torch")
    good, bad = archive(state(tensor(2, 2))), archive(state(name("torch", "Tensor")))
    path = tmp_path / "a.pth"
    path.write_bytes(bad + good)
    assert torch.load(pickles.checked_for_torch(path), weights_only=True)["a"].tolist() == [0, 0]
    copy = zipfile.ZipFile(pickles.checked_for_torch(path))
    assert copy.namelist() == ["archive/data.pkl", "archive/data/0", "archive/version"]


def test_an_attribute_of_a_dict_is_not_mistaken_for_its_method(tmp_path):
    pytest.importorskip("torch")
    ordered = name("collections", "OrderedDict") + b")R"
    items = ordered + text("a") + tensor(2, 2) + b"s"
    attributes = (
        b"}(" + b"".join(text(method) + b"K\x01" for method in ("items", "get", "keys")) + b"u"
    )
    path = tmp_path / "a.pth"
    path.write_bytes(archive(b"\x80\x02" + items + attributes + b"b."))
    assert list(pytorch.read_checkpoint(path).entries) == ["a"]


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoints_as_people_save_them_are_read(tmp_path, legacy):
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Linear(3, 2)
    )
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 1, 5, 5)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    base = torch.arange(12.0).reshape(3, 4)
    checkpoint = {
        "state_dict": {**network.state_dict(), "view": base[1:, ::2], "same": base.T},
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "parameters": dict(network.named_parameters()),
        "rng": torch.get_rng_state(),
        "empty": torch.zeros(3, 0),
        "more": [
            1,
            (2, 3.5),
            {4},
            None,
            True,
            "é",
            2**70,
            b"\x00\xff",
            1j,
            torch.Size([1]),
            torch.float16,
            bytearray(b"\x00\xff"),
            collections.Counter("abba"),
        ],
    }
    path = tmp_path / "a.pth"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    found = pytorch.read_checkpoint(path)
    assert found.nesting == ("state_dict",) and not found.masks
    assert found.entries.keys() == checkpoint["state_dict"].keys()
    for key, value in checkpoint["state_dict"].items():
        assert torch.equal(found.entries[key], value)
    whole = torch.load(pickles.checked_for_torch(path), weights_only=True)
    assert whole["more"] == checkpoint["more"]
