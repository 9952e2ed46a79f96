"""The run directory: what is where, which config made it, which trainings are complete."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lottery_jax import config as configuration
from lottery_jax import logs, tickets
from lottery_jax.errors import ConfigError
from lottery_jax.files import write_text
from lottery_jax.logs import WINNING

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Unit:
    """One training of a run: a ticket of a seed and level, or a control of it."""

    workdir: Path
    seed: int
    level: int
    control: str  # logs.WINNING for the winning ticket itself

    @property
    def ticket(self) -> Path:
        """Where the trained ticket is kept."""
        name = "ticket" if self.control == WINNING else self.control
        return level_dir(self.workdir, self.seed, self.level) / name

    @property
    def state(self) -> Path:
        """Where its checkpoints are, until it is complete."""
        return level_dir(self.workdir, self.seed, self.level) / "state" / self.control


def level_dir(workdir: Path, seed: int, level: int) -> Path:
    """The directory of one level of one replicate."""
    return workdir / f"seed_{seed}" / f"level_{level:02d}"


def units(config: ConfigDict, workdir: Path) -> list[Unit]:
    """Every training of a run, in the order in which they are done."""
    chosen = config.control_levels or range(1, config.ladder.levels + 1)
    return [
        Unit(workdir, seed, level, control)
        for seed in config.seeds
        for level in range(config.ladder.levels + 1)
        for control in (WINNING, *(config.controls if level in chosen else ()))
    ]


def rewind_dir(workdir: Path, seed: int) -> Path:
    """Where the state at the rewind point of a replicate is kept."""
    return workdir / f"seed_{seed}" / "rewind"


def curve_rows(config: ConfigDict, workdir: Path) -> Iterator[Row]:
    """A row of curve.csv for each completed training, from the tickets' metadata."""
    for unit in units(config, workdir):
        if tickets.is_complete(unit.ticket):
            metadata = tickets.read_metadata(unit.ticket)
            row = {key: metadata[key] for key in logs.CURVE_COLUMNS if key in metadata}
            yield {**row, **metadata["result"]}


def write_curve(config: ConfigDict, workdir: Path) -> list[Row]:
    """Writes curve.csv anew and returns its rows."""
    rows = list(curve_rows(config, workdir))
    logs.write_curve(workdir / "curve.csv", rows)
    return rows


def check_workdir(workdir: Path, config: ConfigDict) -> None:
    """Raises a ConfigError if the directory holds something else than a run of this config."""
    file = workdir / "config.json"
    if file.is_file():
        differ = configuration.differing_keys(read_config(workdir), config)
        if (there := _record(workdir).get("source_fingerprint")) != source_fingerprint(config):
            differ.append(f"the source's fingerprint: {there}, {source_fingerprint(config)}")
        if differ:
            raise ConfigError(
                f"{workdir}: holds a run of another config (there, here): {'; '.join(differ)}; "
                "choose another --workdir"
            )
    elif workdir.exists() and (not workdir.is_dir() or any(map(_is_foreign, workdir.iterdir()))):
        raise ConfigError(f"{workdir}: is neither empty nor a run; choose another --workdir")


def source_fingerprint(config: ConfigDict) -> str | None:
    """The fingerprint of the run whose tickets are trained; None without a source."""
    if not config.source:
        return None
    return configuration.fingerprint(read_config(Path(config.source).expanduser()))


def _is_foreign(path: Path) -> bool:
    """Whether a file is none that a killed process may have left while it wrote config.json."""
    return not (path.name.startswith(".config.json.") and path.suffix == ".tmp")


def read_config(workdir: Path) -> ConfigDict:
    """The config of a run directory.

    Raises:
        ConfigError: there is none, or it can't be read.
    """
    return configuration.from_json(_record(workdir)["config"])


def _record(workdir: Path) -> dict[str, Any]:
    try:
        record = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
        record["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{workdir}: is not a run (config.json: {error})") from error
    return dict(record)


def record_config(workdir: Path, config: ConfigDict) -> None:
    """Writes config.json, once: the config, its fingerprint, versions and the git commit.

    Resuming leaves it as it is: it says what began the run.
    """
    if (workdir / "config.json").is_file():
        return
    names = ("lottery_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    record = {
        "config": configuration.to_json(config),
        "fingerprint": configuration.fingerprint(config),
        "source_fingerprint": source_fingerprint(config),
        "versions": {name: version(name) for name in names},
        "git_commit": _git_commit(),
    }
    write_text(workdir / "config.json", json.dumps(record, indent=1) + "\n")


def _git_commit() -> str | None:
    """The commit of the checkout this package runs from, read without calling git."""
    git = Path(__file__).resolve().parent.parent / ".git"
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
