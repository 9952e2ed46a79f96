"""Files of data from strangers, damaged or malicious: read exactly, or refused in a line.

A case is a kind of damage and a number, and the same each time. In every one nothing is executed or
written, little memory is taken, and it ends soon.
"""

import contextlib
import gzip
import io
import os
import pickle
import random
import signal
import struct
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from lottery_jax.datasets.idx import read_idx
from lottery_jax.datasets.npz import read_npz
from lottery_jax.errors import DataError

KEYS = ("x_train", "y_train", "x_test", "y_test")
SECONDS, MEBIBYTES = 20, 4
REFUSED = object()  # stands for arrays that must not be loaded


class TooLong(BaseException):
    """Not an Exception, because a reader may take any Exception for a damaged file."""


def some_arrays(rng):
    def split(n):
        shape = (n, rng.randint(1, 5), rng.randint(1, 5), rng.choice([1, 3]))
        images = np.frombuffer(rng.randbytes(int(np.prod(shape))), np.uint8).reshape(shape)
        return images, np.array(
            [rng.randrange(4) for _ in range(n)], rng.choice(["u1", "i4", "i8"])
        )

    (x_train, y_train), (x_test, y_test) = split(rng.randint(2, 9)), split(rng.randint(1, 5))
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def npy(array, **options):
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(array), **options)
    return out.getvalue()


def npy_of(header, body=b"", version=b"\x01\x00"):
    """Return an npy file with any header at all."""
    length = struct.pack("<H" if version[0] == 1 else "<I", len(header))
    return b"\x93NUMPY" + version + length + header.encode("latin1") + body


def archive(entries, compression=zipfile.ZIP_STORED, comment=b""):
    """Return a zip file of (name, content) pairs; a name may occur twice."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            # Not by its name, about which zipfile would warn if it is there already.
            file.NameToInfo.pop(name, None)
            file.writestr(info, content)
        file.comment = comment
    return out.getvalue()


def entries_of(arrays):
    return [(f"{key}.npy", npy(array)) for key, array in arrays.items()]


def with_entry(rng, arrays, key, content, **options):
    """Return the archive with one of its entries replaced."""
    return archive(
        [(n, content if n == f"{key}.npy" else c) for n, c in entries_of(arrays)], **options
    )


def flipped(rng, data, below=None):
    raw = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        raw[rng.randrange(below or len(raw))] ^= 1 << rng.randrange(8)
    return bytes(raw)


def deflated_or_not(rng):
    return rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])


class Payload:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch executed",)


# Each returns the bytes of a file, and the arrays that it may be read as: those that were put into
# it, where checksums protect them.


def flips(rng, arrays):
    return flipped(rng, archive(entries_of(arrays), deflated_or_not(rng))), arrays


def flips_in_the_directory(rng, arrays):
    data = archive(entries_of(arrays), deflated_or_not(rng))
    start = data.index(b"PK\x01\x02")
    return data[:start] + flipped(rng, data[start:]), arrays


def flips_in_a_local_header(rng, arrays):
    data = archive(entries_of(arrays), deflated_or_not(rng))
    start = data.index(rng.choice(KEYS).encode() + b".npy") - 30
    return data[:start] + flipped(rng, data[start:], below=37), arrays


def truncations(rng, arrays):
    data = archive(entries_of(arrays), deflated_or_not(rng))
    return data[: rng.randrange(len(data))], REFUSED


def holes(rng, arrays):
    data = archive(entries_of(arrays), deflated_or_not(rng))
    at, size = rng.randrange(len(data)), rng.choice([1, 16, 200])
    return data[:at] + rng.choice([b"", bytes(size), rng.randbytes(size)]) + data[
        at + size :
    ], arrays


def random_bytes(rng, arrays):
    head = rng.choice([b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x01\x00"])
    return head + rng.randbytes(rng.choice([0, 1, 30, 1000])), REFUSED


def a_directory_of_random_numbers(rng, arrays):
    """Damage each field of the entries in the central directory, one after the other."""
    data = bytearray(archive(entries_of(arrays), deflated_or_not(rng)))
    at = data.index(b"PK\x01\x02") + rng.randrange(4, 46, 2)
    data[at : at + 4] = rng.choice(
        [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", rng.randbytes(4)]
    )
    return bytes(data), arrays


def random_end_records(rng, arrays):
    data = bytearray(archive(entries_of(arrays)))
    at = data.index(b"PK\x05\x06") + rng.randrange(4, 22, 2)
    data[at : at + 2] = rng.choice([b"\xff\xff", b"\0\0", rng.randbytes(2)])
    return bytes(data), arrays


def harmless(rng, arrays):
    """Write an npz as another program may write it; all of it must be read."""
    entries = entries_of(arrays)
    kind = rng.choice(["more", "order", "comment", "fortran", "version", "endian", "before"])
    if kind == "more":
        names = (
            "../../written.npy",
            "/written.npy",
            "x_train",
            "x_val.npy",
            "é.npy",
            "x_train.npy/a",
        )
        entries += [(name, npy(np.zeros(3))) for name in names]
    elif kind == "order":
        rng.shuffle(entries)
    elif kind == "fortran":
        entries = [(f"{k}.npy", npy(np.asfortranarray(a))) for k, a in arrays.items()]
    elif kind == "version":
        entries = [(f"{k}.npy", npy(a, version=(2, 0))) for k, a in arrays.items()]
    elif kind == "endian":
        arrays = {k: a.astype(a.dtype.newbyteorder(">")) for k, a in arrays.items()}
        entries = entries_of(arrays)
    data = archive(entries, deflated_or_not(rng), comment=b"made by hand" * (kind == "comment"))
    return (b"#!/bin/sh\ntouch executed\n" if kind == "before" else b"") + data, arrays


def swapped_arrays(rng, arrays):
    """Images for images are as good as any; labels are no images."""
    a, b = rng.sample(KEYS, 2)
    swapped = arrays | {a: arrays[b], b: arrays[a]}
    return archive(entries_of(swapped)), swapped if a[0] == b[0] else REFUSED


def other_types(rng, arrays):
    key = rng.choice(KEYS)
    kinds = ["f4", "f8", "?", "c8", "U3", "S3", "M8[s]", "m8[s]", "V4", "u1,u1", "(2,)u1", "O"]
    if key[0] == "x":
        kinds += ["i1", "u2", "i8"]
    dtype = np.dtype(rng.choice(kinds))
    if dtype.hasobject:
        return with_entry(rng, arrays, key, npy(np.array([Payload()], object))), REFUSED
    shape = arrays[key].shape
    return with_entry(rng, arrays, key, npy(np.zeros(shape, dtype))), REFUSED


def pickles(rng, arrays):
    payload = pickle.dumps(Payload())
    header = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    content = rng.choice([payload, npy_of(header, payload), b"\x80\x04" + payload])
    return with_entry(rng, arrays, rng.choice(KEYS), content), REFUSED


def other_ranks(rng, arrays):
    key = rng.choice(KEYS)
    a = arrays[key]
    wrong = rng.choice([a.reshape(-1), a[None], a[..., None, None], a[:0], np.array(a.ravel()[0])])
    if key[0] == "y" and wrong.ndim in (1, 2):
        wrong = a[None, None]
    return with_entry(rng, arrays, key, npy(wrong)), REFUSED


def lying_headers(rng, arrays):
    """A shape that is not that of what follows, up to more than there is memory anywhere."""
    key = rng.choice(KEYS)
    a = arrays[key]
    sizes = (a.shape[-1] + 1, 10**6, 10**12, 2**63, 10**40, -1, -(2**63))
    shapes = [*((*a.shape[:-1], n) for n in sizes), (2**32,) * a.ndim]
    header = (
        f"{{'descr': '{a.dtype.str}', 'fortran_order': False, 'shape': {rng.choice(shapes)}, }}"
    )
    return with_entry(rng, arrays, key, npy_of(header + "\n", a.tobytes())), REFUSED


NONSENSE = [
    "", "None", "[2, 1]", "'x'", "(2, 1, 1, 1.0)", "(2, 'a')", "__import__('os').system('touch x')",
    "(" * 500, "-" * 3000 + "1", "[" * 90 + "]" * 90, "9" * 3900, "b'\\xff'", "'\\d'", "2L", "1if 1else 2",
    "'O'", "'|O8'", "('u1', 3)", "[('a', 'u1')]", "{'a': 1}", "'>>u1'", "'u1,u1'", "lambda: 0", "\0",
]  # fmt: skip


def nonsense_headers(rng, arrays):
    whole = {"descr": "'|u1'", "fortran_order": "False", "shape": "(2, 1, 1, 1)"}
    key = rng.choice(list(whole))
    value = rng.choice(NONSENSE)
    text = ", ".join(f"'{k}': {value if k == key else v}" for k, v in whole.items())
    header = rng.choice([f"{{{text}}}", f"{{{text}", f"{{{text}, 'more': {value}}}", value or "x"])
    version = rng.choice([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x00\x00", b"\xff\xff"])
    return with_entry(rng, arrays, "x_train", npy_of(header, b"ab", version)), REFUSED


def endless_headers(rng, arrays):
    """A header that is as long as it says, and many a mebibyte."""
    length = rng.choice([5000, 60_000, 2**24])
    content = b"\x93NUMPY\x02\x00" + struct.pack("<I", length) + b" " * length
    return with_entry(
        rng, arrays, rng.choice(KEYS), content, compression=zipfile.ZIP_DEFLATED
    ), REFUSED


def entries_twice(rng, arrays):
    key = rng.choice(KEYS)
    other = npy(np.zeros_like(arrays[key]))
    return archive([*entries_of(arrays), (f"{key}.npy", other)]), REFUSED


def missing_entries(rng, arrays):
    key = rng.choice(KEYS)
    names = [
        f"a/{key}.npy",
        f"{key}.npy.npy",
        key,
        f"{key.upper()}.npy",
        f"{key}.npy ",
        f"/{key}.npy",
    ]
    renamed = [(rng.choice(names) if n == f"{key}.npy" else n, c) for n, c in entries_of(arrays)]
    return archive(renamed), REFUSED


def bombs(rng, arrays):
    """16 MiB of zeros in 16 KiB, of which the header tells little, too much, or nothing."""
    key = rng.choice(KEYS)
    claimed = rng.choice([arrays[key].shape, (2**40, *arrays[key].shape[1:])])
    header = (
        f"{{'descr': '{arrays[key].dtype.str}', 'fortran_order': False, 'shape': {claimed}, }}\n"
    )
    content = rng.choice([npy_of(header), b""]) + bytes(2**24)
    return with_entry(rng, arrays, key, content, compression=zipfile.ZIP_DEFLATED), REFUSED


def forged_sizes(rng, arrays):
    """An entry that is said to be far larger than its compressed bytes can be; its header agrees."""
    size = rng.choice([2**26, 2**30, 2**31 - 1])
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size}, 1, 1, 1), }}\n"
    content = npy_of(header, bytes(1000))
    compression = deflated_or_not(rng)
    data = bytearray(with_entry(rng, arrays, "x_train", content, compression=compression))
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", size + len(content) - 1000)
    if compression == zipfile.ZIP_STORED and rng.random() < 0.5:
        data[at + 20 : at + 24] = data[at + 24 : at + 28]
    return bytes(data), REFUSED


def other_compressions(rng, arrays):
    compression = rng.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    return archive(entries_of(arrays), compression), REFUSED


def unknown_compressions(rng, arrays):
    data = bytearray(archive(entries_of(arrays)))
    number = struct.pack("<H", rng.choice([1, 6, 9, 12, 14, 93, 99, 65535]))
    local, central = data.index(b"PK\x03\x04"), data.index(b"PK\x01\x02")
    data[local + 8 : local + 10] = data[central + 10 : central + 12] = number
    return bytes(data), REFUSED


def encrypted_entries(rng, arrays):
    data = bytearray(archive(entries_of(arrays)))
    for at in (data.index(b"PK\x03\x04") + 6, data.index(b"PK\x01\x02") + 8):
        data[at] |= rng.choice([1, 0x21, 0x41])
    return bytes(data), REFUSED


def names_that_are_no_utf_8(rng, arrays):
    data = bytearray(archive([*entries_of(arrays), ("é.npy", b"")]))
    bad = rng.choice([b"\xff\xff", b"\xc3\x28", b"\xed\xa0"])
    return bytes(data).replace("é".encode(), bad), REFUSED


def write_npz(folder, rng, kind):
    data, expected = kind(rng, some_arrays(rng))
    (folder / "mine.npz").write_bytes(data)
    return folder / "mine.npz", expected


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_flips(rng, raw, array):
    at = rng.choice([4, len(raw)])
    return flipped(rng, raw, below=at), None


def idx_truncations(rng, raw, array):
    return raw[: rng.randrange(len(raw))], REFUSED


def idx_that_go_on(rng, raw, array):
    return raw + rng.randbytes(rng.choice([1, 100])), REFUSED


def idx_of_random_bytes(rng, raw, array):
    return rng.choice([b"", b"\0\0\x08", raw[:4]]) + rng.randbytes(rng.randrange(60)), None


def idx_of_other_types(rng, raw, array):
    return b"\0\0" + bytes([rng.choice([0, 9, 11, 12, 13, 14, 255])]) + raw[3:], REFUSED


def idx_of_other_ranks(rng, raw, array):
    return raw[:3] + bytes([rng.choice([0, 5, 8, 200, 255])]) + raw[4:], REFUSED


def idx_of_huge_dimensions(rng, raw, array):
    at = 4 + 4 * rng.randrange(array.ndim)
    return raw[:at] + rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"]) + raw[
        at + 4 :
    ], REFUSED


def gzip_of_huge_dimensions(rng, raw, array):
    data, _ = idx_of_huge_dimensions(rng, raw, array)
    return gzip.compress(data), REFUSED


def gzip_bombs(rng, raw, array):
    """16 MiB of zeros after what the header says."""
    return gzip.compress(raw + bytes(2**24)), REFUSED


def gzip_flips(rng, raw, array):
    return flipped(rng, gzip.compress(raw)), array


def gzip_truncations(rng, raw, array):
    data = gzip.compress(raw)
    return data[: rng.randrange(len(data))], REFUSED


def gzip_of_other_things(rng, raw, array):
    whole = gzip.compress(raw)
    return rng.choice([
        whole + b"garbage", whole[:10] + rng.randbytes(50), gzip.compress(whole), zlib.compress(raw),
        gzip.compress(rng.randbytes(20)), gzip.compress(b""), b"\x1f\x8b", whole + gzip.compress(b"more"),
    ]), REFUSED  # fmt: skip


def gzip_members(rng, raw, array):
    """Several, one after the other, and zeros at the end, are one file."""
    at = rng.randrange(len(raw))
    return gzip.compress(raw[:at]) + gzip.compress(raw[at:]) + bytes(rng.choice([0, 512])), array


def whole_idx(rng, raw, array):
    return rng.choice([raw, gzip.compress(raw)]), array


def write_idx(folder, rng, kind):
    shape = [rng.randint(1, 6) for _ in range(rng.choice([1, 3]))]
    array = np.frombuffer(rng.randbytes(int(np.prod(shape))), np.uint8).reshape(shape)
    data, expected = kind(rng, idx(array), array)
    if expected is None:  # nothing protects the contents: it is read as what it says it is
        expected = REFUSED
        rank = data[3] if len(data) > 3 else 0
        if data[:3] == b"\0\0\x08" and len(data) >= 4 + 4 * rank:
            said = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
            if rank and int(np.prod(said, dtype=object)) == len(data) - 4 - 4 * rank:
                expected = np.frombuffer(data[4 + 4 * rank :], np.uint8).reshape(said)
    (folder / "idx").write_bytes(data)
    return folder / "idx", expected


NPZ = [
    flips, flips_in_the_directory, flips_in_a_local_header, truncations, holes, random_bytes,
    a_directory_of_random_numbers, random_end_records, harmless, swapped_arrays, other_types, pickles,
    other_ranks, lying_headers, nonsense_headers, endless_headers, entries_twice, missing_entries,
    bombs, forged_sizes, other_compressions, unknown_compressions, encrypted_entries,
    names_that_are_no_utf_8,
]  # fmt: skip
IDX = [
    idx_flips, idx_truncations, idx_that_go_on, idx_of_random_bytes, idx_of_other_types,
    idx_of_other_ranks, idx_of_huge_dimensions, gzip_of_huge_dimensions, gzip_bombs, gzip_flips,
    gzip_truncations, gzip_of_other_things, gzip_members, whole_idx,
]  # fmt: skip
MUST_LOAD = {harmless, gzip_members, whole_idx}
NO_FILES = {
    "a pipe": os.mkfifo,
    "a directory": os.mkdir,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "nothing": lambda path: None,
}

_watched = None  # while a test watches: the actions of the process that a reader must not take


def _audit(event, arguments):
    if _watched is None:
        return
    if event == "open":
        flags = arguments[2]
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            _watched.append((event, arguments))
    elif event == "exec":
        (code,) = arguments
        if not Path(code.co_filename).is_file():  # the code of an imported module has a file
            _watched.append((event, arguments))
    elif event.startswith(
        ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.system",
         "os.exec", "os.fork", "os.posix_spawn", "os.truncate", "subprocess.", "socket.", "shutil.",
         "pickle.find_class")
    ):  # fmt: skip
        _watched.append((event, arguments))


@contextlib.contextmanager
def watched():
    """End a block that takes too long; yield the actions that a reader of a file must not take."""
    global _watched

    def too_long(*_):
        raise TooLong

    previous = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    tracemalloc.start()
    _watched = done = []
    try:
        yield done
    finally:
        _watched = None
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        assert peak < MEBIBYTES * 2**20


@pytest.fixture(scope="module", autouse=True)
def audit():
    b"".decode("cp437")  # imports the codec of names in archives
    sys.addaudithook(_audit)  # an audit hook can't be removed


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def check(read, path, expected, must_load):
    """Read a file that must be refused, or read as `expected`."""
    before = sorted((p, p.lstat().st_size, p.lstat().st_mtime_ns) for p in path.parent.rglob("*"))
    try:
        with watched() as done:
            loaded = read(path)
    except DataError as error:
        loaded, message = None, str(error)
        assert message.startswith(f"{path}: ") and "\n" not in message
    assert not done
    after = sorted((p, p.lstat().st_size, p.lstat().st_mtime_ns) for p in path.parent.rglob("*"))
    assert after == before
    assert loaded is not None or not must_load
    if isinstance(loaded, dict):
        assert expected is not REFUSED and tuple(loaded) == KEYS
        assert all(same(loaded[key], expected[key]) for key in KEYS)
    elif loaded is not None:
        assert expected is not REFUSED and same(loaded, expected)
    return loaded is not None


def run(folder, kind, numbers):
    read, write = (read_npz, write_npz) if kind in NPZ else (read_idx, write_idx)
    for number in numbers:
        path, expected = write(folder, random.Random(f"{kind.__name__} {number}"), kind)
        try:
            check(read, path, expected, must_load=kind in MUST_LOAD)
        except BaseException as error:
            error.add_note(f"{kind.__name__} {number}")
            raise


@pytest.mark.parametrize("kind", [*NPZ, *IDX], ids=lambda kind: kind.__name__)
def test_a_file_is_read_exactly_or_refused(tmp_path, kind):
    run(tmp_path, kind, range(4))


@pytest.mark.long
@pytest.mark.parametrize("kind", [*NPZ, *IDX], ids=lambda kind: kind.__name__)
def test_a_file_is_read_exactly_or_refused_at_length(tmp_path, kind):
    run(tmp_path, kind, range(4, 50))


@pytest.mark.parametrize("read", [read_npz, read_idx])
@pytest.mark.parametrize("name", NO_FILES)
def test_what_is_no_file_is_refused_at_once(tmp_path, read, name):
    path = tmp_path / "mine"
    NO_FILES[name](path)
    assert not check(read, path, REFUSED, must_load=False)


def test_the_watch_sees_what_it_is_for(tmp_path):
    with watched() as done:
        (tmp_path / "written").write_text("")
        pickle.loads(pickle.dumps(os.getcwd))
        eval("1 + 1")
    assert [event for event, _ in done] == ["open", "pickle.find_class", "exec"]
    with pytest.raises(AssertionError), watched():
        bytes(2**23)
