"""Permutations of hidden units: those that leave the function of a network as it is.

If the units of a hidden layer change places, and with them the weights of all layers that read
them, the network computes the same function. Networks that were trained from different
initialisations differ by such a permutation among other things (Ainsworth et al., "Git Re-Basin",
ICLR 2023), so a mask that was found in one fits another only after it (`matching`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lottery_jax.errors import ConfigError
from lottery_jax.leaves import by_path, layer_of, map_by_path
from lottery_jax.models.network import Network
from lottery_jax.models.wiring import Wiring
from lottery_jax.models.xla_options import compiler_options
from lottery_jax.types import PyTree

Array = np.ndarray[Any, np.dtype[Any]]
Permutation = np.ndarray[Any, np.dtype[np.intp]]

REMEDY = (
    "give its module a method wiring() that returns {layer: (the units it reads, the units it has)}, "
    "as lottery_jax/models/resnet.py does"
)


@dataclasses.dataclass(frozen=True)
class Symmetry:
    """The hidden units of a network that may change places, in groups.

    Attributes:
        units: the number of units of each group.
        axes: for each array of the params and the statistics that changes with them, by its path:
            the axes and their groups. Where an axis is longer than the group, its units are
            repeated with the units fastest, as when images `[height, width, channels]` are made
            flat.
        readers: the group that each layer with prunable weights reads, if it reads one.
    """

    units: dict[str, int]
    axes: dict[str, tuple[tuple[int, str], ...]]
    readers: dict[str, str]


def find_symmetry(network: Network) -> Symmetry:
    """Return the groups of units of a network that may change places.

    Raises:
        ConfigError: the network has none, none is known, or its wiring does not fit its arrays.
    """
    if not (hasattr(network, "wiring") and hasattr(network, "layer_inputs")):
        raise ConfigError(
            "no permutation symmetry is known for this network: it has no methods wiring() and "
            "layer_inputs(); lj.networks.linen and lj.networks.nnx give them"
        )
    wiring, variables = network.wiring(), network.abstract_variables()
    arrays = [
        item for part in ("params", "batch_stats") for item in by_path(variables[part]).items()
    ]
    wires = {path: _wire_of(path, wiring) for path, _ in arrays}
    if missing := set(wiring) - {wire for wire in wires.values() if wire is not None}:
        raise ConfigError(f"the wiring names {sorted(missing)[0]!r}, but there is no such layer")
    units: dict[str, int] = {}
    axes: dict[str, tuple[tuple[int, str], ...]] = {}
    readers: dict[str, str] = {}
    for path, leaf in arrays:
        read, has = wiring.get(wires[path] or "", ("", ""))
        is_kernel = network.is_prunable(path, leaf)
        if is_kernel and read:
            readers[layer_of(path)] = read
        found = ((-2, read if is_kernel else ""), (-1, has))
        if fitting := tuple((axis, group) for axis, group in found if group):
            axes[path] = fitting
        if has and leaf.shape and units.setdefault(has, leaf.shape[-1]) != leaf.shape[-1]:
            raise _unknown(
                f"{path} has {leaf.shape[-1]} units, other layers of {has!r} another number"
            )
    for path, leaf in arrays:
        for axis, group in axes.get(path, ()):
            if leaf.ndim < -axis or group not in units or leaf.shape[axis] % units[group]:
                raise _unknown(f"{path} {leaf.shape} does not fit the units of {group!r}")
    if not readers:
        raise _unknown("it has no hidden units that a layer reads")
    return Symmetry(units, axes, readers)


def with_leaves(tree: PyTree, leaves: Mapping[str, Any]) -> PyTree:
    """Return a tree of the same structure with the leaves of these paths."""
    return map_by_path(lambda path, _: leaves[path], tree)


def _wire_of(path: str, wiring: Wiring) -> str | None:
    """Return the entry of the wiring to which an array belongs: the longest that its path begins with."""
    parts = path.split("/")
    starts = ("/".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((start for start in starts if start in wiring), None)


def _unknown(why: str) -> ConfigError:
    return ConfigError(f"no permutation symmetry is known for this network ({why}); {REMEDY}")


def permute(tree: PyTree, symmetry: Symmetry, permutations: Mapping[str, Permutation]) -> PyTree:
    """Return a tree in which units have changed places.

    Args:
        tree: params, batch statistics, a mask, or variables: a dict of `params` and `batch_stats`.
        symmetry: that of the network.
        permutations: for each group int `[units]`: the place from which each unit comes. With
            fewer places than units, the others are left out.

    Returns:
        A new tree of NumPy arrays; dtypes and values stay as they are.
    """

    def moved(name: str, leaf: Any) -> Any:
        leaf = np.asarray(leaf)
        if name not in symmetry.axes:
            name = name.removeprefix("params/").removeprefix("batch_stats/")
        for axis, group in symmetry.axes.get(name, ()):
            order = permutations[group]
            starts = np.arange(0, leaf.shape[axis], symmetry.units[group])
            leaf = np.take(leaf, (starts[:, None] + order).ravel(), axis)
        return leaf

    return map_by_path(moved, tree)


def random_permutations(symmetry: Symmetry, rng: np.random.Generator) -> dict[str, Permutation]:
    """Return a random permutation of each group."""
    return {group: rng.permutation(count) for group, count in symmetry.units.items()}


def check_symmetry(network: Network, symmetry: Symmetry) -> None:
    """Check that permuted units leave the network's function as it is, with random numbers.

    Raises:
        ConfigError: they do not, as where a shortcut is taken for a part of a chain; or the network
            does not say what a layer reads.
    """
    rng = np.random.default_rng(0)

    def disturbed(leaf: Any) -> Any:
        leaf = np.asarray(leaf)
        noise = rng.uniform(-0.5, 0.5, leaf.shape) * (leaf.std() or 1.0)
        return (leaf + noise).astype(leaf.dtype)

    options = compiler_options(jax.default_backend(), run_once=True)
    fresh = jax.jit(network.init, compiler_options=options)(jax.random.key(0))
    variables = jax.tree.map(disturbed, jax.device_get(fresh))
    permuted = permute(variables, symmetry, random_permutations(symmetry, rng))
    examples, computing = random_examples(network, 2), network.with_dtype(jnp.float32)
    before, after = (outputs(computing, each, examples) for each in (variables, permuted))
    wired: Any = network
    read = jax.eval_shape(wired.layer_inputs, fresh["params"], fresh["batch_stats"], examples)
    if missing := set(symmetry.readers) - set(read):
        raise _unknown(f"what {sorted(missing)[0]} reads can't be seen")
    if not largest_difference(before, after) <= 1e-3:
        raise _unknown("it is no plain chain of layers")


def outputs(network: Network, variables: PyTree, inputs: Array) -> Array:
    """Return the outputs in evaluation mode, with products of matrices as exact as they can be."""
    with jax.default_matmul_precision("highest"):
        return np.asarray(_program()(network, variables, inputs))


@functools.cache
def _program() -> Any:
    def apply(network: Network, variables: PyTree, inputs: jax.Array) -> jax.Array:
        return network.apply_eval(variables["params"], variables["batch_stats"], inputs)

    options = compiler_options(jax.default_backend(), run_once=True)
    return jax.jit(apply, static_argnums=0, compiler_options=options)


def random_examples(
    network: Network, count: int, dtype: Any = None
) -> np.ndarray[Any, np.dtype[Any]]:
    """Return random examples that a network takes, the same ones each time.

    Args:
        network: with an input shape.
        count: how many.
        dtype: that of numbers; default: the network's. Tokens keep theirs.

    Returns:
        `[count, *input_shape]`: normal numbers, or tokens that are 0 or 1.
    """
    rng, shape = np.random.default_rng(0), (count, *network.input_shape)
    if jnp.issubdtype(network.input_dtype, np.floating):
        return rng.normal(size=shape).astype(dtype or network.input_dtype)
    return rng.integers(0, 2, shape).astype(network.input_dtype)


def largest_difference(before: Array, after: Array) -> float:
    """Return the largest difference as a share of the largest number before; NaN if one is NaN."""
    return float(np.abs(after - before).max() / max(np.abs(before).max(), np.float32(1e-30)))
