"""Tickets to and from PyTorch: state dicts in torchvision's layout, sized as the networks here.

| here | there |
|---|---|
| `vgg11` to `vgg19` | `vgg*_bn`: `features.N`, and one linear layer, `classifier` or `classifier.0` |
| `resnet18`, `resnet34`, `resnet50` | `conv1`, `bn1`, `layer1.0.conv1`, `layer1.0.downsample.0`, `fc` |
| `alexnet` | `features.0`, `.3`, `.6`, `.8`, `.10`, `classifier.1`, `.4`, `.6` |

Kernels are OIHW there and HWIO here, linear layers transposed, and where AlexNet flattens an image,
PyTorch goes through channels first. Files are read without unpickling anything but tensors, and
`pickles.py` first follows what even that would do.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from lottery_jax import masks
from lottery_jax.errors import TicketError, choose
from lottery_jax.files import replacing
from lottery_jax.models import abstract_variables, build_model, layer_names
from lottery_jax.tickets.pickles import checked_for_torch
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
# Under which name a checkpoint keeps the state dict itself.
_NESTED = ("model_state_dict", "state_dict")
_STEPS_SEEN = "num_batches_tracked"  # PyTorch counts BatchNorm's batches; nothing here does


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
    layout = choose(_LAYOUTS, name, "PyTorch layout")
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
        state[f"{module}.{_STEPS_SEEN}"] = np.zeros((), np.int64)
    return state


def to_flax(
    state: Mapping[str, Array], name: str, input_shape: Sequence[int], **options: Any
) -> PyTree:
    """A PyTorch state dict of NumPy arrays as the variables of a network.

    Args:
        state: float32 arrays by name; `num_batches_tracked` is ignored.
        name: of the network, such as `vgg19`.
        input_shape: (height, width, channels).
        options: as `build_model` takes them; the number of classes is that of the output layer.

    Returns:
        `params` and `batch_stats`, NumPy arrays.

    Raises:
        ConfigError: no PyTorch layout is known for the network.
        TicketError: a tensor is missing, unexpected or of another shape or dtype; names it.
    """
    choose(_LAYOUTS, name, "PyTorch layout")
    state = {key: value for key, value in state.items() if not key.endswith(f".{_STEPS_SEEN}")}
    if name.startswith("vgg"):
        state = {re.sub(r"^classifier\.0\.", "classifier.", k): v for k, v in state.items()}
    variables = _expected(state, name, input_shape, options)
    names = _torch_names(variables, name)
    known = [torch_name for of_part in names.values() for torch_name in of_part.values()]
    if missing := sorted(set(known) - set(state)):
        raise TicketError(f"has no {_some(missing)}, which {name} has")
    if unexpected := sorted(set(state) - set(known)):
        raise TicketError(f"has {_some(unexpected)}, which {name} has not")
    return {part: _part(state, variables[part], names[part], name, input_shape) for part in names}


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _head_name(name: str) -> str:
    return _LAYOUTS[name](())["head"] + ".weight"


def _expected(
    state: StateDict, name: str, input_shape: Sequence[int], options: Mapping[str, Any]
) -> PyTree:
    head = _head_name(name)
    if head not in state or state[head].ndim != 2:
        raise TicketError(f"has no matrix {head}, the output layer of {name}")
    model = build_model(name, len(state[head]), **options)
    try:
        return abstract_variables(model, tuple(input_shape))
    except Exception as error:  # what Flax raises for nonsense is not its interface
        raise TicketError(
            f"{name} does not take images of {tuple(input_shape)}: {error}"
        ) from error


def _part(
    state: StateDict, expected: PyTree, names: dict[str, str], name: str, shape: Sequence[int]
) -> PyTree:
    found = []
    for path, leaf in leaves(expected).items():
        tensor = state[names[path]]
        image = _flattened(name, path, shape)
        wanted = _torch_shape(leaf.shape)
        if tensor.shape != wanted or tensor.dtype != leaf.dtype:
            raise TicketError(
                f"{names[path]} is {tensor.dtype} {tensor.shape}, but that of {name} is "
                f"{np.dtype(leaf.dtype)} {wanted}"
            )
        array = _to_kernel(tensor, image) if path.endswith("/kernel") else tensor
        found.append(np.array(array, order="C"))
    return jax.tree.unflatten(jax.tree.structure(expected), found)


def read_state_dict(path: str | os.PathLike[str]) -> StateDict:
    """The tensors of a state dict, or of a checkpoint that has one, as NumPy arrays.

    Reads what `torch.save` wrote, and safetensors files, for which PyTorch is not needed. Of a
    pickle only tensors and plain containers are read; nothing in it is run.

    Raises:
        TicketError: it can't be read, or holds something else; or PyTorch is not installed.
    """
    file = Path(path)
    if not file.is_file():
        raise TicketError(f"{file}: is not a file")
    if file.suffix == ".safetensors":
        try:
            tensors: Any = load_file(file)
        except (SafetensorError, OSError, KeyError) as error:
            raise TicketError(f"{file}: is not a readable safetensors file: {error}") from error
    else:
        tensors = _unpickled(file)
    if not isinstance(tensors, dict):
        raise TicketError(f"{file}: holds a {type(tensors).__name__}, not a state dict")
    # `dict.get` and not a method of the object: a pickle can give an OrderedDict any attribute.
    for key in _NESTED:
        if isinstance(inner := dict.get(tensors, key), dict):
            tensors = inner
    state = {key: _array(file, key, value) for key, value in dict.items(tensors)}
    if all(key.startswith("module.") for key in state):  # saved from a DataParallel model
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _torch(path: str | os.PathLike[str]) -> Any:
    try:
        import torch
    except ImportError as error:
        raise TicketError(f"{path}: needs PyTorch: pip install 'lottery_jax[torch]'") from error
    return torch


def _unpickled(file: Path) -> Any:
    torch = _torch(file)
    content = checked_for_torch(file)
    try:
        return torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of PyTorch's reader
        first = (str(error).splitlines() or [""])[0]
        raise TicketError(f"{file}: can't be read: {type(error).__name__}: {first}") from error


def _array(file: Path, key: Any, value: Any) -> Array:
    if isinstance(key, str) and isinstance(value, np.ndarray):
        return value
    try:
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            # Repeated by strides: a small file could ask for any amount of memory.
            raise TypeError("it is larger than what the file holds of it")
        array: Array = value.detach().numpy()
    except (AttributeError, TypeError, RuntimeError, ValueError) as error:
        what = getattr(value, "dtype", type(value).__name__)
        raise TicketError(f"{file}: {key!r} is {what}, not a float32 tensor") from error
    if not isinstance(key, str):
        raise TicketError(f"{file}: a tensor is named {key!r}, which is not text")
    return array


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
    """A ticket from a PyTorch file of trained weights; its mask keeps what is not zero.

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
        The ticket, complete. Its metadata has `imported` in place of seed, level and control.

    Raises:
        ConfigError: no PyTorch layout is known for the network.
        TicketError: a file can't be read or does not fit the network; names the tensor.
    """
    options = {"dtype": "float32", "width": 1.0, **model}
    trained = _read_variables(path, options, input_shape, allow_nonfinite)
    first = (
        trained if start is None else _read_variables(start, options, input_shape, allow_nonfinite)
    )
    mask = masks.dense(trained["params"])
    for name, kernel in masks.kernels(trained["params"]).items():
        np.not_equal(kernel, 0.0, out=masks.kernels(mask)[name])
    classes = len(trained["params"]["head"]["bias"])
    if len(first["params"]["head"]["bias"]) != classes:
        raise TicketError(f"{start}: has another number of classes than {path}")
    metadata = {
        "model": options,
        "num_classes": classes,
        "input_shape": list(input_shape),
        "layer_order": layer_names(build_model(num_classes=classes, **options), tuple(input_shape)),
        "data": data,
        "mean": list(mean),
        "std": list(std),
        "imported": {
            "file": Path(path).name,
            "sha256": _file_hash(path),
            "start": "the trained weights" if start is None else Path(start).name,
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
) -> PyTree:
    state = read_state_dict(path)
    try:
        variables = to_flax(state, input_shape=input_shape, **model)
    except TicketError as error:
        raise TicketError(f"{path}: {error}") from error
    if not allow_nonfinite:
        check_finite(path, state)
    return variables


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
    torch = _torch(path)
    variables = {"trained": ticket.trained_variables, "start": ticket.variables}
    chosen = choose(variables, weights, "weights")
    name, shape = ticket.metadata["model"]["name"], ticket.metadata["input_shape"]
    state = from_flax(chosen, name, shape)
    with replacing(path) as temporary:
        torch.save({key: torch.from_numpy(value) for key, value in state.items()}, temporary)
