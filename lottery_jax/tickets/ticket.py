"""What a ticket is, and what must hold for one wherever it is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from lottery_jax import masks
from lottery_jax.errors import TicketError
from lottery_jax.models import abstract_variables, build_model

PyTree = Any
PathLike = str | os.PathLike[str]

FORMAT_VERSION = 1
PARTS = ("mask", "params", "batch_stats", "trained", "trained_batch_stats")
# What a ticket needs to be loaded, shown and measured on its own.
_REQUIRED = ("model", "num_classes", "input_shape", "layer_order", "data", "mean", "std")


@dataclasses.dataclass(frozen=True)
class Ticket:
    """A sub-network and its starting point.

    The trees are NumPy arrays with the structure of the model's variables. `params` and `trained`
    are exactly 0.0 where `mask` is False.

    Attributes:
        mask: bool.
        params: float32, the weights to start from.
        batch_stats: BatchNorm statistics that go with them; empty without BatchNorm.
        metadata: JSON values; `README.md` lists the keys.
        trained: float32, the weights after training; None before, when it can't be saved yet.
        trained_batch_stats: likewise.
    """

    mask: PyTree
    params: PyTree
    batch_stats: PyTree
    metadata: dict[str, Any]
    trained: PyTree = None
    trained_batch_stats: PyTree = None

    @property
    def density(self) -> float:
        """The share of the prunable weights that remain."""
        return masks.density(self.mask)

    @property
    def variables(self) -> PyTree:
        """The weights to start from, as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def trained_variables(self) -> PyTree:
        """The trained weights, as `model.apply` takes them."""
        return {"params": self.trained, "batch_stats": self.trained_batch_stats}


def model_of(metadata: dict[str, Any]) -> tuple[nn.Module, tuple[int, ...]]:
    """The network a ticket was made for, and its (height, width, channels)."""
    model = build_model(num_classes=metadata["num_classes"], **metadata["model"])
    return model, tuple(metadata["input_shape"])


def tree_hash(tree: PyTree) -> str:
    """SHA-256 over the paths, dtypes, shapes and little-endian bytes of a tree's leaves."""
    digest = hashlib.sha256()
    for path, leaf in tree_flatten_with_path(tree)[0]:
        array = np.ascontiguousarray(leaf)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{keystr(path)} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by path, such as `conv1/kernel`."""
    return {keystr(p, simple=True, separator="/"): x for p, x in tree_flatten_with_path(tree)[0]}


def completed(where: PathLike, ticket: Ticket) -> Ticket:
    """The ticket as it is written: NumPy arrays; counts, hashes and version in its metadata.

    Raises:
        TicketError: it is not trained, has weights that its mask prunes, or its metadata lacks
            what loading needs.
    """
    if ticket.trained is None:
        raise TicketError(f"{where}: an untrained ticket can't be saved")
    if missing := [key for key in _REQUIRED if key not in ticket.metadata]:
        raise TicketError(f"{where}: the metadata has no {', '.join(missing)}")
    arrays = {part: jax.tree.map(np.asarray, getattr(ticket, part)) for part in PARTS}
    _check_pruned(where, arrays)
    metadata = {
        **ticket.metadata,
        **_counts(arrays["mask"]),
        "format_version": FORMAT_VERSION,
        "sha256": {part: tree_hash(arrays[part]) for part in PARTS},
    }
    return Ticket(**arrays, metadata=metadata)


def _counts(mask: PyTree) -> dict[str, Any]:
    kept, total = masks.counts(mask)
    return {
        "weights_total": total,
        "weights_remaining": kept,
        "density": kept / total,
        "layers": {name: list(n) for name, n in masks.layer_counts(mask).items()},
    }


def _check_pruned(where: PathLike, arrays: dict[str, PyTree]) -> None:
    mask = leaves(arrays["mask"])
    for part in ("params", "trained"):
        for path, values in leaves(arrays[part]).items():
            # Bits are compared, not values: -0.0 would not come back from a file of survivors.
            if values[~mask[path]].view(np.uint8).any():
                raise TicketError(f"{where}: {part}/{path} is not 0.0 where the mask prunes it")
    kernels = {f"{layer}/kernel" for layer in masks.kernels(arrays["mask"])}
    for path in mask.keys() - kernels:
        if not mask[path].all():
            raise TicketError(f"{where}: the mask prunes {path}; only kernels can be pruned")


def parse_json(text: str) -> Any:
    """Parses JSON as it is written here: without NaN and infinities.

    Raises:
        ValueError, RecursionError: it is none.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def _is_described(metadata: dict[str, Any]) -> bool:
    """Whether the values that loading and showing need are of the types they must have."""

    def numbers(values: Any) -> bool:
        return isinstance(values, list) and all(type(v) in (int, float) for v in values)

    shape, layers = metadata["input_shape"], metadata["layer_order"]
    return (
        isinstance(metadata["model"], dict)
        and isinstance(metadata["data"], str)
        and type(metadata["num_classes"]) is int
        and isinstance(layers, list)
        and all(isinstance(name, str) for name in layers)
        and isinstance(shape, list)
        and len(shape) == 3
        and all(type(n) is int and n > 0 for n in shape)
        and numbers(metadata["mean"])
        and numbers(metadata["std"])
        and len(metadata["mean"]) == len(metadata["std"]) == shape[2]
    )


def checked_metadata(where: PathLike, metadata: Any) -> dict[str, Any]:
    """`metadata`, as it was parsed from JSON, if it is a ticket's.

    Raises:
        TicketError: it is of another version, or lacks what loading needs.
    """
    if not isinstance(metadata, dict) or "format_version" not in metadata:
        raise TicketError(f"{where}: can't be read as a ticket's metadata: it has no version")
    if (version := metadata["format_version"]) != FORMAT_VERSION:
        raise TicketError(f"{where}: has format {version}; this version reads {FORMAT_VERSION}")
    if missing := [key for key in _REQUIRED if key not in metadata]:
        raise TicketError(f"{where}: has no {', '.join(missing)}")
    if not _is_described(metadata):
        raise TicketError(f"{where}: its metadata does not describe a model: a value is of no use")
    return metadata


def expected_arrays(
    where: PathLike, metadata: dict[str, Any], model: nn.Module | None = None
) -> dict[str, PyTree]:
    """For each part the shapes and dtypes it must have: trees of `ShapeDtypeStruct`.

    Args:
        where: for messages.
        metadata: of the ticket.
        model: the network it must fit; by default the one its metadata describes.

    Raises:
        TicketError: the metadata does not describe a model.
    """
    try:
        built, shape = model_of(metadata)
        variables = abstract_variables(model or built, shape)
    except Exception as error:  # what Flax raises for nonsense is not its interface
        raise TicketError(f"{where}: its metadata does not describe a model: {error}") from error
    params, batch_stats = variables["params"], variables["batch_stats"]
    return {
        "mask": jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, bool), params),
        "params": params,
        "batch_stats": batch_stats,
        "trained": params,
        "trained_batch_stats": batch_stats,
    }


def compare_leaves(where: PathLike, stored: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compares names, shapes and dtypes of leaves; those of `stored` may be any arrays.

    Raises:
        TicketError: they differ; says which leaf and how.
    """
    for path in sorted(set(stored) | set(expected)):
        if path not in stored:
            raise TicketError(f"{where}: has no leaf {path}, which the model has")
        if path not in expected:
            raise TicketError(f"{where}: has a leaf {path}, which the model has not")
        a, b = stored[path], expected[path]
        if tuple(a.shape) != tuple(b.shape) or np.dtype(a.dtype) != np.dtype(b.dtype):
            raise TicketError(
                f"{where}: leaf {path} is {np.dtype(a.dtype)} {tuple(a.shape)}, but the model's "
                f"is {np.dtype(b.dtype)} {tuple(b.shape)}"
            )


def verified(where: PathLike, arrays: dict[str, PyTree], metadata: dict[str, Any]) -> Ticket:
    """The ticket of arrays that were read, if they are the ones that were written.

    Raises:
        TicketError: a hash or a count is not the recorded one, or a pruned weight is not 0.0.
    """
    for part in PARTS:
        recorded = metadata["sha256"] if isinstance(metadata.get("sha256"), dict) else {}
        if tree_hash(arrays[part]) != recorded.get(part):
            raise TicketError(f"{where}: {part} is damaged (its SHA-256 is not the recorded one)")
    if any(metadata.get(key) != value for key, value in _counts(arrays["mask"]).items()):
        raise TicketError(f"{where}: the counts in its metadata are not those of its mask")
    _check_pruned(where, arrays)
    return Ticket(**arrays, metadata=metadata)
