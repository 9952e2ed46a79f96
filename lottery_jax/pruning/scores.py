"""Scores: how important each weight is. Pure functions from arrays to a score pytree.

A score tree has the structure of the params; `masks.prune` ranks its kernels, larger is more
important. A weight that is already pruned is to be given as 0.0. Nothing here changes BatchNorm's
running statistics, or any array it is given.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lottery_jax.models.xla_options import compiler_options
from lottery_jax.pruning import masks

PyTree = Any


def magnitude(params: PyTree) -> PyTree:
    """|w| of every weight, as iterative magnitude pruning ranks them (Frankle & Carbin 2019).

    The values are compared as they are: no normalisation by layer.
    """
    return jax.tree.map(abs, params)


def snip(
    model: nn.Module,
    params: PyTree,
    batch_stats: PyTree,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
) -> PyTree:
    """|gradient x weight|: connection sensitivity (SNIP; Lee, Ajanthan & Torr, ICLR 2019).

    The gradient is that of the cross-entropy, averaged over the batches before the absolute value
    is taken. The paper divides by the sum of all scores, which changes no ranking.

    Args:
        model: the network.
        params: float32, the very weights that will be trained.
        batch_stats: BatchNorm's statistics; read by nothing, as BatchNorm normalises by the batch.
        images: float32 `[batches, batch, height, width, channels]`, normalised.
        labels: int32 `[batches, batch]`.
        key: typed PRNG key, for dropout.
    """
    batches = _batches(images, labels, key)
    grads = _mean(_compiled(_gradient)(model, 1.0, params, batch_stats, *b) for b in batches)
    return jax.tree.map(lambda g, p: jnp.abs(g * p), grads, params)


def grasp(
    model: nn.Module,
    params: PyTree,
    mask: PyTree,
    batch_stats: PyTree,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    temperature: float = 200.0,
) -> PyTree:
    """Weight x (Hessian x gradient): gradient signal (GraSP; Wang, Zhang & Grosse, ICLR 2020).

    A large score is a weight whose removal would lower the squared norm of the gradient most; the
    paper's equation 8 has the opposite sign and keeps the lowest. Gradient and Hessian are those
    of the kernels that `mask` keeps, averaged over the batches.

    Args:
        model: the network.
        params: float32, the very weights that will be trained.
        mask: bool, like params.
        batch_stats: as for `snip`.
        images: float32 `[batches, batch, height, width, channels]`, normalised.
        labels: int32 `[batches, batch]`.
        key: typed PRNG key, for dropout.
        temperature: by which logits are divided; 200 in the authors' code.
    """
    batches = _batches(images, labels, key)
    gradient, product = _compiled(_gradient), _compiled(_hessian_product)
    fixed = model, temperature, params, batch_stats
    # Only kernels that are left count: the norm is theirs, and so is the direction.
    considered = masks.with_kernels(jax.tree.map(np.zeros_like, mask), masks.kernels(mask))
    direction = masks.apply(considered, _mean(gradient(*fixed, *b) for b in batches))
    products = _mean(product(*fixed, direction, *b) for b in batches)
    return jax.tree.map(jnp.multiply, params, products)


def synflow(
    model: nn.Module, params: PyTree, batch_stats: PyTree, input_shape: tuple[int, ...]
) -> PyTree:
    """|w| x dR/d|w|, R the summed output for ones as input (SynFlow; Tanaka et al., NeurIPS 2020).

    The network is evaluated with the absolute values of its weights and statistics, BatchNorm as
    in evaluation: no data is needed. Meant to be used in many rounds (the paper: 100), in which
    the density falls exponentially. R can exceed float32's range in deep networks, so this is
    computed in float64, on the CPU.

    Args:
        model: the network.
        params: float32, the weights that are left; pruned ones are 0.0.
        batch_stats: BatchNorm's statistics.
        input_shape: (height, width, channels).

    Returns:
        NumPy float64 arrays with the structure of params.
    """
    wide = model.clone(dtype=jnp.float64)
    weights, stats = (
        jax.tree.map(lambda a: np.abs(np.asarray(a, np.float64)), tree)
        for tree in (params, batch_stats)
    )
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        flow = _flow_gradient(wide, weights, stats, np.ones((1, *input_shape)))
        return jax.tree.map(lambda w, g: w * np.asarray(g), weights, flow)


def random(params: PyTree, key: jax.Array) -> PyTree:
    """Uniform on [0, 1), whatever the weights are: random pruning.

    >>> scores = random({"a": {"kernel": np.zeros((2, 3))}}, jax.random.key(0))
    >>> scores["a"]["kernel"].shape
    (2, 3)
    """
    rng = _host_rng(key)
    return jax.tree.map(lambda p: rng.random(np.shape(p)), params)


def erk(params: PyTree, key: jax.Array) -> PyTree:
    """Random within layers, whose densities follow the Erdős-Rényi-kernel rule (Evci et al. 2020).

    A layer's density is proportional to r = (kernel height + width + in + out) / (their product),
    without height and width for a dense layer, and at most 1. A weight at the place u in (0, 1) of
    a random order of its layer scores r / u. Ranked over all layers together the weights above
    some 1 / e are then a share min(1, e r) of each layer, and e is whatever gives the count asked
    for: the rule, with its cap, at every sparsity. It needs global ranking.
    """
    rng = _host_rng(key)

    def score(kernel: Any) -> np.ndarray[Any, Any]:
        size, shape = np.size(kernel), np.shape(kernel)
        places = (rng.permutation(size) + 0.5) / size
        return (sum(shape) / size / places).reshape(shape)

    return masks.with_kernels(params, {n: score(k) for n, k in masks.kernels(params).items()})


class ScoreInputs(NamedTuple):
    """What a score may look at.

    Attributes:
        model: the network, computing in float32.
        params: float32, 0.0 where `mask` is False.
        mask: bool, like params.
        batch_stats: BatchNorm's statistics.
        initial: the parameters of step 0, unmasked.
        images: float32 `[batches, batch, height, width, channels]`, normalised, not augmented.
        labels: int32 `[batches, batch]`.
        key: typed PRNG key.
    """

    model: nn.Module
    params: PyTree
    mask: PyTree
    batch_stats: PyTree
    initial: PyTree
    images: jax.Array
    labels: jax.Array
    key: jax.Array


SCORES: dict[str, Callable[[ScoreInputs], PyTree]] = {
    "magnitude": lambda s: magnitude(s.params),
    "magnitude_at_init": lambda s: magnitude(s.initial),
    "snip": lambda s: snip(s.model, s.params, s.batch_stats, s.images, s.labels, s.key),
    "grasp": lambda s: grasp(s.model, s.params, s.mask, s.batch_stats, s.images, s.labels, s.key),
    "synflow": lambda s: synflow(s.model, s.params, s.batch_stats, s.images.shape[2:]),
    "random": lambda s: random(s.params, s.key),
    "erk": lambda s: erk(s.params, s.key),
}
# In how many rounds a score reaches a sparsity by itself, where not in one.
OWN_ROUNDS = {"synflow": 100}
# Scores that set the densities of the layers and so must be ranked over all of them together.
GLOBAL_ONLY = {"erk"}


def _host_rng(key: jax.Array) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


Batch = tuple[jax.Array, jax.Array, jax.Array]


def _batches(images: jax.Array, labels: jax.Array, key: jax.Array) -> list[Batch]:
    """The images, the labels and the key of each batch."""
    return list(zip(images, labels, jax.random.split(key, len(labels)), strict=True))


def _mean(trees: Iterable[PyTree]) -> PyTree:
    """Leaf by leaf. A loop of the host's: XLA's CPU backend has slow convolutions in its own."""
    total, count = None, 0
    for tree in trees:
        total = tree if total is None else jax.tree.map(jnp.add, total, tree)
        count += 1
    return jax.tree.map(lambda leaf: leaf / count, total)


def _gradient(
    model: nn.Module,
    temperature: float,
    params: PyTree,
    batch_stats: PyTree,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
) -> PyTree:
    """The gradient of a batch's cross-entropy."""

    def loss(params: PyTree) -> jax.Array:
        # In training mode BatchNorm normalises by the batch; what it makes of its running
        # statistics is dropped.
        logits, _ = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        logits = logits.astype(jnp.float32) / temperature
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return jax.grad(loss)(params)


def _hessian_product(
    model: nn.Module,
    temperature: float,
    params: PyTree,
    batch_stats: PyTree,
    direction: PyTree,
    *batch: jax.Array,
) -> PyTree:
    """The Hessian of a batch's cross-entropy times `direction`."""

    def gradient(params: PyTree) -> PyTree:
        return _gradient(model, temperature, params, batch_stats, *batch)

    return jax.jvp(gradient, (params,), (direction,))[1]


@functools.cache
def _compiled(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    options = compiler_options(jax.default_backend())
    return jax.jit(function, static_argnums=(0, 1), compiler_options=options)


@functools.partial(jax.jit, static_argnums=0)
def _flow_gradient(model: nn.Module, params: PyTree, batch_stats: PyTree, ones: Any) -> PyTree:
    def flow(params: PyTree) -> jax.Array:
        outputs: Any = model.apply(
            {"params": params, "batch_stats": batch_stats}, ones, train=False
        )
        return outputs.sum()

    return jax.grad(flow)(params)
