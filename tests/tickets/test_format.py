"""docs/format.md: its code reads tickets in processes that have neither this package nor JAX."""

import hashlib
import json
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution

import jax
import numpy as np
import pytest
from packaging.requirements import Requirement
from safetensors.numpy import load_file

from lottery_jax import tickets
from lottery_jax.errors import TicketError
from lottery_jax.leaves import by_path
from lottery_jax.tickets.metadata import PARTS
from tests.helpers import ROOT, assert_same, synthetic_ticket

PAGE = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
# Runs without this package: not in the folder of the tests, without the hooks of an installation
# that one can edit, and with a finder that refuses it even where it is installed.
ISOLATED = """
import sys
class Refuse:
    def find_spec(name, path=None, target=None):
        top = name.partition(".")[0]
        if top in {refused!r} or ({only!r} and top not in {{*{only!r}, *sys.stdlib_module_names}}):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse)
sys.path += {paths!r}
{code}
assert not [name for name in sys.modules if name.partition(".")[0] in {refused!r}]
"""


def snippets(heading):
    """The code in Python below a heading of the page."""
    section = re.split(r"^##+ ", PAGE.split(f"# {heading}\n")[1], flags=re.M)[0]
    return re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)


def isolated(code, folder, only=(), refused=("lottery_jax", "jax", "flax", "orbax")):
    """Run code in a process without the packages that are refused, or with nothing but `only`."""
    paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    text = ISOLATED.format(refused=refused, only=only, paths=paths, code=code)
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", text], cwd=folder, capture_output=True, text=True
    )


def succeeded(done):
    assert done.returncode == 0, done.stderr


def written(ticket, folder):
    """Write the ticket as `a.safetensors`, and images."""
    tickets.save_portable(folder / "a.safetensors", ticket)
    shape = (5, *ticket.metadata["input_shape"])
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.save(folder / "images.npy", images)
    return images


def our_logits(ticket, images):
    x = (images / np.float32(255) - ticket.metadata["mean"]) / ticket.metadata["std"]
    model = tickets.model_of(ticket.metadata)[0]
    return model.apply(ticket.trained_variables, x.astype(np.float32), train=False)


def assert_close(a, b):
    assert a.shape == b.shape == (5, 10)
    assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


def assert_same_arrays(path, ticket):
    """Compare an .npz file of all leaves, by name, with a ticket."""
    with np.load(path) as found:
        for part in PARTS:
            for name, leaf in by_path(getattr(ticket, part)).items():
                assert_same(found[f"{part}/{name}"], leaf)
        assert len(found) == sum(len(by_path(getattr(ticket, part))) for part in PARTS)


def example():
    """A ticket with BatchNorm, and with masks whose bits fill no whole byte."""
    return synthetic_ticket("vgg11", (16, 16, 1), 0.3, width=0.02)


READ_WITH_NUMPY = """
{code}
arrays, metadata = read_ticket("a.safetensors")
np.savez("read.npz", **arrays)
json.dump(metadata, open("read.json", "w"))
"""


def test_numpy_alone_reads_every_array_bit_for_bit(tmp_path):
    ticket = example()
    written(ticket, tmp_path)
    reader = snippets("With NumPy alone")[0]
    assert len([line for line in reader.splitlines() if line]) <= 15
    succeeded(isolated(READ_WITH_NUMPY.format(code=reader), tmp_path, only=("numpy",)))
    assert_same_arrays(tmp_path / "read.npz", ticket)
    metadata = json.loads((tmp_path / "read.json").read_text())
    assert metadata == tickets.read_metadata(tmp_path / "a.safetensors")


def test_the_isolated_process_has_nothing_of_ours(tmp_path):
    """So that the other tests here can fail."""
    for name in ("lottery_jax", "jax", "safetensors"):
        done = isolated(f"import {name}", tmp_path, only=("numpy",))
        assert done.returncode == 1 and "ModuleNotFoundError" in done.stderr


def test_numpy_alone_notices_damage(tmp_path):
    """A byte of the contents, or a word of the description, that was changed."""
    written(example(), tmp_path)
    content = (tmp_path / "a.safetensors").read_bytes()
    damaged = [
        content[:-1] + bytes([content[-1] ^ 1]),
        content[:-999] + bytes([content[-999] ^ 128]) + content[-998:],
        content.replace(b"trained/head/bias", b"trained/head/bios"),
        # Two leaves of the same shape, each with the tensor of the other.
        content.replace(b'"params/bn1_1/scale":', b'"X":')
        .replace(b'"params/bn1_1/bias":', b'"params/bn1_1/scale":')
        .replace(b'"X":', b'"params/bn1_1/bias":'),
    ]
    code = snippets("With NumPy alone")[0] + (
        "for i in range(4):\n"
        "    try:\n"
        "        read_ticket(f'{i}.safetensors')\n"
        "    except AssertionError as error:\n"
        "        print(error)\n"
    )
    for i, bytes_ in enumerate(damaged):
        assert bytes_ != content
        (tmp_path / f"{i}.safetensors").write_bytes(bytes_)
    done = isolated(code, tmp_path, only=("numpy",))
    succeeded(done)
    assert done.stdout.splitlines() == [f"{i}.safetensors is damaged" for i in range(4)]


@pytest.mark.slow
def test_numpy_alone_computes_the_logits(tmp_path):
    ticket = synthetic_ticket("lenet_300_100", (8, 8, 1), 0.3)
    images = written(ticket, tmp_path)
    code = "\n".join(snippets("With NumPy alone"))
    code += 'np.save("logits.npy", logits(*read_ticket("a.safetensors"), np.load("images.npy")))'
    succeeded(isolated(code, tmp_path, only=("numpy",)))
    assert_close(np.load(tmp_path / "logits.npy"), our_logits(ticket, images))


@pytest.mark.slow
@pytest.mark.parametrize("name, width", [("lenet_300_100", 1.0), ("conv4", 0.1)])
def test_pytorch_reads_every_array_and_computes_the_logits(tmp_path, name, width):
    pytest.importorskip("torch")
    ticket = synthetic_ticket(name, (8, 8, 3), 0.3, width=width)
    images = written(ticket, tmp_path)
    code = "\n".join(snippets("With PyTorch"))
    code += """
import numpy as np
arrays, metadata = read_ticket("a.safetensors")
images = torch.from_numpy(np.load("images.npy"))
np.save("logits.npy", logits(arrays, metadata, images).numpy())
np.savez("read.npz", **{key: array.numpy() for key, array in arrays.items()})
"""
    succeeded(isolated(code, tmp_path))
    assert_same_arrays(tmp_path / "read.npz", ticket)
    assert_close(np.load(tmp_path / "logits.npy"), our_logits(ticket, images))


def fresh_environment(folder, *packages):
    """Make a virtual environment of these packages and of those that they need; return its Python.

    The packages are links to those that are installed here, so that nothing is downloaded.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    seen, wanted = set(), [*packages]
    while wanted:
        if (name := wanted.pop()) in seen:
            continue
        seen.add(name)
        found = distribution(name)
        needs = map(Requirement, found.requires or ())
        wanted += [r.name for r in needs if r.marker is None or r.marker.evaluate({"extra": ""})]
        for top in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (site / top).is_symlink():
                (site / top).symlink_to(found.locate_file(top))
    return folder / "bin" / "python"


AS_TENSORS = "torch.from_numpy(np.load('images.npy'))"


@pytest.mark.parametrize(
    "heading, packages, images, lacks",
    [
        pytest.param("With NumPy alone", ["numpy"], "np.load('images.npy')",
                     ["jax", "lottery_jax", "safetensors", "torch"], marks=pytest.mark.slow),
        pytest.param("With PyTorch", ["torch", "safetensors", "numpy"], AS_TENSORS,
                     ["jax", "lottery_jax"], marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_a_stranger_gets_the_same_logits(tmp_path, heading, packages, images, lacks):
    """In an environment of their own, in which this project was never installed."""
    if "torch" in packages:
        pytest.importorskip("torch")
    ticket = synthetic_ticket("lenet_300_100", (8, 8, 1), 0.3)
    pixels = written(ticket, tmp_path)
    python = fresh_environment(tmp_path / "venv", *packages)
    code = "\n".join(snippets(heading)) + (
        "\nimport importlib.util, numpy as np"
        f"\nassert not any(map(importlib.util.find_spec, {lacks}))"
        f"\nfound = logits(*read_ticket('a.safetensors'), {images})"
        "\nnp.save('logits.npy', np.asarray(found))"
    )
    succeeded(
        subprocess.run([python, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    )
    assert_close(np.load(tmp_path / "logits.npy"), our_logits(ticket, pixels))


def test_hashes_are_those_that_the_page_describes():
    """Of the metadata and of the parts, computed as the page says."""
    ticket = example()
    scalar = {"a": {"kernel": np.ones((2, 2), np.float32), "scale": np.float32(2)}}
    for tree in (ticket.mask, ticket.params, ticket.batch_stats, scalar):
        digest = hashlib.sha256()
        for name, leaf in by_path(tree).items():
            path = "".join(f"[{key!r}]" for key in name.split("/"))
            dtype = {"float32": "<f4", "bool": "|b1"}[leaf.dtype.name]
            digest.update(f"{path} {dtype} {leaf.shape or (1,)}\n".encode() + leaf.tobytes())
        assert tickets.tree_hash(tree) == digest.hexdigest()


def test_the_hash_of_the_metadata(tmp_path):
    metadata = tickets.save_portable(tmp_path / "a.safetensors", example()).metadata
    recorded = metadata["sha256"].pop("metadata")
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode("ascii")).hexdigest() == recorded


@pytest.mark.slow
def test_orbax_alone_reads_a_directory(tmp_path):
    """With the three lines of the page, and the import of JSON."""
    ticket = example()
    saved = tickets.save_ticket(tmp_path / "ticket", ticket)
    (code,) = snippets("The directory, with Orbax alone")
    assert len([line for line in code.splitlines() if line]) == 1 + 3
    code = code.replace("/path/to", str(tmp_path))
    code += """
import jax, numpy as np
leaves = jax.tree_util.tree_leaves_with_path(arrays)
named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
np.savez("read.npz", **named)
json.dump(metadata, open("read.json", "w"))
"""
    succeeded(isolated(code, tmp_path, refused=("lottery_jax",)))
    assert_same_arrays(tmp_path / "read.npz", ticket)
    assert json.loads((tmp_path / "read.json").read_text()) == saved.metadata


def test_the_page_lists_all_that_a_file_has(tmp_path):
    """Its fields, and the ways in which leaves are stored."""
    tickets.save_portable(tmp_path / "a.safetensors", example())
    content = (tmp_path / "a.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    entry = json.loads(header["__metadata__"]["ticket"])
    words = [*entry, *PARTS, *{leaf["stored"] for leaf in entry["leaves"]}]
    assert len(words) == 7 + 5 + 4
    assert not [word for word in words if f"\n| `{word}` |" not in PAGE]


@pytest.mark.parametrize(
    "weights, parts",
    [
        ("trained", ("trained", "trained_batch_stats")),
        ("start", ("params", "batch_stats")),
        ("mask", ("mask",)),
    ],
)
def test_whole_arrays_are_plain_safetensors(tmp_path, weights, parts):
    ticket = example()
    path = tmp_path / "a.safetensors"
    tickets.export_safetensors(path, ticket, weights)
    expected = {
        name: leaf for part in parts for name, leaf in by_path(getattr(ticket, part)).items()
    }
    found = load_file(path)
    assert found.keys() == expected.keys() and {"conv1_1/kernel", "head/bias"} <= found.keys()
    for name, leaf in expected.items():
        assert_same(found[name], leaf)
    assert not tickets.is_portable(path)
    content = path.read_bytes()
    about = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    assert json.loads(about["lottery_jax"]) == {"weights": weights, "metadata": ticket.metadata}


def test_two_leaves_of_one_path_are_an_error(tmp_path):
    leaf = {"a": np.ones(2, np.float32)}
    ticket = tickets.Ticket(jax.tree.map(lambda x: x > 0, leaf), leaf, leaf, {}, leaf, leaf)
    with pytest.raises(TicketError, match="have the same path"):
        tickets.export_safetensors(tmp_path / "a.safetensors", ticket)
    assert not list(tmp_path.iterdir())
