"""Config files and `--config.KEY=VALUE` on a command line: what the flags library leaves to do."""

from __future__ import annotations

import difflib
import itertools
import re
import traceback
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lottery_jax.config.keys import KEYS, describe_unknown_key
from lottery_jax.config.validation import validate
from lottery_jax.errors import ConfigError


def named_configs() -> dict[str, Path]:
    """Return the config files that come with the package, by name."""
    package = Path(__file__).parent.parent
    installed, checkout = package / "configs", package.parent / "configs"
    folder = installed if installed.is_dir() else checkout
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def find_config(value: str) -> str:
    """Return the file that `--config=VALUE` means, with its argument after a colon.

    Args:
        value: a file, or the name of one that comes with the package; perhaps with an argument.

    Raises:
        ConfigError: it is neither; names the nearest configs.

    >>> Path(find_config("quickstart")).name, find_config("recipe:alexnet_svhn")[-23:]
    ('quickstart.py', '/recipe.py:alexnet_svhn')
    >>> find_config("quickstat")
    Traceback (most recent call last):
    lottery_jax.errors.ConfigError: --config: 'quickstat' is neither a file nor the name of a config;
    did you mean quickstart or transfer_quickstart? 'python -m lottery_jax list configs' lists all
    """
    path, colon, argument = value.partition(":")
    if not path or Path(path).is_file():
        return value
    known = named_configs()
    if path in known:
        return f"{known[path]}{colon}{argument}"
    near = difflib.get_close_matches(Path(path).stem, known, n=3)
    if Path(path).is_dir() or (path.endswith(".py") and not near):
        return value  # the library that loads it says what is wrong
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(
        f"--config: {path!r} is neither a file nor the name of a config; {hint}'python -m "
        "lottery_jax list configs' lists all"
    )


def with_config_file(arguments: list[str]) -> list[str]:
    """Return the arguments with the file in place of the name in `--config=NAME`.

    Raises:
        ConfigError: as `find_config`.
    """
    found = list(arguments)
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config"):
            if equals:
                found[i] = f"{flag}={find_config(value)}"
            elif i + 1 < len(found):
                found[i + 1] = find_config(found[i + 1])
    return found


def returned_by(file: str, value: Any) -> ConfigDict:
    """Return what `get_config` of a config file has returned, validated.

    Raises:
        ConfigError: it is no ConfigDict, or a value is not legal.
    """
    # A config that could not be loaded raises only when an attribute is asked for.
    if not hasattr(value, "keys") or not isinstance(value, ConfigDict):
        raise ConfigError(
            f"--config: get_config() in {file} must return a ConfigDict, such as default_config(), "
            f"and not {type(value).__name__}"
        )
    return validate(value)


def cannot_load(file: str, error: Exception) -> str:
    """Return one line for whatever a config file, or the library that loads it, has raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = lines[-1] if lines else "the error has no message"
    # The library's own message quotes the whole traceback, whose last line names the error.
    kind = "" if "Traceback" in str(error) else f"{type(error).__name__}: "
    where = ""
    if re.match(r"\w*Warning\b", kind + message):  # made an error by a setting: show its origin
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{frame.filename}:{frame.lineno}" for frame in frames]
        places += [f"{a}:{b}" for a, b in re.findall(r'File "(.+)", line (\d+)', str(error))]
        where = f" (at {places[-1]}; PYTHONWARNINGS or -W makes it an error)" if places else ""
    return f"--config: can't be loaded: {file}: {kind}{message}{where}"


def with_last_overrides(arguments: list[str]) -> list[str]:
    """Return the arguments without the earlier ones of a key that is given twice: the last one wins.

    The library that parses flags does so itself for most keys; of tuples it would keep the values
    of both.

    >>> with_last_overrides(["main", "--config.seeds=0,1", "--config.seeds", "5", "--workdir=x"])
    ['main', '--config.seeds', '5', '--workdir=x']
    """
    kept: dict[int, list[str]] = {}
    last: dict[str, int] = {}
    rest = iter(enumerate(arguments))
    for i, argument in rest:
        kept[i] = [argument]
        flag, equals, _ = argument.partition("=")
        key = re.sub("^--?config[.]", "", flag)
        if key == flag or key not in KEYS or not isinstance(KEYS[key].default, tuple):
            continue
        if not equals:
            kept[i] += [value for _, value in itertools.islice(rest, 1)]
        if key in last:
            del kept[last[key]]
        last[key] = i
    return [argument for group in kept.values() for argument in group]


def misspelt_override(argument: str) -> str | None:
    """Return a line about `--config.KEY=...` if there is no such KEY, and None if there is.

    >>> misspelt_override("--config.seed=1").split(";")[0]
    "config: unknown key 'seed' (did you mean 'seeds'?)"
    """
    key = argument.removeprefix("--config.").partition("=")[0]
    if not argument.startswith("--config.") or key in KEYS:
        return None
    return describe_unknown_key(key)


def run_name(config_file: str) -> str:
    """Return the name of a run by its config file and the file's argument, for a directory.

    >>> run_name("configs/quickstart.py"), run_name("configs/snip.py:vgg19_cifar10")
    ('quickstart', 'snip_vgg19_cifar10')
    """
    path, _, argument = config_file.partition(":")
    return in_file_name(f"{Path(path).stem}_{argument}" if argument else Path(path).stem)


def in_file_name(value: str) -> str:
    """Return a value in characters that need no quotes in a shell.

    >>> [in_file_name(value) for value in ("1e-3", "()", "(16, 16, 1)", "runs/a b", "")]
    ['1e-3', 'none', '16+16+1', 'runs_a_b', 'none']
    """
    text = re.sub(r"[()\[\]'\"]|,\s*$|,\s*(?=\))", "", value).strip(", ")
    text = re.sub(r"[^\w.+=-]", "_", re.sub(r",\s*", "+", text))
    return text or "none"
