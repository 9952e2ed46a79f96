"""Transfer: another run's ladder, its masks and rewound weights, on new data or a new optimizer.

Nothing is drawn here. The output layer is the one thing that may not fit the target; the head
policy says what becomes of it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lottery_jax import config as configuration
from lottery_jax import tickets
from lottery_jax.curve import WINNING
from lottery_jax.errors import ConfigError
from lottery_jax.runs import directory
from lottery_jax.system.files import local_path
from lottery_jax.tickets import Ticket

PyTree = Any

# What a transfer takes from its source's config: how the ladder was drawn, and the rewind point.
_INHERITED = (
    "scores",
    "draw",
    "prune_fraction",
    "sparsities",
    "scope",
    "rounds",
    "score_batches",
    "score_batch_size",
    "skip_first",
    "skip_last",
    "rewind",
)


@dataclasses.dataclass(frozen=True)
class Source:
    """A finished run whose tickets are trained elsewhere.

    Attributes:
        workdir: its run directory.
        config: its config.
        metadata: of its dense ticket: the network, the classes, the shape of images.
    """

    workdir: Path
    config: ConfigDict
    metadata: dict[str, Any]

    @property
    def num_classes(self) -> int:
        """Of the data its tickets were found on."""
        return int(self.metadata["num_classes"])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(height, width, channels) that its network takes."""
        return tuple(self.metadata["input_shape"])

    def ticket(self, seed: int, level: int) -> Ticket:
        """The winning ticket of a replicate and level."""
        return tickets.load_ticket(directory.Trial(self.workdir, seed, level, WINNING).ticket_dir)

    def found_by(self, seed: int, level: int) -> dict[str, Any]:
        """On which data and by which optimizer a ticket was found, in the first place."""
        metadata = tickets.read_metadata(
            directory.Trial(self.workdir, seed, level, WINNING).ticket_dir
        )
        return dict(metadata.get("found_by", {}))


def inherit(config: ConfigDict) -> ConfigDict:
    """The config with the ladder keys of its source, if it has one; levels are at most as many.

    Raises:
        ConfigError: `config.source` is not a run, or the config asks for another ladder.
    """
    if not config.source:
        return config
    theirs = configuration.flatten(directory.read_config(_existing(config.source)))
    if inner := theirs["transfer.sources"]:
        raise ConfigError(
            f"config.source: {config.source} is a transfer matrix; name one of the runs in it, such "
            f"as {Path(config.source) / inner[0]}"
        )
    flat, default = (
        configuration.flatten(config),
        configuration.flatten(configuration.default_config()),
    )
    for key in (f"ladder.{key}" for key in _INHERITED):
        if flat[key] not in (default[key], theirs[key]):
            raise ConfigError(
                f"config.{key}: {flat[key]!r}, but the source's ladder has {theirs[key]!r}; a "
                "transfer takes it from there"
            )
        flat[key] = theirs[key]
    flat["ladder.levels"] = min(flat["ladder.levels"], theirs["ladder.levels"])
    inherited = configuration.default_config()
    inherited.update_from_flattened_dict(flat)
    return configuration.validate(inherited)


def open_source(config: ConfigDict) -> Source | None:
    """The source of a validated config, or None.

    Raises:
        ConfigError: it is not a run, has another network, or lacks a seed or level that is needed.
        TicketError: the metadata of a ticket that is needed is damaged.
    """
    if not config.source:
        return None
    workdir = _existing(config.source)
    theirs = directory.read_config(workdir)
    for key in ("name", "width", "stem"):
        if (theirs.model[key] or "cifar") != (config.model[key] or "cifar"):
            raise ConfigError(
                f"config.source: {workdir} has config.model.{key} {theirs.model[key]!r}, this "
                f"config {config.model[key]!r}; a ticket fits its own network only"
            )
    if missing := sorted(set(config.seeds) - set(theirs.seeds)):
        raise ConfigError(
            f"config.source: {workdir} has no seed {missing[0]}; it has "
            f"{', '.join(map(str, theirs.seeds))} (choose with config.seeds)"
        )
    for seed in config.seeds:
        for level in range(config.ladder.levels + 1):
            ticket = directory.Trial(workdir, seed, level, WINNING).ticket_dir
            if not tickets.is_complete(ticket):
                raise ConfigError(
                    f"config.source: {workdir} has no complete level {level} of seed {seed}; run "
                    "it to its end first, or lower config.ladder.levels"
                )
            tickets.read_metadata(ticket)  # damaged ones are found now and not after hours
    metadata = tickets.read_metadata(
        directory.Trial(workdir, config.seeds[0], 0, WINNING).ticket_dir
    )
    return Source(workdir, theirs, metadata)


def _existing(source: str) -> Path:
    workdir = local_path(source, "config.source")
    try:
        there = (workdir / "config.json").is_file()
    except OSError as error:  # it can't be looked into
        raise ConfigError(f"config.source: {source} can't be opened: {error}") from error
    if not there:
        raise ConfigError(
            f"config.source: {workdir} is not a run directory (no config.json); run the source's "
            "ladder first"
        )
    return workdir
