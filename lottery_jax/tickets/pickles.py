"""Files of `torch.save`, checked before PyTorch reads them.

A pickle is a program. `torch.load(weights_only=True)` runs a few harmless functions alone, but even
these can be told to take any amount of memory, or to hash tuples of tuples for ever. So the
program is first followed here without running any of it: it may build tensors and plain
containers, each tensor within its storage, each storage as large as the bytes the file has for it.
What PyTorch is then given is a copy of just these parts.

    file.pth                             archive/data.pkl     the pickle
    checked_for_torch  ->  torch.load    archive/data/0, …    the storages that it refers to
"""

from __future__ import annotations

import dataclasses
import io
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lottery_jax.errors import TicketError

_ZIP = b"PK\x03\x04"
# Before version 1.6 and its archives: this number, the protocol's, facts on the machine, and the
# object, each a pickle; then the keys of the storages, pickled, and the storages.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickle of that number

_ITEM_SIZES = {
    "BoolStorage": 1,
    "ByteStorage": 1,
    "CharStorage": 1,
    "ShortStorage": 2,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "IntStorage": 4,
    "FloatStorage": 4,
    "LongStorage": 8,
    "DoubleStorage": 8,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}
_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32",
           "float64", "complex64", "complex128")  # fmt: skip
# What a checkpoint makes of plain values: a set of parameter names, bytes, a complex number, …
_PLAIN_CALLS = ("builtins.set", "builtins.complex", "torch.Size", "torch.device")
_CALLS = (*_PLAIN_CALLS, "_codecs.encode", "collections.OrderedDict", "collections.Counter",
          "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")  # fmt: skip
_GLOBALS = {*_CALLS, *(f"torch.{name}" for name in (*_ITEM_SIZES, *_DTYPES))}
_MOST_DIMENSIONS = 64  # NumPy's limit
_KEYS = (str, bytes, int, float, bool, type(None))
_CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
}
_VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")


class _Global(NamedTuple):
    name: str


class _Storage(NamedTuple):
    key: str
    item_size: int
    numel: int

    @property
    def nbytes(self) -> int:
        return self.item_size * self.numel


@dataclasses.dataclass(eq=False)
class _Made:
    """Something whose value doesn't matter: a tensor, a dict, a set."""

    what: str
    length: int = 0  # of a dict


class _Foreign(Exception):
    """An object that is neither a tensor nor a plain container."""


def checked_for_torch(file: Path) -> BinaryIO:
    """What `torch.load` may read of a file of `torch.save`: in a copy, nothing but its tensors.

    Raises:
        TicketError: it is no such file, is damaged, holds other objects, or says that it holds
            more than it does.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_LEGACY))
        if start.startswith(_ZIP):
            return _checked_archive(file)
        if start == _LEGACY:
            return _checked_legacy(file.read_bytes())
    except _Foreign as error:
        raise TicketError(
            f"{file}: holds other objects than tensors and plain containers, which are not read: "
            f"{error}"
        ) from error
    except Exception as error:  # zipfile and pickletools raise many kinds for damaged files
        first = (str(error).splitlines() or [""])[0]
        raise TicketError(f"{file}: can't be read: {type(error).__name__}: {first}") from error
    raise TicketError(f"{file}: is no file of PyTorch")


def _checked_archive(file: Path) -> BinaryIO:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        names = [name for name in entries if name.endswith("/data.pkl")]
        if len(names) != 1 or len(entries) < len(archive.infolist()):
            raise ValueError("it has not one pickle, or a part twice")
        # PyTorch compresses nothing; a small file could grow to any size.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("a part of it is compressed; load and save it again with PyTorch")
        if sum(entry.file_size for entry in entries.values()) > file.stat().st_size:
            raise ValueError("its parts are larger than it is")
        root = names[0].removesuffix("data.pkl")
        pickle = archive.read(names[0])
        parts = {"data.pkl": pickle, "version": b"3\n"}
        for storage in _storages(io.BytesIO(pickle), legacy=False):
            data = parts[f"data/{storage.key}"] = archive.read(f"{root}data/{storage.key}")
            if len(data) != storage.nbytes:
                raise ValueError(
                    f"storage {storage.key} has {len(data)} bytes, not {storage.nbytes}"
                )
        if f"{root}byteorder" in entries:
            parts["byteorder"] = archive.read(f"{root}byteorder")
    copy = io.BytesIO()
    # A new archive has no second reading: what this module saw is what PyTorch sees.
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(f"archive/{name}", content)
    copy.seek(0)
    return copy


def _checked_legacy(content: bytes) -> BinaryIO:
    file = io.BytesIO(content)
    if (_follow(file)[0], _follow(file)[0]) != (_MAGIC, _PROTOCOL):
        raise ValueError("it is of another protocol")
    _follow(file)
    storages = {storage.key: storage for storage in _storages(file, legacy=True)}
    keys = _follow(file)[0]
    texts = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not texts or sorted(keys) != sorted(storages):
        raise ValueError("its storages are not those of its tensors")
    for key in keys:
        (numel,) = struct.unpack("<q", file.read(8))
        if numel != storages[key].numel:
            raise ValueError(f"storage {key} has {numel} numbers, not {storages[key].numel}")
        file.seek(storages[key].nbytes, io.SEEK_CUR)
    if file.tell() > len(content):
        raise ValueError("it is cut short")
    file.seek(0)
    return file


def _storages(pickle: BinaryIO, *, legacy: bool) -> list[_Storage]:
    return list(_follow(pickle, legacy=legacy)[1].values())


def _follow(pickle: BinaryIO, *, legacy: bool = False) -> tuple[Any, Mapping[str, _Storage]]:
    """What a pickle makes, as far as it matters here, and the storages it refers to.

    Follows the operations that PyTorch writes and its own restricted reader knows, and calls
    nothing. The position in `pickle` is then after it.
    """
    stack: list[Any] = []
    below: list[list[Any]] = []
    memo: dict[int, Any] = {}
    storages: dict[str, _Storage] = {}
    copied = 0
    argument: Any
    for operation, argument, position in pickletools.genops(pickle):
        name = operation.name
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            stack.append(argument)
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name == "EMPTY_DICT":
            stack.append(_Made("dict"))
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_SET":
            stack.append(_Made("set"))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            n = int(name[-1])
            items = [stack.pop() for _ in range(n)]
            stack.append(tuple(reversed(items)))
        elif name == "TUPLE":
            items, stack = stack, below.pop()
            stack.append(tuple(items))
        elif name == "APPEND":
            item = stack.pop()
            _list(stack[-1]).append(item)
        elif name == "APPENDS":
            items, stack = stack, below.pop()
            _list(stack[-1]).extend(items)
        elif name == "SETITEM":
            items = [stack.pop(), stack.pop()]
            _check_items(stack[-1], items[1:])
        elif name == "SETITEMS":
            items, stack = stack, below.pop()
            _check_items(stack[-1], items[::2])
        elif name == "GLOBAL":
            stack.append(_global(argument))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_made_by(function, arguments))
            copied += sum(map(_length, arguments))
        elif name == "BUILD":  # the attribute by which a state dict keeps its modules' versions
            state = stack.pop()
            if not _is(stack[-1], "OrderedDict") or not _is(state, "dict"):
                raise _Foreign("the state of an object")
            copied += _length(state)
        elif name == "BINPERSID":
            storage = _storage(stack.pop(), legacy=legacy)
            if storages.setdefault(storage.key, storage) != storage:
                raise ValueError(f"storage {storage.key} is used as two")
            stack.append(storage)
        elif name == "STOP":
            (made,) = stack
            return made, storages
        elif name != "PROTO" or argument != 2:
            raise _Foreign(f"the operation {name}")
        # A long list that is named once and made a set a thousand times fills any memory.
        if copied > (position or 0):
            raise ValueError("it copies the same again and again")
    raise ValueError("it has no end")


def _is(value: Any, what: str) -> bool:
    return isinstance(value, _Made) and value.what == what


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("it appends to what is not a list")
    return value


def _check_items(into: Any, keys: list[Any]) -> None:
    if not any(_is(into, what) for what in ("dict", "OrderedDict", "Counter")):
        raise ValueError("it puts items into what is not a dict")
    into.length += len(keys)
    # A tuple that has one twice that has one twice … takes for ever to be hashed.
    if not all(isinstance(key, _KEYS) for key in keys):
        raise _Foreign("a key that is neither text nor a number")


def _global(argument: str) -> _Global:
    # Python 2's name of the module, in which pickles of this protocol are written.
    module, _, name = argument.replace("__builtin__", "builtins", 1).rpartition(" ")
    if f"{module}.{name}" not in _GLOBALS:
        raise _Foreign(f"{module}.{name}")
    return _Global(f"{module}.{name}")


def _made_by(function: Any, arguments: Any) -> Any:
    name = function.name if isinstance(function, _Global) else "what is not a function"
    fits = name in _CALLS and type(arguments) is tuple and _takes(name, arguments)
    if not fits:
        raise _Foreign(f"a call of {name}")
    return _Made(name.rpartition(".")[2])


def _takes(name: str, arguments: tuple[Any, ...]) -> bool:
    """Whether PyTorch or Python would call a function so to save tensors and plain values."""
    if name in _PLAIN_CALLS:
        return all(map(_is_flat, arguments))
    if name == "_codecs.encode":  # the bytes of a text
        return len(arguments) == 2 and type(arguments[0]) is str and arguments[1] == "latin1"
    if name == "collections.OrderedDict":
        return not arguments
    if name == "collections.Counter":
        return len(arguments) == 1 and _is(arguments[0], "dict")
    if name == "torch._utils._rebuild_parameter":
        tensor, *rest = arguments
        return _is(tensor, "_rebuild_tensor_v2") and _are_options(rest)
    storage, offset, size, stride, *rest = arguments
    return (
        isinstance(storage, _Storage)
        and _are_sizes((offset,))
        and _are_sizes(size)
        and _are_sizes(stride)
        and len(size) == len(stride) <= _MOST_DIMENSIONS
        and _extent(offset, size, stride) <= storage.numel
        and _are_options(rest)
    )


def _length(value: Any) -> int:
    if isinstance(value, _Made):
        return value.length
    return len(value) if isinstance(value, str | bytes | list | tuple) else 0


def _is_flat(value: Any) -> bool:
    return isinstance(value, _KEYS) or (
        type(value) in (list, tuple) and all(isinstance(part, _KEYS) for part in value)
    )


def _are_sizes(values: Any) -> bool:
    return type(values) is tuple and all(type(n) is int and 0 <= n < 2**63 for n in values)


def _extent(offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Where in its storage a tensor ends."""
    if 0 in size:
        return 0
    return offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))


def _are_options(values: list[Any]) -> bool:
    """Whether a gradient is wanted, and the hooks of the gradient, of which none are saved."""
    return len(values) == 2 and type(values[0]) is bool and _is(values[1], "OrderedDict")


def _storage(reference: Any, *, legacy: bool) -> _Storage:
    kind, storage_type, key, location, numel, *view = reference
    fits = (
        type(reference) is tuple
        and kind == "storage"
        and isinstance(storage_type, _Global)
        and isinstance(key, str)
        and key.isdecimal()
        and isinstance(location, str)
        and type(numel) is int
        and numel >= 0
        and view == ([None] if legacy else [])
    )
    item_size = _ITEM_SIZES.get(storage_type.name.removeprefix("torch.")) if fits else None
    if item_size is None:
        raise _Foreign("what is not a storage of numbers")
    return _Storage(key, item_size, numel)
