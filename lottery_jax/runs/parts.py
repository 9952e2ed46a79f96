"""The parts of an experiment: its network, its task and its optimizer, as a config names them.

A caller may bring objects in their place. An object has no name by which another process could
find it, so such a run goes on only where the same objects are passed again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lottery_jax import leaves
from lottery_jax.datasets.dataset import Dataset
from lottery_jax.datasets.streams import Stream
from lottery_jax.errors import ConfigError, first_line, lookup, raise_if_environment
from lottery_jax.models import DTYPES, build_model
from lottery_jax.models.network import LinenNetwork, Network, as_network
from lottery_jax.models.networks import from_import_path
from lottery_jax.system.imports import is_import_path
from lottery_jax.training import optim, tasks
from lottery_jax.training.feeding import input_dtype
from lottery_jax.training.optim import Optimizer, Schedule
from lottery_jax.training.task import Task

# In a config, the name of an object that the caller brings begins so.
_GIVEN = "given:"


class Parts(NamedTuple):
    """Objects that a caller brings in place of those that the config names; None: the config's.

    Attributes:
        model: a Linen module, or a `Network` such as `lj.networks.nnx` makes.
        data: a data set in memory.
        task: a task.
        optimizer: a transformation of optax with its own learning rate.
    """

    model: nn.Module | Network | None = None
    data: Dataset | None = None
    task: Task | None = None
    optimizer: Optimizer | None = None


NOTHING_GIVEN = Parts()


def with_names(config: ConfigDict, parts: Parts) -> ConfigDict:
    """Return a copy of the config that names the parts, which it did not know."""
    named = config.copy_and_resolve_references()
    with named.unlocked():
        if parts.model is not None:
            own = getattr(parts.model, "module", None) or getattr(parts.model, "make", parts.model)
            named.model.name = _GIVEN + getattr(own, "__qualname__", type(own).__qualname__)
        if parts.data is not None:
            named.data.name = parts.data.name
        if parts.task is not None:
            named.task.name = f"{_GIVEN}{parts.task.metric}"
        if parts.optimizer is not None:
            named.optimizer.name = f"{_GIVEN}own optimizer"
    return named


def make_network(
    config: ConfigDict, num_classes: int, shape: tuple[int, ...], dtype: str, parts: Parts
) -> Network:
    """Return the network of a config.

    Args:
        config: a validated config.
        num_classes: the classes of the data; 0 if targets are numbers.
        shape: of one example.
        dtype: of its numbers, as `feeding.input_dtype` says.
        parts: objects in place of those that the config names.

    Raises:
        ConfigError: there is no such network, or it does not take these options.
    """
    name = config.model.name
    if parts.model is None and not is_import_path(name):
        if config.model.options or config.model.head:
            raise ConfigError(
                f"config.model.options: is for networks of your own, and {name} is one of this "
                "package; leave it and config.model.head empty"
            )
        if not num_classes:
            raise ConfigError(
                f"config.model.name: {name} has one output for each class, but the targets of the data "
                "are numbers; bring a network of your own (docs/your_network.md)"
            )
        model = build_model(num_classes=num_classes, **model_options(config))
        return LinenNetwork(model, shape, dtype)
    if config.model.width != 1 or config.model.stem:
        raise ConfigError(
            "config.model.width: is for networks of this package; leave it at 1 and "
            "config.model.stem empty, and use config.model.options"
        )
    head = config.model.head
    found = parts.model
    if found is None:
        _refuse_given("model", name)
        found = from_import_path(name, config.model.options, num_classes, head=head)
    compute = lookup(DTYPES, config.model.dtype, "config.model.dtype")
    network = as_network(found, shape, dtype, head)
    return network if compute == jnp.float32 else network.with_dtype(compute)


def make_task(config: ConfigDict, parts: Parts) -> Task:
    """Return the task of a config.

    Raises:
        ConfigError: there is no such task.
    """
    if parts.task is not None:
        return parts.task
    _refuse_given("task", config.task.name)
    return tasks.from_config(config.task.name, config.task.options)


def make_optimizer(
    config: ConfigDict, steps_per_epoch: int, parts: Parts
) -> tuple[Optimizer, Schedule]:
    """Return the optimizer of a config without a learning rate, and its schedule.

    An optimizer of one's own has its learning rate in it. Then the schedule is 1 at every step.

    Raises:
        ConfigError: there is no such optimizer or schedule.
    """
    keys = config.optimizer
    own = parts.optimizer
    if own is None and is_import_path(keys.name):
        _refuse_given("optimizer", keys.name)
        own = optim.from_import_path(keys.name, keys.options)
    if own is not None:
        return optim.with_own_rate(own)
    options = {k: keys[k] for k in ("momentum", "nesterov", "b1", "b2", "weight_decay")}
    schedule = optim.make_schedule(
        keys.schedule,
        keys.learning_rate,
        steps_per_epoch=steps_per_epoch,
        epochs=config.train.epochs,
        milestones=keys.milestones,
        decay=keys.decay,
        warmup_epochs=keys.warmup_epochs,
    )
    return optim.make_optimizer(keys.name, **options), schedule


def check_fit(
    network: Network, task: Task, dataset: Dataset | Stream, name: str, scores: str
) -> None:
    """Check, before anything is compiled, that network, task, data and scores fit each other.

    Raises:
        ConfigError: the network does not take the examples, or the task not its outputs; or the
            scores need inputs that are numbers.
    """
    if scores == "synflow" and input_dtype(dataset) == "int32":
        raise ConfigError(
            "config.ladder.scores: synflow looks at an input of ones, which tokens are not; choose "
            "another score"
        )
    inputs = jax.ShapeDtypeStruct((2, *dataset.image_shape), input_dtype(dataset))
    # The labels of a stream are numbers of classes.
    like = np.zeros(0, np.int32) if isinstance(dataset, Stream) else dataset.y_train
    targets = jax.ShapeDtypeStruct((2, *like.shape[1:]), like.dtype)
    variables = _tried(network.abstract_variables, name, dataset)
    key = jax.eval_shape(lambda: jax.random.key(0))
    parts = variables["params"], variables["batch_stats"]
    if not leaves.prunable_paths(variables["params"], network.is_prunable):
        nothing = leaves.nothing_prunable(variables["params"], network.is_prunable)
        raise ConfigError(f"config.model.name: {name} can't be pruned: {nothing}")

    def outputs_of() -> Any:
        return jax.eval_shape(network.apply_train, *parts, inputs, key)[0]

    outputs = _tried(outputs_of, name, dataset)
    _tried(lambda: jax.eval_shape(network.apply_eval, *parts, inputs), name, dataset)
    classes = dataset.num_classes
    if classes and task.metric == "accuracy" and outputs.shape[-1] < classes:
        raise ConfigError(
            f"config.model.name: {name} has {outputs.shape[-1]} outputs, but {dataset.name} has "
            f"{classes} classes"
        )
    try:
        jax.eval_shape(task.loss, outputs, targets)
        jax.eval_shape(task.metric_sums, outputs, targets, jax.ShapeDtypeStruct((2,), bool))
    except Exception as error:  # whatever the user's code raises
        raise_if_environment(error)
        raise ConfigError(
            f"config.task.name: the task does not take outputs {outputs.shape[1:]} of {name} with "
            f"targets {targets.shape[1:]}: {first_line(error, with_type=True)}"
        ) from error


def _tried(function: Any, name: str, dataset: Dataset | Stream) -> Any:
    try:
        return function()
    except Exception as error:  # whatever the user's code raises
        raise_if_environment(error)
        raise ConfigError(
            f"config.model.name: {name} does not take examples of {tuple(dataset.image_shape)}: "
            f"{first_line(error, with_type=True)}"
        ) from error


def model_options(config: ConfigDict) -> dict[str, Any]:
    """Return what a ticket says of its network, without keys that are empty."""
    options = config.model.to_dict()
    if is_import_path(config.model.name):
        del options["width"]
    return {k: v for k, v in options.items() if v != "" or k not in ("stem", "options", "head")}


def task_options(config: ConfigDict) -> dict[str, Any]:
    """Return what a ticket says of its task: nothing where it is classification without options."""
    options = {k: v for k, v in config.task.to_dict().items() if v}
    return {} if options == {"name": "classification"} else {"task": options}


def optimizer_options(config: ConfigDict) -> dict[str, Any]:
    """Return what a ticket says of its optimizer, without keys that are empty."""
    options = config.optimizer.to_dict()
    if is_import_path(config.optimizer.name):
        return {k: options[k] for k in ("name", "options") if options[k]}
    return {k: v for k, v in options.items() if k != "options" or v}


def _refuse_given(part: str, name: str) -> None:
    """Refuse the name of an object that another call has brought.

    Raises:
        ConfigError: it is such a name.
    """
    if name.startswith(_GIVEN):
        raise ConfigError(
            f"config.{part}.name: {name.removeprefix(_GIVEN)} was passed to run_ladder as an object; "
            f"pass {part}=... again, or name it by its import path"
        )
