"""Names and masks of state dicts as PyTorch's users write them, read as torchvision's names.

| written by | example | read as |
|---|---|---|
| DataParallel, Lightning, `torch.compile`, … | `module.model.conv1.weight` | `conv1.weight` |
| `torch.nn.utils.prune` | `conv1.weight_orig`, `conv1.weight_mask` | weight and mask of `conv1` |
| timm, CIFAR's ResNets | `head.fc.weight`, `linear.weight` | the output layer |
| CIFAR's ResNets | `layer2.0.shortcut.0.weight` | `layer2.0.downsample.0.weight` |
| Hugging Face's ResNet | `resnet.embedder.embedder.convolution.weight` | `conv1.weight` |
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lottery_jax.errors import TicketError
from lottery_jax.tickets.checkpoints import as_array, is_tensor, some

Array = np.ndarray[Any, np.dtype[Any]]

NUM_BATCHES = "num_batches_tracked"  # PyTorch counts BatchNorm's batches; nothing here does
_COMPILED = "_orig_mod."  # torch.compile, which may wrap any module, adds it to the names
_HUGGING_FACE = re.compile(
    r"(?:resnet\.)?(?:embedder\.embedder|encoder\.stages\.(\d+)\.layers\.(\d+)\.(?:layer\.(\d+)|shortcut))"
    r"\.(convolution|normalization)\."
)
_HEADS = ("classifier.0", "head.fc", "head", "linear")
_LEAVES = ("weight", "bias", "running_mean", "running_var")


class Names(NamedTuple):
    """The names of a state dict, translated to torchvision's.

    Attributes:
        weights: the key of each tensor, by torchvision's name.
        masks: the key of each mask, by torchvision's name of the tensor that it prunes.
        prefix: the prefix that the names had in common.
        recognised: how names were written, in words.
    """

    weights: dict[str, Any]
    masks: dict[str, Any]
    prefix: str
    recognised: list[str]


def read_names(keys: Iterable[Any], known: Collection[str], head: str) -> Names:
    """Read the keys of a state dict as torchvision's names.

    Args:
        keys: the keys of the state dict.
        known: the names that the network has.
        head: the module of the network's output layer.

    Raises:
        TicketError: two keys belong to the same tensor.

    >>> read_names(["module.fc.weight_orig", "module.fc.weight_mask"], {"fc.weight"}, "fc")
    ... # doctest: +NORMALIZE_WHITESPACE
    Names(weights={'fc.weight': 'module.fc.weight_orig'},
          masks={'fc.weight': 'module.fc.weight_mask'},
          prefix='module.', recognised=['prefix module.', 'torch.nn.utils.prune'])
    """
    keys = [key for key in keys if isinstance(key, str) and not key.endswith(NUM_BATCHES)]
    plain = {key: key.replace(_COMPILED, "") for key in keys}
    recognised = ["torch.compile"] if any(_COMPILED in key for key in keys) else []
    roles = {key: _role(name) for key, name in plain.items()}
    if any(_HUGGING_FACE.search(name) for _, name in roles.values()):
        recognised.append("names of Hugging Face")
        roles = {key: (kind, _from_hugging_face(name)) for key, (kind, name) in roles.items()}
    if any(".downsample." in name for name in known):
        theirs = {
            key: (kind, name.replace(".shortcut.", ".downsample."))
            for key, (kind, name) in roles.items()
        }
        recognised += ["shortcut for downsample"] if theirs != roles else []
        roles = theirs
    prefix = _prefix({name for _, name in roles.values()}, known)
    if prefix:
        recognised.append(f"prefix {prefix}")
    weights: dict[str, Any] = {}
    masks: dict[str, Any] = {}
    names = {key: (kind, name.removeprefix(prefix)) for key, (kind, name) in roles.items()}
    other = _other_head({name for _, name in names.values()}, head)
    for key, (kind, name) in names.items():
        into = masks if kind == "mask" else weights
        if name.startswith(f"{other}."):
            name = head + name.removeprefix(other)
        if name in into:
            raise TicketError(f"has {into[name]} and {key}, both for {name}")
        into[name] = key
    if any(kind == "orig" for kind, _ in roles.values()):
        recognised.append("torch.nn.utils.prune")
        unmasked = [n for key, (kind, _) in roles.items() if kind == "orig"
                    for n, k in weights.items() if k == key and n not in masks]  # fmt: skip
        if unmasked:
            raise TicketError(f"has {unmasked[0]}_orig without {unmasked[0]}_mask")
    return Names(weights, masks, prefix, recognised)


def names_in_order(
    entries: Mapping[Any, Any], modules: Sequence[tuple[str, bool]]
) -> dict[str, str]:
    """Return the names there of modules here, paired in order.

    Layers are paired with layers, and normalisations, whose weight is a vector, with each other.

    Args:
        entries: a state dict in the order of the file.
        modules: the modules here that have a weight, in the order in which they are called; True
            for those whose weight has more than one dimension.

    Raises:
        TicketError: there are more or fewer of a kind.

    >>> tensors = {"0.weight": np.ones((4, 3)), "1.weight": np.ones(4), "3.weight": np.ones((2, 4))}
    >>> names_in_order(tensors, [("dense1", True), ("norm", False), ("head", True)])
    {'dense1': '0', 'head': '3', 'norm': '1'}
    """
    there: dict[str, bool] = {}
    for key, tensor in entries.items():
        kind, name = _role(key.replace(_COMPILED, "")) if isinstance(key, str) else ("", "")
        module, _, leaf = name.rpartition(".")
        if kind in ("weight", "orig") and leaf == "weight" and is_tensor(tensor) and tensor.ndim:
            there[module] = tensor.ndim > 1
    names: dict[str, str] = {}
    for is_layer, what in ((True, "layers"), (False, "normalisations")):
        ours = [module for module, wide in modules if wide == is_layer]
        theirs = [module for module, wide in there.items() if wide == is_layer]
        if len(ours) != len(theirs):
            raise TicketError(
                f"has {len(theirs)} {what} with weights ({some(theirs)}), but the network has "
                f"{len(ours)} ({some(ours)}); name them in a table instead of by order"
            )
        names |= dict(zip(ours, theirs, strict=True))
    return names


def _role(name: str) -> tuple[str, str]:
    """Return the kind of a tensor (weight, orig or mask), and the name of its parameter."""
    module, _, leaf = name.rpartition(".")
    if leaf in ("mask", "masks"):
        return "mask", f"{module}.weight"
    for kind in ("orig", "mask"):
        if leaf.endswith(f"_{kind}"):
            return kind, name.removesuffix(f"_{kind}")
    return "weight", name


def _from_hugging_face(name: str) -> str:
    def torchvision(match: re.Match[str]) -> str:
        stage, block, layer, kind = match.groups()
        is_conv = kind == "convolution"
        if stage is None:
            return "conv1." if is_conv else "bn1."
        module = f"layer{int(stage) + 1}.{block}."
        if layer is None:
            return f"{module}downsample.{0 if is_conv else 1}."
        return f"{module}{'conv' if is_conv else 'bn'}{int(layer) + 1}."

    return re.sub(r"(^|\.)classifier\.1\.", r"\1fc.", _HUGGING_FACE.sub(torchvision, name))


def _prefix(names: Collection[str], known: Collection[str]) -> str:
    """Return the prefix without which most names are in the network; the shortest of several."""
    found: Counter[str] = Counter()
    for name in names:
        start = 0
        while True:
            if name[start:] in known:
                found[name[:start]] += 1
            start = name.find(".", start) + 1
            if not start:
                break
    return max(found, key=lambda prefix: (found[prefix], -len(prefix)), default="")


def _other_head(names: Collection[str], head: str) -> str:
    """Return the name that the output layer has here, which may be another than torchvision's."""
    if f"{head}.weight" in names:
        return head
    return next((other for other in _HEADS if f"{other}.weight" in names), head)


def read_masks(
    inside: Mapping[str, Any],
    beside: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    head: str,
) -> dict[str, Array]:
    """Read the masks of a checkpoint as bool arrays, by the name of the parameter that each prunes.

    Args:
        inside: the masks in the state dict itself, by torchvision's name.
        beside: the values that look like masks beside it, by the place where each was found.
        shapes: the shapes of the network's parameters in PyTorch, in the order of the file.
        head: the module of the network's output layer.

    Raises:
        TicketError: they don't fit the network, contradict each other, or prune other parameters
            than kernels.
    """
    masks: dict[str, Array] = {}
    for where, value in [("its state dict", dict(inside)), *beside.items()]:
        for name, mask in _by_name(where, value, shapes, head).items():
            mask = _checked_mask(where, name, mask, shapes)
            if name in masks and not np.array_equal(masks[name], mask):
                raise TicketError(f"has two masks of {name}, and {where} is not the first")
            masks[name] = mask
    return masks


def _by_name(
    where: str, value: Any, shapes: Mapping[str, tuple[int, ...]], head: str
) -> dict[str, Any]:
    if isinstance(value, list | tuple):
        return _in_order(where, value, shapes)
    if not isinstance(value, dict):
        raise TicketError(
            f"{where} looks like masks, but is one tensor; expected a dict by name or a list"
        )
    by_parameter = {}
    for key, mask in dict.items(value):
        if not isinstance(key, str):
            raise TicketError(f"{where} looks like masks, but has a key {key!r}, which is no name")
        if mask is not None:  # a layer that is not pruned
            whole = _role(key)[1].rpartition(".")[2] in _LEAVES or key in shapes
            by_parameter[key if whole else f"{key}.weight"] = mask
    names = read_names(by_parameter, shapes, head)
    return {name: by_parameter[key] for name, key in [*names.weights.items(), *names.masks.items()]}


def _in_order(
    where: str, found: Sequence[Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    sizes = [tuple(mask.shape) if is_tensor(mask) else type(mask).__name__ for mask in found]
    kernels = [name for name, shape in shapes.items() if len(shape) in (2, 4)]
    for names in (kernels, list(shapes)):
        if len(found) == len(names) and sizes == [shapes[name] for name in names]:
            return dict(zip(names, found, strict=True))
    # Some layers have no mask; the shapes must say which.
    ways = _ways(sizes, [shapes[name] for name in kernels])
    if len(ways) != 1:
        raise TicketError(
            f"{where} looks like masks, but its {len(found)} tensors ({some(sizes)}) do not fit "
            f"the {len(kernels)} kernels ({some(shapes[name] for name in kernels)}) in one way alone"
        )
    return {kernels[i]: mask for i, mask in zip(ways[0], found, strict=True)}


def _ways(sizes: Sequence[Any], wanted: Sequence[Any]) -> list[tuple[int, ...]]:
    """Return at most two of the ways to find `sizes` among `wanted` in order."""
    ways: list[tuple[tuple[int, ...], ...]] = [((),)] + [()] * len(sizes)
    for i, shape in enumerate(wanted):
        for n in range(len(sizes), 0, -1):
            if sizes[n - 1] == shape:
                ways[n] = (*ways[n], *((*way, i) for way in ways[n - 1]))[:2]
    return list(ways[-1])


def _checked_mask(where: str, name: str, mask: Any, shapes: Mapping[str, tuple[int, ...]]) -> Array:
    if name not in shapes:
        raise TicketError(
            f"{where} has a mask of {name}, which the network does not have; expected names such as "
            f"{some(shapes)}"
        )
    try:
        values = as_array(mask) if is_tensor(mask) and tuple(mask.shape) == shapes[name] else None
    except ValueError as error:
        raise TicketError(f"{where}: the mask of {name} can't be read: {error}") from error
    if values is None:
        size = tuple(mask.shape) if is_tensor(mask) else type(mask).__name__
        raise TicketError(f"{where}: the mask of {name} is {size}; expected {shapes[name]}")
    kept = values != 0
    if not np.array_equal(kept.astype(values.dtype), values):
        raise TicketError(f"{where}: the mask of {name} has values other than 0 and 1")
    if values.ndim < 2 and not kept.all():
        raise TicketError(f"{where} prunes {name}; only kernels can be pruned here, no biases")
    return kept
