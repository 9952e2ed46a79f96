"""Compaction: a smaller network with the function of a masked one, without what the mask cut off.

Two kinds of units (channels of a convolution are units) can go without approximation.

- A unit that *nothing reads*: no kept weight leads from it to a layer that is called after it.
  Removing it changes neither the function of the network nor the gradients of the other weights,
  in training as in evaluation.
- A unit that *nothing feeds*: no kept weight leads to it, so it is a constant. It can go where that
  can be folded into biases (`folding`), which keeps the function in evaluation alone: training
  would change the constant.

In a residual stream, a channel goes if no block, shortcut or output layer reads it any more.

Which layers read a unit is what the network's wiring says, and that may be wrong of a network of
one's own. So the result is compared with the network itself before it is returned.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lottery_jax.errors import ConfigError
from lottery_jax.leaves import by_path
from lottery_jax.models.network import Network
from lottery_jax.pruning.called_layers import Layer, find_layers, masked, units_kept
from lottery_jax.pruning.folding import fold as fold_constants
from lottery_jax.pruning.permutations import (
    REMEDY,
    Array,
    Permutation,
    Symmetry,
    find_symmetry,
    largest_difference,
    outputs,
    permute,
    random_examples,
    random_permutations,
    with_leaves,
)
from lottery_jax.types import PyTree

# The largest difference of two outputs that is rounding, as a share of the largest output.
TOLERANCE = 1e-4
EXAMPLES = 16  # for which outputs are compared
_DRAWS = 3  # of noise


@dataclasses.dataclass(frozen=True)
class Compaction:
    """A masked network without the units that were cut off.

    Attributes:
        params: NumPy arrays; 0.0 where `mask` is False.
        batch_stats: NumPy arrays.
        mask: NumPy bool arrays like `params`.
        units: for each group of units that may lose some, in the order of layers, the places in the
            larger network of those that stay: int `[units that stay]`, at least one.
        folded: the number of pairs of a layer and a constant that it reads, zeros included, from
            which at least one weight was removed.
        symmetry: the groups of the larger network.
    """

    params: PyTree
    batch_stats: PyTree
    mask: PyTree
    units: dict[str, Permutation]
    folded: int
    symmetry: Symmetry

    @property
    def widths(self) -> dict[str, int]:
        """The number of units of each group: `build_model` takes it as `widths`."""
        return {group: len(kept) for group, kept in self.units.items()}

    @property
    def widths_before(self) -> dict[str, int]:
        """The number of units that each of these groups had."""
        return {group: self.symmetry.units[group] for group in self.units}

    def take(self, tree: PyTree) -> PyTree:
        """Return another tree of the larger network, such as its start, for the units that stay."""
        count = self.symmetry.units.items()
        return permute(
            tree, self.symmetry, {group: np.arange(n) for group, n in count} | self.units
        )


def compact(
    network: Network, params: PyTree, batch_stats: PyTree, mask: PyTree, *, fold: bool = True
) -> Compaction:
    """Remove all units of a masked network that can go without changing what it computes.

    In the result, weights that the mask kept but that lead to no output are pruned. The result is
    compared with the network for random inputs in evaluation. This can't show a function of the
    number of units itself, such as a division by it, or one that mixes units in training alone.

    Args:
        network: tells how its layers are wired, as those of this package do, and plain chains.
        params: its weights.
        batch_stats: its statistics.
        mask: bool tree like the params; where it is False, weights count as 0.0.
        fold: whether to remove units that nothing feeds, too: the result has the same outputs in
            evaluation. If not, it also has the same gradients.

    Raises:
        ConfigError: it is not known how the layers are wired, a layer is called more than once, the
            outputs would be other ones, or they are not finite.

    >>> import jax
    >>> from lottery_jax.models import build_model
    >>> from lottery_jax.models.network import LinenNetwork
    >>> from lottery_jax.pruning import masks
    >>> network = LinenNetwork(build_model("lenet_300_100", 10), (8, 8, 1))
    >>> params = network.init(jax.random.key(0))["params"]
    >>> mask = masks.ones_like(params)
    >>> mask["dense2"]["kernel"][7:] = False  # nothing reads units from 7 on
    >>> compact(network, params, {}, mask).widths
    {'dense1': 7, 'dense2': 100}
    """
    symmetry = find_symmetry(network)
    wired: Any = network
    layers = find_layers(wired, symmetry)
    before = {"params": params, "batch_stats": batch_stats, "mask": mask}
    arrays = {
        part: {path: np.asarray(leaf) for path, leaf in by_path(tree).items()}
        for part, tree in before.items()
    }
    kept = {layer.path: np.array(arrays["mask"][layer.path], bool) for layer in layers}
    arrays["params"] |= masked(arrays["params"], kept)
    variables = {"params": with_leaves(params, arrays["params"]), "batch_stats": batch_stats}
    expected = _outputs(network, variables)
    if not np.isfinite(expected).all():
        raise ConfigError(
            "this network can't be compacted: its outputs for random inputs are not finite, so that "
            "those of a smaller one can't be compared with them"
        )
    folded = fold_constants(wired, layers, symmetry, arrays, kept) if fold else 0
    _cut_unread(layers, symmetry, kept)
    arrays["mask"] |= kept
    arrays["params"] |= masked(arrays["params"], kept)
    units = _units_that_stay(layers, symmetry, kept)
    whole = Compaction(params, batch_stats, mask, units, folded, symmetry)
    trees = {part: with_leaves(before[part], new) for part, new in arrays.items()}
    small = dataclasses.replace(whole, **{part: whole.take(tree) for part, tree in trees.items()})
    _check(network, variables, expected, small)
    return small


def _outputs(network: Network, variables: PyTree) -> Array:
    """Return the outputs for random inputs, in the precision of the params."""
    dtype = jnp.result_type(*jax.tree.leaves(variables["params"]))
    inputs = random_examples(network, EXAMPLES, dtype)
    return outputs(network.with_dtype(dtype), variables, inputs)


def _check(network: Network, variables: PyTree, expected: Array, small: Compaction) -> None:
    """Check that a smaller network's outputs are those of the network with these variables.

    The module of the smaller network may not be known here. So its arrays are written back into the
    larger network: removed units get random weights, and the units of groups that lost some are
    shuffled. If the outputs stay the same, nothing reads a removed unit.

    Raises:
        ConfigError: the outputs differ.
    """
    rng, symmetry = np.random.default_rng(0), small.symmetry
    still = {
        group: np.arange(count)
        for group, count in symmetry.units.items()
        if len(small.units.get(group, ())) in (0, count)
    }
    for _ in range(_DRAWS):
        noise = jax.tree.map(lambda leaf: _noise(np.asarray(leaf), rng), variables["params"])
        written = {
            "params": _write_back(small, small.params, noise),
            "batch_stats": _write_back(small, small.batch_stats, variables["batch_stats"]),
        }
        moved = permute(written, symmetry, random_permutations(symmetry, rng) | still)
        difference = largest_difference(expected, _outputs(network, moved))
        if not difference <= TOLERANCE:
            raise ConfigError(
                "this network can't be compacted: without the units that seem to be cut off its "
                f"outputs differ by {difference:.1e} of the largest one. Its layers are not a plain "
                "chain, a function between them mixes units, or a normalisation does not come right "
                f"after its layer. If layers are wired in another way, {REMEDY}"
            )


def _noise(leaf: Array, rng: np.random.Generator) -> Array:
    fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 1
    return (rng.normal(size=leaf.shape) * fan_in**-0.5).astype(leaf.dtype)


def _write_back(small: Compaction, tree: PyTree, large: PyTree) -> PyTree:
    """Return a tree of the size of `large` with the numbers of one of the smaller network.

    Units that went have their numbers in `large`, and no weight leads from them.
    """
    numbers, found = by_path(tree), {}
    for path, leaf in by_path(large).items():
        whole = np.asarray(leaf)
        places = [np.arange(count) for count in whole.shape]
        for axis, group in small.symmetry.axes.get(path, ()):
            if group in small.units:
                starts = np.arange(0, whole.shape[axis], small.symmetry.units[group])
                places[axis] = (starts[:, None] + small.units[group]).ravel()
        found[path] = np.zeros_like(whole)
        of_all_units = np.ix_(*places[:-1], *(np.arange(n) for n in whole.shape[-1:]))
        found[path][of_all_units] = whole[of_all_units]
        found[path][np.ix_(*places)] = numbers[path]
    return with_leaves(large, found)


def _cut_unread(layers: list[Layer], symmetry: Symmetry, kept: dict[str, Array]) -> None:
    """Prune what leads to a unit that no later layer reads; changes `kept` in place.

    From the last layer to the first, so that each one knows what is read of it.
    """
    for i in reversed(range(len(layers))):
        layer = layers[i]
        if layer.has:
            count = symmetry.units[layer.has]
            later = [x for x in layers[i + 1 :] if x.read == layer.has]
            read = [units_kept(kept[x.path], count) for x in later]
            kept[layer.path] &= np.any([np.zeros(count, bool), *read], axis=0)


def _units_that_stay(
    layers: list[Layer], symmetry: Symmetry, kept: dict[str, Array]
) -> dict[str, Permutation]:
    """Return the units that a layer reads, at least one, for each group that may lose units."""
    found: dict[str, Permutation] = {}
    for group in dict.fromkeys(layer.has for layer in layers if layer.has):
        count = symmetry.units[group]
        read = [units_kept(kept[x.path], count) for x in layers if x.read == group]
        if read:
            stay = np.flatnonzero(np.any(read, axis=0))
            found[group] = stay if len(stay) else np.arange(1)
    return found
