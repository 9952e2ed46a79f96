"""The names that a config can give, with a line about each: what `lottery-jax list` prints."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any

from lottery_jax.config import named_configs
from lottery_jax.datasets.registry import BUILT_IN, NESTED, Info


def configs() -> dict[str, str]:
    """Return the configs that come with the package. Their files are read and not executed."""
    trees = {name: ast.parse(path.read_text("utf-8")) for name, path in named_configs().items()}
    return {name: _first_line(ast.get_docstring(tree)) for name, tree in trees.items()}


def networks() -> dict[str, str]:
    """Return the networks; a line is that of the network's family."""
    from lottery_jax.models import MODELS

    return {name: _describe(builder) for name, builder in MODELS.items()}


def datasets() -> dict[str, str]:
    """Return the built-in data sets. Files of the user's own are others."""
    return {name: _describe_data(info) for name, info in BUILT_IN.items()}


def scores() -> dict[str, str]:
    """Return the scores by which weights are ranked."""
    from lottery_jax.pruning import scores as functions

    at_init = {"magnitude_at_init": "the absolute values of the weights of step 0."}
    return at_init | _functions(functions, functions.SCORES.keys() - at_init.keys())


def controls() -> dict[str, str]:
    """Return the controls that a winning ticket is compared with."""
    from lottery_jax.pruning import controls as functions

    return _functions(functions, functions.CONTROLS)


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "configs": configs,
    "networks": networks,
    "datasets": datasets,
    "scores": scores,
    "controls": controls,
}


def _functions(module: Any, names: Iterable[str]) -> dict[str, str]:
    return {name: _first_line(inspect.getdoc(getattr(module, name))) for name in sorted(names)}


def _describe(builder: Any) -> str:
    if isinstance(builder, functools.partial):  # one builder makes a whole family
        return _first_line(sys.modules[builder.func.__module__].__doc__)
    return _first_line(inspect.getdoc(builder))


def _describe_data(info: Info) -> str:
    where = "bundled" if info.tfds_name is None else f"{info.tfds_name} of tensorflow-datasets"
    more = (
        ", stays on disk" if info.streamed else f"; parts _a, _b and _{NESTED[0]} to _{NESTED[-1]}"
    )
    return f"{info.num_classes} classes; {where}{more}."


def _first_line(doc: str | None) -> str:
    return (doc or "").partition("\n")[0].removeprefix("Return ")
