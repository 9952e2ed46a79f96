"""Read what the winning tickets of a run say of their layers, and what it cost to find them."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lottery_jax.errors import ConfigError
from lottery_jax.report.curves import UNREADABLE, RunCurve, read_record, source_dir

T = TypeVar("T")

# A training step costs as much as this many forward passes: one, and two for the gradients of
# weights and inputs.
_PASSES = 3


@dataclasses.dataclass(frozen=True)
class Cost:
    """What was spent on training, a mean over seeds.

    Attributes:
        epochs: epochs trained, each of the data set that it was trained on.
        dense: multiply-adds of these trainings as they are computed, with the zeros; NaN: unknown.
        sparse: multiply-adds that are left of them if the pruned weights are skipped.
    """

    epochs: float = 0.0
    dense: float = 0.0
    sparse: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.epochs + other.epochs, self.dense + other.dense, self.sparse + other.sparse
        )


def ticket_costs(run: RunCurve) -> dict[int, Cost]:
    """Return what it cost to find and train each level's winning ticket, from nothing.

    - `iterative`: all trainings of the levels before, and its own.
    - `oneshot`: the training of the dense network, and its own.
    - `init`, `init_nested`: the way to the rewind point, and its own.
    - A transferred ticket: what the source spent to draw its mask, and its own training on the
      target. If the source has its tickets from another run, too, that one drew the mask.
    - A transferred ticket whose mask is aligned (`transfer.align`): both dense networks that are
      matched, too.

    Not charged: evaluations, scores (a batch of images or a few for each round), controls, and the
    training of a rewind point that another run provides (`ladder.pretrained`).

    Returns:
        Costs by level; empty if the run, or the source of its tickets, is of a version that did not
        record what is needed, or if the source aligned its masks.

    Raises:
        ConfigError: config.json or a ticket's metadata can't be read.
    """
    levels = range(max(run.tickets) + 1)
    own = _trainings(run.folders, levels)
    if not run.config.get("source"):
        return _summed(own, own)
    drew = {seed: _drawing_run(folder, run.config) for seed, folder in run.folders.items()}
    there = {seed: folder for seed, folder in drew.items() if folder}
    return _summed(_trainings(there, levels), own) if len(there) == len(drew) else {}


def _drawing_run(folder: Path, config: Mapping[str, Any]) -> Path | None:
    """Return the run that drew the masks of a transfer run: the source, or that one's.

    None if it is not there, or if masks were aligned on the way.
    """
    place, seen = source_dir(folder, config), set()
    while place and place not in seen:
        seen.add(place)
        try:
            config = read_record(place)["config"]
        except UNREADABLE as error:
            raise ConfigError(f"{place}: is not a run that can be reported on: {error}") from error
        if not config.get("source"):
            return place
        if config.get("transfer", {}).get("align"):
            return None
        place = source_dir(place, config)
    return None


@dataclasses.dataclass(frozen=True)
class _Trainings:
    """The costs of a run's trainings, each by itself.

    Attributes:
        draw: `ladder.draw`.
        aligned: whether masks of another run are matched to the run's own dense network.
        way: the way to the rewind point; nothing if the run did not train it.
        by_level: the training of the winning ticket of each level. That of level 0 includes the way.
    """

    draw: str
    aligned: bool
    way: Cost
    by_level: Mapping[int, Cost]


def _summed(source: _Trainings | None, own: _Trainings | None) -> dict[int, Cost]:
    """Return the costs of tickets that `source` drew and `own` trained; both may be the same."""
    if source is None or own is None or (own.aligned and 0 not in own.by_level):
        return {}

    def drawing(level: int) -> Cost:
        if not own.aligned:
            return mask(level)
        return mask(level) + own.by_level[0] if level else Cost()

    def mask(level: int) -> Cost:
        if level and source.draw == "iterative":
            return sum((source.by_level[earlier] for earlier in range(level)), Cost())
        if level and (source.draw == "oneshot" or own.aligned):
            return source.by_level[0]
        return Cost() if source is own and not level else source.way

    levels = [n for n in own.by_level if all(m in source.by_level for m in range(n))]
    return {level: drawing(level) + own.by_level[level] for level in levels}


def _trainings(folders: Mapping[int, Path], levels: Sequence[int]) -> _Trainings | None:
    """Return the costs of a run's trainings, means over seeds; None if they were not recorded.

    Args:
        folders: the run directory of each seed; their configs differ in seeds alone.
        levels: the levels to read.
    """
    folder = next(iter(folders.values()))
    try:
        record = read_record(folder)
        if not (cost := record.get("cost")):
            return None
        config, per_epoch = record["config"], int(cost["steps_per_epoch"])
        if per_epoch < 1:
            raise ValueError(f"cost.steps_per_epoch is {per_epoch}")
        ladder, batch = config["ladder"], config["train"]["batch_size"]
        end, forward = config["train"]["epochs"] * per_epoch, cost["multiply_adds"]
    except UNREADABLE as error:
        raise ConfigError(f"{folder}: is not a run that can be reported on: {error}") from error

    def charge(steps: int, layers: Mapping[str, Sequence[int]] | None) -> Cost:
        """Return the cost of steps with the (kept, all) weights of each layer; None: all kept."""
        if forward is None:
            return Cost(steps / per_epoch, math.nan, math.nan)
        used = {name: kept / total for name, (kept, total) in (layers or {}).items()}
        dense = _PASSES * steps * batch * sum(forward.values())
        sparse = _PASSES * steps * batch * sum(n * used.get(k, 1.0) for k, n in forward.items())
        return Cost(steps / per_epoch, dense, sparse)

    aligned = bool(config.get("transfer", {}).get("align"))
    own_way = (aligned or not config.get("source")) and not ladder.get("pretrained")

    def of_ticket(metadata: Mapping[str, Any]) -> tuple[Cost, Cost]:
        """Return the cost of the way to the rewind point, and of the ticket's training."""
        way = charge(int(metadata["rewind_step"] or 0), None) if own_way else Cost()
        if metadata["level"] == 0 and own_way:
            return way, charge(end, None)
        # Steps beyond the end are those of fine-tuning, which repeats the last part.
        return way, charge(end - metadata["start_step"] % end, metadata["layers"])

    read = list(_read_tickets(folders, levels, of_ticket))
    found: dict[int, list[Cost]] = {}
    for level, (_, training) in read:
        found.setdefault(level, []).append(training)
    way = read[0][1][0] if read else Cost()
    by_level = {n: _mean(c) for n, c in found.items()}
    return _Trainings(ladder.get("draw", "iterative"), aligned, way, by_level)


def _mean(costs: Sequence[Cost]) -> Cost:
    columns = zip(*map(dataclasses.astuple, costs), strict=True)
    return Cost(*map(statistics.fmean, columns))


def layer_densities(run: RunCurve) -> dict[str, list[tuple[float, float]]]:
    """Return for each layer pairs of percentages by level, means over seeds.

    A pair is (weights remaining in the network, weights remaining in the layer).

    Raises:
        ConfigError: a ticket's metadata can't be read.
    """

    def pairs_of(metadata: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        pairs = {}
        for name in metadata["layer_order"]:
            kept, total = metadata["layers"][name]
            pairs[name] = (100 * metadata["density"], 100 * kept / total)
            if not all(map(math.isfinite, pairs[name])):
                raise ValueError(f"the density of {name} is not a finite number")
        return pairs

    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for level, pairs in _read_tickets(run.folders, run.tickets, pairs_of):
        for name, pair in pairs.items():
            found.setdefault(name, {}).setdefault(level, []).append(pair)

    def mean(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
        whole, layer = zip(*pairs, strict=True)
        return statistics.fmean(whole), statistics.fmean(layer)

    return {name: [mean(pairs) for pairs in levels.values()] for name, levels in found.items()}


def _read_tickets(
    folders: Mapping[int, Path], levels: Iterable[int], read: Callable[[Mapping[str, Any]], T]
) -> Iterator[tuple[int, T]]:
    """Yield (level, what `read` makes of the metadata) of the winning tickets that there are.

    Raises:
        ConfigError: a ticket's metadata can't be read.
    """
    for seed, folder in folders.items():
        for level in levels:
            file = folder / f"seed_{seed}/level_{level:02d}/ticket/metadata.json"
            if not file.is_file():
                continue
            try:
                result = read(json.loads(file.read_text(encoding="utf-8")))
            except UNREADABLE as error:
                raise ConfigError(
                    f"{file}: can't be read as a ticket's metadata: {error}"
                ) from error
            yield level, result
