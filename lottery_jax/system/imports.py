"""Objects that a config names by import path, such as `mypkg.data:load`."""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lottery_jax.errors import ConfigError, LotteryError, describe_unknown, first_line, one_line


def is_import_path(name: str) -> bool:
    """Return whether a name is an import path and not that of something built in.

    >>> is_import_path("mypkg.data:load"), is_import_path("cifar10")
    (True, False)
    """
    return ":" in name


def short_name(name: str) -> str:
    """Return the name by which people know an object: the last part of an import path.

    >>> short_name("mypkg.nets:Net"), short_name("vgg19")
    ('Net', 'vgg19')
    """
    return name.rpartition(":")[2]


def name_in_files(name: str) -> str:
    """Return a name, which may be an import path, as a part of file and directory names.

    >>> name_in_files("mypkg.data:load"), name_in_files("cifar10")
    ('mypkg.data_load', 'cifar10')
    """
    return name.replace(":", "_")


def parse_options(text: str, what: str) -> dict[str, Any]:
    """Return the keyword arguments that a config's text of JSON holds.

    Raises:
        ConfigError: it is not a JSON object.

    >>> parse_options('{"depth": 4}', "config.model.options"), parse_options("", "")
    ({'depth': 4}, {})
    """
    try:
        options = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{what}: {text!r} is not JSON ({one_line(error)}); write it so: "
            """'{"folder": "photos", "size": 32}'"""
        ) from error
    if not isinstance(options, dict):
        raise ConfigError(f"{what}: {text!r} is not a JSON object of options")
    return options


def call(function: Any, arguments: Mapping[str, Any], path: str, group: str) -> Any:
    """Call a user's function, and return what it returns.

    Args:
        function: what `load_object` returned.
        arguments: its keyword arguments.
        path: its import path, for messages.
        group: the group of config keys that name it, such as `data`.

    Raises:
        ConfigError: it is no function, or it fails; says where.
        LotteryError: as the function raises it.
    """
    if not callable(function):
        raise ConfigError(
            f"config.{group}.name: {path} is {type(function).__name__}, not a function"
        )
    try:
        return function(**arguments)
    except LotteryError:
        raise
    except Exception as error:  # whatever the user's code raises
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"config.{group}.name: {path} fails: {one_line(first_line(error, with_type=True))} "
            f"({frame.filename}:{frame.lineno})"
        ) from error


def load_object(path: str, what: str) -> Any:
    """Import a module and return an object of it.

    This runs the module's code. Call it for what users wrote into a config of their own run, and
    never for a name from a file that somebody else may have made, such as a ticket's metadata.

    Args:
        path: `package.module:name`, or `module:Class.method`. Besides installed modules, those in
            the current directory are found, as with `python -m`.
        what: the config key, with which messages begin.

    Raises:
        ConfigError: there is no such module or attribute, or the module fails when it is imported.

    >>> load_object("math:sqrt", "config.model.name")(9.0)
    3.0
    """
    module_name, _, attributes = path.partition(":")
    parts = [*module_name.split("."), *attributes.split(".")]
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(
            f"{what}: {path!r} is not an import path; write package.module:name, such as "
            "mypkg.data:load"
        )
    found = _import(module_name, what)
    for name in attributes.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            public = [each for each in dir(found) if not each.startswith("_")]
            raise ConfigError(
                one_line(describe_unknown(f"{what}: {module_name}", name, public, noun="name"))
            ) from error
    return found


def _import(module_name: str, what: str) -> Any:
    here = str(Path.cwd())
    if not sys.flags.safe_path and not {"", here} & {*sys.path}:
        sys.path.append(here)  # at the end, where it hides no installed module
    importlib.invalidate_caches()  # a notebook may have written the module a moment ago
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and _is_package_of(error.name, module_name):
            raise ConfigError(
                f"{what}: there is no module {error.name!r} in {here} or among the "
                "installed packages; start the command in the directory that holds it, or set "
                "PYTHONPATH"
            ) from error
        frame = traceback.extract_tb(error.__traceback__)[-1]
        line = error.lineno if isinstance(error, SyntaxError) else frame.lineno
        file = error.filename if isinstance(error, SyntaxError) else frame.filename
        raise ConfigError(
            f"{what}: the module {module_name} fails when it is imported: "
            f"{one_line(first_line(error, with_type=True))} ({file}:{line})"
        ) from error


def _is_package_of(missing: str | None, module_name: str) -> bool:
    """Return whether a missing module is the wanted one or a package around it."""
    return missing is not None and f"{module_name}.".startswith(f"{missing}.")
