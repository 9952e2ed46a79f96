"""The ladder: draw a ticket, train it, record it, draw the next.

    for each group of seeds that train together
        points = the weights that every ticket starts from, at the rewind step
        for each level
            mask    = everything at level 0; later its parent's, pruned by score (ladder.draw says
                      whether the parent is the level before or level 0)
            tickets = (mask, weights of the rewind point), and a control of each kind
                      (or trained weights, as ladder.retrain says)
            train them to the end and save them; the next level is drawn from them

In a transfer run masks and weights come from another run (`origins.TransferredLadder`).

A ticket that is on the disk is not trained again: the same command resumes a run, and does nothing
for a finished one.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
from ml_collections import ConfigDict
from rich.console import Console

from lottery_jax import config as configuration
from lottery_jax.curve import WINNING
from lottery_jax.datasets.dataset import Dataset
from lottery_jax.errors import ConfigError
from lottery_jax.models.network import Network
from lottery_jax.parallel import multihost
from lottery_jax.parallel.mesh import find_devices
from lottery_jax.pruning.controls import (
    ON_OTHER_INITIALISATION,
    ControlInputs,
    OtherInitialisation,
    UntrainedTicket,
    find_control,
    is_from_rewind_point,
)
from lottery_jax.runs import results
from lottery_jax.runs.alignment import make_origin, with_others
from lottery_jax.runs.directory import Row, Trial
from lottery_jax.runs.display import phase
from lottery_jax.runs.experiment import Experiment, make_experiment
from lottery_jax.runs.origins import Origin, RewindPoint
from lottery_jax.runs.parts import Parts, with_names
from lottery_jax.runs.record import check_workdir, versions
from lottery_jax.runs.store import Only, RunStore, finished_rows
from lottery_jax.runs.transfer import resolve
from lottery_jax.runs.trials import Keys, PendingTrial, TrainedTrial, batched, train_trials
from lottery_jax.system import settings
from lottery_jax.system.files import local_path
from lottery_jax.system.notebook import short_interrupt
from lottery_jax.tickets import Ticket
from lottery_jax.training.optim import Optimizer
from lottery_jax.training.task import Task
from lottery_jax.types import PyTree


@settings.fixed()
@short_interrupt("what was trained is saved; the same call resumes it")
def run_ladder(
    config: ConfigDict,
    workdir: str | Path,
    *,
    devices: list[jax.Device] | None = None,
    console: Console | None = None,
    other_versions: bool = False,
    model: nn.Module | Network | None = None,
    data: Dataset | None = None,
    task: Task | None = None,
    optimizer: Optimizer | None = None,
    only: Only | None = None,
) -> list[Row]:
    """Run a config's ladders, or what is left of them.

    Args:
        config: a config as `config.default_config` returns it.
        workdir: the run directory: a new or empty one, or one of the same config.
        devices: the devices over which batches are sharded; default: all.
        console: where progress is shown; default: the terminal.
        other_versions: whether to resume a run that other versions of packages began.
        model: a Linen module or a `Network` in place of the one that the config names.
        data: a data set in memory in place of the one that the config names.
        task: a task in place of the one that the config names.
        optimizer: one of optax, with its own learning rate, in place of the config's.
        only: says of a trial of a transfer run whether it is to be trained now; default: all are.

    Returns:
        The rows of `curve.csv`.

    Raises:
        ConfigError, DataError: before anything is written.
        EnvironmentFault: JAX can't be used.
        TicketError: a ticket or a checkpoint of the run is damaged.
        TrainingError: a loss is not finite. Complete tickets are kept.
        OSError: a file can't be written, as on a full disk. Complete tickets are kept.
        KeyboardInterrupt: Ctrl-C. What was trained is saved first, to the step.
    """
    given = Parts(model, data, task, optimizer)
    config = resolve(with_names(config, given))
    if config.transfer.sources:
        raise ConfigError("config.transfer.sources: run_matrix runs a matrix of ladders")
    if only is not None and not config.source:
        raise ConfigError(
            "only: is for transfer runs; a ladder draws each level from the one before"
        )
    workdir = local_path(workdir, "workdir")
    # In a notebook, too: plain lines, which a notebook shows as one block of text.
    console = console or Console(soft_wrap=True, force_jupyter=False)
    multihost.run_on_primary(check_workdir, workdir, config, other_versions=other_versions)
    if (rows := finished_rows(config, workdir, console)) is not None:
        return rows
    with phase(console, f"loading {config.data.name}"):
        experiment = _make_same_experiment(config, devices, given)
    with RunStore.open(
        workdir, experiment, console, other_versions=other_versions, only=only
    ) as store:
        origin = make_origin(experiment, store)
        for seeds in batched(config.seeds, experiment.layout.stack_size):
            run_levels(experiment, store, origin, seeds)
        return store.curve()


def run_levels(
    experiment: Experiment, store: RunStore, origin: Origin, seeds: Sequence[int]
) -> None:
    """Run all levels of seeds that train together."""
    incomplete = store.incomplete(seeds)
    if not incomplete:
        return
    points = with_others(experiment, store, origin.rewind_points(seeds))
    winners: dict[Trial, Ticket] = {}  # of the level before, to draw the next one from
    for level in range(experiment.config.ladder.levels + 1):
        trials = [trial for trial in incomplete if trial.level == level]
        pending = draw_level(experiment, store, origin, points, trials, winners)
        winners = {}
        with closing(train_trials(experiment, store, pending)) as groups:
            for trained in groups:
                made = save_tickets(experiment, store, origin, trained)
                winners |= {trial: made[trial] for trial in made if trial.control == WINNING}
        if trials:
            store.finish_level(dict.fromkeys(trial.seed for trial in trials), level)


def draw_level(
    experiment: Experiment,
    store: RunStore,
    origin: Origin,
    points: Mapping[int, RewindPoint],
    trials: Sequence[Trial],
    winners: Mapping[Trial, Ticket],
) -> list[PendingTrial]:
    """Draw the tickets of a level and their controls.

    Args:
        experiment: the run's experiment.
        store: the run's store.
        origin: where masks and weights come from.
        points: the rewind point of each seed.
        trials: the trials of the level that are not complete.
        winners: the winning tickets of the level before, as far as they were just trained.
    """
    pending, winning_masks = [], {}
    for trial in trials:
        point, winner = points[trial.seed], store.trial(trial.seed, trial.level)
        if winner not in winning_masks:
            complete = store.is_complete(winner)  # its controls get the very mask that it has
            winning_masks[winner] = (
                store.load_ticket(winner.ticket_dir).mask
                if complete
                else origin.mask(winner, point, winners)
            )
        other = point.other
        variables = origin.weights(winner, point, winners)
        start = UntrainedTicket(winning_masks[winner], variables, experiment.start_of(trial.level))
        inputs = ControlInputs(
            experiment.init,
            point.initial,
            origin.skip,
            layers=experiment.layers,
            worst=partial(origin.mask, winner, point, winners, worst=True),
            before=partial(_trained_before, store, winner, winners),
            other=OtherInitialisation(other.variables, point.align)
            if other and point.align
            else None,
        )
        each = _begin(experiment, trial, start, point, inputs)
        if warning := results.collapse_warning(each.ticket.mask):
            store.display.say(f"warning: {trial}: {warning}")
        pending.append(each)
    return pending


def _trained_before(store: RunStore, winner: Trial, in_memory: Mapping[Trial, Ticket]) -> PyTree:
    """Return the trained variables of the winning ticket of the level before."""
    before = store.trial(winner.seed, winner.level - 1)
    return (in_memory.get(before) or store.load_ticket(before.ticket_dir)).trained_variables


def _begin(
    experiment: Experiment,
    trial: Trial,
    start: UntrainedTicket,
    point: RewindPoint,
    inputs: ControlInputs,
) -> PendingTrial:
    """Return how a trial of a level begins, given the start of its winning ticket."""
    restore = experiment.config.ladder.optimizer_state == "restored"
    is_dense = trial.level == 0
    if trial.control != WINNING and not is_dense:
        start = apply_control(trial, start, inputs)
        restore = restore and is_from_rewind_point(trial.control)
    if trial.control in ON_OTHER_INITIALISATION and point.other:
        point = point.other
    if is_dense and point.state is not None:
        # Level 0 goes on from the saved state. Only its first training loss differs: it is the mean
        # over the part of the epoch that follows the rewind step.
        start = UntrainedTicket(start.mask, point.variables, experiment.rewind_step)
        return PendingTrial(trial, start, point.state)
    return PendingTrial(trial, start, point.state if restore else None)


def apply_control(trial: Trial, start: UntrainedTicket, inputs: ControlInputs) -> UntrainedTicket:
    """Return the ticket that a control makes of the winning one.

    A control with new weights starts at step 0: it gets the warm-up and the whole training.
    """
    key = jax.random.fold_in(Keys.from_seed(trial.seed).control, trial.level)
    # Python's own hash of a text differs from process to process.
    key = jax.random.fold_in(key, zlib.crc32(trial.control.encode()))
    return find_control(trial.control)(start, key, inputs)


def save_tickets(
    experiment: Experiment, store: RunStore, origin: Origin, trained: Sequence[TrainedTrial]
) -> dict[Trial, Ticket]:
    """Make tickets of trials that were trained to the end, save and return them."""
    made = {}
    for result in trained:
        trial = result.pending.trial
        found_by = origin.found_by(trial)
        made[trial] = results.make_ticket(experiment, result, origin.rewind_step, found_by)
    store.save_tickets(list(made.items()))
    for result in trained:
        trial = result.pending.trial
        if trial.level == 0 and (warning := results.chance_warning(experiment, result.rows)):
            store.display.say(f"warning: {trial}: {warning}")
    return made


def _make_same_experiment(
    config: ConfigDict, devices: list[jax.Device] | None, given: Parts
) -> Experiment:
    """Return the experiment of a config.

    Raises:
        DataError: the processes do not agree on the config, the versions, the settings or the data.
    """
    flat = configuration.flatten(config)
    values = {k: v for k, v in flat.items() if k not in configuration.PER_PROCESS}
    alike = repr((values, versions(config), settings.recorded()))
    digest = hashlib.sha256(alike.encode()).hexdigest()
    multihost.assert_equal_across_processes(digest, "the config, the versions or the settings")
    experiment = multihost.run_on_all(make_experiment, config, find_devices(devices), given)
    data_sha256 = multihost.run_on_all(getattr, experiment, "data_sha256")
    multihost.assert_equal_across_processes(data_sha256, f"the data {experiment.dataset.name}")
    return experiment
