"""A data set by import path: a user's function that returns a `Dataset`."""

from __future__ import annotations

import dataclasses
import json
import traceback
from typing import Any

from lottery_jax.datasets.dataset import Dataset
from lottery_jax.errors import ConfigError, LotteryError, first_line, one_line
from lottery_jax.system.imports import load_object, name_in_files


def load_imported(path: str, options: str = "") -> Dataset:
    """Import a function by its path, call it, and return its data set.

    The import runs the user's code: the path must come from the config of the user's own run.

    Args:
        path: such as `mypkg.data:load`; the data set is named `mypkg.data_load` after it.
        options: a JSON object of keyword arguments; empty for none.

    Raises:
        ConfigError: there is no such function, it fails, or it returns something else.
        LotteryError: as the function raises it.
    """
    what = "config.data.name"
    load, arguments = load_object(path, what), parse_options(options)
    if not callable(load):
        raise ConfigError(f"{what}: {path} is {type(load).__name__}, and not a function")
    try:
        dataset = load(**arguments)
    except LotteryError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{what}: {path} fails: {one_line(first_line(error, with_type=True))} "
            f"({frame.filename}:{frame.lineno})"
        ) from error
    if not isinstance(dataset, Dataset):
        raise ConfigError(
            f"{what}: {path} returns {type(dataset).__name__}; it must return a "
            "lottery_jax.Dataset, such as Dataset.from_arrays gives"
        )
    return dataclasses.replace(dataset, name=name_in_files(path))


def parse_options(options: str) -> dict[str, Any]:
    """Return the keyword arguments of `config.data.options`.

    Raises:
        ConfigError: it is not a JSON object.
    """
    try:
        arguments = json.loads(options or "{}")
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"config.data.options: {options!r} is not JSON ({one_line(error)}); write it so: "
            """'{"folder": "photos", "size": 32}'"""
        ) from error
    if not isinstance(arguments, dict):
        raise ConfigError(f"config.data.options: {options!r} is not a JSON object of options")
    return arguments
