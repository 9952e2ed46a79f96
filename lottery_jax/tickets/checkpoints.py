"""Files of PyTorch's weights: tensors by name, and masks beside them.

Files of `torch.save` are checked by `pickles.py` and read with `weights_only=True`; safetensors
files are read without PyTorch. Nothing here knows a network.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, deserialize

from lottery_jax.errors import TicketError, first_line, raise_if_environment
from lottery_jax.tickets.untrusted.pickles import checked_for_torch

Array = np.ndarray[Any, np.dtype[Any]]

# The names under which a checkpoint may keep the state dict itself. If it has several, the first is
# taken, so that trained weights go before their moving average.
WRAPPINGS = ("model_state_dict", "state_dict", "model", "net", "network", "module", "weights",
             "params", "ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict")  # fmt: skip
# A file could make earlier versions run its code, even with weights_only=True (CVE-2025-32434).
OLDEST_TORCH = (2, 6)
_SAFETENSORS: dict[str, Any] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": jnp.bfloat16, "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A state dict as it was found in a file.

    Attributes:
        entries: tensors of PyTorch or arrays of NumPy by name, in the order of the file, with
            whatever else was among them.
        nesting: the names under which the state dict was kept, from the outermost.
        masks: the values that look like masks beside it, by the place where each was found.
    """

    entries: dict[Any, Any]
    nesting: tuple[str, ...] = ()
    masks: dict[str, Any] = dataclasses.field(default_factory=dict)


def import_torch(path: str | os.PathLike[str]) -> Any:
    """Import PyTorch; `path` is for the message.

    Raises:
        TicketError: it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise TicketError(f"{path}: needs PyTorch: pip install 'lottery_jax[torch]'") from error
    return torch


def is_safe_version(version: str) -> bool:
    """Return whether a PyTorch of this version reads strangers' files without running them.

    >>> [is_safe_version(version) for version in ("2.5.1", "2.6.0+cpu", "2.10.0", "2.6.0rc1")]
    [False, True, True, False]
    """
    match = re.match(r"(\d+)\.(\d+)(?:\.\d+)?(a|b|rc|\.?dev)?", version)
    if match is None:
        return False
    release = (int(match[1]), int(match[2]))
    return release > OLDEST_TORCH or (release == OLDEST_TORCH and match[3] is None)


def is_tensor(value: Any) -> bool:
    """Return whether a value is a tensor of PyTorch or an array of NumPy."""
    return isinstance(value, np.ndarray) or hasattr(type(value), "untyped_storage")


def dtype_name(value: Any) -> str:
    """Return the name of a tensor's dtype, such as `bfloat16`, or of another value's type."""
    return str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")


def as_array(value: Any) -> Array:
    """Return a tensor as an array of NumPy; floats of any size become float32.

    Raises:
        ValueError: it is not a plain tensor, or is larger than what its file holds of it.
    """
    if isinstance(value, np.ndarray):
        array = value
    else:
        import torch

        try:
            tensor = _plain(value)
            if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
                # Repeated by strides: a small file could ask for any amount of memory.
                raise TypeError("it is larger than what the file holds of it")
            array = (tensor.to(torch.float32) if tensor.is_floating_point() else tensor).numpy()
        except (AttributeError, TypeError, RuntimeError, NotImplementedError) as error:
            raise ValueError(first_line(error)) from error
    is_float = array.dtype.kind == "f" or array.dtype == jnp.bfloat16
    with np.errstate(over="ignore"):  # `check_finite` finds the infinity
        return array.astype(np.float32) if is_float else array


def _plain(tensor: Any) -> Any:
    import torch

    return torch.Tensor.detach(tensor)  # not the method, which a pickle may have replaced


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a state dict, or a checkpoint that has one; nothing in the file is executed.

    Raises:
        TicketError: it can't be read, or has no state dict; or PyTorch is not installed or too old.
    """
    file = Path(path)
    if not file.is_file():
        raise TicketError(f"{file}: is not a file")
    contents: Any = _read_safetensors(file) if file.suffix == ".safetensors" else _unpickled(file)
    if not isinstance(contents, dict):
        raise TicketError(f"{file}: holds a {type(contents).__name__}, not a state dict")
    nesting: list[str] = []
    masks = dict(_masks_of(contents, ""))
    while inner := next((k for k in WRAPPINGS if _is_wrapped(dict.get(contents, k))), None):
        nesting.append(inner)
        contents = dict.get(contents, inner)
        masks |= _masks_of(contents, "/".join(nesting) + "/")
    entries = {key: value for key, value in dict.items(contents) if not _is_mask(key, value)}
    tensors = {key: value for key, value in entries.items() if is_tensor(value)}
    if not tensors:
        raise TicketError(
            f"{file}: has no tensors by name{_in(nesting)}; found {some(contents)}; expected a "
            "state dict, such as model.state_dict() gives"
        )
    if other := [key for key in tensors if not isinstance(key, str)]:
        raise TicketError(f"{file}: a tensor is named {other[0]!r}, which is not text")
    _check_storages(file, tensors)
    return Checkpoint(entries, tuple(nesting), masks)


def _in(nesting: list[str]) -> str:
    return f" in {'/'.join(nesting)}" if nesting else ""


def some(names: Any) -> str:
    """Return the first few names, and how many more there are.

    >>> some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    names = [str(name) for name in names]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) or "nothing") + more


def _is_wrapped(value: Any) -> bool:
    """Return whether a value is a dict with tensors, or with a wrapping that may have them."""
    return isinstance(value, dict) and any(
        is_tensor(v) or (k in WRAPPINGS and isinstance(v, dict)) for k, v in dict.items(value)
    )


def _is_mask(key: Any, value: Any) -> bool:
    """Return whether an entry looks like masks; names with a point are of a state dict itself."""
    if not isinstance(key, str) or "mask" not in key.lower() or "." in key:
        return False
    if is_tensor(value):
        return bool(value.ndim)
    return isinstance(value, dict | list | tuple) and len(value) > 0


def _masks_of(contents: dict[Any, Any], where: str) -> Iterator[tuple[str, Any]]:
    """Yield the values that look like masks in a dict, and in its dicts that are not weights."""
    for key, value in dict.items(contents):
        if _is_mask(key, value):
            yield f"{where}{key}", value
        elif isinstance(value, dict) and key not in WRAPPINGS:
            for name, inner in dict.items(value):
                if _is_mask(name, inner):
                    yield f"{where}{key}/{name}", inner


def _check_storages(file: Path, tensors: dict[Any, Any]) -> None:
    storages = {}
    for value in tensors.values():
        if not isinstance(value, np.ndarray):
            try:
                storage = _plain(value).untyped_storage()
            except (AttributeError, TypeError, RuntimeError, NotImplementedError):
                continue  # a sparse tensor; it is refused later if the network needs it
            storages[storage.data_ptr()] = storage.nbytes()
    if sum(storages.values()) > file.stat().st_size:
        raise TicketError(f"{file}: can't be read: its tensors are larger than it is")


def _read_safetensors(file: Path) -> dict[str, Any]:
    try:
        parts: Any = deserialize(file.read_bytes())  # type: ignore[no-untyped-call]
    except (SafetensorError, OSError, ValueError) as error:
        raise TicketError(f"{file}: is not a readable safetensors file: {error}") from error
    found: dict[str, Any] = {}
    for name, part in parts:
        if (dtype := _SAFETENSORS.get(part["dtype"])) is None:
            found[name] = _Unknown(part["dtype"], len(part["shape"]))
        else:
            found[name] = np.frombuffer(part["data"], dtype).reshape(part["shape"])
    return found


@dataclasses.dataclass(frozen=True)
class _Unknown:
    """A tensor of a dtype that no network here has, such as complex numbers."""

    dtype: str
    ndim: int


def _unpickled(file: Path) -> Any:
    torch = import_torch(file)
    if not is_safe_version(installed := str(torch.__version__)):
        raise TicketError(
            f"{file}: PyTorch {installed} is not safe to read files of others with "
            "(CVE-2025-32434): pip install --upgrade 'torch>=2.6'"
        )
    content = checked_for_torch(file)
    try:
        return torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch's reader raises many kinds for damaged files
        raise_if_environment(error)
        if foreign := re.search(r"(?i)unsupported (?:global: )?GLOBAL (\S+)", str(error)):
            raise TicketError(
                f"{file}: holds other objects than tensors and plain containers, which are not "
                f"read: {foreign[1]}; save model.state_dict() alone"
            ) from error
        # PyTorch's text begins with the advice to run the file, which is left out.
        lines = str(error).rpartition("WeightsUnpickler error: ")[2].split("\n")
        says = next((line for line in lines if line.strip()), "")
        raise TicketError(f"{file}: can't be read: {type(error).__name__}: {says}") from error
