"""Tickets: a mask, the weights to start from, and where both came from; kept with Orbax.

A ticket directory holds

    arrays/          an Orbax checkpoint: mask, params, batch_stats, trained, trained_batch_stats
    metadata.json    the network, the data, the level, what was measured, and SHA-256 hashes

`metadata.json` is written last: a directory without it is not a ticket. Nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path
from orbax.checkpoint import v1 as ocp

from lottery_jax import masks
from lottery_jax.errors import ConfigError, TicketError
from lottery_jax.files import write_text
from lottery_jax.models import abstract_variables, build_model
from lottery_jax.train import TrainState

PyTree = Any

FORMAT_VERSION = 1
# What a ticket needs to be loaded, shown and measured on its own.
_REQUIRED = ("model", "num_classes", "input_shape", "layer_order", "data", "mean", "std")
_PARTS = ("mask", "params", "batch_stats", "trained", "trained_batch_stats")


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


def save_ticket(path: str | os.PathLike[str], ticket: Ticket) -> Ticket:
    """Writes a trained ticket, with counts, hashes and the format's version in its metadata.

    Whatever incomplete ticket is at `path` is replaced. When this returns the ticket is on disk.

    Returns:
        The ticket with NumPy arrays and the completed metadata.

    Raises:
        TicketError: it is not trained, or its metadata lacks what `load_ticket` needs.
    """
    folder = Path(path)
    if ticket.trained is None:
        raise TicketError(f"{folder}: an untrained ticket can't be saved")
    if missing := [key for key in _REQUIRED if key not in ticket.metadata]:
        raise TicketError(f"{folder}: the metadata has no {', '.join(missing)}")
    arrays = {part: jax.tree.map(np.asarray, getattr(ticket, part)) for part in _PARTS}
    metadata = {
        **ticket.metadata,
        **_counts(arrays["mask"]),
        "format_version": FORMAT_VERSION,
        "sha256": {part: tree_hash(arrays[part]) for part in _PARTS},
    }
    (folder / "metadata.json").unlink(missing_ok=True)  # incomplete from here on
    _save_arrays(folder / "arrays", arrays)
    write_text(folder / "metadata.json", json.dumps(metadata, indent=1, allow_nan=False) + "\n")
    return Ticket(**arrays, metadata=metadata)


def _counts(mask: PyTree) -> dict[str, Any]:
    kept, total = masks.counts(mask)
    return {
        "weights_total": total,
        "weights_remaining": kept,
        "density": kept / total,
        "layers": {name: list(n) for name, n in masks.layer_counts(mask).items()},
    }


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Whether a ticket was saved there to the end."""
    return (Path(path) / "metadata.json").is_file()


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of a ticket directory.

    Raises:
        TicketError: there is no ticket, or one of another format.
    """
    file = Path(path) / "metadata.json"
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
        version = metadata["format_version"]
    except FileNotFoundError as error:
        raise TicketError(f"{path}: is not a ticket (it has no metadata.json)") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TicketError(f"{file}: can't be read as a ticket's metadata: {error}") from error
    if version != FORMAT_VERSION:
        raise TicketError(f"{file}: has format {version}; this version reads {FORMAT_VERSION}")
    if missing := [key for key in _REQUIRED if key not in metadata]:
        raise TicketError(f"{file}: has no {', '.join(missing)}")
    return metadata


def load_ticket(path: str | os.PathLike[str], model: nn.Module | None = None) -> Ticket:
    """Loads a ticket and verifies it: structure, shapes and dtypes against the model, then hashes.

    Args:
        path: a ticket directory.
        model: the network it must fit; by default the one its metadata describes.

    Raises:
        TicketError: it is missing or damaged, or does not fit; says which leaf differs.
    """
    folder = Path(path)
    metadata = read_metadata(folder)
    try:
        built, shape = model_of(metadata)
        variables = abstract_variables(model or built, shape)
        hashes = {part: metadata["sha256"][part] for part in _PARTS}
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise TicketError(f"{folder}: its metadata does not describe a model: {error}") from error
    params, batch_stats = variables["params"], variables["batch_stats"]
    expected = {
        "mask": jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, bool), params),
        "params": params,
        "batch_stats": batch_stats,
        "trained": params,
        "trained_batch_stats": batch_stats,
    }
    arrays = _load_arrays(folder / "arrays", expected)
    for part, digest in hashes.items():
        if tree_hash(arrays[part]) != digest:
            raise TicketError(f"{folder}: {part} is damaged (its SHA-256 is not the recorded one)")
    if any(metadata.get(key) != value for key, value in _counts(arrays["mask"]).items()):
        raise TicketError(f"{folder}: the counts in its metadata are not those of its mask")
    return Ticket(**arrays, metadata=metadata)


def save_state(folder: str | os.PathLike[str], state: TrainState) -> None:
    """Saves a mid-level checkpoint; an older one is removed only when this one is on disk."""
    new = Path(folder) / f"{int(state.step):09}"
    _save_arrays(new, jax.tree.map(np.asarray, _as_dict(state)))
    for old in new.parent.iterdir():
        if old != new:
            discard(old)


def latest_step(folder: str | os.PathLike[str]) -> int:
    """The step of the latest complete checkpoint in `folder`, or -1."""
    # Orbax gives a checkpoint its name when it is whole; an unfinished one has a longer name.
    names = (path.name for path in Path(folder).glob("*"))
    return max((int(name) for name in names if re.fullmatch(r"\d{9}", name)), default=-1)


def load_state(folder: str | os.PathLike[str], like: TrainState) -> TrainState | None:
    """The latest checkpoint in `folder` as NumPy arrays, or None if none was completed.

    Args:
        folder: as given to `save_state`.
        like: a state of the same structure, for its shapes and dtypes.

    Raises:
        TicketError: it is damaged or of another structure.
    """
    if (step := latest_step(folder)) < 0:
        return None
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), _as_dict(like))
    arrays = _load_arrays(Path(folder) / f"{step:09}", abstract)
    leaves = jax.tree.leaves(arrays["opt_state"])
    opt_state = jax.tree.unflatten(jax.tree.structure(like.opt_state), leaves)
    return TrainState(**{**arrays, "opt_state": opt_state})


def _as_dict(state: TrainState) -> dict[str, PyTree]:
    # The optimizer's state is a nest of tuples; a plain dict of its leaves is what Orbax gives
    # back whatever the tuple types are called in another version of optax.
    opt_state = {f"{i:04}": leaf for i, leaf in enumerate(jax.tree.leaves(state.opt_state))}
    return {
        "step": state.step,
        "params": state.params,
        "batch_stats": state.batch_stats,
        "opt_state": opt_state,
        "mask": state.mask,
    }


def _save_arrays(folder: Path, arrays: PyTree) -> None:
    ocp.save(folder.absolute(), arrays, overwrite=True)


def _load_arrays(folder: Path, expected: PyTree) -> PyTree:
    """Loads NumPy arrays, having compared every leaf's shape and dtype with the expected one."""
    try:
        stored = ocp.metadata(folder.absolute()).metadata
    except Exception as error:
        raise TicketError(f"{folder}: is not a readable Orbax checkpoint: {error}") from error
    _compare_leaves(folder, _leaves(stored), _leaves(expected))
    template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), expected)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ocp.load(folder.absolute(), template)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise TicketError(f"{folder}: is damaged: {type(error).__name__}: {first}") from error


def _leaves(tree: PyTree) -> dict[str, Any]:
    return {keystr(p, simple=True, separator="/"): x for p, x in tree_flatten_with_path(tree)[0]}


def _compare_leaves(folder: Path, stored: dict[str, Any], expected: dict[str, Any]) -> None:
    for path in sorted(set(stored) | set(expected)):
        if path not in stored:
            raise TicketError(f"{folder}: has no leaf {path}, which the model has")
        if path not in expected:
            raise TicketError(f"{folder}: has a leaf {path}, which the model has not")
        a, b = stored[path], expected[path]
        if tuple(a.shape) != tuple(b.shape) or np.dtype(a.dtype) != np.dtype(b.dtype):
            raise TicketError(
                f"{folder}: leaf {path} is {np.dtype(a.dtype)} {tuple(a.shape)}, but the model's "
                f"is {np.dtype(b.dtype)} {tuple(b.shape)}"
            )


def discard(path: str | os.PathLike[str]) -> None:
    """Removes a checkpoint that is no longer needed."""
    shutil.rmtree(path, ignore_errors=True)
