"""A rewind point from elsewhere: the weights from which other dense tickets start."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lottery_jax import tickets
from lottery_jax.curve import WINNING
from lottery_jax.errors import ConfigError
from lottery_jax.leaves import by_path
from lottery_jax.models.network import Network
from lottery_jax.parallel.multihost import broadcast_from_primary
from lottery_jax.pruning import heads
from lottery_jax.runs.directory import Trial
from lottery_jax.system.files import local_path
from lottery_jax.tickets.addresses import is_address, local_ticket
from lottery_jax.tickets.metadata import Metadata
from lottery_jax.tickets.ticket import compare_leaves, expected_arrays


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The dense tickets whose starting weights are this run's rewind points.

    Attributes:
        folders: the ticket of each seed: level 0 of another run, or one ticket for all seeds.
        metadata: its metadata, by seed.
    """

    folders: dict[int, Path]
    metadata: dict[int, Metadata]

    @property
    def num_classes(self) -> int:
        """The number of classes of the data from which the weights are."""
        return int(next(iter(self.metadata.values()))["num_classes"])

    @property
    def sha256(self) -> str:
        """A hash of the weights of all seeds."""
        hashes = [params_sha256(self.metadata[seed]) for seed in sorted(self.metadata)]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    def check(self, network: Network, num_classes: int, head: str) -> None:
        """Check that the weights fit a network, but for an output layer that is drawn anew.

        Args:
            network: the network of this run.
            num_classes: of this run's data.
            head: `config.transfer.head`.

        Raises:
            ConfigError: the output layer is to be kept, and the numbers of classes differ.
            TicketError: names the first leaf that does not fit.
        """
        new_head = heads.replaces_head(head, self.num_classes, num_classes)
        skipped = f"{network.output_layer}/" if new_head else "\0"
        ours = network.abstract_variables()
        for seed, folder in self.folders.items():
            where = f"config.ladder.pretrained: {folder}"
            theirs = expected_arrays(where, self.metadata[seed])
            for part in ("params", "batch_stats"):
                stored, expected = (
                    {path: leaf for path, leaf in by_path(tree[part]).items()
                     if not path.startswith(skipped)}
                    for tree in (theirs, ours)
                )  # fmt: skip
                compare_leaves(where, stored, expected)


def params_sha256(metadata: Metadata) -> str:
    """Return the hash of the weights from which a ticket starts, as its metadata say."""
    return str(metadata.get("sha256", {}).get("params"))


def open_pretrained(config: ConfigDict) -> Pretrained | None:
    """Return what `config.ladder.pretrained` names, on all processes; None if it is empty.

    Raises:
        ConfigError: it is neither a run with a complete level 0 of each seed nor a dense ticket.
        TicketError: the metadata of a ticket is damaged.
    """
    if not config.ladder.pretrained:
        return None
    there = broadcast_from_primary(_find, config)
    folders = dict(zip(config.seeds, map(Path, there["folders"]), strict=True))
    return Pretrained(folders, dict(zip(config.seeds, there["metadata"], strict=True)))


def weights_sha256(config: ConfigDict) -> str:
    """Return the hash of the weights that a config names, as the disk of this process has them.

    Raises:
        ConfigError, TicketError: as `open_pretrained`.
    """
    found = _find(config)["metadata"]
    return Pretrained({}, dict(zip(config.seeds, found, strict=True))).sha256


def _find(config: ConfigDict) -> dict[str, Any]:
    """Return the ticket of each seed, in the order of the seeds, and its metadata."""
    named = config.ladder.pretrained
    path = _fetched(named) if is_address(named) else local_path(named, "config.ladder.pretrained")
    is_run = _is_run(path)
    folders = [
        Trial(path, seed, 0, WINNING).ticket_dir if is_run else path for seed in config.seeds
    ]
    metadata = [_read(folder, seed) for folder, seed in zip(folders, config.seeds, strict=True)]
    return {"folders": list(map(str, folders)), "metadata": metadata}


@functools.cache
def _fetched(address: str) -> Path:
    """Return the file at an address, fetched once: a run uses one, whatever is published meanwhile."""
    return local_ticket(address)


def _is_run(path: Path) -> bool:
    try:
        is_run = (path / "config.json").is_file()
        if is_run or path.is_file() or tickets.is_complete(path):
            return is_run
    except OSError as error:  # it can't be looked into
        raise ConfigError(f"config.ladder.pretrained: can't be opened: {error}") from error
    raise ConfigError(
        f"config.ladder.pretrained: {path} is neither a run directory nor a ticket; run the ladder "
        "first whose rewind points it names"
    )


def _read(folder: Path, seed: int) -> Metadata:
    if not (folder.is_file() or tickets.is_complete(folder)):
        raise ConfigError(
            f"config.ladder.pretrained: there is no complete level 0 of seed {seed} ({folder}); "
            "train it first, or choose other seeds"
        )
    metadata = tickets.read_metadata(folder)
    if metadata.get("weights_remaining") != metadata.get("weights_total"):
        raise ConfigError(
            f"config.ladder.pretrained: {folder} is pruned, so that many of its weights are 0; name "
            "a dense ticket (level 0)"
        )
    return metadata
