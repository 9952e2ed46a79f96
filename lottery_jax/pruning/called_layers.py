"""The layers of a network in the order in which they are called, with the units that they join."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lottery_jax import leaves
from lottery_jax.errors import ConfigError
from lottery_jax.leaves import by_path
from lottery_jax.models import cost
from lottery_jax.models.network import WiredNetwork
from lottery_jax.pruning.permutations import Array, Symmetry
from lottery_jax.types import PyTree


class Layer(NamedTuple):
    """A layer with prunable weights.

    Attributes:
        name: as `WiredNetwork.layer_inputs` has it.
        path: that of its kernel in the params.
        read: the group of units that it reads; empty if it is in none that may lose units.
        has: the group of its own units, in the same way.
        takes: the part of the variables and the path of the array to which a constant may be
            added, and the sign with which; None if there is no such array.
    """

    name: str
    path: str
    read: str
    has: str
    takes: tuple[str, str, int] | None


def find_layers(network: WiredNetwork, symmetry: Symmetry) -> list[Layer]:
    """Return the layers in the order in which they are called.

    A group of units may lose some if its arrays are kernels, their biases and BatchNorms. A
    LayerNorm mixes its units, and arrays such as positions make them differ from token to token.

    Raises:
        ConfigError: a layer is called more than once, or not at all.
    """
    variables = network.abstract_variables()
    paths = {
        leaves.layer_of(path): path
        for path in leaves.prunable_paths(variables["params"], network.is_prunable)
    }
    called = _called(network)
    if sorted(called) != sorted(paths) or cost.multiply_adds_by_layer(network, called) is None:
        raise ConfigError("this network can't be compacted: a layer is called twice or not at all")
    arrays = {part: by_path(variables[part]).keys() for part in ("params", "batch_stats")}
    known = {_module_of(path) for path in (*arrays["batch_stats"], *paths.values())}
    fixed = {
        group
        for path, axes in symmetry.axes.items()
        for _, group in axes
        if _module_of(path) not in known
    }
    order = list(network.wiring())

    def takes(name: str) -> tuple[str, str, int] | None:
        if (bias := f"{name}/bias") in arrays["params"]:
            return "params", bias, 1
        following = order[order.index(name) + 1 :] if name in order else []
        mean = f"{following[0]}/mean" if following else ""
        return ("batch_stats", mean, -1) if mean in arrays["batch_stats"] else None

    found = []
    for name in called:
        groups = dict(symmetry.axes.get(paths[name], ()))
        read, has = ("" if groups.get(a, "") in fixed else groups.get(a, "") for a in (-2, -1))
        found.append(Layer(name, paths[name], read, has, takes(name)))
    return found


def _called(network: WiredNetwork) -> list[str]:
    """Return the names of the layers in the order in which they are called."""
    called: list[str] = []

    def record(variables: PyTree, inputs: jax.Array) -> None:
        params, stats = variables["params"], variables["batch_stats"]
        called.extend(network.layer_inputs(params, stats, inputs))

    example = jax.ShapeDtypeStruct((1, *network.input_shape), jnp.dtype(network.input_dtype))
    jax.eval_shape(record, network.abstract_variables(), example)
    return called


def _module_of(path: str) -> str:
    return path.rpartition("/")[0]


def outputs_kept(mask: Array) -> Array:
    """Return to which units of a kernel's mask a kept weight leads: bool `[units]`."""
    return np.asarray(mask.any(axis=tuple(range(mask.ndim - 1))))


def inputs_kept(mask: Array) -> Array:
    """Return from which inputs of a kernel's mask a kept weight leads: bool `[inputs]`."""
    return np.asarray(mask.any(axis=(*range(mask.ndim - 2), -1)))


def units_kept(mask: Array, units: int) -> Array:
    """Return from which units a kept weight leads, wherever in an image: bool `[units]`."""
    return np.asarray(inputs_kept(mask).reshape(-1, units).any(axis=0))


def masked(params: dict[str, Any], kept: dict[str, Array]) -> dict[str, Array]:
    """Return the kernels of `params` with 0.0 where `kept` is False, by path."""
    return {p: np.where(m, params[p], np.zeros((), params[p].dtype)) for p, m in kept.items()}
