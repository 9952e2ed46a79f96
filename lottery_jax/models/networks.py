"""Networks of one's own as `Network`: Linen modules, NNX modules and import paths.

lj.networks.nnx(lambda rngs: MyNet(rngs))
config.model.name = "mypkg.vit:ViT"
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import flax.linen as linen_api

from lottery_jax.errors import ConfigError
from lottery_jax.models.network import LinenNetwork, Network
from lottery_jax.system.imports import call, load_object, parse_options

if TYPE_CHECKING:  # importing it takes as long as everything else here
    from flax import nnx as nnx_api

    from lottery_jax.models.nnx import NNXNetwork


def linen(module: linen_api.Module, *, head: str = "") -> LinenNetwork:
    """Return a Linen module as a `Network`.

    Args:
        module: called with a batch of inputs and, if it takes one of them, `train=...`,
            `training=...`, `is_training=...` or `deterministic=...`.
        head: the path of the output layer in the params, such as `Dense_3`; by default the last
            layer that is called.
    """
    return LinenNetwork(module, head=head)


def nnx(make: Callable[[nnx_api.Rngs], nnx_api.Module], *, head: str = "") -> NNXNetwork:
    """Return an NNX module as a `Network`.

    Args:
        make: from random keys to a module, such as the class `MyNet` itself, or
            `lambda rngs: MyNet(10, rngs=rngs)`. It must give the same module for the same keys.
        head: the path of the output layer in the params; by default the last layer that is called.
    """
    from lottery_jax.models.nnx import NNXNetwork

    return NNXNetwork(make, head=head)


def from_import_path(
    path: str, options: str, num_classes: int, *, head: str = "", what: str = "config.model.name"
) -> Network:
    """Return the network that an import path names.

    The object is a class of Linen modules or of NNX modules, or a function that returns a module
    or a `Network`. It is called with the options; with `num_classes`, too, if it has a parameter of
    that name which the options leave out; and an NNX class with `rngs`.

    Args:
        path: such as `mypkg.vit:ViT`.
        options: keyword arguments as JSON, such as `{"depth": 4}`; empty: none.
        num_classes: the classes of the data.
        head: as in `linen`.
        what: the config key, for messages.

    Raises:
        ConfigError: there is no such object, it can't be called so, or it is no network.
    """
    function: Any = load_object(path, what)
    arguments = parse_options(options, "config.model.options")
    if "num_classes" not in arguments and "num_classes" in _parameters(function):
        arguments["num_classes"] = num_classes
    if inspect.isclass(function) and _is_nnx(function):
        cls: Any = function
        return nnx(lambda rngs: cls(**arguments, rngs=rngs), head=head)
    found = call(function, arguments, path, "model")
    if isinstance(found, linen_api.Module):
        return linen(found, head=head)
    if _is_nnx(type(found)):
        raise ConfigError(
            f"{what}: {path} returns an NNX module that is made already; name its class, or return "
            "lj.networks.nnx(lambda rngs: ...)"
        )
    if not hasattr(found, "apply_train"):
        raise ConfigError(
            f"{what}: {path} gives {type(found).__name__}, not a Linen or NNX module or a Network"
        )
    network: Network = found
    return network


def _is_nnx(kind: Any) -> bool:
    api = sys.modules.get("flax.nnx")  # whoever has such a class has imported it
    return api is not None and issubclass(kind, api.Module)


def _parameters(function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        # The metaclass of NNX modules hides their parameters.
        called: Any = function.__init__ if inspect.isclass(function) else function
        return inspect.signature(called).parameters
    except (TypeError, ValueError):
        return {}
