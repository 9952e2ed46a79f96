"""A dry run: print the plan of a run, and perhaps how long it would take. Nothing is written."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict
from rich.console import Console

from lottery_jax.curve import WINNING
from lottery_jax.datasets import tfds
from lottery_jax.datasets.registry import (
    BUILT_IN,
    is_digits,
    prepared_folder,
    resolve_folder,
    split_name,
)
from lottery_jax.errors import ConfigError, DataError
from lottery_jax.models.network import Network
from lottery_jax.parallel.mesh import find_devices
from lottery_jax.parallel.replicates import stack_keys, stack_to_mesh
from lottery_jax.pruning import masks
from lottery_jax.pruning.controls import UntrainedTicket, is_from_rewind_point
from lottery_jax.runs.directory import list_trials
from lottery_jax.runs.experiment import Experiment, make_experiment
from lottery_jax.runs.matrix import cells
from lottery_jax.runs.parts import NOTHING_GIVEN, make_network
from lottery_jax.runs.plan import in_time, make_plan
from lottery_jax.runs.record import check_workdir
from lottery_jax.runs.transfer import open_source, resolve
from lottery_jax.runs.trials import Keys
from lottery_jax.runs.zoo_source import is_zoo
from lottery_jax.system import settings
from lottery_jax.system.imports import is_import_path
from lottery_jax.training.loop import fit
from lottery_jax.training.state import init_state

# Steps are measured for this long.
_MEASURED_S = 1.0


@settings.fixed()
def dry_run(config: ConfigDict, workdir: Path, console: Console, *, measure: bool) -> None:
    """Print what a run, or each cell of a matrix, would do.

    Args:
        config: validated, with what it inherits from its source.
        workdir: the run directory, which need not exist.
        console: where it is printed.
        measure: whether to train a few steps and estimate the time of the run.

    Raises:
        ConfigError, DataError: one line that says why the run would be refused.
    """
    devices = find_devices(None)
    check_workdir(workdir, config, other_versions=True)
    todo = (
        list(cells(config, workdir)) if config.transfer.sources else [("the run", workdir, config)]
    )
    seconds = 0.0
    for title, folder, cell in todo:
        if (
            cell.source
            and not is_zoo(cell.source)
            and not (Path(cell.source) / "config.json").is_file()
        ):
            cell.source = ""  # the matrix has yet to make it; its network is the same
            cell.transfer.align = False
        missing = missing_data(cell)
        if missing:
            network, layers = _network_of(cell)
            lines = make_plan(cell, network, layers, folder, devices).lines()
            lines.append(f"data       {missing}")
        else:
            experiment = make_experiment(resolve(cell), devices)
            network, layers = experiment.program.network, experiment.layers
            lines = make_plan(cell, network, layers, folder, devices).lines()
            if measure:
                timing = measure_steps(experiment)
                seconds += timing.of_run(experiment, folder)
                lines.append(f"measured   {timing}")
        for line in [f"{title}:"] * (len(todo) > 1) + lines:
            console.print(line, markup=False, highlight=False)
        if measure and missing:
            raise DataError(f"{missing}; without the data no step can be measured")
    if measure:
        console.print(
            f"time       about {in_time(seconds)} in all, on these devices", highlight=False
        )
    console.print("nothing was written; without --dry_run this is trained", highlight=False)


def missing_data(config: ConfigDict) -> str | None:
    """Return a line about data that a run would have to fetch or convert first, or None.

    Raises:
        DataError: there is no data set of that name.
    """
    name = config.data.name
    if is_digits(name) or is_import_path(name):
        return None
    folder = resolve_folder(config.data.dir)
    base, _ = split_name(name, folder)
    if (folder / f"{base}.npz").is_file():
        return None
    known = BUILT_IN[base]
    assert known.tfds_name is not None
    if known.streamed:
        try:
            prepared_folder(base, config.data.dir)
        except DataError as error:
            return str(error)
        return None
    if tfds.find_prepared(known.tfds_name, folder):
        return f"{base} is prepared in {folder}; the first run makes {base}.npz of it"
    return (
        f"{base} is not in {folder}; the first run fetches it, or 'python -m lottery_jax.datasets "
        f"prepare {base}' does"
    )


def _network_of(config: ConfigDict) -> tuple[Network, Sequence[str]]:
    """Return the network and its layers by what is known of data that are not here."""
    base, _ = split_name(config.data.name, resolve_folder(config.data.dir))
    source, known = open_source(config), BUILT_IN[base]
    shape = source.input_shape if source else config.data.input_shape or known.image_shape
    network = make_network(config, known.num_classes, tuple(shape), "float32", NOTHING_GIVEN)
    try:
        return network, network.layer_names()
    except ValueError as error:
        raise ConfigError(
            f"config.model.name: {config.model.name} does not take images of {shape} ({error})"
        ) from error


@dataclasses.dataclass(frozen=True)
class Timing:
    """Measured times of a run's compiled programs.

    Attributes:
        step: seconds of a train step of all replicates that train together.
        evaluation: seconds of a pass over the test set and the validation set.
        compilation: seconds until the first step was done.
        together: the number of replicates.
    """

    step: float
    evaluation: float
    compilation: float
    together: int

    def __str__(self) -> str:
        of = f" of {self.together} trainings together" if self.together > 1 else ""
        return (
            f"{1000 * self.step:.3g} ms a step{of}, {1000 * self.evaluation:.3g} ms an evaluation, "
            f"{self.compilation:.3g} s to compile"
        )

    def of_run(self, experiment: Experiment, workdir: Path) -> float:
        """Return the seconds that the trainings take which `workdir` has not."""
        config, size = experiment.config, experiment.layout.stack_size
        group_of = {seed: i // size for i, seed in enumerate(config.seeds)}
        side_by_side: Counter[tuple[int, int, int]] = Counter()
        for trial in list_trials(config, workdir):
            if not trial.is_complete:
                rewound = trial.control == WINNING or is_from_rewind_point(trial.control)
                start = experiment.start_step if trial.level and rewound else 0
                side_by_side[group_of[trial.seed], trial.level, start] += 1
        per_epoch = experiment.program.steps_per_epoch
        seconds = self.compilation
        for (_, _, start), trials in side_by_side.items():
            steps = experiment.end_step - start
            evaluations = math.ceil(steps / per_epoch / config.train.eval_every_epochs)
            if every := config.train.eval_every_steps:
                evaluations += math.ceil(steps / every)
            seconds += math.ceil(trials / size) * (
                steps * self.step + evaluations * self.evaluation
            )
        return seconds


def measure_steps(experiment: Experiment) -> Timing:
    """Compile a run's steps and time some of them."""
    program, size = experiment.program, experiment.layout.stack_size
    seed = experiment.config.seeds[0]
    keys = Keys.from_seed(seed)
    variables = jax.device_get(experiment.init(keys.init))
    ticket = UntrainedTicket(masks.ones_like(variables["params"]), variables, 0)
    start = init_state(program.optimizer, ticket, None)
    data, key = experiment.training_data(seed), stack_keys([keys.train], size)
    state = stack_to_mesh(program.mesh, [start], size)
    done = count = min(program.steps_per_dispatch, program.steps_per_epoch)
    began = time.perf_counter()
    state = fit(program, state, data, key, until=done)
    compilation, seconds = time.perf_counter() - began, 0.0
    while seconds < _MEASURED_S and count <= program.steps_per_epoch:
        began = time.perf_counter()
        state = fit(program, state, data, key, until=done + count, on_step=lambda *_: None)
        seconds = time.perf_counter() - began
        step, done, count = seconds / count, done + count, 4 * count
    evaluated = [split for split in (experiment.test, experiment.validation) if split is not None]
    for _ in range(2):  # the first time it is compiled
        began = time.perf_counter()
        for split in evaluated:
            program.evaluate(state, split)
        evaluation = time.perf_counter() - began
    return Timing(step, evaluation, compilation, size)
