"""The interface through which the package uses a network, and its implementation for Linen modules.

Training, evaluation and connectivity call a `Network` and nothing else of Flax. Names of Linen's
collections and the default output layer are here.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_map_with_path

from lottery_jax import leaves
from lottery_jax.models.wiring import Wiring, chain
from lottery_jax.system import settings
from lottery_jax.types import PyTree

# The output layer of every network of this package.
HEAD = "head"
# The arguments by which Linen modules are told whether they train, and the value that says so.
_MODES = {"train": True, "training": True, "is_training": True, "deterministic": False}


class Network(Protocol):
    """A network as the rest of the package sees it.

    A network is immutable and holds no arrays. It is a static argument of compiled functions, so
    it must be hashable, and networks that are equal share compiled programs.

    *Variables* are a dict of two trees: `params`, which are trained, and `batch_stats`, statistics
    of the data that training updates without a gradient; empty if there are none.
    """

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example, `(height, width, channels)`."""

    @property
    def input_dtype(self) -> str:
        """The dtype of an example: `float32`, or `int32` for tokens."""

    @property
    def output_layer(self) -> str:
        """The path in the params of the layer that gives the outputs, such as `head`."""

    def init(self, key: jax.Array) -> PyTree:
        """Return fresh variables; `key` is a typed PRNG key."""

    def abstract_variables(self) -> PyTree:
        """Return the shapes and dtypes of `init`, a tree of `ShapeDtypeStruct`, at no cost."""

    def layer_names(self) -> list[str]:
        """Return the names of the layers with prunable weights, from the input to the output.

        Raises:
            ValueError: the network does not take examples of `input_shape`.
        """

    def is_prunable(self, path: str, leaf: Any) -> bool:
        """Return whether a leaf of the params, or of a tree like them, may be pruned.

        Args:
            path: the keys that lead to the leaf, such as `block1_1/conv1/kernel`.
            leaf: an array of its shape.
        """

    def apply_train(
        self, params: PyTree, batch_stats: PyTree, inputs: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        """Return the outputs in training mode, and the updated statistics.

        Args:
            params: the weights.
            batch_stats: the statistics before this batch.
            inputs: float `[batch, height, width, channels]`.
            key: typed PRNG key, for dropout.
        """

    def apply_eval(
        self,
        params: PyTree,
        batch_stats: PyTree,
        inputs: jax.Array,
        *,
        after_layer: Callable[[jax.Array], jax.Array] | None = None,
    ) -> jax.Array:
        """Return the outputs in evaluation mode.

        Args:
            params: the weights.
            batch_stats: the statistics.
            inputs: float `[batch, height, width, channels]`.
            after_layer: applied to the output of each layer with prunable weights.
        """

    def with_dtype(self, dtype: Any) -> Network:
        """Return the network that computes in another dtype; its variables stay the same."""

    def mask_as_variables(self, mask: PyTree) -> PyTree:
        """Return variables with which a signal passes exactly where `mask` lets it.

        Prunable leaves are 1.0 where `mask` is True and 0.0 elsewhere, normalisations are the
        identity, and biases are zero.
        """


class WiredNetwork(Network, Protocol):
    """A `Network` whose hidden units can be matched with those of another of its kind."""

    def wiring(self) -> Wiring:
        """Return the wiring that the module declares, or else that of a chain of its layers."""

    def layer_inputs(
        self, params: PyTree, batch_stats: PyTree, inputs: jax.Array
    ) -> dict[str, jax.Array]:
        """Return what each layer with prunable weights reads in evaluation mode, by its name.

        Args:
            params: the weights.
            batch_stats: the statistics.
            inputs: `[batch, ...]`, as `apply_eval` takes them.
        """


@dataclasses.dataclass(frozen=True)
class LinenNetwork:
    """A Linen module as a `Network`.

    The module is called with the inputs and, if it takes one of them, `train`, `training`,
    `is_training` or `deterministic`. Its prunable leaves are those named `kernel`. Connectivity
    expects its normalisations to name their parameters `scale` and `bias` and their statistics
    `mean` and `var`, as Linen's BatchNorm does.

    Attributes:
        module: may use the collections `params` and `batch_stats`, and a `dropout` key. If it has
            a field `dtype`, `with_dtype` sets it.
        input_shape: of one example; `()` if nothing but `apply_train` and `apply_eval` is called.
        input_dtype: of the numbers of an example.
        head: the path of the output layer in the params; empty: `head`, or else the last layer that
            is called.
    """

    module: nn.Module
    input_shape: tuple[int, ...] = ()
    input_dtype: str = "float32"
    head: str = ""

    @property
    def output_layer(self) -> str:
        """The path of the layer that gives the outputs."""
        return self.head or _last_layer(self)

    def _mode(self, *, train: bool) -> dict[str, Any]:
        """Return the argument that tells the module whether it trains; none if it takes none."""
        parameters = inspect.signature(type(self.module).__call__).parameters
        return {name: on == train for name, on in _MODES.items() if name in parameters}

    def init(self, key: jax.Array) -> PyTree:
        """Return fresh variables."""
        example = jnp.zeros((1, *self.input_shape), self.input_dtype)
        variables = self.module.init(key, example, **self._mode(train=False))
        return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}

    @settings.fixed()
    def abstract_variables(self) -> PyTree:
        """Return the shapes and dtypes of `init`."""
        # The key is made within, so that no device is needed.
        return jax.eval_shape(lambda: self.init(jax.random.key(0)))

    @settings.fixed()
    def layer_names(self) -> list[str]:
        """Return the names of the layers that have a kernel, from the input to the output."""
        order = [path for path, leaf in self._called_leaves() if self.is_prunable(path, leaf)]
        names = leaves.layers_by_path(self.abstract_variables()["params"], self.is_prunable)
        if sorted(order) != sorted(names):
            raise RuntimeError(
                "the layers of the initialisation differ from those of the parameters"
            )
        return [names[path] for path in order]

    @settings.fixed()
    def module_names(self) -> list[str]:
        """Return the names of the modules that have parameters, in the order of calls."""
        return list(self._called_modules())

    def _called_modules(self) -> dict[str, bool]:
        """Return whether each module that has parameters has a kernel, in the order of calls."""
        found: dict[str, bool] = {}
        for path, leaf in self._called_leaves():
            module = path.rpartition("/")[0] or path
            found[module] = found.get(module, False) or self.is_prunable(path, leaf)
        return found

    @settings.fixed()
    def module_classes(self) -> dict[str, type]:
        """Return the class of each module that is called, by its path."""
        found: dict[str, type] = {}

        def note(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            found["/".join(context.module.path)] = type(context.module)
            return call(*args, **kwargs)

        with nn.intercept_methods(note):
            self.abstract_variables()
        return found

    def _called_leaves(self) -> list[tuple[str, Any]]:
        """Return the path and the shape of each array of the params, in the order of calls."""
        found: list[tuple[str, Any]] = []

        def record() -> None:
            # Here the dicts still have the order in which the layers were called; a JAX function
            # returns them sorted by name.
            found.extend(_leaves_of(self.init(jax.random.key(0))["params"], ""))

        jax.eval_shape(record)
        return found

    @settings.fixed()
    def wiring(self) -> Wiring:
        """Return what the module's method `wiring` says; without one, that of a chain of layers."""
        if declared := getattr(self.module, "wiring", None):
            return declared()
        return chain(self._called_modules().items())

    def is_prunable(self, path: str, leaf: Any) -> bool:
        """Return whether the leaf is a kernel."""
        return leaves.is_kernel(path, leaf)

    def apply_train(
        self, params: PyTree, batch_stats: PyTree, inputs: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        """Return the outputs in training mode, and the updated statistics."""
        outputs, updated = self.module.apply(
            {"params": params, "batch_stats": batch_stats},
            inputs,
            **self._mode(train=True),
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        return outputs, updated.get("batch_stats", {})

    def apply_eval(
        self,
        params: PyTree,
        batch_stats: PyTree,
        inputs: jax.Array,
        *,
        after_layer: Callable[[jax.Array], jax.Array] | None = None,
    ) -> jax.Array:
        """Return the outputs in evaluation mode."""
        variables = {"params": params, "batch_stats": batch_stats}
        hook = nn.intercept_methods(_after_kernels(after_layer)) if after_layer else nullcontext()
        with hook:
            outputs: Any = self.module.apply(variables, inputs, **self._mode(train=False))
        return outputs

    def layer_inputs(
        self, params: PyTree, batch_stats: PyTree, inputs: jax.Array
    ) -> dict[str, jax.Array]:
        """Return what each layer with a kernel reads in evaluation mode."""
        read: dict[str, jax.Array] = {}

        def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            if _has_kernel(context):
                read["/".join(context.module.path)] = (*args, *kwargs.values())[0]
            return call(*args, **kwargs)

        with nn.intercept_methods(intercept):
            self.apply_eval(params, batch_stats, inputs)
        return read

    def with_dtype(self, dtype: Any) -> LinenNetwork:
        """Return the network that computes in another dtype."""
        if "dtype" not in {field.name for field in dataclasses.fields(self.module)}:
            return self
        return dataclasses.replace(self, module=self.module.clone(dtype=jnp.dtype(dtype)))

    def mask_as_variables(self, mask: PyTree) -> PyTree:
        """Return variables with which a signal passes exactly where `mask` lets it."""
        return mask_as_variables(self, mask)


def mask_as_variables(network: Network, mask: PyTree) -> PyTree:
    """Return `Network.mask_as_variables` of a network whose leaves are named as Flax names them."""

    def weight(path: Any, leaf: Any) -> jax.Array:
        is_factor = network.is_prunable(leaves.path_name(path), leaf)
        return leaf.astype(jnp.float32) * (is_factor or path[-1].key == "scale")

    def statistic(path: Any, leaf: Any) -> jax.Array:
        return jnp.full(leaf.shape, path[-1].key == "var", leaf.dtype)

    stats = network.abstract_variables()["batch_stats"]
    return {
        "params": tree_map_with_path(weight, mask),
        "batch_stats": tree_map_with_path(statistic, stats),
    }


@functools.lru_cache(maxsize=64)
def _last_layer(network: LinenNetwork) -> str:
    """Return `head` if there is a layer of that name, else the layer that is called last."""
    if not network.input_shape:
        return HEAD
    names = network.layer_names()
    return HEAD if HEAD in names or not names else names[-1]


def _after_kernels(function: Callable[[jax.Array], jax.Array]) -> Callable[..., Any]:
    """Return Linen's interceptor that applies `function` to the outputs of modules with a kernel."""

    def intercept(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        y = call(*args, **kwargs)
        return function(y) if _has_kernel(context) else y

    return intercept


def _has_kernel(context: nn.module.InterceptorContext) -> bool:
    """Return whether a call is that of a layer with a kernel of its own."""
    if context.method_name != "__call__":
        return False
    own = context.module.variables.get("params", {})
    return any(np.ndim(nn.unbox(own[name])) > 1 for name in leaves.WEIGHT_NAMES if name in own)


def _leaves_of(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves_of(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def as_network(
    network: Network | nn.Module,
    input_shape: tuple[int, ...] = (),
    input_dtype: str = "float32",
    head: str = "",
) -> Network:
    """Return a Linen module as a `Network`. A `Network` gets the shape if it has none.

    Args:
        network: either. One of ours may have been made before its data were known.
        input_shape: of one example.
        input_dtype: of the numbers of an example.
        head: the path of the output layer; for a module.
    """
    if isinstance(network, nn.Module):
        return LinenNetwork(network, tuple(input_shape), input_dtype, head)
    if input_shape and not network.input_shape:
        ours: Any = network
        return dataclasses.replace(ours, input_shape=tuple(input_shape), input_dtype=input_dtype)
    return network
