"""Optimizers and learning-rate schedules.

The learning rate is kept out of the optimizer: the train step multiplies the transform's output by
the schedule at its own step count. So training from a rewind point can start with fresh optimizer
state and continue the schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax

from lottery_jax.errors import ConfigError, lookup
from lottery_jax.system.imports import call, load_object, parse_options

Optimizer: TypeAlias = optax.GradientTransformation
Schedule = Callable[[jax.Array], jax.Array]  # number of steps taken -> learning rate


def sgd(
    *, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Return SGD with momentum; weight decay is added to the gradient, as PyTorch does."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.trace(momentum, nesterov=nesterov)
    )


def adam(
    *, b1: float = 0.9, b2: float = 0.999, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Return Adam (Kingma & Ba 2015); weight decay is added to the gradient, as PyTorch does."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.scale_by_adam(b1, b2))


def adamw(
    *, b1: float = 0.9, b2: float = 0.999, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Return Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""
    return optax.chain(optax.scale_by_adam(b1, b2), optax.add_decayed_weights(weight_decay))


_ADAM_OPTIONS = ("b1", "b2", "weight_decay")
# name -> (function, the options it takes)
OPTIMIZERS: dict[str, tuple[Callable[..., optax.GradientTransformation], tuple[str, ...]]] = {
    "sgd": (sgd, ("momentum", "nesterov", "weight_decay")),
    "adam": (adam, _ADAM_OPTIONS),
    "adamw": (adamw, _ADAM_OPTIONS),
}


def register_optimizer(
    name: str, make: Callable[..., optax.GradientTransformation], options: Sequence[str] = ()
) -> None:
    """Make an optimizer available as `config.optimizer.name = name`.

    The name is known in this process only: register it before `run_ladder`, and in the script
    itself if other processes (workers of a sweep, several hosts) run it.

    Args:
        name: a new name.
        make: from keyword arguments to a transform from gradients to directions of ascent, without
            a learning rate; see `make_optimizer`.
        options: the keys of `config.optimizer` that `make` takes, such as `weight_decay`.

    Raises:
        ValueError: the name is in use.

    >>> def lion(*, b1, b2):
    ...     return optax.scale_by_lion(b1, b2)
    >>> register_optimizer("lion", lion, ("b1", "b2"))
    >>> optimizer = make_optimizer("lion", b1=0.9, b2=0.99, momentum=0.9)
    >>> del OPTIMIZERS["lion"]
    """
    if name in OPTIMIZERS:
        raise ValueError(f"there is an optimizer named {name!r} already; choose another name")
    OPTIMIZERS[name] = (make, tuple(options))


def make_optimizer(name: str, **options: float | bool) -> optax.GradientTransformation:
    """Return the optimizer `name` without a learning rate; options of other optimizers are ignored.

    Returns:
        A transform from gradients to directions of ascent: the caller subtracts learning rate
        times its output from the parameters.

    Raises:
        ConfigError: the name is unknown.
    """
    function, takes = lookup(OPTIMIZERS, name, "config.optimizer.name")
    return function(**{key: value for key, value in options.items() if key in takes})


def from_import_path(path: str, options: str) -> Optimizer:
    """Return the optimizer that a function makes, with its own learning rate.

    Args:
        path: the function's import path, such as `optax:lion`.
        options: its keyword arguments as JSON.

    Raises:
        ConfigError: there is no such function, or it does not return an optimizer of optax.
    """
    arguments = parse_options(options, "config.optimizer.options")
    found = call(load_object(path, "config.optimizer.name"), arguments, path, "optimizer")
    if not (hasattr(found, "init") and hasattr(found, "update")):
        raise ConfigError(
            f"config.optimizer.name: {path} gives {type(found).__name__}, not an optimizer of optax"
        )
    optimizer: Optimizer = found
    return optimizer


def with_own_rate(optimizer: Optimizer) -> tuple[Optimizer, Schedule]:
    """Return an optimizer that has its own learning rate as the train step takes it, and a rate of 1.

    The train step subtracts rate times output, while the outputs of optax are added.
    """
    return optax.chain(optimizer, optax.scale(-1.0)), lambda step: jnp.ones((), jnp.float32)


def hold_last(schedule: Schedule, end: int) -> Schedule:
    """Return a schedule that from step `end` on keeps the rate of the last step before it.

    >>> rate = hold_last(make_schedule("step", 1.0, steps_per_epoch=1, epochs=4, milestones=(3,)), 4)
    >>> [round(float(rate(jnp.int32(s))), 3) for s in (0, 2, 3, 4, 9)]
    [1.0, 1.0, 0.1, 0.1, 0.1]
    """
    return lambda step: schedule(jnp.minimum(step, end - 1))


# Optax's own schedules are not used, because under `jit` in float32 they round differently: its
# cosine and its linear warm-up differ from these formulas in the last bit at many steps, and its
# step schedule differs from the third drop on. Runs that began with these formulas must end with
# the same weights, to the bit.
def _step_factor(
    steps: jax.Array, *, total: int, milestones: Sequence[int], decay: float
) -> jax.Array:
    drops = sum((steps >= m).astype(jnp.float32) for m in milestones)
    return jnp.float32(decay) ** drops


def _cosine_factor(
    steps: jax.Array, *, total: int, milestones: Sequence[int], decay: float
) -> jax.Array:
    return 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(steps / total, 1.0)))


def _constant_factor(
    steps: jax.Array, *, total: int, milestones: Sequence[int], decay: float
) -> jax.Array:
    return jnp.ones((), jnp.float32)


SCHEDULES: dict[str, Callable[..., jax.Array]] = {
    "step": _step_factor,
    "cosine": _cosine_factor,
    "constant": _constant_factor,
}


def register_schedule(name: str, factor: Callable[..., jax.Array]) -> None:
    """Make a schedule of the learning rate available as `config.optimizer.schedule = name`.

    The name is known in this process only: register it before `run_ladder`, and in the script
    itself if other processes (workers of a sweep, several hosts) run it.

    Args:
        name: a new name.
        factor: `(steps, *, total, milestones, decay) -> factor of the full learning rate`. `steps`
            is an int32 scalar, the number of steps taken; `total` and `milestones` are steps, and
            `decay` is `config.optimizer.decay`. JAX traces it.

    Raises:
        ValueError: the name is in use.

    >>> def linear(steps, *, total, milestones, decay):
    ...     return 1.0 - jnp.minimum(steps / total, 1.0)
    >>> register_schedule("linear", linear)
    >>> rate = make_schedule("linear", 2.0, steps_per_epoch=10, epochs=4)
    >>> float(rate(jnp.int32(10)))
    1.5
    >>> del SCHEDULES["linear"]
    """
    if name in SCHEDULES:
        raise ValueError(f"there is a schedule named {name!r} already; choose another name")
    SCHEDULES[name] = factor


def make_schedule(
    name: str,
    learning_rate: float,
    *,
    steps_per_epoch: int,
    epochs: float,
    milestones: Sequence[float] = (),
    decay: float = 0.1,
    warmup_epochs: float = 0.0,
) -> Schedule:
    """Return the learning rate as a function of the number of steps already taken.

    Args:
        name: `step`, `cosine` (to 0 at the end) or `constant`.
        learning_rate: the rate before any drop.
        steps_per_epoch: steps in an epoch.
        epochs: length of the training.
        milestones: epochs after which `step` multiplies the rate by `decay`: with 80, the 80th
            epoch still has the old rate and the 81st the new one.
        decay: the factor of a drop.
        warmup_epochs: the number of epochs in which any schedule's rate grows linearly to its full
            value.

    Raises:
        ConfigError: the name is unknown.

    >>> rate = make_schedule("step", 1.0, steps_per_epoch=10, epochs=4, milestones=(2,))
    >>> [round(float(rate(jnp.int32(s))), 3) for s in (0, 19, 20)]
    [1.0, 1.0, 0.1]
    """
    factor = lookup(SCHEDULES, name, "config.optimizer.schedule")
    boundaries = [round(m * steps_per_epoch) for m in milestones]
    total = max(1, round(epochs * steps_per_epoch))
    warmup = round(warmup_epochs * steps_per_epoch)

    def schedule(step: jax.Array) -> jax.Array:
        rate = learning_rate * factor(step, total=total, milestones=boundaries, decay=decay)
        return rate * jnp.minimum(1.0, (step + 1) / warmup) if warmup else rate

    return schedule
