"""A series of the zoo as the source of a transfer: `config.source=zoo://lenet_digits/imp`.

The zoo keeps some levels of a run. Here they are the levels 1, 2, ... of a ladder that has no others;
level 0 is the dense network. Where the zoo has no dense tickets and the run rewound to step 0, the
weights of level 0 are those that the seed draws.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lottery_jax import config as configuration
from lottery_jax.curve import WINNING
from lottery_jax.errors import ConfigError, TicketError
from lottery_jax.tickets import read_metadata, zoo
from lottery_jax.tickets.addresses import split_address


@dataclasses.dataclass(frozen=True)
class ZooSource:
    """Winning tickets of the zoo that differ in seed and level alone.

    Attributes:
        name: the name of the series, such as `lenet_digits/imp`.
        seeds: the seeds that have all levels.
        levels: the levels of the run that found them, of level 0, 1, 2, ... here.
        has_dense: whether the zoo has their dense networks.
        config: of a ladder of these levels.
        sha256: a hash of the config and of the files of all tickets.
    """

    name: str
    seeds: tuple[int, ...]
    levels: tuple[int, ...]
    has_dense: bool
    config: ConfigDict
    sha256: str

    def ticket(self, seed: int, level: int) -> Path:
        """Return the address of the winning ticket of a seed and level."""
        return Path(f"zoo://{self.name}/seed_{seed}/level_{self.levels[level]:02d}")


def is_zoo(source: str) -> bool:
    """Return whether `config.source` names a series of the zoo."""
    address = split_address(source)
    return address is not None and address[0] == "zoo"


def open_zoo(source: str) -> ZooSource:
    """Return the series that an address of the zoo names.

    Raises:
        ConfigError: there is no such series, or its tickets can't be transferred.
        TicketError: the index of the zoo is damaged.
    """
    address = split_address(source)
    assert address, source
    name = address[1]
    entries = {key: e for key, e in zoo.index().items() if key.startswith(f"{name}/seed_")}
    if not entries:
        known = sorted({key.partition("/seed_")[0] for key in zoo.index()})
        raise ConfigError(
            f"config.source: {source} is not a series of the zoo, which has {', '.join(known)}"
        )
    if any(entry.control != WINNING for entry in entries.values()):
        raise ConfigError(
            f"config.source: {source} are controls; a transfer trains winning tickets"
        )
    try:
        config = configuration.from_json(zoo.config_of(next(iter(entries.values()))))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise TicketError(f"{source}: its config in the index of the zoo is damaged") from error
    density = {(entry.seed, entry.level): entry.density for entry in entries.values()}
    dense = {seed for seed, level in density if level == 0}
    if not dense and config.ladder.rewind not in (0, "0"):
        raise ConfigError(
            f"config.source: {source} has no dense network, from whose rewind point "
            f"({config.ladder.rewind}) a transfer starts; train the run again (docs/zoo.md)"
        )
    seeds = sorted(dense or {seed for seed, _ in density})
    pruned = {level for _, level in density if level > 0}
    levels = sorted(level for level in pruned if all((seed, level) in density for seed in seeds))
    with config.unlocked():
        config.seeds, config.controls, config.control_levels = tuple(seeds), (), ()
        config.ladder.levels = len(levels)
        config.ladder.sparsities = tuple(1 - density[seeds[0], level] for level in levels)
    config = configuration.validate(config)
    hashes = [configuration.fingerprint(config), *sorted(e.sha256 for e in entries.values())]
    sha256 = hashlib.sha256("".join(hashes).encode()).hexdigest()
    return ZooSource(name, tuple(seeds), (0, *levels), bool(dense), config, sha256)


def zoo_metadata(source: ZooSource, seed: int) -> dict[str, Any]:
    """Return the metadata of the first ticket of a seed that the zoo has."""
    return read_metadata(source.ticket(seed, 0 if source.has_dense else 1))
