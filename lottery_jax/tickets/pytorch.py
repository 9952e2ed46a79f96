"""Tickets from and for PyTorch: state dicts in torchvision's layout, sized as the networks here.

`checkpoints.py` reads files, `statedicts.py` names and masks; `layouts.py` has torchvision's names
and shapes.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lottery_jax import __version__
from lottery_jax.errors import ConfigError, TicketError, lookup, raise_if_environment
from lottery_jax.models import abstract_variables, build_model, layer_names
from lottery_jax.pruning import masks
from lottery_jax.system.files import atomic_write
from lottery_jax.tickets.checkpoints import (
    Checkpoint,
    as_array,
    dtype_name,
    import_torch,
    is_tensor,
    read_checkpoint,
    some,
)
from lottery_jax.tickets.layouts import from_kernel, head_name, to_kernel, torch_names, torch_shape
from lottery_jax.tickets.statedicts import NUM_BATCHES, read_masks, read_names
from lottery_jax.tickets.ticket import Ticket, check_finite, complete, leaves, map_leaves
from lottery_jax.types import PyTree

Array = np.ndarray[Any, np.dtype[Any]]
StateDict = dict[str, Array]

WEIGHTS = ("trained", "start", "mask")
# The matrix of the output layer, under any prefix; its rows are the classes.
_HEAD = re.compile(r"(^|\.)(fc|head|head\.fc|classifier|classifier\.[016])\.weight(_orig)?$")


def from_flax(variables: PyTree, name: str, input_shape: Sequence[int]) -> StateDict:
    """Return the variables of a network as a PyTorch state dict of NumPy arrays.

    Args:
        variables: `params` and `batch_stats`.
        name: the network, such as `vgg19`.
        input_shape: (height, width, channels).

    Raises:
        ConfigError: no PyTorch layout is known for the network.
    """
    names = torch_names(variables, name)
    state: StateDict = {}
    for part, of_part in names.items():
        arrays = leaves(variables[part])
        for path, torch_name in of_part.items():
            array = np.asarray(arrays[path])
            if path.endswith("/kernel"):
                array = from_kernel(array, name, path, input_shape)
            state[torch_name] = np.ascontiguousarray(array)
    for torch_name in names["batch_stats"].values():
        module = torch_name.rpartition(".")[0]
        state[f"{module}.{NUM_BATCHES}"] = np.zeros((), np.int64)
    return state


def to_flax(
    state: Mapping[str, Any], name: str, input_shape: Sequence[int], **options: Any
) -> PyTree:
    """Return the variables of a network from a PyTorch state dict.

    Args:
        state: tensors or arrays by name, floats of any size. The names may share a prefix; scalars
            and values that are not tensors are passed over.
        name: the network, such as `vgg19`.
        input_shape: (height, width, channels).
        options: the options of `build_model`; the output layer says how many classes there are.

    Returns:
        `params` and `batch_stats` as float32 NumPy arrays.

    Raises:
        ConfigError: no PyTorch layout is known for the network.
        TicketError: a tensor is missing, unexpected or of another shape or dtype; names it.
    """
    return _fitted(Checkpoint(dict(state)), name, input_shape, options).variables


class _Fitted(NamedTuple):
    """A checkpoint that has been fitted to a network.

    Attributes:
        variables: `params` and `batch_stats`.
        masks: bool masks by layer, in the shape of the kernels here, where the file has one.
        recognised: what was recognised in the file, for a ticket's metadata.
    """

    variables: PyTree
    masks: dict[str, Array]
    recognised: dict[str, str]


def _fitted(
    checkpoint: Checkpoint, name: str, input_shape: Sequence[int], options: Mapping[str, Any]
) -> _Fitted:
    head = head_name(name)
    shape = tuple(input_shape)
    # The output layer says how many classes there are; it may have one of several names.
    heads = [
        len(value)
        for key, value in checkpoint.entries.items()
        if is_tensor(value) and value.ndim == 2 and _HEAD.search(key)
    ]
    expected = _expected(name, heads[-1] if heads else 1, shape, options)
    names = torch_names(expected, name)
    known = {torch_name for of_part in names.values() for torch_name in of_part.values()}
    found = read_names(checkpoint.entries, known, head)
    where = _found(checkpoint, found.prefix)
    tensors = {
        torch_name: checkpoint.entries[key]
        for torch_name, key in found.weights.items()
        # Counters, such as that of a moving average, are scalars beside the weights.
        if torch_name in known or getattr(checkpoint.entries[key], "ndim", 0) > 0
    }
    last: Any = tensors.get(f"{head}.weight")
    if not is_tensor(last) or last.ndim != 2:
        raise TicketError(f"has no matrix {head}.weight, the output layer of {name}; {where}")
    expected = _expected(name, len(last), shape, options)
    if missing := sorted(known - set(tensors)):
        raise TicketError(f"has no {some(missing)}, which {name} has; {where}")
    if unexpected := sorted(set(tensors) - known):
        raise TicketError(f"has {some(unexpected)}, which {name} does not have; {where}")
    variables = {part: _part(tensors, expected[part], names[part], name, shape) for part in names}
    shapes = {torch_name: tuple(tensors[torch_name].shape) for torch_name in found.weights
              if torch_name in known}  # fmt: skip
    params = {torch_name: path for path, torch_name in names["params"].items()}
    inside = {torch_name: checkpoint.entries[key] for torch_name, key in found.masks.items()}
    masks = {}
    for torch_name, mask in read_masks(
        inside, checkpoint.masks, {n: s for n, s in shapes.items() if n in params}, head
    ).items():
        layer, _, leaf = params[torch_name].rpartition("/")
        if leaf == "kernel":
            masks[layer] = to_kernel(mask, name, params[torch_name], shape)
    recognised = {
        "wrapping": ", ".join([*checkpoint.nesting, *found.recognised]),
        "converted_from": ", ".join(
            sorted({dtype_name(tensors[n]) for n in known} - {"float32"})
        ),
        "mask": some([*(["weight_mask"] if inside else []), *checkpoint.masks])
        if masks else "what is not zero",
    }  # fmt: skip
    return _Fitted(variables, masks, {key: text for key, text in recognised.items() if text})


def _found(checkpoint: Checkpoint, prefix: str) -> str:
    """Return the first few keys, and where they were, for messages."""
    place = [*checkpoint.nesting, *([f"prefix {prefix}"] if prefix else [])]
    return f"found {some(checkpoint.entries)}" + (f" in {', '.join(place)}" if place else "")


def _expected(
    name: str, classes: int, shape: tuple[int, ...], options: Mapping[str, Any]
) -> PyTree:
    try:
        return _network(classes, shape, tuple(sorted({**options, "name": name}.items())))[0]
    except ConfigError:
        raise
    except Exception as error:  # Flax documents no list of its errors for impossible networks
        raise_if_environment(error)
        raise TicketError(f"{name} does not take images of {shape}: {error}") from error


@functools.lru_cache(maxsize=4)
def _network(
    classes: int, shape: tuple[int, ...], options: tuple[tuple[str, Any], ...]
) -> tuple[PyTree, list[str]]:
    """Return the shapes of a network's variables, and its layers from input to output."""
    model = build_model(num_classes=classes, **dict(options))
    return abstract_variables(model, shape), layer_names(model, shape)


def _part(
    state: Mapping[str, Any],
    expected: PyTree,
    names: dict[str, str],
    name: str,
    shape: Sequence[int],
) -> PyTree:
    def convert(path: str, leaf: Any) -> Array:
        tensor, wanted = state[names[path]], torch_shape(leaf.shape)
        is_float = re.match(r"b?float", dtype_name(tensor))
        size = f" {tuple(tensor.shape)}" if is_tensor(tensor) else ""
        if size != f" {wanted}" or not is_float:
            raise TicketError(
                f"{names[path]} is {dtype_name(tensor)}{size}, but that of {name} is "
                f"{np.dtype(leaf.dtype)} {wanted}"
            )
        try:
            array = as_array(tensor)
        except ValueError as error:
            raise TicketError(f"{names[path]} can't be read: {error}") from error
        if path.endswith("/kernel"):
            array = to_kernel(array, name, path, shape)
        return np.array(array, order="C")

    return map_leaves(convert, expected)


def import_pytorch(
    path: str | os.PathLike[str],
    model: Mapping[str, Any],
    *,
    data: str,
    input_shape: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    start: str | os.PathLike[str] | None = None,
    allow_nonfinite: bool = False,
) -> Ticket:
    """Make a ticket of a PyTorch file of trained weights.

    Its mask is the one in the file: of `torch.nn.utils.prune`, or an entry beside the weights. A
    kernel without a mask keeps the weights that are not zero.

    Args:
        path: a state dict or a checkpoint.
        model: the options of the network: `name`, and `stem` for a ResNet.
        data: the name of the data set it was trained on.
        input_shape: (height, width, channels).
        mean: the mean of each channel with which pixels, from 0 to 1, were normalised.
        std: the standard deviation of each channel, on the same scale.
        start: a file of the weights to start from; by default the trained ones stand for them.
        allow_nonfinite: whether to load weights and statistics that are NaN or infinite.

    Returns:
        The complete ticket. Its metadata has `imported` in place of seed, level and control: the
        file, and what was recognised in it.

    Raises:
        ConfigError: no PyTorch layout is known for the network.
        TicketError: a file can't be read or does not fit the network; names the tensor or mask.
    """
    options = {"dtype": "float32", "width": 1.0, **model}
    trained, given, recognised = _read_variables(path, options, input_shape, allow_nonfinite)
    kept = {n: given.get(n, k != 0.0) for n, k in masks.kernels(trained["params"]).items()}
    mask = masks.with_kernels(masks.ones_like(trained["params"]), kept)
    first = trained
    if start is not None:
        first, others, _ = _read_variables(start, options, input_shape, allow_nonfinite)
        for name, other in others.items():
            if (kept[name] & ~other).any():
                raise TicketError(f"{start}: its mask of {name} prunes weights that {path} keeps")
    classes = len(trained["params"]["head"]["bias"])
    if len(first["params"]["head"]["bias"]) != classes:
        raise TicketError(f"{start}: has another number of classes than {path}")
    _, layer_order = _network(classes, tuple(input_shape), tuple(sorted(options.items())))
    metadata = {
        "model": options,
        "num_classes": classes,
        "input_shape": list(input_shape),
        "layer_order": list(layer_order),
        "data": data,
        "mean": list(mean),
        "std": list(std),
        "imported": {
            "file": Path(path).name,
            "sha256": _file_hash(path),
            "start": "the trained weights" if start is None else Path(start).name,
            **recognised,
        },
        "lottery_jax_version": __version__,
        "result": {},
    }
    ticket = Ticket(
        mask=mask,
        params=_masked(mask, first["params"]),
        batch_stats=first["batch_stats"],
        trained=_masked(mask, trained["params"]),
        trained_batch_stats=trained["batch_stats"],
        metadata=metadata,
    )
    return complete(path, ticket)


def _masked(mask: PyTree, params: PyTree) -> PyTree:
    # A product with a mask leaves -0.0 for negative weights; a ticket has +0.0.
    return jax.tree.map(lambda m, p: np.where(m, p, np.float32(0.0)), mask, params)


def _read_variables(
    path: str | os.PathLike[str],
    model: Mapping[str, Any],
    input_shape: Sequence[int],
    allow_nonfinite: bool,
) -> _Fitted:
    checkpoint = read_checkpoint(path)
    options = {key: value for key, value in model.items() if key != "name"}
    try:
        fitted = _fitted(checkpoint, model["name"], input_shape, options)
    except TicketError as error:
        raise TicketError(f"{path}: {error}") from error
    for part, names in torch_names(fitted.variables, model["name"]).items():
        arrays = leaves(fitted.variables[part])
        by_name = {torch_name: arrays[p] for p, torch_name in names.items()}
        check_finite(path, by_name, allow_nonfinite=allow_nonfinite)
    return fitted


def _file_hash(path: str | os.PathLike[str]) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def export_pytorch(path: str | os.PathLike[str], ticket: Ticket, weights: str = "trained") -> None:
    """Write a ticket's weights as a state dict for `torch.load`; replace what is there.

    Args:
        path: the file to write.
        ticket: a trained ticket.
        weights: `trained`; `start` for the weights to start from; or `mask`: bool, True where a
            weight remains, by the names of the weights.

    Raises:
        ConfigError: no PyTorch layout is known for the network.
        TicketError: PyTorch is not installed.
    """
    torch = import_torch(path)
    variables = {"trained": ticket.trained_variables, "start": ticket.variables,
                 "mask": {"params": ticket.mask, "batch_stats": {}}}  # fmt: skip
    chosen = lookup(variables, weights, "weights")
    name, shape = ticket.metadata["model"]["name"], ticket.metadata["input_shape"]
    state = from_flax(chosen, name, shape)
    with atomic_write(path) as temporary:
        torch.save({key: torch.from_numpy(value) for key, value in state.items()}, temporary)
