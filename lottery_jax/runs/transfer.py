"""Transfer: where the tickets of another run come from, and what its config hands on.

Nothing is drawn in a transfer: masks and rewound weights are those of the source run.
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
from lottery_jax.parallel.multihost import broadcast_from_primary
from lottery_jax.runs.directory import Trial
from lottery_jax.runs.record import read_config
from lottery_jax.runs.zoo_source import ZooSource, is_zoo, open_zoo, zoo_metadata
from lottery_jax.system.files import local_path

# Keys of config.ladder that a transfer takes from its source: how the ladder was drawn.
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
    """A finished run, or a series of the zoo, whose tickets are trained elsewhere.

    Attributes:
        workdir: its run directory; the address of a series.
        config: its config.
        metadata: the metadata of its dense ticket: the network, the classes, the shape of images.
        zoo: the series of the zoo; None for a run.
    """

    workdir: Path
    config: ConfigDict
    metadata: dict[str, Any]
    zoo: ZooSource | None = None

    @property
    def has_dense(self) -> bool:
        """Whether it has dense tickets; without them the seed draws the weights of step 0."""
        return self.zoo is None or self.zoo.has_dense

    @property
    def num_classes(self) -> int:
        """The number of classes of the data on which its tickets were found."""
        return int(self.metadata["num_classes"])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The (height, width, channels) that its network takes."""
        return tuple(self.metadata["input_shape"])

    def ticket_dir(self, seed: int, level: int) -> Path:
        """Return the directory of the winning ticket of a seed and level."""
        if self.zoo is not None:
            return self.zoo.ticket(seed, level)
        return Trial(self.workdir, seed, level, WINNING).ticket_dir


def resolve(config: ConfigDict) -> ConfigDict:
    """Return the validated config, with what it inherits from its source.

    Raises:
        ConfigError: a value is not legal, or the source is not a run.
    """
    config = configuration.validate(config)
    if not config.source:
        return config
    return configuration.from_json(broadcast_from_primary(_inherit, config))


def open_source(config: ConfigDict) -> Source | None:
    """Return the source of a validated config, or None.

    Raises:
        ConfigError: it is not a run, has another network, or lacks a seed or level that is needed.
        TicketError: the metadata of a ticket that is needed is damaged.
    """
    if not config.source:
        return None
    there = broadcast_from_primary(_check_source, config)
    zoo = open_zoo(config.source) if is_zoo(config.source) else None
    workdir = Path(config.source) if zoo else local_path(config.source, "config.source")
    return Source(workdir, configuration.from_json(there["config"]), there["metadata"], zoo)


# What may differ between a run and a branch of it: what is trained, and in which order of the data.
_OF_A_BRANCH = {"train.order", "transfer.head", "controls", "control_levels", "seeds",
                "ladder.levels"}  # fmt: skip


def is_branch(config: ConfigDict, source: ConfigDict) -> bool:
    """Return whether a run trains its source's tickets as they were, but in another order."""
    differ = configuration.differing_keys(source, config)
    names = {line.partition(":")[0].removeprefix("config.") for line in differ}
    return "train.order" in names and names <= _OF_A_BRANCH


def _inherit(config: ConfigDict) -> dict[str, Any]:
    """Return the config with the ladder keys of its source, as JSON; it has at most as many levels."""
    theirs = configuration.flatten(_config_of(config.source))
    if inner := theirs["transfer.sources"]:
        raise ConfigError(
            f"config.source: {config.source} is a transfer matrix; name one of the runs in it, such "
            f"as {Path(config.source) / inner[0]}"
        )
    flat = configuration.flatten(config)
    default = configuration.flatten(configuration.default_config())
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
    return configuration.to_json(configuration.validate(inherited))


def check_fits(config: ConfigDict, source: ConfigDict, name: str) -> None:
    """Check that a source has the network and the seeds of a config, whether it was run or not.

    Args:
        config: a validated config.
        source: that of its source.
        name: of the source, for messages.

    Raises:
        ConfigError: it has others.
    """
    for key in ("name", "width", "stem", "options"):
        theirs, ours = source.model[key], config.model[key]
        if key == "stem":
            theirs, ours = theirs or "cifar", ours or "cifar"
        if theirs != ours:
            raise ConfigError(
                f"config.source: {name} has config.model.{key} {theirs!r}, this config {ours!r}; "
                "a ticket fits its own network only"
            )
    if missing := sorted(set(config.seeds) - set(source.seeds)):
        raise ConfigError(
            f"config.source: {name} has no seed {missing[0]}; it has "
            f"{', '.join(map(str, source.seeds))} (choose with config.seeds)"
        )


def _check_source(config: ConfigDict) -> dict[str, Any]:
    """Check that a source has what is needed; return its config and its dense ticket's metadata."""
    zoo = open_zoo(config.source) if is_zoo(config.source) else None
    workdir = config.source if zoo else _existing(config.source)
    theirs = _config_of(config.source)
    check_fits(config, theirs, str(workdir))
    if zoo and config.transfer.align and not zoo.has_dense:
        raise ConfigError(
            f"config.transfer.align: {workdir} has no dense networks, by which units are matched"
        )
    if zoo and config.transfer.head != "reinit" and is_branch(config, theirs):
        raise ConfigError(
            f"config.train.order: another order of the data continues from the optimizer's state, which "
            f"the zoo does not keep; leave it at {theirs.train.order}, or name a run in config.source"
        )
    if zoo:
        for seed in config.seeds:  # so that all are here before anything is trained
            for level in range(0 if zoo.has_dense else 1, config.ladder.levels + 1):
                tickets.read_metadata(zoo.ticket(seed, level))
        metadata = zoo_metadata(zoo, config.seeds[0])
        return {"config": configuration.to_json(theirs), "metadata": metadata}
    for seed in config.seeds:
        for level in range(config.ladder.levels + 1):
            trial = Trial(workdir, seed, level, WINNING)
            if not trial.is_complete:
                raise ConfigError(
                    f"config.source: {workdir} has no complete level {level} of seed {seed}; run "
                    "it to its end first, or lower config.ladder.levels"
                )
            tickets.read_metadata(trial.ticket_dir)  # find a damaged one now and not after hours
    dense = Trial(workdir, config.seeds[0], 0, WINNING)
    return {
        "config": configuration.to_json(theirs),
        "metadata": tickets.read_metadata(dense.ticket_dir),
    }


def _config_of(source: str) -> ConfigDict:
    return open_zoo(source).config if is_zoo(source) else read_config(_existing(source))


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
