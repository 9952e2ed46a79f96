"""The plan of a run: what it trains, where, and what that takes. Nothing is computed or written."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from lottery_jax import leaves
from lottery_jax.models.cost import multiply_adds, prunable_sizes
from lottery_jax.models.network import Network
from lottery_jax.runs.directory import list_trials
from lottery_jax.system.imports import short_name


@dataclasses.dataclass(frozen=True)
class Plan:
    """Facts about a run that are known before it begins.

    Attributes:
        config: validated, with what it inherits from its source.
        workdir: the run directory.
        devices: names of kinds of devices, one for each device.
        weights: the number of parameters.
        prunable: the number of weights that may be pruned.
        multiply_adds: of a forward pass of one example; None if they can't be counted.
        trainings: the number of trainings of the whole run.
        complete: how many of them are on the disk.
        ticket_bytes: the size of a ticket's arrays, which are compressed on the disk.
    """

    config: ConfigDict
    workdir: Path
    devices: tuple[str, ...]
    weights: int
    prunable: int
    multiply_adds: int | None
    trainings: int
    complete: int
    ticket_bytes: int

    def lines(self) -> list[str]:
        """Return the plan as four lines of text."""
        config = self.config
        kinds = [f"{count} x {kind}" for kind, count in Counter(self.devices).items()]
        done = f", {self.complete} of them complete" if self.complete else ""
        controls = f", controls {', '.join(config.controls)}" if config.controls else ""
        cost = ""
        if self.multiply_adds is not None:
            cost = f"; {self.multiply_adds:,} multiply-adds an example"
        seeds = f"seed{'s' * (len(config.seeds) > 1)} {', '.join(map(str, config.seeds))}"
        kept = ", and the weights of config.train.keep_epochs" if config.train.keep_epochs else ""
        return [
            f"network    {short_name(config.model.name)} on {config.data.name}: {self.weights:,} weights, "
            f"{self.prunable:,} prunable{cost}",
            f"trainings  {self.trainings} of {config.train.epochs} epochs{done}: {seeds}, "
            f"levels 0 to {config.ladder.levels}{controls}",
            f"devices    {', '.join(kinds)}",
            f"directory  {self.workdir}; {self.trainings} tickets of {in_bytes(self.ticket_bytes)}, "
            f"{in_bytes(self.trainings * self.ticket_bytes)} at most{kept}",
        ]


def make_plan(
    config: ConfigDict,
    network: Network,
    layers: Sequence[str],
    workdir: Path,
    devices: Iterable[jax.Device],
) -> Plan:
    """Return the plan of a run.

    Args:
        config: validated, with what it inherits from its source.
        network: the network of the config.
        layers: its `layer_names()`.
        workdir: the run directory, which need not exist.
        devices: the devices that the run computes on.
    """
    variables = network.abstract_variables()
    sizes = prunable_sizes(network, variables["params"])
    skip = {*layers[:1] * config.ladder.skip_first, *layers[-1:] * config.ladder.skip_last}
    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    trials = list_trials(config, workdir)
    return Plan(
        config=config,
        workdir=workdir,
        devices=tuple(map(_kind, devices)),
        weights=weights,
        prunable=sum(size for layer, size in sizes.items() if layer not in skip),
        multiply_adds=multiply_adds(network, layers, variables),
        trainings=len(trials),
        complete=sum(trial.is_complete for trial in trials),
        # A mask, weights and statistics before and after training.
        ticket_bytes=weights + 2 * leaves.size_in_bytes(variables),
    )


def _kind(device: jax.Device) -> str:
    kind, platform = device.device_kind, device.platform
    return kind if kind.lower() == platform else f"{kind} ({platform})"


def in_bytes(size: float) -> str:
    """Return a number of bytes as text.

    >>> in_bytes(450), in_bytes(450_000), in_bytes(12_345_678), in_bytes(2_345_678_900)
    ('0.5 kB', '0.5 MB', '12.3 MB', '2.3 GB')
    """
    if size < 1e5:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def in_time(seconds: float) -> str:
    """Return a duration as text, to two units at most.

    >>> in_time(0.2), in_time(75), in_time(5000), in_time(200_000)
    ('1 s', '1 min 15 s', '1 h 23 min', '2 d 7 h')
    """
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    left, parts = max(1, round(seconds)), []
    for name, size in units:
        count, left = divmod(left, size)
        parts.append((count, name))
    first = next(i for i, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count} {name}" for count, name in parts[first : first + 2] if count)
