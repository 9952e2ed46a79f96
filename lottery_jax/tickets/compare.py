"""The overlap of two tickets, and how much of each takes part in the computation."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from lottery_jax.errors import TicketError
from lottery_jax.models import MONOTONE
from lottery_jax.pruning import masks
from lottery_jax.pruning.connectivity import effective_mask
from lottery_jax.tickets.ticket import Ticket, model_of


@dataclasses.dataclass(frozen=True)
class Overlap:
    """The overlap of two masks in one layer, or in several together; all are counts of weights.

    Attributes:
        size: weights in all.
        kept_a: weights that A keeps.
        kept_b: weights that B keeps.
        both: weights that both keep.
        same_start: weights that both keep and whose starting values have the same sign.
        same_trained: weights that both keep and whose trained values have the same sign.
    """

    size: int
    kept_a: int
    kept_b: int
    both: int
    same_start: int
    same_trained: int

    @property
    def by_chance(self) -> float:
        """The expected `both` of two masks that are drawn independently with these counts."""
        return self.kept_a * self.kept_b / self.size

    @property
    def ratio(self) -> float:
        """`both` over `by_chance`; NaN if `by_chance` is 0."""
        return self.both / self.by_chance if self.by_chance else math.nan

    @property
    def jaccard(self) -> float:
        """The weights that both keep over the weights that either keeps; NaN if there are none."""
        either = self.kept_a + self.kept_b - self.both
        return self.both / either if either else math.nan


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two tickets, A and B, of the same network.

    Attributes:
        layers: the overlap in each layer that has the same shape in both, in A's order.
        left_out: for each other layer, the shapes of its kernel in A and in B.
        density: the shares of the prunable weights that A and B keep.
        effective_density: the same, counting only weights on a path from input to output; NaN for
            networks whose paths can't be followed: transformers, and your own.
    """

    layers: dict[str, Overlap]
    left_out: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    density: tuple[float, float]
    effective_density: tuple[float, float]

    @property
    def total(self) -> Overlap:
        """The overlap in all `layers` together; its `by_chance` is for masks over all of them."""
        columns = zip(*map(dataclasses.astuple, self.layers.values()), strict=True)
        return Overlap(*map(sum, columns))

    @property
    def by_chance_within_layers(self) -> float:
        """The expected overlap of masks that are random but for their counts in each layer."""
        return sum(overlap.by_chance for overlap in self.layers.values())


def compare_tickets(a: Ticket, b: Ticket) -> Comparison:
    """Compare two tickets layer by layer, weight by weight.

    Layers of different shapes, such as the heads for 10 and for 100 classes, are left out.

    Raises:
        TicketError: they are of other networks, or no layer has the same shape in both.
    """
    layers, left_out = overlap_of_layers(a, b)
    return Comparison(
        layers,
        left_out,
        density=(a.density, b.density),
        effective_density=(effective_density(a), effective_density(b)),
    )


def overlap_of_layers(
    a: Ticket, b: Ticket
) -> tuple[dict[str, Overlap], dict[str, tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Return the `layers` and what is `left_out` of a `Comparison`.

    Raises:
        TicketError: as `compare_tickets`.
    """
    in_a, in_b = masks.kernels(a.mask), masks.kernels(b.mask)
    if in_a.keys() != in_b.keys():
        names = " and ".join(t.metadata["model"]["name"] for t in (a, b))
        raise TicketError(f"these are tickets of other networks, {names}, with other layers")
    order = [name for name in a.metadata["layer_order"] if name in in_a]
    order += [name for name in in_a if name not in order]
    shapes = {name: (in_a[name].shape, in_b[name].shape) for name in order}
    alike = [name for name in order if len(set(shapes[name])) == 1]
    if not alike:
        raise TicketError("these are tickets of networks that have no layer of the same shape")
    starts = masks.kernels(a.params), masks.kernels(b.params)
    trained = masks.kernels(a.trained), masks.kernels(b.trained)
    layers = {}
    for name in alike:
        both = in_a[name] & in_b[name]
        signs = [[np.sign(x[name][both]) for x in pair] for pair in (starts, trained)]
        layers[name] = Overlap(
            size=both.size,
            kept_a=int(np.count_nonzero(in_a[name])),
            kept_b=int(np.count_nonzero(in_b[name])),
            both=int(np.count_nonzero(both)),
            same_start=int(np.count_nonzero(signs[0][0] == signs[0][1])),
            same_trained=int(np.count_nonzero(signs[1][0] == signs[1][1])),
        )
    return layers, {name: shapes[name] for name in order if name not in alike}


def effective_density(ticket: Ticket) -> float:
    """Return the share of the weights on a path; NaN if the network's paths can't be followed."""
    if ticket.metadata["model"].get("name") not in MONOTONE:
        return math.nan
    model, input_shape = model_of(ticket.metadata)
    return masks.density(effective_mask(model, ticket.mask, input_shape))
