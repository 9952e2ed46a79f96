"""Scores: how important each weight is. Pure functions from arrays to a tree of scores.

A tree of scores has the structure of the params; `masks.prune` ranks its prunable leaves, and a
weight with a larger score is more important. Weights that are already pruned must be 0.0 in
`params`. No function here changes an array that it is given. Leaves that are no arrays of numbers,
such as the functions in an Equinox module, are in the tree of scores as they are.

Scores that look at data take a *loss*, any pure function `(params, batch) -> scalar` that JAX can
differentiate, and any number of *batches*, pytrees of arrays. The loss's gradient is compiled
once for all equal losses and shapes: make a loss once, and put into the batches whatever differs.
Products of float32 numbers keep all their bits, also on accelerators that round them by default.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lottery_jax import leaves
from lottery_jax.pruning import masks
from lottery_jax.pruning.split import OfWeights, Split
from lottery_jax.types import PyTree

Loss = Callable[[PyTree, PyTree], jax.Array]  # (params, batch) -> scalar


def magnitude(params: PyTree) -> PyTree:
    """Return |w| of every weight (iterative magnitude pruning; Frankle & Carbin, ICLR 2019).

    Values are compared as they are, without normalisation by layer.
    """
    return leaves.map_arrays(abs, params)


def snip(
    loss: Loss,
    params: PyTree,
    batches: Iterable[PyTree],
    *,
    compiler_options: Mapping[str, str | bool] | None = None,
) -> PyTree:
    """Return |gradient x weight|, connection sensitivity (SNIP; Lee, Ajanthan & Torr, ICLR 2019).

    The gradient of the loss is averaged over the batches before the absolute value is taken. The
    paper divides by the sum of all scores, which changes no ranking.

    Args:
        loss: from (params, batch) to the mean loss of the batch.
        params: float32, the very weights that will be trained.
        batches: one or more.
        compiler_options: of `jax.jit`.

    >>> def loss(params, batch):
    ...     return ((batch["x"] @ params["kernel"] - batch["y"]) ** 2).mean()
    >>> batch = {"x": np.eye(2, dtype=np.float32), "y": np.float32([[1.0], [4.0]])}
    >>> snip(loss, {"kernel": np.float32([[3.0], [2.0]])}, [batch])["kernel"].tolist()
    [[6.0], [4.0]]
    """
    gradient = _compiled(_gradient, compiler_options)
    split, weights, others = Split.from_params(params)
    of_weights = OfWeights(loss, split)
    grads = _mean(gradient(of_weights, weights, others, batch) for batch in batches)
    return split.join([jnp.abs(g * p) for g, p in zip(grads, weights, strict=True)], others)


def grasp(
    loss: Loss,
    params: PyTree,
    mask: PyTree,
    batches: Iterable[PyTree],
    *,
    prunable: masks.Prunable = masks.is_kernel,
    compiler_options: Mapping[str, str | bool] | None = None,
) -> PyTree:
    """Return weight x (Hessian x gradient) (GraSP; Wang, Zhang & Grosse, ICLR 2020).

    A large score is a weight whose removal would lower the squared norm of the gradient most; the
    paper's equation 8 has the opposite sign and keeps the lowest. Gradient and Hessian are those
    of the prunable weights that `mask` keeps, averaged over the batches.

    Args:
        loss: from (params, batch) to the mean loss of the batch; the authors divide the logits by
            a temperature of 200 (`GRASP_TEMPERATURE`).
        params: float32, the very weights that will be trained.
        mask: bool, like params.
        batches: one or more.
        prunable: as in `masks.kernels`.
        compiler_options: of `jax.jit`.
    """
    batches = list(batches)
    gradient = _compiled(_gradient, compiler_options)
    product = _compiled(_hessian_product, compiler_options)
    split, weights, others = Split.from_params(params)
    of_weights = OfWeights(loss, split)
    kernels = masks.kernels(mask, prunable=prunable)
    nothing = leaves.map_arrays(np.zeros_like, mask)
    considered = split.weights(masks.with_kernels(nothing, kernels, prunable=prunable))
    grads = _mean(gradient(of_weights, weights, others, batch) for batch in batches)
    direction = masks.apply(considered, grads)
    products = _mean(product(of_weights, weights, direction, others, batch) for batch in batches)
    return split.join(jax.tree.map(jnp.multiply, weights, products), others)


GRASP_TEMPERATURE = 200.0


def synflow(summed_output: Callable[..., jax.Array], params: PyTree, *arguments: PyTree) -> PyTree:
    """Return |w| x dR/d|w|, R the summed output of the network (SynFlow; Tanaka et al., NeurIPS 2020).

    R is computed with the absolute values of all weights and statistics, for an input of ones and
    in evaluation mode: no data is needed. Meant to be used in many rounds (the paper: 100), in
    which the density falls exponentially. R can exceed float32's range in deep networks, so
    everything is float64 here, on the CPU.

    Args:
        summed_output: the function `(params, *arguments) -> R`, in float64. Equal functions share
            a compiled program.
        params: float32, the weights that are left; pruned ones are 0.0.
        arguments: arrays that it needs besides, such as BatchNorm's statistics and the input.

    Returns:
        NumPy float64 arrays with the structure of params.
    """
    split, weights, others = Split.from_params(params)
    weights, arguments = jax.tree.map(
        lambda a: np.abs(np.asarray(a, np.float64)), (weights, arguments)
    )
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        flow = _flow_gradient(OfWeights(summed_output, split), weights, others, *arguments)
        return split.join([w * np.asarray(g) for w, g in zip(weights, flow, strict=True)], others)


def random(params: PyTree, key: jax.Array) -> PyTree:
    """Return numbers uniform on [0, 1), whatever the weights are: random pruning.

    >>> scores = random({"a": {"kernel": np.zeros((2, 3))}}, jax.random.key(0))
    >>> scores["a"]["kernel"].shape
    (2, 3)
    """
    rng = masks.host_rng(key)
    return leaves.map_arrays(lambda p: rng.random(p.shape), params)


def erk(params: PyTree, key: jax.Array, *, prunable: masks.Prunable = masks.is_kernel) -> PyTree:
    """Return random scores that give layers Erdős-Rényi-kernel densities (Evci et al., ICML 2020).

    A layer's density is to be min(1, e r) with one e for all layers and
    r = (kernel height + width + in + out) / (their product), without height and width for a dense
    layer. So each weight scores r / u, where u in (0, 1) is its position in a random order of its
    layer: if all layers are ranked together and the best are kept, the threshold is 1 / e, and each
    layer has its density, whatever number is kept. Ranking must be global.

    Args:
        params: for their shapes.
        key: typed PRNG key.
        prunable: as in `masks.kernels`.
    """
    rng = masks.host_rng(key)

    def score(kernel: Any) -> np.ndarray[Any, Any]:
        size, shape = np.size(kernel), np.shape(kernel)
        places = (rng.permutation(size) + 0.5) / size
        return (sum(shape) / size / places).reshape(shape)

    kernels = masks.kernels(params, prunable=prunable)
    new = {name: score(kernel) for name, kernel in kernels.items()}
    return masks.with_kernels(params, new, prunable=prunable)


class ScoreBatch(NamedTuple):
    """A batch for the losses of `ScoreInputs`.

    Attributes:
        batch_stats: BatchNorm's statistics.
        images: inputs, `[batch, ...]`; pixels are normalised, float32.
        labels: targets, `[batch, ...]`; int32 `[batch]` for classes.
        key: typed PRNG key, for dropout.
    """

    batch_stats: PyTree
    images: jax.Array
    labels: jax.Array
    key: jax.Array


class ScoreInputs(NamedTuple):
    """Everything that an entry of `SCORES` may use.

    Attributes:
        loss: `loss(T)` is the function `(params, ScoreBatch) -> scalar`; outputs that are logits are
            divided by T.
        summed_output: the function `(params, batch_stats, inputs) -> R` of `synflow`.
        params: float32, 0.0 where `mask` is False.
        mask: bool, like params.
        batch_stats: BatchNorm's statistics.
        initial: the parameters of step 0, unmasked.
        input_shape: of one example.
        sample: returns inputs, `[batches, batch, ...]`, normalised, not augmented, and targets,
            `[batches, batch, ...]`; the same ones at each call. Nothing is
            read before the first call, so scores that need no data read none.
        key: typed PRNG key.
        compiler_options: of `jax.jit`, for programs that have a whole network in them.
    """

    loss: Callable[[float], Loss]
    summed_output: Callable[..., jax.Array]
    params: PyTree
    mask: PyTree
    batch_stats: PyTree
    initial: PyTree
    input_shape: tuple[int, ...]
    sample: Callable[[], tuple[Any, Any]]
    key: jax.Array
    compiler_options: Mapping[str, str | bool]

    def batches(self) -> list[ScoreBatch]:
        """Return the batches of `sample`, each with a key of its own."""
        images, labels = self.sample()
        keys = jax.random.split(self.key, len(labels))
        rows = zip(images, labels, keys, strict=True)
        return [ScoreBatch(self.batch_stats, *row) for row in rows]


def _snip(s: ScoreInputs) -> PyTree:
    return snip(s.loss(1.0), s.params, s.batches(), compiler_options=s.compiler_options)


def _grasp(s: ScoreInputs) -> PyTree:
    loss, options = s.loss(GRASP_TEMPERATURE), s.compiler_options
    return grasp(loss, s.params, s.mask, s.batches(), compiler_options=options)


def _synflow(s: ScoreInputs) -> PyTree:
    ones = np.ones((1, *s.input_shape))
    return synflow(s.summed_output, s.params, s.batch_stats, ones)


Score = Callable[[ScoreInputs], PyTree]
SCORES: dict[str, Score] = {
    "magnitude": lambda s: magnitude(s.params),
    "magnitude_at_init": lambda s: magnitude(s.initial),
    "snip": _snip,
    "grasp": _grasp,
    "synflow": _synflow,
    "random": lambda s: random(s.params, s.key),
    "erk": lambda s: erk(s.params, s.key),
}
# Default rounds of scores that need more than one.
OWN_ROUNDS = {"synflow": 100}
# Scores that set the densities of the layers and so must be ranked over all of them together.
GLOBAL_ONLY = {"erk"}
# Scores that call `ScoreInputs.sample`.
USES_DATA = {"snip", "grasp"}


def register_score(
    name: str, score: Score, *, uses_data: bool = True, rounds: int = 1, global_only: bool = False
) -> None:
    """Make a score available as `config.ladder.scores = name`.

    The name is known in this process only: register it before `run_ladder`, and in the script
    itself if other processes (workers of a sweep, several hosts) run it. A run that is resumed
    must find the same function under the name, since only the name is recorded.

    Args:
        name: a new name.
        score: from `ScoreInputs` to a tree like its `params`; larger is more important.
        uses_data: whether it calls `ScoreInputs.sample` or `batches`; a run then checks that there
            are enough images.
        rounds: the rounds in which a level is pruned if the config does not say.
        global_only: whether it sets the density of each layer itself, so that the scope must be
            `global`.

    Raises:
        ValueError: the name is in use.

    >>> register_score(
    ...     "movement",  # how far each weight has come since step 0
    ...     lambda s: jax.tree.map(lambda now, first: abs(now - first), s.params, s.initial),
    ...     uses_data=False,
    ... )
    >>> register_score("snip", lambda s: s.params)
    Traceback (most recent call last):
    ValueError: there is a score named 'snip' already; choose another name
    >>> del SCORES["movement"]
    """
    if name in SCORES:
        raise ValueError(f"there is a score named {name!r} already; choose another name")
    SCORES[name] = score
    if rounds > 1:
        OWN_ROUNDS[name] = rounds
    USES_DATA.update({name} if uses_data else ())
    GLOBAL_ONLY.update({name} if global_only else ())


def _mean(trees: Iterable[PyTree]) -> PyTree:
    """Return the mean of trees, leaf by leaf.

    This is a loop on the host, since XLA's CPU backend has slow convolutions in loops of its own.
    """
    total, count = None, 0
    for tree in trees:
        total = tree if total is None else jax.tree.map(jnp.add, total, tree)
        count += 1
    if not count:
        raise ValueError("batches: there is none; give one or more, and a generator only once")
    return jax.tree.map(lambda leaf: leaf / count, total)


def _gradient(loss: OfWeights, weights: PyTree, *inputs: PyTree) -> PyTree:
    # Accelerators multiply float32 numbers with fewer bits unless asked; that reordered 1 to 4 % of
    # the weights that SNIP keeps on an H200. Scores are computed once, so they can be exact.
    with jax.default_matmul_precision("highest"):
        return jax.grad(loss)(weights, *inputs)


def _hessian_product(
    loss: OfWeights, weights: PyTree, direction: PyTree, *inputs: PyTree
) -> PyTree:
    """Return the Hessian of a batch's loss times `direction`."""

    def gradient(weights: PyTree) -> PyTree:
        return jax.grad(loss)(weights, *inputs)

    with jax.default_matmul_precision("highest"):
        return jax.jvp(gradient, (weights,), (direction,))[1]


def _compiled(
    function: Callable[..., PyTree], options: Mapping[str, str | bool] | None
) -> Callable[..., PyTree]:
    """Return `function` jitted, the loss static; the same one for the same options."""
    return _jitted(function, tuple((options or {}).items()))


@functools.cache
def _jitted(
    function: Callable[..., PyTree], options: tuple[tuple[str, str | bool], ...]
) -> Callable[..., PyTree]:
    return jax.jit(function, static_argnums=0, compiler_options=dict(options))


@functools.partial(jax.jit, static_argnums=0)
def _flow_gradient(summed_output: OfWeights, weights: PyTree, *arguments: PyTree) -> PyTree:
    return jax.grad(summed_output)(weights, *arguments)
