"""What a ticket is, and what must hold for one wherever it is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import sys
from pathlib import PurePath
from reprlib import repr as short_repr  # whatever a file holds, however deep, is soon said
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from lottery_jax.errors import ConfigError, TicketError, raise_if_environment
from lottery_jax.models import MODELS, abstract_variables, build_model
from lottery_jax.pruning import masks

PyTree = Any
PathLike = str | os.PathLike[str]

FORMAT_VERSION = 1
PARTS = ("mask", "params", "batch_stats", "trained", "trained_batch_stats")
# What a ticket needs to be loaded, shown and measured on its own.
_REQUIRED = ("model", "num_classes", "input_shape", "layer_order", "data", "mean", "std")
_HASHES = (*PARTS, "metadata")
# The numbers of an image of 2048 x 2048 in colour, and some: on one a network is run to find paths,
# and for a convolution any number fits.
_LARGEST_IMAGE = 2**24


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


def metadata_hash(metadata: dict[str, Any]) -> str:
    """SHA-256 of a ticket's metadata without this hash itself.

    Of its JSON with keys sorted, ASCII alone and no spaces, so that neither the order of the keys
    nor the layout of a file matters.

    Raises:
        TypeError, ValueError, RecursionError: it is not JSON.

    >>> hashes = {"mask": "…", "metadata": "…"}
    >>> other = {"sha256": {"mask": "…"}, "data": "digits"}
    >>> metadata_hash({"data": "digits", "sha256": hashes}) == metadata_hash(other)
    True
    """
    hashed = {**metadata, "sha256": {k: v for k, v in metadata["sha256"].items() if k in PARTS}}
    # Read back first: JSON makes text of keys that are numbers, which are sorted otherwise.
    as_read = json.loads(json.dumps(hashed, allow_nan=False))
    text = json.dumps(as_read, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by path, such as `conv1/kernel`."""
    return {keystr(p, simple=True, separator="/"): x for p, x in tree_flatten_with_path(tree)[0]}


def completed(where: PathLike, ticket: Ticket) -> Ticket:
    """The ticket as it is written: NumPy arrays; counts, hashes and version in its metadata.

    Raises:
        TicketError: it is not trained, has weights that its mask prunes, or its metadata lacks
            what loading needs, is not JSON or does not describe a model.
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
    try:
        metadata["sha256"]["metadata"] = metadata_hash(metadata)
        as_read = json.loads(json.dumps(metadata))
    except (TypeError, ValueError, RecursionError) as error:
        raise TicketError(f"{where}: the metadata can't be written as JSON: {error}") from error
    checked_metadata(where, as_read)  # what could not be read again is not written
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
    """Parses JSON as it is written here: without NaN and infinities, in whatever spelling.

    Raises:
        ValueError, RecursionError: it is none.

    >>> parse_json('{"width": 1e999}')
    Traceback (most recent call last):
    ValueError: 1e999 is not a number that can be stored
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    def finite(text: str) -> float:
        if abs(value := float(text)) > sys.float_info.max:
            raise ValueError(f"{text} is not a number that can be stored")
        return value

    return json.loads(text, parse_constant=refuse, parse_float=finite)


def _is_described(metadata: dict[str, Any]) -> bool:
    """Whether the values that loading and showing need are of the types they must have."""

    def numbers(values: Any) -> bool:
        return isinstance(values, list) and all(
            type(v) in (int, float) and abs(v) <= sys.float_info.max for v in values
        )

    shape, layers, data = metadata["input_shape"], metadata["layer_order"], metadata["data"]
    return (
        isinstance(metadata["model"], dict)
        and isinstance(data, str)
        and _stays_below(data)  # the name of a file in the folder of the data sets
        and type(metadata["num_classes"]) is int
        and isinstance(layers, list)
        and all(isinstance(name, str) for name in layers)
        and isinstance(shape, list)
        and len(shape) == 3
        and all(type(n) is int and n > 0 for n in shape)
        and math.prod(shape) <= _LARGEST_IMAGE
        and metadata.get("resize", "pad") in ("pad", "bilinear")
        and numbers(metadata["mean"])
        and numbers(metadata["std"])
        and len(metadata["mean"]) == len(metadata["std"]) == shape[2]
    )


def _stays_below(name: str) -> bool:
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def checked_metadata(where: PathLike, metadata: Any) -> dict[str, Any]:
    """`metadata`, as it was parsed from JSON, if it is a ticket's.

    Raises:
        TicketError: it is of another version, lacks what loading needs, or was changed.
    """
    if not isinstance(metadata, dict) or "format_version" not in metadata:
        raise TicketError(f"{where}: can't be read as a ticket's metadata: it has no version")
    if (version := metadata["format_version"]) != FORMAT_VERSION:
        raise TicketError(
            f"{where}: has format {short_repr(version)}; this version reads {FORMAT_VERSION}"
        )
    if missing := [key for key in _REQUIRED if key not in metadata]:
        raise TicketError(f"{where}: has no {', '.join(missing)}")
    if not _is_described(metadata):
        raise TicketError(
            f"{where}: its metadata does not describe a model: a value has the wrong type or range"
        )
    hashes = metadata.get("sha256", {})
    if not isinstance(hashes, dict) or not hashes.keys() <= set(_HASHES):
        raise TicketError(
            f"{where}: its metadata is damaged: sha256 is not of {', '.join(_HASHES)}"
        )
    try:
        # Tickets from before there was this hash have none.
        intact = "metadata" not in hashes or hashes["metadata"] == metadata_hash(metadata)
    except (ValueError, RecursionError) as error:
        raise TicketError(f"{where}: its metadata is damaged: {error}") from error
    if not intact:
        raise TicketError(f"{where}: its metadata is damaged (its SHA-256 is not the recorded one)")
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
        if model is None and (name := metadata["model"].get("name")) not in MODELS:
            raise ConfigError(
                f"{short_repr(name)} is no network of this package; "
                "load_ticket(path, model=...) takes one of your own"
            )
        network = model_of(metadata)[0] if model is None else model
        variables = abstract_variables(network, tuple(metadata["input_shape"]))
    except Exception as error:  # what Flax raises for nonsense is not its interface
        raise_if_environment(error)
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
            raise TicketError(f"{where}: has a leaf {path}, which the model does not have")
        a, b = stored[path], expected[path]
        if tuple(a.shape) != tuple(b.shape) or np.dtype(a.dtype) != np.dtype(b.dtype):
            raise TicketError(
                f"{where}: leaf {path} is {np.dtype(a.dtype)} {tuple(a.shape)}, but the model's "
                f"is {np.dtype(b.dtype)} {tuple(b.shape)}"
            )


def check_finite(where: PathLike, arrays: dict[str, Any]) -> None:
    """Checks that floats by name, such as the leaves of a tree, are finite.

    Raises:
        TicketError: some are not; names the first and says what to do.
    """
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise TicketError(
                f"{where}: {name} has values that are not finite; pass allow_nonfinite=True, or "
                "--allow_nonfinite on the command line, to load them"
            )


def verified(
    where: PathLike,
    arrays: dict[str, PyTree],
    metadata: dict[str, Any],
    *,
    allow_nonfinite: bool = False,
) -> Ticket:
    """The ticket of arrays that were read, if they are the ones that were written.

    Raises:
        TicketError: a hash or a count is not the recorded one, a pruned weight is not 0.0, or a
            value is not finite and that was not allowed.
    """
    for part in PARTS:
        if tree_hash(arrays[part]) != metadata.get("sha256", {}).get(part):
            raise TicketError(f"{where}: {part} is damaged (its SHA-256 is not the recorded one)")
    if any(metadata.get(key) != value for key, value in _counts(arrays["mask"]).items()):
        raise TicketError(f"{where}: the counts in its metadata are not those of its mask")
    _check_pruned(where, arrays)
    if not allow_nonfinite:
        check_finite(where, leaves(arrays))
    return Ticket(**arrays, metadata=metadata)
