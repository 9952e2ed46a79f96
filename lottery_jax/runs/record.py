"""config.json: which config, data, versions and settings made a run directory."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lottery_jax import __version__
from lottery_jax import config as configuration
from lottery_jax.datasets.registry import BUILT_IN
from lottery_jax.errors import ConfigError, DataError
from lottery_jax.runs.directory import is_finished
from lottery_jax.runs.pretrained import weights_sha256
from lottery_jax.runs.zoo_source import is_zoo, open_zoo
from lottery_jax.system import host, locks, settings
from lottery_jax.system.files import is_clutter, is_temporary, local_path, write_text

# The format of a run directory. A run of another format can't be resumed.
FORMAT_VERSION = 2
# Packages whose version can change a result; the second tuple applies to streamed data only.
_COMPUTED_WITH = ("lottery_jax", "jax", "jaxlib", "flax", "optax", "numpy")
_READ_WITH = ("grain", "pillow")
# Versions of this package that compute the same, to the last bit (tests/golden.py).
_SAME_RESULTS = ("0.1.0", "0.2.0")
_CHECKOUT = Path(__file__).resolve().parents[2]


def check_workdir(workdir: Path, config: ConfigDict, *, other_versions: bool = False) -> None:
    """Check that a directory is empty, or holds a run of this config made by these versions.

    Args:
        workdir: the run directory.
        config: validated.
        other_versions: whether to resume a run that was begun with other versions of packages or
            under other settings of JAX. Its results are then of both.

    Raises:
        ConfigError: it holds something else; names the keys, versions or settings that differ.
    """
    if not (workdir / "config.json").is_file():
        if workdir.exists() and (not workdir.is_dir() or any(map(_is_foreign, workdir.iterdir()))):
            raise ConfigError(
                f"{workdir}: is neither empty nor a run directory; choose another --workdir"
            )
        return
    record = _read(workdir)
    if (format_version := record.get("format_version")) != FORMAT_VERSION:
        raise ConfigError(
            f"{workdir}: was made by lottery_jax {_made_with(record)}, whose run directories this "
            f"version ({__version__}) can't resume (format {format_version}, here "
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
    """Check that a run is resumed with the data that it was begun with.

    Raises:
        DataError: the data of this name have changed.
    """
    if not (workdir / "config.json").is_file():
        return
    there = _read(workdir).get("data_sha256")
    if there not in (None, data_sha256):  # early versions did not record it
        raise DataError(
            f"{workdir}: was begun with other data of this name (SHA-256 there, here: "
            f"{str(there)[:16]}, {data_sha256[:16]}); bring those back or choose another --workdir"
        )


def _check_versions(workdir: Path, record: dict[str, Any]) -> None:
    there, here = record.get("versions"), versions(record["config"])
    if not isinstance(there, dict):
        raise ConfigError(f"{workdir}: config.json does not say which versions made it")
    differ = [
        f"{name}: {there.get(name)}, {here[name]}"
        for name in (*_COMPUTED_WITH, *_READ_WITH)
        if there.get(name) != here.get(name) and not _compute_the_same(name, there, here)
    ]
    if differ:
        raise ConfigError(
            f"{workdir}: was begun with other versions (there, here): {'; '.join(differ)}; install "
            "those, choose another --workdir, or pass --other_versions to resume with these; the "
            "results are then of both"
        )


def _compute_the_same(name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    both = {there.get(name), here.get(name)}
    return name == "lottery_jax" and both <= set(_SAME_RESULTS)


def _check_settings(workdir: Path, record: dict[str, Any]) -> None:
    there, here = record.get("settings"), settings.recorded()
    if not isinstance(there, dict):  # early versions did not record them
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
    """Return the fingerprint of the run whose tickets are transferred.

    It is the hash of the tickets for a series of the zoo, the hash of the weights for a rewind point
    from elsewhere, and None without either.
    """
    if config.ladder.pretrained:
        return weights_sha256(config)
    if not config.source:
        return None
    if is_zoo(config.source):
        return open_zoo(config.source).sha256
    return configuration.fingerprint(read_config(local_path(config.source, "config.source")))


def _is_foreign(path: Path) -> bool:
    """Return whether a path is neither clutter nor left by a process killed at its very start."""
    return not (is_temporary(path) or path.name == locks.NAME or is_clutter(path.name))


def read_config(workdir: Path) -> ConfigDict:
    """Return the config of a run directory.

    Raises:
        ConfigError: there is none, it can't be read, or it has keys that this version lacks.
    """
    record = _read(workdir)
    try:
        return configuration.from_json(record["config"])
    except ConfigError as error:
        raise ConfigError(
            f"{workdir}: config.json was made by lottery_jax {_made_with(record)}: {error}"
        ) from error


def recorded_commit(workdir: Path) -> str | None:
    """Return the commit that began a run; None if it is not known.

    Raises:
        ConfigError: it is not a run, or its config.json can't be read.
    """
    return _read(workdir).get("git_commit")


def check_network(workdir: Path, network_sha256: str) -> None:
    """Check that a run is resumed with a network of the same parameters.

    Raises:
        ConfigError: they have other names, shapes or dtypes.
    """
    if not network_sha256 or not (workdir / "config.json").is_file():
        return
    there = _read(workdir).get("network_sha256")
    if there != network_sha256:
        raise ConfigError(
            f"{workdir}: was begun with a network of other parameters (SHA-256 there, here: "
            f"{str(there)[:16]}, {network_sha256[:16]}); bring that one back or choose another "
            "--workdir"
        )


def record_config(
    workdir: Path,
    config: ConfigDict,
    data_sha256: str | None = None,
    network_sha256: str = "",
    cost: Mapping[str, Any] | None = None,
) -> None:
    """Write config.json once: the config, its fingerprint, the data's hash, versions, settings.

    `cost` is what reports need to charge trainings: `steps_per_epoch`, and `multiply_adds` of each
    layer in a forward pass of one example, or null if they can't be counted. With it goes the
    machine, for readers alone.

    The file says what began the run, and is not changed when other versions resume the run.
    """
    if (workdir / "config.json").is_file():
        return
    record = {
        "format_version": FORMAT_VERSION,
        "config": configuration.to_json(config),
        "fingerprint": configuration.fingerprint(config),
        "source_fingerprint": source_fingerprint(config),
        "data_sha256": data_sha256,
        **({"network_sha256": network_sha256} if network_sha256 else {}),
        **({"cost": cost, "machine": host.description()} if cost else {}),
        "versions": versions(config),
        "settings": settings.recorded(),
        "git_commit": git_commit(),
    }
    _write(workdir, record)


def record_versions(workdir: Path) -> None:
    """Add the versions and settings that resume a run to `resumed_with`, if they are new."""
    record = _read(workdir)
    known = [record.get("versions"), *record.get("resumed_with", [])]
    here: dict[str, Any] = versions(record["config"])
    if record.get("settings") not in (None, settings.recorded()):
        here = {**here, "settings": settings.recorded()}
    if here not in known:
        _write(workdir, {**record, "resumed_with": [*known[1:], here]})


def versions(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions of the packages that can change a result of this config."""
    known = BUILT_IN.get(config["data"]["name"])
    streamed = _READ_WITH if known and known.streamed else ()
    packages = (*_COMPUTED_WITH, *streamed, "orbax-checkpoint")
    # This package may be on the path without being installed.
    return {name: __version__ if name == "lottery_jax" else version(name) for name in packages}


def _read(workdir: Path) -> dict[str, Any]:
    try:
        record = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
        if not isinstance(record["config"], dict):
            raise TypeError("its config is not a table of keys and values")
        ConfigDict(record["config"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{workdir}: is not a run (config.json: {error})") from error
    return dict(record)


def _write(workdir: Path, record: dict[str, Any]) -> None:
    write_text(workdir / "config.json", json.dumps(record, indent=1) + "\n")


def _made_with(record: dict[str, Any]) -> str:
    versions = record.get("versions")
    return str(versions.get("lottery_jax")) if isinstance(versions, dict) else "of no known version"


def git_commit(checkout: Path = _CHECKOUT) -> str | None:
    """Return the commit of the checkout that this package runs from, without calling git."""
    git = checkout / ".git"
    try:
        if git.is_file():  # a worktree beside the clone, or a submodule
            git = checkout / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if (git / "commondir").is_file():  # where all worktrees have their branches
            git /= (git / "commondir").read_text().strip()
        if not (match := re.fullmatch(r"ref: (.+)", head)):
            return head
        if (git / match[1]).is_file():
            return (git / match[1]).read_text().strip()
        packed = (git / "packed-refs").read_text()
    except OSError:
        return None
    found = re.search(rf"^([0-9a-f]+) {re.escape(match[1])}$", packed, re.MULTILINE)
    return found[1] if found else None
