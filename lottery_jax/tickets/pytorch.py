"""Tickets to and from PyTorch: state dicts in torchvision's layout, sized as the networks here.

| here | there |
|---|---|
| `vgg11` to `vgg19` | `vgg*_bn`: `features.N`, and one linear layer, `classifier` or `classifier.0` |
| `resnet18`, `resnet34`, `resnet50` | `conv1`, `bn1`, `layer1.0.conv1`, `layer1.0.downsample.0`, `fc` |
| `alexnet` | `features.0`, `.3`, `.6`, `.8`, `.10`, `classifier.1`, `.4`, `.6` |

Kernels are OIHW there and HWIO here, linear layers transposed, and where AlexNet flattens an image,
PyTorch goes through channels first. `checkpoints.py` reads files, `statedicts.py` names and masks.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

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
from lottery_jax.tickets.statedicts import NUM_BATCHES, read_masks, read_names
from lottery_jax.tickets.ticket import Ticket, check_finite, completed, leaves

PyTree = Any
Array = np.ndarray[Any, np.dtype[Any]]
StateDict = dict[str, Array]

WEIGHTS = ("trained", "start")
_ALEXNET = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "dense1": "classifier.1",
    "dense2": "classifier.4",
    "head": "classifier.6",
}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# Whatever prefix it has, the matrix that says how many classes there are.
_HEAD = re.compile(r"(^|\.)(fc|head|head\.fc|classifier|classifier\.[016])\.weight(_orig)?$")


def _vgg_names(modules: Iterable[str]) -> dict[str, str]:
    names = {"head": "classifier"}
    for i, conv in enumerate(sorted({m for m in modules if m.startswith("conv")})):
        # Each convolution is followed by a BatchNorm and a ReLU, each stage by a pooling.
        index = 3 * i + int(conv[len("conv")]) - 1
        names[conv] = f"features.{index}"
        names[conv.replace("conv", "bn")] = f"features.{index + 1}"
    return names


def _resnet_names(modules: Iterable[str]) -> dict[str, str]:
    names = {"stem": "conv1", "bn_stem": "bn1", "head": "fc"}
    inside = {"shortcut": "downsample.0", "bn_shortcut": "downsample.1"}
    for module in modules:
        if match := re.fullmatch(r"block(\d+)_(\d+)/(\w+)", module):
            stage, block, layer = match.groups()
            names[module] = f"layer{stage}.{int(block) - 1}.{inside.get(layer, layer)}"
    return names


def _alexnet_names(modules: Iterable[str]) -> dict[str, str]:
    return _ALEXNET


_LAYOUTS = {
    **dict.fromkeys(("vgg11", "vgg13", "vgg16", "vgg19"), _vgg_names),
    **dict.fromkeys(("resnet18", "resnet34", "resnet50"), _resnet_names),
    "alexnet": _alexnet_names,
}


def _torch_names(variables: PyTree, name: str) -> dict[str, dict[str, str]]:
    """For params and for batch_stats: the path of each leaf here, and its name there."""
    layout = lookup(_LAYOUTS, name, "PyTorch layout")
    paths = {part: list(leaves(variables[part])) for part in ("params", "batch_stats")}
    modules = layout(path.rpartition("/")[0] for part in paths.values() for path in part)
    return {
        part: {
            path: f"{modules[path.rpartition('/')[0]]}.{_LEAVES[path.rpartition('/')[2]]}"
            for path in of_part
        }
        for part, of_part in paths.items()
    }


def _flattened(name: str, path: str, input_shape: Sequence[int]) -> tuple[int, int] | None:
    """(height, width) of the image that a dense kernel takes flattened, if it does."""
    if (name, path) != ("alexnet", "dense1/kernel"):
        return None
    height, width = ((side + 1) // 2 // 8 for side in input_shape[:2])  # stride 2, three poolings
    return height, width


def _to_kernel(weight: Array, image: tuple[int, int] | None) -> Array:
    if weight.ndim == 4:
        return weight.transpose(2, 3, 1, 0)
    if image is None:
        return weight.T
    units = len(weight)
    return weight.T.reshape(-1, *image, units).transpose(1, 2, 0, 3).reshape(-1, units)


def _from_kernel(kernel: Array, image: tuple[int, int] | None) -> Array:
    if kernel.ndim == 4:
        return kernel.transpose(3, 2, 0, 1)
    if image is None:
        return kernel.T
    units = kernel.shape[-1]
    return kernel.reshape(*image, -1, units).transpose(2, 0, 1, 3).reshape(-1, units).T


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:1:-1] + shape[:2] if len(shape) == 4 else shape[::-1]


def from_flax(variables: PyTree, name: str, input_shape: Sequence[int]) -> StateDict:
    """The variables of a network as a PyTorch state dict of NumPy arrays.

    Args:
        variables: `params` and `batch_stats`.
        name: of the network, such as `vgg19`.
        input_shape: (height, width, channels).

    Raises:
        ConfigError: no PyTorch layout is known for the network.
    """
    names = _torch_names(variables, name)
    state: StateDict = {}
    for part, of_part in names.items():
        arrays = leaves(variables[part])
        for path, torch_name in of_part.items():
            array = np.asarray(arrays[path])
            if path.endswith("/kernel"):
                array = _from_kernel(array, _flattened(name, path, input_shape))
            state[torch_name] = np.ascontiguousarray(array)
    for torch_name in names["batch_stats"].values():
        module = torch_name.rpartition(".")[0]
        state[f"{module}.{NUM_BATCHES}"] = np.zeros((), np.int64)
    return state


def to_flax(
    state: Mapping[str, Any], name: str, input_shape: Sequence[int], **options: Any
) -> PyTree:
    """A PyTorch state dict as the variables of a network.

    Args:
        state: tensors or arrays by name, floats of any size; names may have a prefix in common, and
            scalars and what is no tensor are passed over.
        name: of the network, such as `vgg19`.
        input_shape: (height, width, channels).
        options: as `build_model` takes them; the number of classes is that of the output layer.

    Returns:
        `params` and `batch_stats`, NumPy arrays, float32.

    Raises:
        ConfigError: no PyTorch layout is known for the network.
        TicketError: a tensor is missing, unexpected or of another shape or dtype; names it.
    """
    return _fitted(Checkpoint(dict(state)), name, input_shape, options).variables


class _Fitted(NamedTuple):
    """A checkpoint as a network takes it.

    Attributes:
        variables: `params` and `batch_stats`.
        masks: of the kernels for which the file has one, by layer; bool, as kernels here.
        says: for a ticket's metadata: what was recognised.
    """

    variables: PyTree
    masks: dict[str, Array]
    says: dict[str, str]


def _fitted(
    checkpoint: Checkpoint, name: str, input_shape: Sequence[int], options: Mapping[str, Any]
) -> _Fitted:
    lookup(_LAYOUTS, name, "PyTorch layout")
    shape = tuple(input_shape)
    # How many classes there are says the output layer, which may have one of several names.
    heads = [
        len(value)
        for key, value in checkpoint.entries.items()
        if is_tensor(value) and value.ndim == 2 and _HEAD.search(key)
    ]
    expected = _expected(name, heads[-1] if heads else 1, shape, options)
    names = _torch_names(expected, name)
    known = {torch_name for of_part in names.values() for torch_name in of_part.values()}
    found = read_names(checkpoint.entries, known, _head_name(name))
    where = _found(checkpoint, found.prefix)
    tensors = {
        torch_name: checkpoint.entries[key]
        for torch_name, key in found.weights.items()
        # Beside the weights are counters, such as that of a moving average.
        if torch_name in known or getattr(checkpoint.entries[key], "ndim", 0) > 0
    }
    head = f"{_head_name(name)}.weight"
    if not is_tensor(tensors.get(head)) or tensors[head].ndim != 2:
        raise TicketError(f"has no matrix {head}, the output layer of {name}; {where}")
    expected = _expected(name, len(tensors[head]), shape, options)
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
        inside, checkpoint.masks, {n: s for n, s in shapes.items() if n in params}, _head_name(name)
    ).items():
        layer, _, leaf = params[torch_name].rpartition("/")
        if leaf == "kernel":
            masks[layer] = _to_kernel(mask, _flattened(name, params[torch_name], shape))
    says = {
        "wrapping": ", ".join([*checkpoint.nesting, *found.recognised]),
        "converted_from": ", ".join(
            sorted({dtype_name(tensors[n]) for n in known} - {"float32"})
        ),
        "mask": some([*(["weight_mask"] if inside else []), *checkpoint.masks])
        if masks else "what is not zero",
    }  # fmt: skip
    return _Fitted(variables, masks, {key: text for key, text in says.items() if text})


def _found(checkpoint: Checkpoint, prefix: str) -> str:
    """The first few keys, and where they were, for messages."""
    place = [*checkpoint.nesting, *([f"prefix {prefix}"] if prefix else [])]
    return f"found {some(checkpoint.entries)}" + (f" in {', '.join(place)}" if place else "")


def _head_name(name: str) -> str:
    return _LAYOUTS[name](())["head"]


def _expected(
    name: str, classes: int, shape: tuple[int, ...], options: Mapping[str, Any]
) -> PyTree:
    try:
        return _abstract(name, classes, shape, tuple(options.items()))
    except ConfigError:
        raise
    except Exception as error:  # what Flax raises for nonsense is not its interface
        raise_if_environment(error)
        raise TicketError(f"{name} does not take images of {shape}: {error}") from error


@functools.lru_cache(maxsize=4)
def _abstract(
    name: str, classes: int, shape: tuple[int, ...], options: tuple[tuple[str, Any], ...]
) -> PyTree:
    return abstract_variables(build_model(name, classes, **dict(options)), shape)


@functools.lru_cache(maxsize=4)
def _layer_order(
    classes: int, shape: tuple[int, ...], options: tuple[tuple[str, Any], ...]
) -> tuple[str, ...]:
    return tuple(layer_names(build_model(num_classes=classes, **dict(options)), shape))


def _part(
    state: Mapping[str, Any],
    expected: PyTree,
    names: dict[str, str],
    name: str,
    shape: Sequence[int],
) -> PyTree:
    found = []
    for path, leaf in leaves(expected).items():
        tensor, wanted = state[names[path]], _torch_shape(leaf.shape)
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
            array = _to_kernel(array, _flattened(name, path, shape))
        found.append(np.array(array, order="C"))
    return jax.tree.unflatten(jax.tree.structure(expected), found)


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
    """A ticket from a PyTorch file of trained weights.

    Its mask is the file's: of `torch.nn.utils.prune`, or an entry beside the weights. A kernel for
    which there is none keeps what is not zero.

    Args:
        path: a state dict or a checkpoint.
        model: `name`, and `stem` for a ResNet.
        data: what it was trained on.
        input_shape: (height, width, channels).
        mean: of each channel, that its pixels (on the scale 0 to 1) were normalised with.
        std: standard deviation, likewise.
        start: a file of the weights to start from; by default the trained ones stand for them.
        allow_nonfinite: take weights and BatchNorm statistics that are infinite or no numbers.

    Returns:
        The ticket, complete. Its metadata has `imported` in place of seed, level and control: the
        file, and what was recognised in it.

    Raises:
        ConfigError: no PyTorch layout is known for the network.
        TicketError: a file can't be read or does not fit the network; names the tensor or mask.
    """
    options = {"dtype": "float32", "width": 1.0, **model}
    trained, given, says = _read_variables(path, options, input_shape, allow_nonfinite)
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
    metadata = {
        "model": options,
        "num_classes": classes,
        "input_shape": list(input_shape),
        "layer_order": [*_layer_order(classes, tuple(input_shape), tuple(options.items()))],
        "data": data,
        "mean": list(mean),
        "std": list(std),
        "imported": {
            "file": Path(path).name,
            "sha256": _file_hash(path),
            "start": "the trained weights" if start is None else Path(start).name,
            **says,
        },
        "lottery_jax_version": version("lottery_jax"),
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
    return completed(path, ticket)


def _masked(mask: PyTree, params: PyTree) -> PyTree:
    # A product with a mask has left -0.0 for negative weights; a ticket has +0.0.
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
    if not allow_nonfinite:
        for part, names in _torch_names(fitted.variables, model["name"]).items():
            arrays = leaves(fitted.variables[part])
            check_finite(path, {torch_name: arrays[p] for p, torch_name in names.items()})
    return fitted


def _file_hash(path: str | os.PathLike[str]) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def export_pytorch(path: str | os.PathLike[str], ticket: Ticket, weights: str = "trained") -> None:
    """Writes a ticket's weights as a state dict for `torch.load`; replaces what is there.

    Args:
        path: the file.
        ticket: from `load_ticket`.
        weights: `trained`, or `start` for those to start from.

    Raises:
        ConfigError: no PyTorch layout is known for the network.
        TicketError: PyTorch is not installed.
    """
    torch = import_torch(path)
    variables = {"trained": ticket.trained_variables, "start": ticket.variables}
    chosen = lookup(variables, weights, "weights")
    name, shape = ticket.metadata["model"]["name"], ticket.metadata["input_shape"]
    state = from_flax(chosen, name, shape)
    with atomic_write(path) as temporary:
        torch.save({key: torch.from_numpy(value) for key, value in state.items()}, temporary)
