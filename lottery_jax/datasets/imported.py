"""A data set by import path: a user's function that returns a `Dataset`."""

from __future__ import annotations

import dataclasses

from lottery_jax.datasets.dataset import Dataset
from lottery_jax.errors import ConfigError
from lottery_jax.system.imports import call, load_object, name_in_files, parse_options


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
    arguments = parse_options(options, "config.data.options")
    dataset = call(load_object(path, what), arguments, path, "data")
    if not isinstance(dataset, Dataset):
        raise ConfigError(
            f"{what}: {path} returns {type(dataset).__name__}; it must return a "
            "lottery_jax.Dataset, such as Dataset.from_arrays gives"
        )
    return dataclasses.replace(dataset, name=name_in_files(path))
