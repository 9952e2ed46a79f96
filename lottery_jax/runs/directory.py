"""The run directory: what is where, which config made it, which trainings are complete."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lottery_jax import config as configuration
from lottery_jax import curve, tickets
from lottery_jax.curve import WINNING
from lottery_jax.datasets.registry import BUILT_IN
from lottery_jax.errors import ConfigError, DataError
from lottery_jax.runs import metrics
from lottery_jax.system import locks, settings
from lottery_jax.system.files import (
    is_clutter,
    is_temporary,
    local_path,
    remove,
    temporary_in,
    write_text,
)

Row = dict[str, Any]

# Of what a run directory holds; checkpoints and rows of another one can't be gone on with.
FORMAT_VERSION = 2
# Whose versions may change a number; and of data that stay on the disk, the order and the pixels.
_COMPUTED_WITH = ("lottery_jax", "jax", "jaxlib", "flax", "optax", "numpy")
_READ_WITH = ("grain", "pillow")


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training of a run: a ticket of a seed and level, or a control of it."""

    workdir: Path
    seed: int
    level: int
    control: str  # metrics.WINNING for the winning ticket itself

    @property
    def ticket_dir(self) -> Path:
        """Where the trained ticket is kept."""
        name = "ticket" if self.control == WINNING else self.control
        return level_dir(self.workdir, self.seed, self.level) / name

    @property
    def checkpoint_dir(self) -> Path:
        """Where its checkpoints are, until it is complete."""
        return level_dir(self.workdir, self.seed, self.level) / "state" / self.control


def level_dir(workdir: Path, seed: int, level: int) -> Path:
    """The directory of one level of one replicate."""
    return workdir / f"seed_{seed}" / f"level_{level:02d}"


def list_trials(config: ConfigDict, workdir: Path) -> list[Trial]:
    """Every training of a run, in the order in which they are done."""
    chosen = config.control_levels or range(1, config.ladder.levels + 1)
    return [
        Trial(workdir, seed, level, control)
        for seed in config.seeds
        for level in range(config.ladder.levels + 1)
        for control in (WINNING, *(config.controls if level in chosen else ()))
    ]


def rewind_dir(workdir: Path, seed: int) -> Path:
    """Where the state at the rewind point of a replicate is kept."""
    return workdir / f"seed_{seed}" / "rewind"


def leftovers(config: ConfigDict, workdir: Path) -> list[Path]:
    """What processes that were killed have left and nothing needs any more.

    A lock that nobody holds, unfinished files, checkpoints of trainings that are complete.
    """
    levels: dict[Path, list[Trial]] = {}
    for trial in list_trials(config, workdir):
        levels.setdefault(trial.checkpoint_dir.parent, []).append(trial)
    found = [workdir / locks.NAME, *temporary_in(workdir)]
    for folder, of_level in levels.items():
        complete = [
            trial.checkpoint_dir for trial in of_level if tickets.is_complete(trial.ticket_dir)
        ]
        found += [folder] if len(complete) == len(of_level) else complete
    return [path for path in found if path.exists()]


def tidy(config: ConfigDict, workdir: Path) -> None:
    """Removes the `leftovers`; for the process that holds the directory's lock, which stays."""
    for path in leftovers(config, workdir):
        if path.name != locks.NAME:
            remove(path)


def curve_rows(config: ConfigDict, workdir: Path) -> Iterator[Row]:
    """A row of curve.csv for each completed training, from the tickets' metadata."""
    for trial in list_trials(config, workdir):
        if tickets.is_complete(trial.ticket_dir):
            metadata = tickets.read_metadata(trial.ticket_dir)
            row = {key: metadata[key] for key in curve.CURVE_COLUMNS if key in metadata}
            yield {**row, **metadata["result"]}


def write_curve(config: ConfigDict, workdir: Path) -> list[Row]:
    """Writes curve.csv anew and returns its rows."""
    rows = list(curve_rows(config, workdir))
    metrics.write_curve(workdir / "curve.csv", rows)
    return rows


def check_workdir(workdir: Path, config: ConfigDict, *, other_versions: bool = False) -> None:
    """Checks that a directory is empty, or that of a run of this config made by these versions.

    Args:
        workdir: the run directory.
        config: validated.
        other_versions: whether to go on with a run that was begun by other versions of this package
            or of those it computes with, or under other settings of JAX; its results are then of
            both.

    Raises:
        ConfigError: it holds something else; names the keys, versions or settings that differ.
    """
    if not (workdir / "config.json").is_file():
        if workdir.exists() and (not workdir.is_dir() or any(map(_is_foreign, workdir.iterdir()))):
            raise ConfigError(
                f"{workdir}: is neither empty nor a run directory; choose another --workdir"
            )
        return
    record = _record(workdir)
    if (format_version := record.get("format_version")) != FORMAT_VERSION:
        raise ConfigError(
            f"{workdir}: was made by lottery_jax {_made_with(record)}, whose run directories this "
            f"version ({version('lottery_jax')}) can't resume (format {format_version}, here "
            f"{FORMAT_VERSION}); choose another --workdir"
        )
    differ = configuration.differing_keys(ConfigDict(record["config"]), config)
    if (there := record.get("source_fingerprint")) != source_fingerprint(config):
        differ.append(f"the source's fingerprint: {there}, {source_fingerprint(config)}")
    if differ:
        raise ConfigError(
            f"{workdir}: holds a run of another config (there, here): {'; '.join(differ)}; "
            "choose another --workdir"
        )
    if not other_versions and not is_finished(workdir, config):
        _check_versions(workdir, record)
        _check_settings(workdir, record)


def check_data(workdir: Path, data_sha256: str) -> None:
    """Checks that a run goes on with the data it was begun with.

    Raises:
        DataError: they are others of the same name.
    """
    if not (workdir / "config.json").is_file():
        return
    there = _record(workdir).get("data_sha256")
    if there not in (None, data_sha256):  # a run that began before it was written down has none
        raise DataError(
            f"{workdir}: was begun with other data of this name (SHA-256 there, here: "
            f"{str(there)[:16]}, {data_sha256[:16]}); bring those back or choose another --workdir"
        )


def is_finished(workdir: Path, config: ConfigDict) -> bool:
    """Whether every training of a run is complete."""
    return all(tickets.is_complete(trial.ticket_dir) for trial in list_trials(config, workdir))


def _check_versions(workdir: Path, record: dict[str, Any]) -> None:
    there, here = record.get("versions"), versions(record["config"])
    if not isinstance(there, dict):
        raise ConfigError(f"{workdir}: config.json does not say which versions made it")
    if differ := [
        f"{name}: {there.get(name)}, {here[name]}"
        for name in (*_COMPUTED_WITH, *_READ_WITH)
        if there.get(name) != here.get(name)
    ]:
        raise ConfigError(
            f"{workdir}: was begun with other versions (there, here): {'; '.join(differ)}; install "
            "those, choose another --workdir, or pass --other_versions to resume with these; the "
            "results are then of both"
        )


def _check_settings(workdir: Path, record: dict[str, Any]) -> None:
    there, here = record.get("settings"), settings.recorded()
    if not isinstance(there, dict):  # a run that began before they were written down has none
        return
    if differ := [
        f"{name}: {there.get(name, 'not set')}, {here.get(name, 'not set')}"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    ]:
        raise ConfigError(
            f"{workdir}: was begun under other settings of JAX (there, here): {'; '.join(differ)}; "
            "set those (XLA_FLAGS, JAX_* variables), choose another --workdir, or pass "
            "--other_versions to resume with these; the results are then of both"
        )


def source_fingerprint(config: ConfigDict) -> str | None:
    """The fingerprint of the run whose tickets are trained; None without a source."""
    if not config.source:
        return None
    return configuration.fingerprint(read_config(local_path(config.source, "config.source")))


def _is_foreign(path: Path) -> bool:
    """Whether it is neither clutter nor left by a process killed before it wrote config.json."""
    return not (is_temporary(path) or path.name == locks.NAME or is_clutter(path.name))


def read_config(workdir: Path) -> ConfigDict:
    """The config of a run directory.

    Raises:
        ConfigError: there is none, it can't be read, or it has keys that this version has not.
    """
    record = _record(workdir)
    try:
        return configuration.from_json(record["config"])
    except ConfigError as error:
        raise ConfigError(
            f"{workdir}: config.json was made by lottery_jax {_made_with(record)}: {error}"
        ) from error


def _made_with(record: dict[str, Any]) -> str:
    versions = record.get("versions")
    return str(versions.get("lottery_jax")) if isinstance(versions, dict) else "of no known version"


def _record(workdir: Path) -> dict[str, Any]:
    try:
        record = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
        if not isinstance(record["config"], dict):
            raise TypeError("its config is not a table of keys and values")
        ConfigDict(record["config"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{workdir}: is not a run (config.json: {error})") from error
    return dict(record)


def record_config(workdir: Path, config: ConfigDict, data_sha256: str | None = None) -> None:
    """Write config.json, once: the config, its fingerprint, the data's hash, versions, settings.

    It says what began the run, and stays as it is.
    """
    if (workdir / "config.json").is_file():
        return
    record = {
        "format_version": FORMAT_VERSION,
        "config": configuration.to_json(config),
        "fingerprint": configuration.fingerprint(config),
        "source_fingerprint": source_fingerprint(config),
        "data_sha256": data_sha256,
        "versions": versions(config),
        "settings": settings.recorded(),
        "git_commit": _git_commit(),
    }
    _write_record(workdir, record)


def record_versions(workdir: Path) -> None:
    """Add to config.json's `resumed_with` the versions and settings that go on, if they are others."""
    record = _record(workdir)
    known = [record.get("versions"), *record.get("resumed_with", [])]
    here: dict[str, Any] = versions(record["config"])
    if record.get("settings") not in (None, settings.recorded()):
        here = {**here, "settings": settings.recorded()}
    if here not in known:
        _write_record(workdir, {**record, "resumed_with": [*known[1:], here]})


def _write_record(workdir: Path, record: dict[str, Any]) -> None:
    write_text(workdir / "config.json", json.dumps(record, indent=1) + "\n")


def versions(config: Mapping[str, Any]) -> dict[str, str]:
    """Of this package and of those whose versions may change what a run of this config computes."""
    known = BUILT_IN.get(config["data"]["name"])
    streamed = _READ_WITH if known and known.streamed else ()
    return {name: version(name) for name in (*_COMPUTED_WITH, *streamed, "orbax-checkpoint")}


def _git_commit() -> str | None:
    """The commit of the checkout this package runs from, read without calling git."""
    git = Path(__file__).resolve().parents[2] / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not (match := re.fullmatch(r"ref: (.+)", head)):
            return head
        if (git / match[1]).is_file():
            return (git / match[1]).read_text().strip()
        packed = (git / "packed-refs").read_text()
    except OSError:
        return None
    found = re.search(rf"^([0-9a-f]+) {re.escape(match[1])}$", packed, re.MULTILINE)
    return found[1] if found else None
