"""NNX modules as a `Network`: the object is made anew within each traced function."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lottery_jax import leaves
from lottery_jax.models.network import mask_as_variables
from lottery_jax.models.wiring import Wiring, chain
from lottery_jax.system import settings
from lottery_jax.types import PyTree

# What is neither trained nor random: BatchNorm's statistics, and variables of one's own.
_STATISTICS = nnx.All(nnx.Not(nnx.Param), nnx.Not(nnx.RngState))


@dataclasses.dataclass(frozen=True)
class NNXNetwork:
    """An NNX module as a `Network`.

    An NNX module is an object with its weights in it, and a `Network` has none. So `make` is called
    whenever a function is traced, and the weights of the run take the place of those that it
    draws, which XLA then leaves out. The variables are plain dicts; numbers of a list are text.

    Attributes:
        make: from random keys to a module. Networks with the same function are equal.
        input_shape: of one example.
        input_dtype: of its numbers.
        head: the path of the output layer in the params; empty: the last one that is called.
    """

    make: Callable[[nnx.Rngs], nnx.Module]
    input_shape: tuple[int, ...] = ()
    input_dtype: str = "float32"
    head: str = ""

    @property
    def output_layer(self) -> str:
        """The path of the layer that gives the outputs."""
        return self.head or self.layer_names()[-1]

    def init(self, key: jax.Array) -> PyTree:
        """Return fresh variables."""
        params_key, dropout_key = jax.random.split(key)
        return self._variables(self.make(nnx.Rngs(params=params_key, default=dropout_key)))

    @staticmethod
    def _variables(module: nnx.Module) -> PyTree:
        params, stats = nnx.state(module, nnx.Param), nnx.state(module, _STATISTICS)
        return {"params": _with_text(params), "batch_stats": _with_text(stats)}

    @settings.fixed()
    def abstract_variables(self) -> PyTree:
        """Return the shapes and dtypes of `init`."""
        return jax.eval_shape(lambda: self.init(jax.random.key(0)))

    @settings.fixed()
    def layer_names(self) -> list[str]:
        """Return the names of the layers with prunable weights, in the order in which they are called.

        Raises:
            ValueError: the network does not take examples of `input_shape`.
        """
        return self._called(self._layers_of)

    @settings.fixed()
    def module_names(self) -> list[str]:
        """Return the names of the modules that have parameters, in the order of calls."""
        return self._called(_with_params)

    @settings.fixed()
    def module_classes(self) -> dict[str, type]:
        """Return the class of each module, by its path."""
        found: dict[str, type] = {}

        def note() -> None:
            module = self.make(nnx.Rngs(jax.random.key(0)))
            found.update(
                {"/".join(map(str, path)): type(node) for path, node in nnx.iter_modules(module)}
            )

        jax.eval_shape(note)
        return found

    def _called(self, modules_of: Callable[[nnx.Module], dict[str, nnx.Module]]) -> list[str]:
        """Return the names of these modules in the order in which they are called."""
        order: list[str] = []

        def note(name: str, x: jax.Array, y: jax.Array) -> jax.Array:
            order.append(name)
            return y

        def record() -> None:
            module = self.make(nnx.Rngs(jax.random.key(0)))
            module.eval()
            example: Any = jnp.zeros((1, *self.input_shape), self.input_dtype)
            with _around_layers(modules_of(module), note):
                module(example)

        try:
            jax.eval_shape(record)
        except TypeError as error:
            raise ValueError(str(error)) from error
        return list(dict.fromkeys(order))

    @settings.fixed()
    def wiring(self) -> Wiring:
        """Return what the module's method `wiring` says; without one, that of a chain of layers."""
        found: list[Wiring] = []

        def ask() -> None:
            if declared := getattr(self.make(nnx.Rngs(jax.random.key(0))), "wiring", None):
                found.append(declared())

        jax.eval_shape(ask)
        if found:
            return found[0]
        kernels = set(self.layer_names())
        return chain((name, name in kernels) for name in self._called(_with_params))

    def _layers_of(self, module: nnx.Module) -> dict[str, nnx.Module]:
        """Return the modules that have a prunable weight of their own, by the name of the layer."""
        found = {}
        for path, node in nnx.iter_modules(module):
            prefix = "".join(f"{key}/" for key in path)
            for name, value in vars(node).items():
                if isinstance(value, nnx.Param) and self.is_prunable(f"{prefix}{name}", value[...]):
                    found[leaves.layer_of(f"{prefix}{name}")] = node
        return found

    def is_prunable(self, path: str, leaf: Any) -> bool:
        """Return whether the leaf is a kernel."""
        return leaves.is_kernel(path, leaf)

    def apply_train(
        self, params: PyTree, batch_stats: PyTree, inputs: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        """Return the outputs in training mode, and the updated statistics."""
        module = self._with(params, batch_stats, key)
        module.train()
        outputs = module(inputs)
        return outputs, self._variables(module)["batch_stats"]

    def apply_eval(
        self,
        params: PyTree,
        batch_stats: PyTree,
        inputs: jax.Array,
        *,
        after_layer: Callable[[jax.Array], jax.Array] | None = None,
    ) -> jax.Array:
        """Return the outputs in evaluation mode."""
        module: Any = self._with(params, batch_stats, jax.random.key(0))
        module.eval()
        if after_layer is None:
            outputs: jax.Array = module(inputs)
            return outputs
        with _around_layers(self._layers_of(module), lambda name, x, y: after_layer(y)):
            outputs = module(inputs)
        return outputs

    def layer_inputs(
        self, params: PyTree, batch_stats: PyTree, inputs: jax.Array
    ) -> dict[str, jax.Array]:
        """Return what each layer with a kernel reads in evaluation mode."""
        module: Any = self._with(params, batch_stats, jax.random.key(0))
        module.eval()
        read: dict[str, jax.Array] = {}

        def note(name: str, x: jax.Array, y: jax.Array) -> jax.Array:
            read[name] = x
            return y

        with _around_layers(self._layers_of(module), note):
            module(inputs)
        return read

    def _with(self, params: PyTree, batch_stats: PyTree, key: jax.Array) -> nnx.Module:
        module = self.make(nnx.Rngs(key))
        for tree, kind in ((params, nnx.Param), (batch_stats, _STATISTICS)):
            state = nnx.state(module, kind)
            nnx.replace_by_pure_dict(state, _like(nnx.to_pure_dict(state), tree))
            nnx.update(module, state)
        return module

    def with_dtype(self, dtype: Any) -> NNXNetwork:
        """Return the network itself: an NNX module computes in the dtype that it was made with."""
        return self

    def mask_as_variables(self, mask: PyTree) -> PyTree:
        """Return variables with which a signal passes exactly where `mask` lets it."""
        return mask_as_variables(self, mask)


def _with_text(state: Any) -> PyTree:
    """Return a state as plain dicts whose keys are text, as a ticket holds them."""

    def convert(tree: Mapping[Any, Any]) -> dict[str, Any]:
        return {str(k): convert(v) if isinstance(v, dict) else v for k, v in tree.items()}

    return convert(nnx.to_pure_dict(state))


def _like(template: Mapping[Any, Any], tree: Mapping[str, Any]) -> dict[Any, Any]:
    """Return `tree` with the keys of `template`, some of which are numbers."""
    return {
        key: _like(value, tree[str(key)]) if isinstance(value, dict) else tree[str(key)]
        for key, value in template.items()
    }


def _with_params(module: nnx.Module) -> dict[str, nnx.Module]:
    """Return the modules that have a parameter of their own, by their paths."""
    return {
        "/".join(map(str, path)): node
        for path, node in nnx.iter_modules(module)
        if any(isinstance(value, nnx.Param) for value in vars(node).values())
    }


_hooks: list[dict[int, Callable[[jax.Array, jax.Array], jax.Array]]] = []


@contextlib.contextmanager
def _around_layers(
    layers: Mapping[str, nnx.Module], function: Callable[[str, jax.Array, jax.Array], jax.Array]
) -> Iterator[None]:
    """Replace the output of each of these modules by `function(name, input, output)`.

    NNX has nothing to intercept calls with. So the modules, which the caller throws away, become
    objects of a subclass.
    """
    for module in layers.values():
        object.__setattr__(module, "__class__", _hooked(type(module)))
    _hooks.append({id(m): functools.partial(function, name) for name, m in layers.items()})
    try:
        yield
    finally:
        _hooks.pop()


@functools.cache
def _hooked(kind: Any) -> Any:
    """Return a subclass whose objects apply the hooks of `_around_layers`."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        read = (*args, *kwargs.values())[0]
        return _hooks[-1][id(self)](read, kind.__call__(self, *args, **kwargs))

    return type(kind.__name__, (kind,), {"__call__": call})
