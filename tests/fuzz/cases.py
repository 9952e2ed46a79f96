"""Damaged tickets: for each loader, the kinds of damage and the outcomes that are allowed.

Whatever the damage, a loader raises `TicketError` with a message that names the file, or gives what
would have been loaded without it. Files of PyTorch carry no hashes, so of them a changed weight is a
weight: there it is the structure, the shapes and the dtypes that must be the same, and every
value finite.
"""

import argparse
import dataclasses
import hashlib
import io
import json
import os
import shutil
import socket
import struct
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore
from rich.console import Console, Group
from safetensors import SafetensorError
from safetensors.numpy import save_file

from lottery_jax import tickets
from lottery_jax.errors import ConfigError, TicketError
from lottery_jax.leaves import by_path
from lottery_jax.tickets import display, pytorch, store, torch_options
from lottery_jax.tickets.metadata import PARTS, metadata_hash
from tests.fuzz.mutations import damaged_bytes, damaged_json, damaged_text, dumps
from tests.helpers import synthetic_ticket

VERSION_1 = Path(__file__).parent.parent / "tickets" / "data"
TICKETS = {"lenet": ("lenet_300_100", (4, 4, 1), 0.02), "vgg": ("vgg11", (16, 16, 1), 0.001)}


@dataclasses.dataclass
class Damage:
    """Damage that was done to a copy.

    Attributes:
        says: a description in words.
        path: the path to load.
        refused: whether it must not load.
        metadata: changed metadata with a matching hash, which must load as it is; else None.
    """

    says: str
    path: Path
    refused: bool = False
    metadata: Any = None


def example(name):
    network, shape, width = TICKETS[name]
    ticket = synthetic_ticket(network, shape, 0.5, width=width)
    more = {"seed": 0, "level": 3, "control": "winning", "result": {"test_accuracy": 0.9876}}
    return dataclasses.replace(ticket, metadata={**ticket.metadata, **more})


def own():
    """Return a ticket of a network that this package does not have."""
    mask = {"a": {"w": np.tile([True, False, True], (3, 1)), "b": np.ones(3, bool)},
            "c": {"0": {"kernel": {"value": np.eye(5, dtype=bool)}}}}  # fmt: skip
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), mask)
    stats = {"n": np.arange(4, dtype=np.int32)}
    metadata = {**example("lenet").metadata, "model": {"name": "mine"}, "layer_order": ["a", "c/0"]}
    return tickets.Ticket(mask, params, stats, metadata, params, stats)


def compacted():
    """Return a ticket of fewer units than its network usually has, as `tickets compact` writes it."""
    network, shape, width = TICKETS["lenet"]
    ticket = synthetic_ticket(network, shape, 0.5, width=width, widths={"dense1": 4, "dense2": 1})
    what_went = {"units": [5, 8], "weights_remaining": 64, "folded": 1, "trainable": False}
    return dataclasses.replace(ticket, metadata={**ticket.metadata, "compacted": what_went})


def hashes(ticket):
    return [tickets.tree_hash(getattr(ticket, part)) for part in PARTS]


def sealed(text):
    """Return metadata as text, with its hash made to match; None if it is not JSON."""
    try:
        metadata = json.loads(text)
        metadata["sha256"]["metadata"] = metadata_hash(metadata)
        return json.dumps(metadata, allow_nan=False)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def damaged_metadata(rng, metadata):
    """Return the bytes of damaged metadata, a description, and the metadata if its hash is right."""
    kind = rng.choice(
        ["bytes", "text", "json", "json", "json, sealed", "json, sealed", "json, sealed"]
    )
    if kind == "bytes":
        return *damaged_bytes(rng, json.dumps(metadata, indent=1).encode()), None
    if kind == "text":
        return *damaged_text(rng, json.dumps(metadata, indent=1)), None
    damaged, says = damaged_json(rng, metadata)
    text = dumps(damaged)
    if kind == "json, sealed" and (whole := sealed(text)):
        return whole.encode(), f"{says}, sealed", json.loads(whole)
    return text.encode(), says, None


def check_metadata(found, whole, damage):
    if damage.metadata is not None:
        assert found == damage.metadata
    elif "metadata" in found["sha256"]:
        assert found == whole
    else:  # as in older tickets, which have no such hash
        assert {**found, "sha256": None} == {**whole, "sha256": None}


class Directory:
    """Ticket directories."""

    def __init__(self, scratch):
        self.canary = scratch / "canary"
        self.originals = []
        for name in TICKETS:
            path = scratch / "originals" / name
            self.originals.append((path, tickets.save_ticket(path, example(name))))
        # A whole ticket in a place where nothing may be read.
        shutil.copytree(self.originals[0][0], self.canary / "ticket")
        (self.canary / "kept").write_text("kept")

    def damage(self, rng, folder):
        original, self.whole = self.originals[rng.random() < 0.1]
        path = shutil.copytree(original, folder / "ticket")
        kinds = [self._bytes, self._metadata, self._orbax, self._files, self._special, self._stored,
                 self._stored, self._checksummed]  # fmt: skip
        return rng.choice(kinds)(rng, path)

    def _pick(self, rng, path):
        files = [p for p in path.rglob("*") if p.is_file()]
        return rng.choice(sorted(files, key=_size))

    def _bytes(self, rng, path):
        file = self._pick(rng, path)
        data, says = damaged_bytes(rng, file.read_bytes())
        file.write_bytes(data)
        return Damage(f"{file.name}: {says}", path)

    def _metadata(self, rng, path):
        data, says, metadata = damaged_metadata(rng, self.whole.metadata)
        (path / "metadata.json").write_bytes(data)
        return Damage(f"metadata.json: {says}", path, metadata=metadata)

    def _orbax(self, rng, path):
        file = rng.choice(sorted(path.rglob("_*METADATA")))
        damaged, says = damaged_json(rng, json.loads(file.read_text()))
        file.write_text(dumps(damaged), "utf-8")
        return Damage(f"{file.name}: {says}", path)

    def _files(self, rng, path):
        kind = rng.choice(["remove", "swap", "add", "folder", "rename"])
        file, other = (self._pick(rng, path) for _ in range(2))
        if kind == "remove":
            file.unlink()
        elif kind == "swap":
            a, b = file.read_bytes(), other.read_bytes()
            file.write_bytes(b)
            other.write_bytes(a)
        elif kind == "add":
            folder = rng.choice([path, *(p for p in sorted(path.rglob("*")) if p.is_dir())])
            name = rng.choice(["more", "_METADATA", "zarr.json", "checkpoint", "_sharding"])
            (folder / name).write_bytes(file.read_bytes())
        elif kind == "folder":
            file.unlink()
            file.mkdir()
        else:
            folder = file.parent
            folder.rename(folder.with_name(folder.name + "x")) if folder != path else file.unlink()
        return Damage(f"{kind} {file.relative_to(path)}", path)

    def _special(self, rng, path):
        kind = rng.choice(
            ["link out", "folder out", "metadata out", "pipe", "socket", "circle", "up"]
        )
        file = self._pick(rng, path)
        if kind == "folder out":
            file = rng.choice([path / "arrays", path / "arrays/d"])
            target = self.canary / "ticket" / file.relative_to(path)
            shutil.rmtree(file)
            file.symlink_to(target)
        elif kind == "metadata out":
            file = path / "metadata.json"
            file.unlink()
            file.symlink_to(os.path.relpath(self.originals[0][0] / "metadata.json", path))
        else:
            file.unlink()
            if kind == "link out":
                file.symlink_to(self.canary / "kept")
            elif kind == "pipe":
                os.mkfifo(file)
            elif kind == "socket":
                here = Path.cwd()
                os.chdir(file.parent)  # the names of sockets must be short
                with socket.socket(socket.AF_UNIX) as opened:
                    opened.bind(file.name)
                os.chdir(here)
            else:
                file.symlink_to(file.name if kind == "circle" else "..")
        return Damage(f"{kind} at {file.relative_to(path)}", path, refused=kind != "up")

    def _stored(self, rng, path):
        """Damage the description of an array, or its content, in TensorStore's database."""
        spec = {"driver": "ocdbt", "base": f"file://{path}/arrays/"}
        database = tensorstore.KvStore.open(spec).result()
        name, other = rng.sample(sorted(database.list().result()), 2)
        value = database.read(name).result().value
        kind = rng.choice(["damage", "damage", "damage", "remove", "swap"])
        says = kind
        if kind == "remove":
            database.delete_range(tensorstore.KvStore.KeyRange(name, name + b"\0")).result()
        elif kind == "swap":
            database.write(name, database.read(other).result().value).result()
            database.write(other, value).result()
        else:
            if name.endswith(b".json") and rng.random() < 0.8:
                damaged, says = rng.choice([damaged_json, huge])(rng, json.loads(value))
                data = dumps(damaged).encode("utf-8", "replace")
            else:
                data, says = damaged_bytes(rng, value)
            database.write(name, data).result()
        return Damage(f"stored {name.decode()}: {says}", path)

    def _checksummed(self, rng, path):
        """Damage a file of TensorStore's database, and make its checksum match."""
        files = [*path.rglob("manifest.ocdbt"), *(p for p in path.rglob("d/*") if p.is_file())]
        file = rng.choice(sorted(files, key=_size))
        data = file.read_bytes()
        body, says = damaged_bytes(rng, data[12:-4])
        data = data[:4] + struct.pack("<Q", len(body) + 16) + body
        file.write_bytes(data + struct.pack("<I", _crc32c(data)))
        return Damage(f"{file.name} with its checksum: {says}", path)

    def load(self, path):
        return tickets.load_ticket(path)

    def check(self, ticket, damage):
        assert hashes(ticket) == hashes(self.whole)
        check_metadata(ticket.metadata, self.whole.metadata, damage)


def huge(rng, description):
    """Return TensorStore's description of an array, made huge or stored in huge pieces."""
    size = [rng.choice([2**12, 2**31, 10**10, 2**40, 2**62]) for _ in description["shape"]]
    kind = rng.choice(["pieces", "pieces without shards", "shards", "shape"])
    if kind == "shape":
        description["shape"] = size
    else:
        description["chunk_grid"]["configuration"]["chunk_shape"] = size
    if kind == "pieces":
        description["codecs"][0]["configuration"]["chunk_shape"] = size
    if kind == "pieces without shards":
        description["codecs"] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    return description, f"{kind} of {size}"


def _size(path):
    """Return a key that sorts files with random names in the same order each time."""
    return len(path.parts), path.stat().st_size


def _crc32c(data):
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def parts_of(content):
    """Return the header of a safetensors file, and the data after it."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def safetensors_of(header, data):
    header = header if isinstance(header, bytes) else dumps(header).encode("utf-8", "replace")
    return struct.pack("<Q", len(header)) + header + data


def damaged_safetensors(rng, content):
    """Return a damaged safetensors file, and a description of the damage."""
    header, data = parts_of(content)
    kind = rng.choice(["bytes", "header", "swap", "length", "data", "text"])
    if kind == "bytes":
        return damaged_bytes(rng, content)
    if kind == "header":
        damaged, says = damaged_json(rng, header)
        return safetensors_of(damaged, data), f"header: {says}"
    if kind == "swap":
        a, b = rng.sample([name for name in header if name != "__metadata__"], 2)
        header[a], header[b] = header[b], header[a]
        return safetensors_of(header, data), f"{a} for {b}"
    if kind == "length":
        length = rng.choice([0, 1, len(content), 2**27, 2**31, 2**63, 2**64 - 1])
        return struct.pack("<Q", length) + content[8:], f"a header of {length} bytes"
    if kind == "data":
        data, says = damaged_bytes(rng, data)
        return safetensors_of(header, data), f"data: {says}"
    text, says = damaged_text(rng, json.dumps(header))
    return safetensors_of(text, data), f"header: {says}"


def resealed(content):
    """Return a portable ticket with the hash of its contents made to match, where that can be."""
    try:
        header, data = parts_of(content)
        entry = json.loads(header["__metadata__"]["ticket"])
        digest = hashlib.sha256()
        for leaf in entry["leaves"]:
            name, dtype, shape, stored = leaf.values()
            begin, end = header.get(name, {"data_offsets": (0, 0)})["data_offsets"]
            digest.update(f"{name} {dtype} {shape} {stored}\n".encode() + data[begin:end])
        entry["sha256"] = digest.hexdigest()
        header["__metadata__"]["ticket"] = json.dumps(entry)
        return safetensors_of(header, data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error):
        return content


class Portable:
    """Portable tickets, one of a network that this package does not have, and one of a compacted one."""

    chances = (60, 10, 15, 15)  # of each original

    def __init__(self, scratch):
        self.originals = []
        folder = scratch / "originals"
        folder.mkdir(exist_ok=True)
        examples = {name: example(name) for name in TICKETS}
        for name, ticket in (examples | {"own": own(), "compacted": compacted()}).items():
            path = folder / f"{name}.safetensors"
            self.originals.append((path.read_bytes, tickets.save_portable(path, ticket)))

    def damage(self, rng, folder):
        ((read, self.whole),) = rng.choices(self.originals, self.chances)
        path = folder / "ticket.safetensors"
        if rng.random() < 0.5:
            content, says = damaged_safetensors(rng, read())
            if rng.random() < 0.5:
                content, says = resealed(content), f"{says}, sealed"
            path.write_bytes(content)
            return Damage(says, path)
        header, data = parts_of(read())
        entry = json.loads(header["__metadata__"]["ticket"])
        metadata = None
        if rng.random() < 0.2:
            damaged, says = damaged_json(rng, entry)
            text = dumps(damaged)
        else:
            content, says, metadata = damaged_metadata(rng, entry["metadata"])
            start, _, end = json.dumps({**entry, "metadata": "here"}).partition('"here"')
            text = start + content.decode("utf-8", "replace") + end
        header["__metadata__"]["ticket"] = text
        path.write_bytes(safetensors_of(json.dumps(header).encode(), data))
        return Damage(f"metadata: {says}", path, metadata=metadata)

    def load(self, path):
        return tickets.load_ticket(path)

    def check(self, ticket, damage):
        assert hashes(ticket) == hashes(self.whole)
        check_metadata(ticket.metadata, self.whole.metadata, damage)


class PortableFirst(Portable):
    """Portable tickets of the first version of the format."""

    chances = (80, 20)

    def __init__(self, scratch):
        self.originals = []
        for path in sorted(VERSION_1.glob("version_1_*.safetensors")):
            self.originals.append((path.read_bytes, tickets.load_ticket(path)))


class Metadata:
    """The metadata of both kinds of ticket alone, and the text that is printed of it."""

    def __init__(self, scratch):
        self.kinds = [Directory(scratch), Portable(scratch)]

    def damage(self, rng, folder):
        kind = rng.choice(self.kinds)
        if isinstance(kind, Portable):
            damage = kind.damage(rng, folder)
        else:
            original, kind.whole = kind.originals[0]
            damage = kind._metadata(rng, shutil.copytree(original, folder / "ticket"))
        self.whole = kind.whole.metadata
        return damage

    def load(self, path):
        metadata = store.read_metadata(path)
        shown = io.StringIO()
        what = Group(display.card(path, metadata), display.listing([display.row(path, metadata)]))
        Console(markup=False, highlight=False, emoji=False, width=240, file=shown).print(what)
        return metadata, shown.getvalue()

    def check(self, loaded, damage):
        metadata, shown = loaded
        assert all(c.isprintable() or c == "\n" for c in shown), ascii(shown)
        check_metadata(metadata, self.whole, damage)


class Torch:
    """Files of PyTorch; in this class those of PyTorch 1.6 and newer, which are zip archives."""

    legacy = False
    suffix = ".pth"

    def __init__(self, scratch):
        ticket = example("vgg")
        self.state = pytorch.from_flax(ticket.trained_variables, "vgg11", (16, 16, 1))
        path = scratch / f"original{self.suffix}"
        path.write_bytes(self.saved(self.state))
        self.content = path.read_bytes()
        self.whole = self.load(path)

    def saved(self, state):
        import torch

        file = io.BytesIO()
        torch.save(_tensors(state), file, _use_new_zipfile_serialization=not self.legacy)
        return file.getvalue()

    def damage(self, rng, folder):
        path = folder / f"vgg11{self.suffix}"
        content, says = rng.choice([self._bytes, self._format, self._state])(rng)
        path.write_bytes(content)
        return Damage(says, path)

    def _bytes(self, rng):
        return damaged_bytes(rng, self.content)

    def _format(self, rng):
        """Damage a part of the archive, with right checksums."""
        with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        kind = rng.choice(
            ["pickle", "pickle", "pickle", "part", "remove", "swap", "twice", "name", "compress"]
        )
        name, other = rng.sample(sorted(parts), 2)
        if kind == "pickle":
            name = "archive/data.pkl"
        if kind in ("pickle", "part"):
            parts[name], says = damaged_bytes(rng, parts[name])
            kind = f"{kind}, {says}"
        elif kind == "remove":
            del parts[name]
        elif kind == "swap":
            parts[name], parts[other] = parts[other], parts[name]
        elif kind == "name":
            parts[rng.choice(["../../x", "/x", name.upper(), "archive/../x", "x\0y", ""])] = (
                parts.pop(name)
            )
        file = io.BytesIO()
        compression = zipfile.ZIP_DEFLATED if kind == "compress" else zipfile.ZIP_STORED
        with zipfile.ZipFile(file, "w", compression) as archive:
            for part, data in parts.items():
                archive.writestr(zipfile.ZipInfo(part), data, compression)
            if kind == "twice":
                archive.writestr(zipfile.ZipInfo(other), parts[name])
        return file.getvalue(), f"{kind}: {name}"

    def _state(self, rng):
        """Save another state dict, or something else, as PyTorch saves it."""
        import torch

        state: Any = _tensors(self.state)
        key, other = rng.sample(sorted(state), 2)
        changes = {
            "dtype": lambda t: t.to(rng.choice([torch.float64, torch.bfloat16, torch.int64, torch.bool])),
            "rank": lambda t: t[None],
            "size": lambda t: torch.cat([t.ravel(), t.ravel()]),
            "infinite": lambda t: torch.full(t.shape, rng.choice([float("inf"), float("nan")])),
            "empty": lambda t: torch.zeros(10**6, 0),
            "repeated": lambda t: torch.zeros(1).expand(10**9, 10**9),
            "strided": lambda t: torch.stack([t, t])[1],
            "parameter": lambda t: torch.nn.Parameter(t.float()),
            "other": lambda t: state[other],
            "number": lambda t: 7,
            "list": lambda t: [t],
            "nothing": lambda t: None,
        }  # fmt: skip
        kind = rng.choice(
            [*changes, "missing", "more", "name", "nested", "wrapped", "whole", "many"]
        )
        if kind in changes:
            state[key] = changes[kind](state[key])
        elif kind == "missing":
            del state[key]
        elif kind == "more":
            state[rng.choice(["more.weight", "\x1b[2J", "", 7, None])] = torch.zeros(3)
        elif kind == "name":
            state = {f"{rng.choice(['module.', 'x'])}{k}": value for k, value in state.items()}
        elif kind == "nested":
            state = {"state_dict": {"state_dict": state}, "model_state_dict": 3, "epoch": 7}
        elif kind == "wrapped":
            state = {
                "state_dict": state,
                "optimizer": {"state": {0: {"step": 3}}, "lr": 0.1},
                "args": ("a", {"b"}),
            }
        elif kind == "whole":
            state = rng.choice([[state], state[key], None, (), 3, "x", {}, {"state_dict": {}}])
        else:
            deep = state[key]
            for _ in range(300):
                deep = [deep]
            state["deep"] = deep
        return self.saved(state), f"{kind}: {key}"

    def load(self, path):
        model = {"name": "vgg11", "width": 0.001}
        return tickets.import_pytorch(
            path, model, data="digits", input_shape=(16, 16, 1), mean=[0.5], std=[0.25]
        )

    def check(self, ticket, damage):
        # These files have no hashes, so a changed weight can not be noticed.
        for part in PARTS:
            mine, theirs = (by_path(getattr(t, part)) for t in (ticket, self.whole))
            assert [(k, v.shape, v.dtype) for k, v in mine.items()] == [
                (k, v.shape, v.dtype) for k, v in theirs.items()
            ]
            assert all(np.isfinite(v).all() for v in jax.tree.leaves(mine))
        depends = ("weights_remaining", "density", "layers", "sha256", "imported")
        assert {k: v for k, v in ticket.metadata.items() if k not in depends} == {
            k: v for k, v in self.whole.metadata.items() if k not in depends
        }


def _tensors(state):
    import torch

    if not isinstance(state, dict):
        return state
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}


class Legacy(Torch):
    """Files of PyTorch before 1.6: pickles, and the numbers after them."""

    legacy = True

    def _format(self, rng):
        """Damage the pickles at the beginning."""
        length = len(self.content) - sum(v.nbytes + 8 for v in self.state.values())
        data, says = damaged_bytes(rng, self.content[:length])
        return data + self.content[length:], f"pickles: {says}"


class Safetensors(Torch):
    """State dicts as safetensors."""

    suffix = ".safetensors"

    def saved(self, state):
        path = Path("saved.safetensors")
        try:
            save_file(
                {
                    k: v if isinstance(v, np.ndarray) else v.detach().numpy()
                    for k, v in state.items()
                },
                path,
            )
            return path.read_bytes()
        except (AttributeError, TypeError, KeyError, RuntimeError, MemoryError, SafetensorError):
            return b""  # this format can't hold it
        finally:
            path.unlink(missing_ok=True)

    def _format(self, rng):
        return damaged_safetensors(rng, self.content)


class Tables(Torch):
    """JSON files for `--names` and `--flatten`, beside a state dict that is whole."""

    def __init__(self, scratch):
        self.names = {"conv1": "conv1", "conv2": "a.0", "dense1": "b", "head": "fc3"}
        self.flatten = {"dense1": "4x4"}
        ticket = synthetic_ticket("conv2", (8, 8, 1), 0.5, width=0.02)
        there = {"conv2": "a.0", "fc1": "b"}
        state = pytorch.from_flax(ticket.trained_variables, "conv2", (8, 8, 1))
        renamed = {".".join([there.get(k.split(".")[0], k.split(".")[0]), k.split(".")[1]]): value
                   for k, value in state.items()}  # fmt: skip
        self.file = scratch / "conv2.pth"
        self.file.write_bytes(self.saved(renamed))
        names, flatten = scratch / "names.json", scratch / "flatten.json"
        names.write_text(json.dumps(self.names))
        flatten.write_text(json.dumps(self.flatten))
        self.whole = self.load(names)
        assert hashes(self.whole) == hashes(self.load(flatten))

    def damage(self, rng, folder):
        kind = rng.choice(["names", "names", "flatten"])
        path, table = folder / f"{kind}.json", getattr(self, kind)
        if (how := rng.choice(["bytes", "text", "json", "json"])) == "json":
            damaged, says = damaged_json(rng, table)
            content = dumps(damaged).encode("utf-8", "surrogatepass")
        elif how == "text":
            content, says = damaged_text(rng, json.dumps(table, indent=1))
        else:
            content, says = damaged_bytes(rng, json.dumps(table, indent=1).encode())
        path.write_bytes(content)
        return Damage(f"{kind}: {says}", path)

    def load(self, path):
        chosen: dict[str, Any] = {"names": self.names}
        try:
            parse = torch_options.names if path.stem == "names" else torch_options.images
            chosen[path.stem] = parse(str(path))
            return tickets.import_pytorch(
                self.file, {"name": "conv2", "width": 0.02}, data="digits", input_shape=(8, 8, 1),
                mean=[0.5], std=[0.25], **chosen,
            )  # fmt: skip
        except (argparse.ArgumentTypeError, ConfigError, TicketError) as error:
            raise TicketError(f"{path}: {error}") from error


LOADERS = {
    "directory": Directory,
    "portable": Portable,
    "portable_1": PortableFirst,
    "metadata": Metadata,
    "torch": Torch,
    "legacy": Legacy,
    "safetensors": Safetensors,
    "tables": Tables,
}
