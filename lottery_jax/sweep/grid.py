"""The runs of a sweep, from config files, overrides for all runs, and a grid over config keys.

Each combination is a run, or a matrix whose cells are runs if its config has `transfer.sources` and
`transfer.targets`. A run whose `config.source` is the directory of another run comes after it.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from lottery_jax.config import (
    KEYS,
    cannot_load,
    find_config,
    fingerprint,
    in_file_name,
    misspelt_override,
    returned_by,
    run_name,
    validate,
)
from lottery_jax.errors import ConfigError, LotteryError, one_line
from lottery_jax.runs import matrix
from lottery_jax.runs.zoo_source import is_zoo
from lottery_jax.system.files import local_path

# Other folders in a sweep's directory.
RESERVED = ("jobs", "report")


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        name: the run's directory within that of the sweep.
        config: the validated config, which `lottery_jax.main` is given.
        after: the names of the runs that must be finished before this one starts.
    """

    name: str
    config: ConfigDict
    after: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Plan:
    """All runs of a sweep.

    Attributes:
        runs: the runs in the order in which they start, each after its source.
        matrices: the config of each transfer matrix, by its directory within that of the sweep.
    """

    runs: tuple[PlannedRun, ...]
    matrices: Mapping[str, ConfigDict]


def split_values(text: str) -> list[str]:
    """Split a text at its commas, without those within brackets or quotes.

    Raises:
        ConfigError: a bracket or quote is not closed.

    >>> split_values("0,1,2"), split_values("(),(random,reinit)"), split_values("'a,b',")
    (['0', '1', '2'], ['()', '(random,reinit)'], ['a,b', ''])
    """
    values, depth, quote = [""], 0, ""
    for character in text:
        if quote or character in "'\"":
            quote = "" if character == quote else quote or character
        depth += (character in "([") - (character in ")]") if not quote else 0
        if character == "," and not quote and not depth:
            values.append("")
        else:
            values[-1] += character
    if quote or depth:
        raise ConfigError(f"--grid: a bracket or a quote is not closed in {text}")
    return [_unquoted(value.strip()) for value in values]


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def parse_grid(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the values of each key of `--grid KEY=VALUE,VALUE,...`, as text.

    Raises:
        ConfigError: a key is unknown or given twice, or has a value twice.

    >>> parse_grid(["seeds=0,1", "ladder.scores=magnitude,random"])
    {'seeds': ('0', '1'), 'ladder.scores': ('magnitude', 'random')}
    """
    grid: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        key = key.removeprefix("config.")
        if not equals:
            raise ConfigError(f"--grid: {text!r} is not KEY=VALUE,VALUE,...")
        if message := misspelt_override(f"--config.{key}="):
            raise ConfigError(f"--grid: {message}")
        if key in grid:
            raise ConfigError(f"--grid: {key} is there twice; write --grid {key}=VALUE,VALUE,...")
        grid[key] = tuple(split_values(values))
        if len(set(grid[key])) < len(grid[key]):
            raise ConfigError(f"--grid: {key} has a value twice in {values}")
    return grid


def load_config(file: str, overrides: Mapping[str, str]) -> ConfigDict:
    """Return the config of `--config=FILE --config.KEY=VALUE...`, as `lottery_jax.main` reads it.

    Args:
        file: the config's name or file, with its argument after a colon if it takes one.
        overrides: the values as text, by key.

    Raises:
        ConfigError: there is no such config, the file can't be loaded, or a value is not legal.
    """
    argv = ["sweep", f"--config={find_config(file)}"]
    argv += [f"--config.{key}={_as_flag(key, value)}" for key, value in overrides.items()]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "", lock_config=True, flag_values=values, sys_argv=argv
    )
    try:
        with warnings.catch_warnings():  # ml_collections loads files in a deprecated way
            warnings.simplefilter("ignore", DeprecationWarning)
            values(argv)
        return returned_by(file, values["config"].value)
    except LotteryError:
        raise
    except flags.IllegalFlagValueError as error:
        text = one_line(error)
        if "Traceback" not in text:
            raise ConfigError(text.removeprefix("flag --")) from error
        raise ConfigError(cannot_load(file, error)) from error
    except Exception as error:  # a config file may raise anything
        raise ConfigError(cannot_load(file, error)) from error


def _as_flag(key: str, value: str) -> str:
    """Return a value as the flags of configs read it: a tuple of names has no brackets there."""
    if isinstance(KEYS[key].default, tuple) and re.fullmatch(r"\(.+\)", value):
        try:
            ast.literal_eval(value)
        except (SyntaxError, ValueError):
            return value[1:-1]
    return value


def expand(
    files: Sequence[str],
    overrides: Mapping[str, str],
    grid: Mapping[str, Sequence[str]],
    workdir: Path,
) -> Plan:
    """Return the runs for all combinations of config files and the grid's values.

    Args:
        files: config files, with their arguments.
        overrides: values for all runs, as text, by key.
        grid: the values of each key, as text.
        workdir: the sweep's directory; absolute.

    Raises:
        ConfigError: a key or a value is wrong, two runs are the same, or runs wait for each other.
    """
    if both := sorted(set(grid) & set(overrides)):
        raise ConfigError(f"--grid: {both[0]} is set by --config.{both[0]} too; leave one out")
    configs: dict[str, ConfigDict] = {}
    matrices: dict[str, ConfigDict] = {}
    keys = sorted(grid)  # so that a run's name does not depend on the order of the arguments
    for file, *chosen in itertools.product(files, *(grid[key] for key in keys)):
        values = dict(zip(keys, chosen, strict=True))
        config = load_config(file, {**overrides, **values})
        parts = [run_name(file)] if len(files) > 1 or not (keys or config.transfer.sources) else []
        parts += [f"{key}={in_file_name(value)}" for key, value in values.items()]
        name = ",".join(parts)
        runs = {name: config}
        if config.transfer.sources:
            matrices[name] = config
            runs = {
                str(folder.relative_to(workdir)): validate(cell)
                for _, folder, cell in matrix.cells(config, workdir / name)
            }
        for run, run_config in runs.items():
            if run in configs:
                raise ConfigError(f"--grid: two runs would be called {run}")
            if Path(run).parts[0] in RESERVED:
                raise ConfigError(f"a run of a sweep can't be called {run}")
            configs[run] = run_config
    planned = _sources_first(_with_sources(configs, workdir))
    _check_distinct(planned)
    return Plan(tuple(planned), matrices)


def _with_sources(configs: Mapping[str, ConfigDict], workdir: Path) -> list[PlannedRun]:
    """Return the runs, each after its source if that is one of them, by name or by directory."""
    names = {workdir / name: name for name in configs}
    runs = []
    for name, config in configs.items():
        after: tuple[str, ...] = ()
        if config.source and not is_zoo(config.source):
            folder = local_path(config.source, "config.source").absolute()
            source = config.source if config.source in configs else names.get(folder)
            if source == name:
                raise ConfigError(f"config.source: {name} is its own source")
            after = (source,) if source else ()
            with config.unlocked():
                config.source = str(workdir / source if source else folder)
        runs.append(PlannedRun(name, config, after))
    return runs


def _sources_first(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the runs in their order, but each after its source."""
    placed: dict[str, PlannedRun] = {}
    while len(placed) < len(runs):
        left = [run for run in runs if run.name not in placed]
        ready = {run.name: run for run in left if placed.keys() >= {*run.after}}
        if not ready:
            circle = ", ".join(run.name for run in left)
            raise ConfigError(f"config.source: runs wait for each other: {circle}")
        placed |= ready
    return list(placed.values())


def _check_distinct(runs: Sequence[PlannedRun]) -> None:
    seen: dict[str, str] = {}
    for run in runs:
        key = fingerprint(run.config)
        if key in seen:
            raise ConfigError(
                f"--grid: {seen[key]} and {run.name} must give the same results; leave one out"
            )
        seen[key] = run.name
