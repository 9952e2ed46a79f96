"""Files of `torch.save`, checked before PyTorch reads them.

`torch.load(weights_only=True)` runs nothing of a file's own. But a few bytes of a pickle can still
ask it for time or memory without end: a tuple that holds one twice, that holds one twice, and so on;
a list that is copied a thousand times; a `bytearray` of any size. PyTorch has no limit for these, so
the cost of the pickle's operations is added up here first, without executing any. A pickle passes if
its cost is in proportion to its length.

    file.pth                             archive/data.pkl     the pickle
    checked_for_torch  ->  torch.load    archive/data/0, …    the storages that it refers to
"""

from __future__ import annotations

import dataclasses
import io
import pickletools
import re
import zipfile
from collections.abc import Mapping
from encodings import normalize_encoding
from pathlib import Path
from typing import Any, BinaryIO

from lottery_jax.errors import TicketError, first_line, raise_if_environment

_ZIP = b"PK\x03\x04"
# Calls that may take any amount of memory or time. None of them makes a dense tensor of floats,
# apart from the empty tensors of the oldest files.
_COSTLY = re.compile(
    r"torch\._utils\._rebuild_(qtensor|sparse_tensor|nested_tensor|device_tensor_from_\w+)"
)
_COSTLY_WITH_ARGUMENTS = re.compile(
    r"builtins\.bytearray|torch\.([\w.]*\.)?(\w*Tensor|TypedStorage|UntypedStorage)"
)
# Codecs whose time grows with the square of the text, and one that can spell their names.
_ENCODERS = ("_codecs.encode", "builtins.bytearray")
_SLOW_CODECS = ("punycode", "idna", "rot13", "rot_13")
# Bytes of an item of a storage; networks here have no others.
_ITEM_SIZES = {"UntypedStorage": 1, "HalfStorage": 2, "BFloat16Storage": 2, "FloatStorage": 4,
               "DoubleStorage": 8, "BoolStorage": 1, "ByteStorage": 1, "CharStorage": 1,
               "ShortStorage": 2, "IntStorage": 4, "LongStorage": 8}  # fmt: skip
_DEEPEST_TUPLE = 1000  # hashing a tuple takes the C stack; Python can't save a deeper one


@dataclasses.dataclass(eq=False, slots=True)
class _Item:
    """An object on the stack of the pickle's machine.

    Attributes:
        weight: its size if everything that it refers to were written out each time.
        value: a constant, or the items of a tuple or a list.
        name: the name, if it is a global.
        depth: how deeply tuples are nested in it.
        is_part: whether it is part of another object, whose weight includes its own.
    """

    weight: int
    value: Any = None
    name: str = ""
    depth: int = 0
    is_part: bool = False


def checked_for_torch(file: Path) -> BinaryIO:
    """Return a copy of a file of `torch.save`, in memory, that is safe to give to `torch.load`.

    Raises:
        TicketError: it is damaged, or asks for more time or memory than its size accounts for.
    """
    try:
        content = file.read_bytes()
        if content.startswith(_ZIP):
            return _checked_archive(content)
        return _checked_legacy(content)
    except Exception as error:  # zipfile and pickletools raise many kinds for damaged files
        raise_if_environment(error)
        raise TicketError(
            f"{file}: can't be read as a file of PyTorch: {first_line(error, with_type=True)}"
        ) from error


def _checked_archive(content: bytes) -> BinaryIO:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        names = [entry.filename.lower() for entry in entries]  # PyTorch ignores case
        pickles = [e.filename for e in entries if e.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or len(set(names)) < len(names):
            raise ValueError("it has not one pickle, or a part twice")
        # PyTorch compresses nothing; a compressed part could grow to any size.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("a part of it is compressed; load and save it again with PyTorch")
        if sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("its parts are larger than it is")
        root = pickles[0].removesuffix("data.pkl")
        parts = {}
        for entry in entries:
            if entry.CRC == 0:  # PyTorch can be told not to compute it
                del entry.CRC  # zipfile then checks none
            if entry.filename.startswith(root):
                parts[entry.filename.removeprefix(root)] = archive.read(entry)
    _check(io.BytesIO(parts["data.pkl"]), parts)
    copy = io.BytesIO()
    # Readers may see either of two archives in one file; a new archive can be read in one way only.
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            archive.writestr(f"archive/{name}", data)
    copy.seek(0)
    return copy


def _checked_legacy(content: bytes) -> BinaryIO:
    """Check a file from before PyTorch 1.6: a number, a version, facts, the object, storage keys."""
    file = io.BytesIO(content)
    for _ in range(3):
        _check(file)
    _, used = _check(file)
    keys, _ = _check(file)
    # PyTorch would not fill the memory of a storage without a key, which may hold anything.
    if not used <= {_text(item.value) for item in keys.value}:
        raise ValueError("a storage is missing")
    file.seek(0)
    return file


def _check(pickle: BinaryIO, parts: Mapping[str, bytes] | None = None) -> tuple[_Item, set[str]]:
    """Add up what a pickle would cost PyTorch; return its object and the storages it names.

    Args:
        pickle: a file at the beginning of the pickle; afterwards at its end.
        parts: the parts of its archive, by name; None for a file that is no archive.

    Raises:
        ValueError: it costs too much for a pickle of this length, or a storage does not fit its part.
    """
    stack: list[_Item] = []
    below: list[list[_Item]] = []
    memo: dict[int, _Item] = {}
    used: set[str] = set()
    names: set[str] = set()
    numbers: dict[int, _Item] = {}
    start, spent = pickle.tell(), 0
    argument: Any
    for operation, argument, _ in pickletools.genops(pickle):
        name = operation.name
        if name in ("PROTO", "STOP"):
            continue
        if name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name in ("APPEND", "SETITEM", "APPENDS", "SETITEMS"):
            count = {"APPEND": 1, "SETITEM": 2}.get(name)
            items = _popped(stack, len(stack) if count is None else count)
            stack = stack if count else below.pop()
            if (into := stack[-1]).is_part:
                raise ValueError("it changes what is part of something already")
            into.weight += sum(item.weight for item in items)
            if name.startswith("APPEND"):
                into.value.extend(items)
            else:  # keys are hashed
                spent += sum(item.weight for item in items[::2])
        elif name == "BUILD":
            (attributes,) = _popped(stack, 1)
            spent += attributes.weight
            stack[-1].weight += attributes.weight
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = _popped(stack, 2)
            spent += arguments.weight
            _check_call(function, arguments)
            is_text = function.name == "_codecs.encode"  # or bytes
            # Encoding may make a text up to four times longer.
            stack.append(_Item(4 * arguments.weight + 1, "" if is_text else None))
        elif name == "BINPERSID":
            reference = stack.pop()
            spent += reference.weight
            used.add(_checked_storage(reference, parts))
            stack.append(_Item(reference.weight))
        elif name == "GLOBAL":
            full = argument.replace(" ", ".").replace("__builtin__.", "builtins.")
            stack.append(_Item(1, name=full))
            names.add(full)
        elif name.startswith("TUPLE"):
            items = _popped(stack, int(name[5:] or len(stack)))
            stack = stack if name[5:] else below.pop()
            depth = 1 + max((item.depth for item in items), default=0)
            if depth > _DEEPEST_TUPLE:
                raise ValueError("it has tuples too deep within tuples")
            stack.append(_Item(1 + sum(item.weight for item in items), items, depth=depth))
        elif name == "BININT1":  # there may be many; equal ones share an item
            stack.append(numbers.setdefault(argument, _Item(1, argument)))
        else:  # another constant or an empty container
            value: Any = [] if name in ("EMPTY_LIST", "EMPTY_TUPLE") else argument
            stack.append(_Item(1 + (len(argument) if isinstance(argument, str) else 0), value))
            if isinstance(argument, str):
                names.add(normalize_encoding(argument).lower())
        if spent > 4 * (pickle.tell() - start) + 2**16:
            raise ValueError("it does the same again and again, for more than its size")
    if names & set(_ENCODERS) and (slow := names & set(_SLOW_CODECS)):
        raise ValueError(f"it may encode text as {min(slow)}")
    return stack[-1], used


def _popped(stack: list[_Item], count: int) -> list[_Item]:
    if len(stack) < count:
        raise ValueError("an operation has nothing to work on")
    items = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    for item in items:
        item.is_part = True
    return items


def _check_call(function: _Item, arguments: _Item) -> None:
    name, values = function.name, arguments.value
    if not name or not isinstance(values, list):  # the keys of a dict would be arguments too
        raise ValueError("it calls what is not a function, or not with a tuple")
    if name == "torch._tensor._rebuild_from_type_v2" and len(values) > 2:
        _check_call(values[0], values[2])
    text = name == "builtins.bytearray" and values and isinstance(values[0].value, str)
    costly = _COSTLY.fullmatch(name) or (values and _COSTLY_WITH_ARGUMENTS.fullmatch(name))
    if costly and not text:
        raise ValueError(f"it calls {name}, which could take any amount of memory")


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("ascii")
    if not isinstance(value, str):
        raise ValueError("the name of a storage is not text")
    return value


def _checked_storage(reference: _Item, parts: Mapping[str, bytes] | None) -> str:
    _, kind, key, _, numel, *_ = reference.value
    name = _text(key.value)
    item_size = _ITEM_SIZES.get(kind.name.rpartition(".")[2])
    if parts is None or item_size is None:
        return name
    # Earlier versions of PyTorch read beyond the end of the part.
    if len(found := parts[f"data/{name}"]) != (expected := item_size * numel.value):
        raise ValueError(f"storage {name} has {len(found)} bytes, not {expected}")
    return name
