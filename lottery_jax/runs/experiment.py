"""From a config to its data, its network, its compiled steps and its rewind point.

An `Experiment` is the same for all seeds, levels and controls of a run.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from lottery_jax import config as configuration
from lottery_jax.datasets.dataset import Dataset
from lottery_jax.datasets.imported import load_imported
from lottery_jax.datasets.streams import Stream
from lottery_jax.errors import ConfigError
from lottery_jax.leaves import by_path
from lottery_jax.models import FULLY_CONNECTED, MODELS
from lottery_jax.models.network import Network
from lottery_jax.models.xla_options import compiler_options
from lottery_jax.parallel.mesh import find_devices, make_mesh
from lottery_jax.parallel.replicates import Layout, choose_layout
from lottery_jax.pruning import heads
from lottery_jax.runs import feasibility, parts
from lottery_jax.runs.parts import NOTHING_GIVEN, Parts
from lottery_jax.runs.pretrained import Pretrained, open_pretrained
from lottery_jax.runs.transfer import Source, open_source, resolve
from lottery_jax.system.imports import is_import_path
from lottery_jax.tickets import tree_hash
from lottery_jax.tickets.layouts import layer_kinds
from lottery_jax.training.batches import DeviceData, EvalBatches, TrainBatches
from lottery_jax.training.feeding import InputPipeline, input_dtype, open_data
from lottery_jax.training.optim import hold_last
from lottery_jax.training.program import Program, make_program
from lottery_jax.training.task import CLASSIFICATION
from lottery_jax.types import PyTree

# A small network's step takes less time than its dispatch, so several are dispatched together; no
# more than this, so that a run stops soon.
STEPS_PER_DISPATCH = 32


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a config means: everything that is the same for all seeds, levels and controls.

    Attributes:
        config: validated, with what it inherits from its source.
        dataset: in memory, or on the disk.
        inputs: brings the data set's images to the devices.
        train: the training set on the device; None for one that stays on the disk.
        validation: the images that are held out, on the device or batch by batch; None without any.
        test: the test set, on the device or batch by batch.
        program: the network and its compiled steps.
        layout: how many replicates are trained together, and where.
        init: from a key to fresh variables.
        layers: names of the layers that have a kernel, from input to output.
        skip: names of the layers that are never pruned.
        rewind_step: the step of `config.ladder.rewind`. The weights of a transferred ticket are from
            the source's rewind point.
        end_step: the step at which training ends; see `start_of` for fine-tuning.
        source: the run whose tickets are transferred; None for an own ladder.
        pretrained: where the rewind points are from; None for those of the run itself.
    """

    config: ConfigDict
    dataset: Dataset | Stream
    inputs: InputPipeline
    train: DeviceData | None
    validation: DeviceData | EvalBatches | None
    test: DeviceData | EvalBatches
    program: Program
    layout: Layout
    init: Callable[[jax.Array], PyTree]
    layers: tuple[str, ...]
    skip: tuple[str, ...]
    rewind_step: int
    end_step: int
    source: Source | None
    pretrained: Pretrained | None = None

    @property
    def start_step(self) -> int:
        """The step of the schedule at which tickets start."""
        return 0 if self.config.ladder.schedule == "restart" else self.rewind_step

    def start_of(self, level: int) -> int:
        """Return the step at which winning tickets of a level start.

        Fine-tuning follows the dense training: it takes the steps from `end_step + start_step` to
        twice `end_step`, at the schedule's last rate.
        """
        again = level > 0 and self.config.ladder.retrain == "finetune"
        return self.start_step + (self.end_step if again else 0)

    def end_of(self, start: int) -> int:
        """Return the step at which a training ends that starts at step `start`."""
        return self.end_step if start < self.end_step else 2 * self.end_step

    def training_data(self, seed: int) -> DeviceData | TrainBatches:
        """Return what a seed trains on."""
        if self.train is not None:
            return self.train
        return self.inputs.batches(seed, self.config.train.order)

    @functools.cached_property
    def data_sha256(self) -> str:
        """SHA-256 of all images and labels, or of what is prepared on the disk."""
        if isinstance(self.dataset, Stream):
            return self.dataset.sha256
        return tree_hash(self.dataset.arrays)

    @property
    def model_options(self) -> dict[str, Any]:
        """What tickets say of the network."""
        return parts.model_options(self.config)

    @property
    def optimizer_options(self) -> dict[str, Any]:
        """What tickets say of the optimizer."""
        return parts.optimizer_options(self.config)

    @functools.cached_property
    def layer_kinds(self) -> dict[str, str]:
        """The class of each layer by its path; empty for this package's networks."""
        return {} if self.config.model.name in MODELS else layer_kinds(self.program.network)

    @functools.cached_property
    def network_sha256(self) -> str:
        """SHA-256 of the parameters' names, shapes and dtypes; empty for this package's networks."""
        if self.config.model.name in MODELS:
            return ""
        shapes = by_path(self.program.network.abstract_variables())
        text = repr([(path, str(leaf.dtype), leaf.shape) for path, leaf in shapes.items()])
        return hashlib.sha256(text.encode()).hexdigest()


def set_up(
    config: ConfigDict, devices: list[jax.Device] | None = None, given: Parts = NOTHING_GIVEN
) -> Experiment:
    """Load the data, build the network and its steps. Nothing is compiled yet.

    Args:
        config: a config as `config.default_config` returns it.
        devices: the devices over which batches are sharded; default: all.
        given: objects in place of those that the config names.

    Raises:
        ConfigError, DataError: one line that says what does not fit.
        EnvironmentFault: JAX can't be used.
    """
    devices = find_devices(devices)
    return make_experiment(resolve(parts.with_names(config, given)), devices, given)


def make_experiment(
    config: ConfigDict, devices: list[jax.Device], given: Parts = NOTHING_GIVEN
) -> Experiment:
    """Do the work of `set_up` for a config that is resolved already."""
    feasibility.check_choices(config)
    source, pretrained = open_source(config), open_pretrained(config)
    dataset = _open_data(config, source, given)
    network, task = _network_of(config, dataset, given), parts.make_task(config, given)
    if config.model.name not in MODELS or task != CLASSIFICATION:
        parts.check_fit(network, task, dataset, config.model.name, config.ladder.scores)
    layers = _layers_of(network, config)
    feasibility.check_alignment(config, network)
    if pretrained:
        pretrained.check(network, dataset.num_classes, config.transfer.head)
    in_memory = not isinstance(dataset, Stream)
    fully_connected = config.model.name in FULLY_CONNECTED
    layout = choose_layout(
        len(config.seeds) if in_memory else 1,
        len(devices),
        devices[0].platform,
        fully_connected=fully_connected,
        max_stacked=config.train.together,
    )
    augment = config.data.augment
    inputs = InputPipeline(
        dataset,
        make_mesh(devices, layout.replica_axis_size),
        batch_size=config.train.batch_size,
        augment=dataset.augment if augment == "auto" else augment,
        workers=config.data.workers,
    )
    # At least 1 here: make_program refuses a batch that is larger than the set.
    steps_per_epoch = max(1, dataset.num_train // config.train.batch_size)
    end_step = config.train.epochs * steps_per_epoch
    optimizer, schedule = parts.make_optimizer(config, steps_per_epoch, given)
    if config.ladder.retrain == "finetune":
        schedule = hold_last(schedule, end_step)
    program = make_program(
        network,
        optimizer,
        schedule,
        task=task,
        mesh=inputs.mesh,
        examples=dataset.num_train,
        batch_size=config.train.batch_size,
        mean=dataset.mean,
        std=dataset.std,
        augment=inputs.augment_on_device,
        steps_per_dispatch=STEPS_PER_DISPATCH if fully_connected and in_memory else 1,
        vmapped=layout.vmapped,
    )
    init = jax.jit(
        network.init, compiler_options=compiler_options(jax.default_backend(), run_once=True)
    )
    validation = inputs.validation()
    feasibility.check_evaluations(config, has_validation=validation is not None)
    feasibility.check_memory(config, init, program, layout.stack_size // layout.replica_axis_size)
    rewind_step = configuration.rewind_step(config.ladder.rewind, steps_per_epoch)
    feasibility.check_steps(config, steps_per_epoch, rewind_step, end_step)
    skip = (*layers[:1] * config.ladder.skip_first, *layers[-1:] * config.ladder.skip_last)
    if source:
        feasibility.check_initial_weights(config, source)
        # Raises where the head can't be kept.
        heads.replaces_head(config.transfer.head, source.num_classes, dataset.num_classes)
    else:
        params = jax.eval_shape(init, jax.random.key(0))["params"]
        feasibility.check_ladder(config.ladder, params, skip)
        feasibility.check_scores(config, dataset.num_train)
    return Experiment(
        config=config,
        dataset=dataset,
        inputs=inputs,
        train=inputs.train(),
        validation=validation,
        test=inputs.test(),
        program=program,
        layout=layout,
        init=init,
        layers=layers,
        skip=skip,
        rewind_step=rewind_step,
        end_step=end_step,
        source=source,
        pretrained=pretrained,
    )


def _network_of(config: ConfigDict, dataset: Dataset | Stream, given: Parts) -> Network:
    shape = tuple(dataset.image_shape)
    return parts.make_network(config, dataset.num_classes, shape, input_dtype(dataset), given)


def _open_data(config: ConfigDict, source: Source | None, given: Parts) -> Dataset | Stream:
    shape = config.data.input_shape
    if source and shape and shape != source.input_shape:
        raise ConfigError(
            f"config.data.input_shape: {shape}, but the source's tickets take "
            f"{source.input_shape}; leave it empty to adapt the images"
        )
    wanted = source.input_shape if source else shape
    if given.data is not None:
        return _fit_own(given.data, wanted, config)
    if is_import_path(config.data.name):
        return _fit_own(load_imported(config.data.name, config.data.options), wanted, config)
    if config.data.options:
        raise ConfigError(
            f"config.data.options: {config.data.name} takes none; they are for an import path in "
            "config.data.name"
        )
    return open_data(
        config.data.name,
        config.data.dir,
        input_shape=wanted,
        resize=config.data.resize,
        validation_fraction=config.data.validation_fraction,
    )


def _fit_own(dataset: Dataset, wanted: tuple[int, ...], config: ConfigDict) -> Dataset:
    """Return a user's own data set as `config.data` wants it, for examples of the shape `wanted`."""
    if config.data.augment != "auto":
        dataset.check_augment(config.data.augment, "config.data.augment")
    return dataset.fitted(wanted, config.data.validation_fraction)


def _layers_of(network: Network, config: ConfigDict) -> tuple[str, ...]:
    try:
        return tuple(network.layer_names())
    except ValueError as error:
        raise ConfigError(
            f"config.model.name: {config.model.name} does not take images of {network.input_shape} "
            f"({error}); config.data.input_shape can pad them"
        ) from error
