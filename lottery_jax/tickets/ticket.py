"""The ticket, and what must hold for one wherever it is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from reprlib import repr as short_repr
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from lottery_jax.errors import ConfigError, TicketError, raise_if_environment
from lottery_jax.leaves import by_path, prunable_paths
from lottery_jax.models import MODELS, build_model
from lottery_jax.models.network import Network, as_network
from lottery_jax.pruning import masks
from lottery_jax.tickets.metadata import (
    FORMAT_VERSION,
    PARTS,
    Metadata,
    PathLike,
    check_metadata,
    metadata_hash,
    missing_keys,
)
from lottery_jax.tickets.reprs import ticket_html, ticket_line
from lottery_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Ticket:
    """A sub-network and its starting point.

    The trees are NumPy arrays with the structure of the model's variables. `params` and `trained`
    are exactly 0.0 where `mask` is False.

    Attributes:
        mask: bool; which weights remain.
        params: float32, the weights to start from.
        batch_stats: float32, the BatchNorm statistics that belong to `params`; empty without
            BatchNorm.
        metadata: JSON values; `metadata.KEYS` and docs/tickets.md list the keys.
        trained: float32, the weights after training; None before training. A ticket without them
            can't be saved.
        trained_batch_stats: float32, the BatchNorm statistics that belong to `trained`.
    """

    mask: PyTree
    params: PyTree
    batch_stats: PyTree
    metadata: Metadata
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

    def __repr__(self) -> str:
        return ticket_line(self.mask, self.metadata)

    def _repr_html_(self) -> str:  # what notebooks show
        return ticket_html(self.mask, self.metadata)


def model_of(metadata: Metadata) -> tuple[nn.Module, tuple[int, ...]]:
    """Return the network a ticket was made for, and its (height, width, channels)."""
    model = build_model(num_classes=metadata["num_classes"], **metadata["model"])
    return model, tuple(metadata["input_shape"])


def tree_hash(tree: PyTree) -> str:
    """Return the SHA-256 of the paths, dtypes, shapes and little-endian bytes of a tree's leaves."""
    digest = hashlib.sha256()
    for path, leaf in tree_flatten_with_path(tree)[0]:
        array = np.ascontiguousarray(leaf)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{keystr(path)} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)  # bfloat16 has no buffer itself
    return digest.hexdigest()


def tree_digest(tree: PyTree) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return `tree_hash` as an array of 32 bytes, which is kept beside the tree's arrays."""
    return np.frombuffer(bytes.fromhex(tree_hash(tree)), np.uint8)


def complete(where: PathLike, ticket: Ticket) -> Ticket:
    """Return the ticket as it is written: NumPy arrays; counts, hashes and version in its metadata.

    Raises:
        TicketError: it is not trained, has weights that its mask prunes, or its metadata lacks
            what loading needs, is not JSON or does not describe a model.
    """
    if ticket.trained is None:
        raise TicketError(f"{where}: an untrained ticket can't be saved")
    if missing := missing_keys(ticket.metadata):
        raise TicketError(f"{where}: the metadata has no {', '.join(missing)}")
    arrays = {part: jax.tree.map(np.asarray, getattr(ticket, part)) for part in PARTS}
    _check_pruned(where, arrays)
    metadata = {
        **ticket.metadata,
        **_counts(arrays["mask"]),
        **_leaves_of_own(ticket.metadata, arrays),
        "format_version": FORMAT_VERSION,
        "sha256": {part: tree_hash(arrays[part]) for part in PARTS},
    }
    try:
        metadata["sha256"]["metadata"] = metadata_hash(metadata)
        as_read = json.loads(json.dumps(metadata))
    except (TypeError, ValueError, RecursionError) as error:
        raise TicketError(f"{where}: the metadata can't be written as JSON: {error}") from error
    check_metadata(where, as_read)  # nothing is written that could not be read again
    return Ticket(**arrays, metadata=metadata)


def _counts(mask: PyTree) -> Metadata:
    kept, total = masks.counts(mask)
    return {
        "weights_total": total,
        "weights_remaining": kept,
        "density": kept / total,
        "layers": {name: list(n) for name, n in masks.layer_counts(mask).items()},
    }


def is_own_network(metadata: Metadata) -> bool:
    """Return whether a ticket is one of a network that this package does not have."""
    return metadata["model"].get("name") not in MODELS


def _leaves_of_own(metadata: Metadata, arrays: dict[str, PyTree]) -> Metadata:
    """Return the shapes of a network that whoever loads the ticket may not have."""
    if not is_own_network(metadata):
        return {}
    parts = ("params", "batch_stats")
    return {
        "leaves": {
            part: {
                path: [str(leaf.dtype), list(leaf.shape)]
                for path, leaf in by_path(arrays[part]).items()
            }
            for part in parts
        }
    }


def _tree_of_own(metadata: Metadata, part: str) -> PyTree:
    """Return a part of a network that this package does not have, as `ShapeDtypeStruct`."""
    tree: dict[str, Any] = {}
    for path, (dtype, shape) in metadata["leaves"][part].items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
    return tree


def _check_pruned(where: PathLike, arrays: dict[str, PyTree]) -> None:
    mask = by_path(arrays["mask"])
    for part in ("params", "trained"):
        for path, values in by_path(arrays[part]).items():
            # Bits are compared, not values: a file of survivors would not give -0.0 back.
            if values[~mask[path]].view(np.uint8).any():
                raise TicketError(f"{where}: {part}/{path} is not 0.0 where the mask prunes it")
    for path in mask.keys() - set(prunable_paths(arrays["mask"])):
        if not mask[path].all():
            raise TicketError(f"{where}: the mask prunes {path}; only kernels can be pruned")


def expected_arrays(
    where: PathLike, metadata: Metadata, model: Network | nn.Module | None = None
) -> dict[str, PyTree]:
    """Return the shapes and dtypes that each part must have: trees of `ShapeDtypeStruct`.

    Args:
        where: the ticket, for messages.
        metadata: of the ticket.
        model: the network it must fit; by default the one its metadata describes. Of a network
            that this package does not have, the metadata lists the shapes.

    Raises:
        TicketError: the metadata does not describe a model.
    """
    try:
        if model is None and is_own_network(metadata):
            if "leaves" not in metadata:
                raise ConfigError(
                    f"{short_repr(metadata['model'].get('name'))} is no network of this package; "
                    "load_ticket(path, model=...) takes one of your own"
                )
            variables = {part: _tree_of_own(metadata, part) for part in ("params", "batch_stats")}
        else:
            shape = tuple(metadata["input_shape"])
            network = model_of(metadata)[0] if model is None else model
            variables = as_network(network, shape).abstract_variables()
    except Exception as error:  # Flax documents no list of its errors for impossible networks
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
    """Compare leaves by name, shape and dtype; those of `stored` may be any arrays.

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


def check_finite(where: PathLike, arrays: dict[str, Any], *, allow_nonfinite: bool) -> None:
    """Refuse weights and statistics, by name, that are NaN or infinite, unless they are allowed.

    This is the policy of every reader of tickets: a network with such values computes nothing, so
    that it is loaded only on request.

    Raises:
        TicketError: some are not finite; names the first and says what to do.
    """
    for name, array in () if allow_nonfinite else arrays.items():
        if jax.numpy.issubdtype(array.dtype, jax.numpy.floating) and not np.isfinite(array).all():
            raise TicketError(
                f"{where}: {name} has values that are not finite; pass allow_nonfinite=True, or "
                "--allow_nonfinite on the command line, to load them"
            )


def verify(
    where: PathLike, arrays: dict[str, PyTree], metadata: Metadata, *, allow_nonfinite: bool = False
) -> Ticket:
    """Return the ticket of arrays that were read, if they are the ones that were written.

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
    check_finite(where, by_path(arrays), allow_nonfinite=allow_nonfinite)
    return Ticket(**arrays, metadata=metadata)
