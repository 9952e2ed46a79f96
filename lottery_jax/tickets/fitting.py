"""State dicts of PyTorch fitted to a network: which tensor is which array, and what its mask is.

`statedicts.py` reads names and masks; `layouts.py` has the names and shapes of each network.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from lottery_jax.errors import ConfigError, TicketError, lookup, raise_if_environment
from lottery_jax.leaves import by_path, map_by_path
from lottery_jax.leaves import is_kernel as is_prunable
from lottery_jax.models import build_model
from lottery_jax.models.network import HEAD, LinenNetwork, Network, as_network
from lottery_jax.models.networks import from_import_path
from lottery_jax.system.imports import is_import_path
from lottery_jax.tickets.checkpoints import Checkpoint, as_array, dtype_name, is_tensor, some
from lottery_jax.tickets.layouts import (
    LAYOUTS,
    NO_WEIGHTS,
    Image,
    Layout,
    check_layers,
    fixed_shortcuts,
    layer_kinds,
    layout_of,
    torch_shape,
)
from lottery_jax.tickets.statedicts import NUM_BATCHES, names_in_order, read_masks, read_names
from lottery_jax.types import PyTree

Array = np.ndarray[Any, np.dtype[Any]]
StateDict = dict[str, Array]
Names = Mapping[str, str] | Literal["order"] | None

# The matrix of the output layer, under any prefix; its rows are the classes.
_HEAD = re.compile(
    r"(^|\.)(fc3?|linear|head|head\.fc|classifier|classifier\.[016])\.weight(_orig)?$"
)


class Target(NamedTuple):
    """The network that a state dict is read for.

    Attributes:
        options: `name` and other options of `build_model`; or, of a network of one's own, its
            import path as `name`, and perhaps `options`.
        input_shape: (height, width, channels).
        network: the network, if it is neither of this package nor named by an import path.
        names: the names there of modules, by their paths here, where they differ from the layout;
            or `order`: modules are paired in the order of calls here and of the file there.
        flatten: as in `layout_of`.
    """

    options: Mapping[str, Any]
    input_shape: tuple[int, ...]
    network: Network | None = None
    names: Names = None
    flatten: Mapping[str, Image] | None = None

    @property
    def name(self) -> str:
        """The name of the network, for messages too."""
        return str(self.options["name"])

    def build(self, classes: int) -> Network:
        """Return the network with this number of outputs, where it is not fixed.

        Raises:
            ConfigError: the name or an option is unknown.
        """
        if self.network is not None:
            return self.network
        if is_import_path(self.name):
            options = str(self.options.get("options", ""))
            return from_import_path(self.name, options, classes, what="--model")
        lookup(LAYOUTS, self.name, "PyTorch layout")
        module = build_model(num_classes=classes, **self.options)
        return LinenNetwork(module, self.input_shape, head=HEAD)


class Facts(NamedTuple):
    """What is known of a network without its weights.

    Attributes:
        variables: the shapes of `params` and `batch_stats`.
        layer_order: the layers from input to output.
        head: the path of the output layer.
        classes: the number of outputs.
    """

    variables: PyTree
    layer_order: list[str]
    head: str
    classes: int


def facts_of(target: Target, classes: int) -> tuple[Network, Facts]:
    """Return the network of a target, and what is known of it.

    Raises:
        ConfigError: there is no such network.
        TicketError: it does not take such images.
    """
    try:
        network: Any = as_network(target.build(classes), target.input_shape)
        return network, _facts(network)
    except ConfigError:
        raise
    except Exception as error:  # Flax documents no list of its errors for impossible networks
        raise_if_environment(error)
        raise TicketError(
            f"{target.name} does not take images of {target.input_shape}: {error}"
        ) from error


@functools.lru_cache(maxsize=4)
def _facts(network: Network) -> Facts:
    variables, head = network.abstract_variables(), network.output_layer
    kernel = by_path(variables["params"]).get(f"{head}/kernel")
    if kernel is None:
        raise ConfigError(f"the output layer {head} has no kernel; name another one with head=")
    return Facts(variables, network.layer_names(), head, kernel.shape[-1])


def from_flax(
    variables: PyTree, name: str, input_shape: Sequence[int], layout: Layout | None = None
) -> StateDict:
    """Return the variables of a network as a PyTorch state dict of NumPy arrays.

    Args:
        variables: `params` and `batch_stats`.
        name: the network, such as `vgg19`.
        input_shape: (height, width, channels).
        layout: by default that of a network of this package.

    Raises:
        ConfigError: no PyTorch layout is known for the network.
    """
    if layout is None:
        lookup(LAYOUTS, name, "PyTorch layout")
        layout = layout_of(variables, name, input_shape)
    names = layout.names(variables)
    state: StateDict = {}
    for part, of_part in names.items():
        arrays = by_path(variables[part])
        for path, torch_name in of_part.items():
            array = layout.to_torch(path, np.asarray(arrays[path]))
            if array.dtype.kind == "V":  # bfloat16, which NumPy does not know
                array = array.astype(np.float32)
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
    target = Target({"name": name, **options}, tuple(input_shape))
    return fit(Checkpoint(dict(state)), target).variables


class Fitted(NamedTuple):
    """A checkpoint that has been fitted to a network.

    Attributes:
        variables: `params` and `batch_stats`.
        masks: bool masks by layer, in the shape of the kernels here, where the file has one.
        recognised: what was recognised in the file, for a ticket's metadata.
        facts: of the network.
        names: the name there of each leaf of `params` and of `batch_stats`.
        kinds: of the layers of one's own network, as `layouts.layer_kinds` returns them.
    """

    variables: PyTree
    masks: dict[str, Array]
    recognised: dict[str, str]
    facts: Facts
    names: dict[str, dict[str, str]]
    kinds: dict[str, str]


def fit(checkpoint: Checkpoint, target: Target) -> Fitted:
    """Return the variables and masks of a network that a checkpoint holds.

    Raises:
        ConfigError: the network, or how its arrays are named and ordered there, is not known.
        TicketError: a tensor is missing, unexpected or of another shape or dtype; names it.
    """
    name, entries = target.name, checkpoint.entries
    # The output layer says how many classes there are; it may have one of several names.
    matrices = {k: len(v) for k, v in entries.items() if is_tensor(v) and v.ndim == 2}
    heads = [rows for key, rows in matrices.items() if _HEAD.search(key)] or [*matrices.values()]
    network, facts = facts_of(target, heads[-1] if heads else 1)
    kinds = {} if name in LAYOUTS else layer_kinds(network)
    check_layers(facts.variables["params"], kinds)
    layout = _layout(entries, target, network, facts)
    names = layout.names(facts.variables)
    known = {torch_name for of_part in names.values() for torch_name in of_part.values()}
    found = read_names(entries, known, layout.head)
    where = _found(checkpoint, found.prefix)
    tensors = {
        torch_name: entries[key]
        for torch_name, key in found.weights.items()
        # Counters, such as that of a moving average, are scalars beside the weights.
        if torch_name in known or getattr(entries[key], "ndim", 0) > 0
    }
    last: Any = tensors.get(f"{layout.head}.weight")
    if not is_tensor(last) or last.ndim != 2:
        raise TicketError(
            f"has no matrix {layout.head}.weight, the output layer of {name}; {where}"
        )
    network, facts = facts_of(target, len(last))
    given = set(tensors)
    if missing := sorted(known - given):
        shapes = {
            torch_name: torch_shape(path, by_path(facts.variables[part])[path].shape)
            for part, of_part in names.items()
            for path, torch_name in of_part.items()
        }
        if not (shortcuts := fixed_shortcuts(name, missing, shapes)):
            raise TicketError(f"has no {some(missing)}, which {name} has; {where}")
        tensors |= shortcuts
        found.recognised.append(NO_WEIGHTS)
    if unexpected := sorted(given - known):
        raise TicketError(f"has {some(unexpected)}, which {name} does not have; {where}")
    variables = {
        part: _part(tensors, facts.variables[part], names[part], name, layout) for part in names
    }
    masks = _masks(checkpoint, found.masks, tensors, names["params"], layout)
    recognised = {
        "wrapping": ", ".join([*checkpoint.nesting, *found.recognised]),
        "converted_from": ", ".join(
            sorted({dtype_name(tensors[n]) for n in known} - {"float32"})
        ),
        "mask": some([*(["weight_mask"] if found.masks else []), *checkpoint.masks])
        if masks else "what is not zero",
    }  # fmt: skip
    kept = {key: text for key, text in recognised.items() if text}
    return Fitted(variables, masks, kept, facts, names, kinds)


def _layout(entries: Mapping[Any, Any], target: Target, network: Network, facts: Facts) -> Layout:
    names = target.names
    if names == "order":
        called: Any = network
        names = names_in_order(entries, _weights_in_order(called.module_names(), facts.variables))
    return layout_of(
        facts.variables,
        target.name,
        target.input_shape,
        facts.layer_order,
        head=facts.head,
        names=names,
        flatten=target.flatten,
    )


def _weights_in_order(modules: Sequence[str], variables: PyTree) -> list[tuple[str, bool]]:
    """Return the modules with a weight in PyTorch, and whether each is a layer."""
    params = by_path(variables["params"])
    kinds = {"kernel": True, "embedding": True, "scale": False}
    return [
        (module, is_layer)
        for module in modules
        for kind, is_layer in kinds.items()
        if f"{module}/{kind}" in params
    ]


def _masks(
    checkpoint: Checkpoint,
    inside: Mapping[str, Any],
    tensors: Mapping[str, Any],
    names: Mapping[str, str],
    layout: Layout,
) -> dict[str, Array]:
    """Return the masks of a checkpoint by layer, in the shape of the kernels here."""
    paths = {torch_name: path for path, torch_name in names.items()}
    shapes = {torch_name: tuple(tensor.shape) for torch_name, tensor in tensors.items()
              if torch_name in paths}  # fmt: skip
    found = read_masks(
        {torch_name: checkpoint.entries[key] for torch_name, key in inside.items()},
        checkpoint.masks,
        shapes,
        layout.head,
    )
    masks = {}
    for torch_name, mask in found.items():
        path = paths[torch_name]
        if is_prunable(path, mask):
            masks[path.rpartition("/")[0]] = layout.from_torch(path, mask)
        elif not mask.all():
            raise TicketError(f"has a mask of {torch_name}; only kernels can be pruned here")
    return masks


def _found(checkpoint: Checkpoint, prefix: str) -> str:
    """Return the first few keys, and where they were, for messages."""
    place = [*checkpoint.nesting, *([f"prefix {prefix}"] if prefix else [])]
    return f"found {some(checkpoint.entries)}" + (f" in {', '.join(place)}" if place else "")


def _part(
    state: Mapping[str, Any], expected: PyTree, names: dict[str, str], name: str, layout: Layout
) -> PyTree:
    def convert(path: str, leaf: Any) -> Array:
        tensor, wanted = state[names[path]], torch_shape(path, leaf.shape)
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
        return np.array(layout.from_torch(path, array), order="C")

    return map_by_path(convert, expected)
