"""Compaction: a smaller network with the function of a masked one, without what the mask cut off.

Two kinds of units (channels of a convolution are units) can go without approximation.

- A unit that *nothing reads*: no kept weight leads from it to a layer that is called after it.
  Removing it changes neither the function of the network nor the gradients of the other weights,
  in training as in evaluation.
- A unit that *nothing feeds*: no kept weight leads to it, so it is a constant. It can go where that
  can be folded into biases (`folding`), which keeps the function in evaluation alone: training
  would change the constant.

In a residual stream, a channel goes if no block, shortcut or output layer reads it any more.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jax.tree_util import tree_map_with_path

from lottery_jax.models.network import Network
from lottery_jax.pruning.called_layers import (
    Array,
    Layer,
    by_path,
    find_layers,
    masked,
    path_name,
    units_kept,
)
from lottery_jax.pruning.folding import fold as fold_constants
from lottery_jax.pruning.permutations import Permutation, Symmetry, find_symmetry, permute
from lottery_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Compaction:
    """A masked network without the units that were cut off.

    Attributes:
        params: NumPy arrays; 0.0 where `mask` is False.
        batch_stats: NumPy arrays.
        mask: NumPy bool arrays like `params`.
        units: for each group of units that may lose some, in the order of layers, the places in the
            larger network of those that stay: int `[units that stay]`, at least one.
        folded: how many constants were folded, zeros included, over all layers that read them.
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

    In the result, weights that the mask kept but that lead to no output are pruned.

    Args:
        network: tells how its layers are wired, as those of this package do, and plain chains.
        params: its weights.
        batch_stats: its statistics.
        mask: bool tree like the params; where it is False, weights count as 0.0.
        fold: whether to remove units that nothing feeds, too: the result has the same outputs in
            evaluation. If not, it also has the same gradients, and can be trained in place of the
            larger one.

    Raises:
        ConfigError: it is not known how the layers are wired, or a layer is called more than once.

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
    folded = fold_constants(wired, layers, symmetry, arrays, kept) if fold else 0
    _cut_unread(layers, symmetry, kept)
    arrays["mask"] |= kept
    arrays["params"] |= masked(arrays["params"], kept)
    units = _units_that_stay(layers, symmetry, kept)
    whole = Compaction(params, batch_stats, mask, units, folded, symmetry)
    smaller = {
        part: whole.take(tree_map_with_path(lambda path, _: new[path_name(path)], before[part]))  # noqa: B023
        for part, new in arrays.items()
    }
    return dataclasses.replace(whole, **smaller)


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
