"""The wiring of a network: which units each layer reads, and which units it has.

Units of a hidden layer may change places if every layer that has them and every layer that reads
them changes with them. So a network is described by groups of units. Each layer reads one group and
has another; the blocks around which shortcuts lead share one group; the inputs and the outputs of
the network are in no group, since they have their places.

A normalisation comes right after the layer whose outputs it normalises, before any other function
of these.

A plain chain of layers is recognised. A network with shortcuts says what it is in a method `wiring`
of its module, as `resnet.ResNet` and `vit.ViT` do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# The path of a layer, or of one array, in the params -> (the group of units that it reads, the group
# of units that it has). An empty name is no group: places that are fixed, or nothing that is read.
# Normalisations read nothing here: they belong to the units that they normalise.
Wiring = Mapping[str, tuple[str, str]]


def chain(layers: Iterable[tuple[str, bool]]) -> Wiring:
    """Return the wiring of layers each of which reads what the one before it has.

    Args:
        layers: the path of each module that has parameters and whether it has a kernel, in the
            order of calls. One without a kernel belongs to the units of the layer before it.

    >>> chain([("conv", True), ("norm", False), ("head", True)])
    {'conv': ('', 'conv'), 'norm': ('', 'conv'), 'head': ('conv', '')}
    """
    order = list(layers)
    last = max((i for i, (_, has_kernel) in enumerate(order) if has_kernel), default=0)
    wires, units = {}, ""
    for i, (path, has_kernel) in enumerate(order):
        read, units = (units, "" if i >= last else path) if has_kernel else ("", units)
        wires[path] = (read, units)
    return wires
