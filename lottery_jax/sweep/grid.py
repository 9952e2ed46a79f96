"""What runs a sweep consists of: config files, overrides for all, and a grid over config keys.

Each combination is a run; of a config with `transfer.sources` and `transfer.targets` it is a
matrix, whose cells are the runs. A run whose `config.source` is another one's directory comes
after it.
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
    cannot_load,
    default_config,
    fingerprint,
    flatten,
    misspelt_override,
    returned_by,
    validate,
)
from lottery_jax.errors import ConfigError, LotteryError, one_line
from lottery_jax.runs import matrix
from lottery_jax.system.files import local_path

# Beside the runs in a sweep's directory.
RESERVED = ("jobs", "report")


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        name: its directory within that of the sweep.
        config: validated; what `lottery_jax.main` is given.
        after: the names of the runs that must be finished before it starts.
    """

    name: str
    config: ConfigDict
    after: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Plan:
    """Every run of a sweep, sources before what needs them.

    Attributes:
        runs: in the order in which they are started.
        matrices: the directory of each transfer matrix within that of the sweep, and its config.
    """

    runs: tuple[PlannedRun, ...]
    matrices: Mapping[str, ConfigDict]


def split_values(text: str) -> list[str]:
    """Values separated by commas, but not by those within brackets or quotes.

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
    """The values of each key of `--grid KEY=VALUE,VALUE,...`, as text.

    Raises:
        ConfigError: a key is not of a config or is there twice, or has a value twice.

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
    """The config of `--config=FILE --config.KEY=VALUE...`, as `lottery_jax.main` reads it.

    Args:
        file: may have an argument after a colon.
        overrides: values as text, by key.

    Raises:
        ConfigError: the file can't be loaded, or a value is not legal.
    """
    argv = ["sweep", f"--config={file}"]
    argv += [f"--config.{key}={_as_flag(key, value)}" for key, value in overrides.items()]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "", lock_config=True, flag_values=values, sys_argv=argv
    )
    try:
        with warnings.catch_warnings():  # ml_collections loads files in a way that Python warns of
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
    """A value as the flags of configs read it: there a tuple of names has no brackets."""
    if isinstance(flatten(default_config())[key], tuple) and re.fullmatch(r"\(.+\)", value):
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
    """Every combination of config files and the grid's values, as runs.

    Args:
        files: config files, with their arguments.
        overrides: of keys, for all runs; as text.
        grid: for each key its values; as text.
        workdir: of the sweep; absolute.

    Raises:
        ConfigError: a key or a value is wrong, two runs are the same, or runs wait for each other.
    """
    if both := sorted(set(grid) & set(overrides)):
        raise ConfigError(f"--grid: {both[0]} is set by --config.{both[0]} too; leave one out")
    found: dict[str, ConfigDict] = {}
    matrices: dict[str, ConfigDict] = {}
    keys = sorted(grid)  # so that a run's name does not depend on the order they are given in
    for file, *chosen in itertools.product(files, *(grid[key] for key in keys)):
        values = dict(zip(keys, chosen, strict=True))
        config = load_config(file, {**overrides, **values})
        parts = [_stem(file)] if len(files) > 1 or not (keys or config.transfer.sources) else []
        name = ",".join([*parts, *(f"{key}={_in_name(value)}" for key, value in values.items())])
        if config.transfer.sources:
            inside = {
                str(folder.relative_to(workdir)): validate(cell)
                for _, folder, cell in matrix.cells(config, workdir / name)
            }
            matrices[name] = config
        else:
            inside = {name: config}
        for run, its in inside.items():
            if run in found:
                raise ConfigError(f"--grid: two runs would be called {run}")
            if Path(run).parts[0] in RESERVED:
                raise ConfigError(f"a run of a sweep can't be called {run}")
            found[run] = its
    runs = _in_order(_with_sources(found, workdir))
    _check_distinct(runs)
    return Plan(tuple(runs), matrices)


def _stem(file: str) -> str:
    path, _, argument = file.partition(":")
    return _in_name(f"{Path(path).stem}_{argument}" if argument else Path(path).stem)


def _in_name(value: str) -> str:
    """A value as a part of a directory's name that needs no quotes in a shell.

    >>> [_in_name(value) for value in ("1e-3", "()", "(16, 16, 1)", "runs/a b", "")]
    ['1e-3', 'none', '16+16+1', 'runs_a_b', 'none']
    """
    text = re.sub(r"[()\[\]'\"]|,\s*$|,\s*(?=\))", "", value).strip(", ")
    text = re.sub(r"[^\w.+=-]", "_", re.sub(r",\s*", "+", text))
    return text or "none"


def _with_sources(found: Mapping[str, ConfigDict], workdir: Path) -> list[PlannedRun]:
    """The runs, with the directory and the name of each source that is one of them."""
    by_folder = {workdir / name: name for name in found}
    runs = []
    for name, config in found.items():
        source = config.source
        if not source:
            runs.append(PlannedRun(name, config))
            continue
        inside = source if source in found else by_folder.get(_absolute(source))
        if inside == name:
            raise ConfigError(f"config.source: {name} is its own source")
        config.unlock()
        config.source = str(workdir / inside) if inside else str(_absolute(source))
        runs.append(PlannedRun(name, config.lock(), (inside,) if inside else ()))
    return runs


def _absolute(path: str) -> Path:
    return local_path(path, "config.source").absolute()


def _in_order(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The same order, but what is waited for first."""
    done: dict[str, PlannedRun] = {}
    left = list(runs)
    while left:
        ready = [run for run in left if all(name in done for name in run.after)]
        if not ready:
            circle = ", ".join(run.name for run in left)
            raise ConfigError(f"config.source: runs wait for each other: {circle}")
        done |= {run.name: run for run in ready}
        left = [run for run in left if run.name not in done]
    return list(done.values())


def _check_distinct(runs: Sequence[PlannedRun]) -> None:
    seen: dict[str, str] = {}
    for run in runs:
        key = fingerprint(run.config)
        if key in seen:
            raise ConfigError(
                f"--grid: {seen[key]} and {run.name} must give the same results; leave one out"
            )
        seen[key] = run.name
