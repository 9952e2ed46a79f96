"""What a config means: the data, the network, the compiled steps, the rewind point.

Everything here is the same for all seeds, levels and controls of a run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from lottery_jax import config as configuration
from lottery_jax.datasets.in_memory import Dataset
from lottery_jax.datasets.streams import Stream
from lottery_jax.errors import ConfigError, lookup
from lottery_jax.models import FULLY_CONNECTED, build_model
from lottery_jax.models.network import LinenNetwork
from lottery_jax.models.xla_options import compiler_options
from lottery_jax.parallel import multihost
from lottery_jax.parallel.mesh import find_devices, make_mesh
from lottery_jax.parallel.replicates import Layout, choose_layout
from lottery_jax.pruning import heads, masks, schedule
from lottery_jax.pruning.controls import CONTROLS
from lottery_jax.pruning.scores import GLOBAL_ONLY, SCORES
from lottery_jax.runs import transfer
from lottery_jax.system import host
from lottery_jax.system.files import local_path
from lottery_jax.tickets import tree_hash
from lottery_jax.training.batches import DeviceData, EvalBatches, TrainBatches
from lottery_jax.training.feeding import InputPipeline, open_data
from lottery_jax.training.loop import Program, make_program
from lottery_jax.training.optim import make_optimizer, make_schedule

PyTree = Any

_LAST_STEP = 2**31 - 1  # an int32 in the train state
# A small network's step takes less time than its dispatch. Not more, so that a run can stop soon.
_STEPS_AT_ONCE = 32


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a config means: everything that is the same for all seeds, levels and controls.

    Attributes:
        config: validated.
        dataset: in memory, or on the disk.
        feed: of its images to the devices.
        train: the training set on the device, if it is there; likewise `test` and `validation`.
        program: the network and its compiled steps.
        layout: how many replicates are trained together, and where.
        init: from a key to fresh variables.
        layers: names of the layers that have a kernel, from input to output.
        skip: names of the layers that are never pruned.
        rewind_step: the step to which weights go back.
        end_step: the step at which training ends.
        source: of the tickets, if they are another run's.
    """

    config: ConfigDict
    dataset: Dataset | Stream
    feed: InputPipeline
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
    source: transfer.Source | None

    @property
    def new_head(self) -> bool:
        """Whether transferred tickets get a new output layer."""
        policy, source = self.config.transfer.head, self.source
        return source is not None and heads.replaces_head(
            policy, source.num_classes, self.dataset.num_classes
        )

    def train_of(self, seed: int) -> DeviceData | TrainBatches:
        """What a replicate trains on."""
        return self.feed.batches(seed) if self.train is None else self.train

    @property
    def data_sha256(self) -> str:
        """A hash of the data: of all images and labels, or of what is prepared on the disk."""
        if isinstance(self.dataset, Stream):
            return self.dataset.sha256
        return tree_hash(self.dataset.arrays)

    @property
    def model_options(self) -> dict[str, Any]:
        """What `build_model` needs beside the number of classes."""
        return _model_options(self.config)


def _model_options(config: ConfigDict) -> dict[str, Any]:
    options = config.model.to_dict()
    if not options["stem"]:
        del options["stem"]
    return options


def set_up(config: ConfigDict, devices: list[jax.Device] | None = None) -> Setup:
    """Loads the data, builds the network and its steps; compiles nothing yet.

    Args:
        config: of `config.default_config`'s form.
        devices: over which to shard batches; default: all.

    Raises:
        ConfigError, DataError: one line that says what does not fit.
        EnvironmentFault: JAX can't be used.
    """
    devices = find_devices(devices)
    config = resolve(config)
    lookup(SCORES, config.ladder.scores, "config.ladder.scores")
    if config.ladder.scores in GLOBAL_ONLY and config.ladder.scope != "global":
        raise ConfigError(
            f"config.ladder.scope: {config.ladder.scores} sets the density of each layer itself; "
            "use 'global'"
        )
    for name in config.controls:
        lookup(CONTROLS, name, "config.controls")
    source = _open_source(config)
    shape = config.data.input_shape
    if source and shape and shape != source.input_shape:
        raise ConfigError(
            f"config.data.input_shape: {shape}, but the source's tickets take "
            f"{source.input_shape}; leave it empty to adapt the images"
        )
    dataset = open_data(
        config.data.name,
        config.data.dir,
        input_shape=source.input_shape if source else shape,
        resize=config.data.resize,
        validation_fraction=config.data.validation_fraction,
    )
    model = build_model(num_classes=dataset.num_classes, **_model_options(config))
    shape = dataset.image_shape
    network = LinenNetwork(model, shape)
    try:
        names = network.layer_names()
    except ValueError as error:
        raise ConfigError(
            f"config.model.name: {config.model.name} does not take images of {shape} ({error}); "
            "config.data.input_shape can pad them"
        ) from error
    dense, streamed = config.model.name in FULLY_CONNECTED, isinstance(dataset, Stream)
    layout = choose_layout(
        1 if streamed else len(config.seeds),
        len(devices),
        devices[0].platform,
        dense=dense,
        max_stacked=config.train.together,
    )
    mesh = make_mesh(devices, layout.replica)
    steps_per_epoch = max(1, dataset.num_train // config.train.batch_size)
    schedule = make_schedule(
        config.optimizer.schedule,
        config.optimizer.learning_rate,
        steps_per_epoch=steps_per_epoch,
        epochs=config.train.epochs,
        milestones=config.optimizer.milestones,
        decay=config.optimizer.decay,
        warmup_epochs=config.optimizer.warmup_epochs,
    )
    augment = config.data.augment
    feed = InputPipeline(
        dataset,
        mesh,
        batch_size=config.train.batch_size,
        augment=dataset.augment if augment == "auto" else augment,
        workers=config.data.workers,
    )
    program = make_program(
        network,
        make_optimizer(**_optimizer_options(config)),
        schedule,
        mesh=mesh,
        examples=dataset.num_train,
        batch_size=config.train.batch_size,
        mean=dataset.mean,
        std=dataset.std,
        augment=feed.augment_on_device,
        steps_per_dispatch=_STEPS_AT_ONCE if dense and not streamed else 1,
        vmapped=layout.vmapped,
    )
    init = jax.jit(
        network.init,
        compiler_options=compiler_options(jax.default_backend(), run_once=True),
    )
    _check_it_fits_into_memory(config, init, program, layout.stack_size // layout.replica)
    skip = [names[0]] * config.ladder.skip_first + [names[-1]] * config.ladder.skip_last
    rewind = configuration.rewind_step(config.ladder.rewind, steps_per_epoch)
    end = config.train.epochs * steps_per_epoch
    if end > _LAST_STEP:
        raise ConfigError(
            f"config.train.epochs: {config.train.epochs} epochs of {steps_per_epoch} steps are more "
            f"than the {_LAST_STEP} steps that can be counted"
        )
    if rewind >= end:
        raise ConfigError(
            f"config.ladder.rewind: {config.ladder.rewind!r} is step {rewind}, but training ends "
            f"at step {end}"
        )

    if "init" in config.controls and rewind == 0:
        raise ConfigError(
            "config.controls: with config.ladder.rewind=0 the control 'init' is the winning ticket "
            "itself; rewind to a later step, or leave it out"
        )

    setup = Setup(
        config=config,
        dataset=dataset,
        feed=feed,
        train=feed.train(),
        validation=feed.validation(),
        test=feed.test(),
        program=program,
        layout=layout,
        init=init,
        layers=tuple(names),
        skip=tuple(skip),
        rewind_step=rewind,
        end_step=end,
        source=source,
    )
    if source:
        # Raises where the head can't be kept.
        heads.replaces_head(config.transfer.head, source.num_classes, dataset.num_classes)
    else:
        _check_ladder_is_not_too_long(setup)
        _check_scores_can_be_computed(setup)
    return setup


def resolve(config: ConfigDict) -> ConfigDict:
    """The validated config, with what it takes from its source.

    Raises:
        ConfigError: a value is not legal, or the source is not a run.
    """
    config = configuration.validate(config)
    if not config.source:
        return config

    # The source is a run directory, and so the first process's alone.
    def inherited() -> dict[str, Any]:
        return configuration.to_json(transfer.inherit(config))

    return configuration.from_json(multihost.broadcast_from_primary(inherited))


def _open_source(config: ConfigDict) -> transfer.Source | None:
    def opened() -> dict[str, Any]:
        source = transfer.open_source(config)
        assert source is not None
        return {"config": configuration.to_json(source.config), "metadata": source.metadata}

    if not config.source:
        return None
    found = multihost.broadcast_from_primary(opened)
    workdir = local_path(config.source, "config.source")
    return transfer.Source(workdir, configuration.from_json(found["config"]), found["metadata"])


def _optimizer_options(config: ConfigDict) -> dict[str, Any]:
    keys = ("name", "momentum", "nesterov", "b1", "b2", "weight_decay")
    return {key: config.optimizer[key] for key in keys}


def _check_it_fits_into_memory(
    config: ConfigDict, init: Callable[[jax.Array], PyTree], program: Program, replicates: int
) -> None:
    """Refuses networks that can't be trained in this memory, whatever else is in it.

    So many replicates are on one device. What is counted is the least there is at a step: weights,
    gradients, optimizer state and mask. Activations come on top of that, so not every network that
    passes will fit.
    """

    def count(tree: PyTree) -> int:
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    def size(tree: PyTree) -> int:
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    variables = jax.eval_shape(init, jax.random.key(0))
    params = variables["params"]
    optimizer = jax.eval_shape(program.optimizer.init, params)
    needed = replicates * (size(variables) + size(params) + size(optimizer) + count(params))
    there = min(host.memory(), *map(_memory_of, program.mesh.local_devices))
    if needed > there:
        several = f", {replicates} times on a device (config.train.together)"
        raise ConfigError(
            f"config.model.width: {config.model.width:g} makes {config.model.name} a network of "
            f"{count(params):,} weights{several if replicates > 1 else ''}, which take "
            f"{host.in_words(needed)} to train; there are {host.in_words(there)}"
        )


def _memory_of(device: jax.Device) -> float:
    """Bytes that an accelerator lets us use; infinite where it does not say, as a CPU."""
    try:
        return (device.memory_stats() or {}).get("bytes_limit", math.inf)
    except RuntimeError:
        return math.inf


def _check_ladder_is_not_too_long(setup: Setup) -> None:
    """Refuses a ladder with a level that keeps nothing, or that prunes nothing."""
    shapes = jax.eval_shape(setup.init, jax.random.key(0))["params"]
    ladder = setup.config.ladder
    sizes = masks.ranking_groups(masks.ones_like(shapes), ladder.scope, setup.skip)
    before = sum(sizes.values())
    for level in range(1, ladder.levels + 1):
        kept = sum(counts_at(ladder, sizes, level).values())
        if not kept:
            key, limit = (
                ("sparsities", f"{ladder.sparsities[level - 1]:g} of {sum(sizes.values())}")
                if ladder.sparsities
                else ("levels", f"at most {level - 1} fit config.ladder.prune_fraction")
            )
            raise ConfigError(
                f"config.ladder.{key}: no weight would be left at level {level}; {limit}"
            )
        if kept == before:
            what = (
                f"sparsities: {ladder.sparsities[level - 1]:g}"
                if ladder.sparsities
                else f"prune_fraction: {ladder.prune_fraction:g}"
            )
            raise ConfigError(
                f"config.ladder.{what} prunes none of the {before} weights that level {level - 1} "
                f"keeps; raise it, or end the ladder there (--config.ladder.levels={level - 1})"
            )
        before = kept


def counts_at(ladder: ConfigDict, sizes: schedule.KeptCounts, level: int) -> schedule.KeptCounts:
    """How many weights each group of layers keeps at a level of `config.ladder`."""
    return schedule.kept_per_level(
        sizes, level, prune_fraction=ladder.prune_fraction, sparsities=ladder.sparsities
    )


def _check_scores_can_be_computed(setup: Setup) -> None:
    ladder, examples = setup.config.ladder, setup.dataset.num_train
    size = ladder.score_batch_size or setup.config.train.batch_size
    if ladder.score_batches * size > examples:
        raise ConfigError(
            f"config.ladder.score_batches: {ladder.score_batches} batches of {size} are more than "
            f"the {examples} training images"
        )
    if ladder.scores == "synflow":
        try:
            jax.local_devices(backend="cpu")
        except RuntimeError as error:
            raise ConfigError(
                "config.ladder.scores: synflow is computed in float64 on the CPU, which "
                "JAX_PLATFORMS leaves out; add cpu to it"
            ) from error
