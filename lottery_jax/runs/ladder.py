"""The ladder: draw a ticket, train it, record it, draw the next.

    for each seed
        origin = the dense weights that every ticket starts from: those of the rewind point
        for each level
            mask    = what is kept of the level before (level 0: everything)
            trained = the ticket (mask, weights of the origin), trained
            record it; train and record the controls of the same density

Seeds that train together climb level by level. A transfer run is the same with another run's
origin and masks.

A ticket that is on disk is not trained again, so running a directory again resumes it, and running
a finished one does nothing.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from rich.console import Console

from lottery_jax import config as configuration
from lottery_jax import tickets
from lottery_jax.curve import WINNING
from lottery_jax.errors import ConfigError
from lottery_jax.models.xla_options import compiler_options
from lottery_jax.parallel import multihost
from lottery_jax.pruning import heads, masks, schedule
from lottery_jax.pruning.controls import CONTROLS, FROM_REWIND_POINT, ControlInputs, UntrainedTicket
from lottery_jax.pruning.scores import OWN_ROUNDS, SCORES, ScoreInputs
from lottery_jax.runs import checkpoints, metrics
from lottery_jax.runs.directory import (
    Row,
    Trial,
    check_data,
    check_workdir,
    is_finished,
    leftovers,
    list_trials,
    record_config,
    record_versions,
    rewind_dir,
    tidy,
    versions,
    write_curve,
)
from lottery_jax.runs.experiment import counts_at, resolve, set_up
from lottery_jax.runs.groups import batched, train_all
from lottery_jax.runs.trials import Keys, PendingTrial, Run, keep_ticket, warn_of_collapse
from lottery_jax.system import settings
from lottery_jax.system.files import local_path
from lottery_jax.system.locks import locked
from lottery_jax.tickets import Ticket
from lottery_jax.training.batches import make_preprocess
from lottery_jax.training.loop import TrainState, init_state
from lottery_jax.training.task import BatchLoss, SummedOutput

PyTree = Any

# Ways to draw in which a level is drawn from the one before, and not from the dense network.
_FROM_BEFORE = ("iterative", "init_nested")


@settings.fixed()
def run_ladder(
    config: ConfigDict,
    workdir: str | Path,
    *,
    devices: list[jax.Device] | None = None,
    console: Console | None = None,
    other_versions: bool = False,
) -> list[Row]:
    """Runs a config's ladders, or what is left of them.

    Args:
        config: of `config.default_config`'s form.
        workdir: the run directory; a new or empty one, or one of the same config.
        devices: over which to shard batches; default: all.
        console: where to show progress.
        other_versions: go on even with what other versions of the software have begun.

    Returns:
        The rows of `curve.csv`.

    Raises:
        ConfigError, DataError: before anything is written.
        TrainingError: a loss is not finite; what was completed before is kept.
        OSError: the disk is full, say; likewise.
        KeyboardInterrupt: Ctrl-C; what was trained is saved first, to the step.
    """
    config = resolve(config)
    if config.transfer.sources:
        raise ConfigError("config.transfer.sources: run_matrix runs a matrix of ladders")
    workdir = local_path(workdir, "workdir")
    # In a notebook too: plain lines, which a notebook shows as one block of text.
    console = console or Console(soft_wrap=True, force_jupyter=False)
    multihost.run_on_primary(lambda: check_workdir(workdir, config, other_versions=other_versions))
    if multihost.broadcast_from_primary(lambda: is_finished(workdir, config)):
        return multihost.broadcast_from_primary(lambda: finished(config, workdir, console))
    multihost.assert_equal_across_processes(
        _what_must_be_alike(config), "the config, the versions or the settings"
    )
    setup = multihost.run_on_all(lambda: set_up(config, devices))
    data_sha256 = multihost.run_on_all(lambda: setup.data_sha256)
    multihost.assert_equal_across_processes(data_sha256, f"the data {setup.dataset.name}")

    def begin() -> None:
        held.enter_context(locked(workdir))
        # Again: another process may have begun something here while the data were read.
        check_workdir(workdir, config, other_versions=other_versions)
        check_data(workdir, data_sha256)
        record_config(workdir, config, data_sha256)
        record_versions(workdir)
        tidy(config, workdir)
        run.open_logs()
        held.callback(run.close_logs)
        for note in setup.dataset.notes:
            display.say(note)

    total = len(list_trials(config, workdir)) * config.train.epochs
    with metrics.Display(total, console) as display, ExitStack() as held:
        run = Run(setup, workdir, display)
        multihost.run_on_primary(begin)
        for seeds in batched(config.seeds, setup.layout.stack_size):
            climb(run, seeds)
    return multihost.broadcast_from_primary(lambda: write_curve(config, workdir))


def _what_must_be_alike(config: ConfigDict) -> str:
    """A hash of what has to be the same in all processes; where things are may differ."""
    own = re.compile(r"data\.(dir|workers)|source|wandb\..*")
    values = {k: v for k, v in configuration.flatten(config).items() if not own.fullmatch(k)}
    return hashlib.sha256(
        repr((values, versions(config), settings.recorded())).encode()
    ).hexdigest()


def finished(config: ConfigDict, workdir: Path, console: Console) -> list[Row]:
    """What there is to say of a run that is complete."""
    if leftovers(config, workdir):  # and if so, of a process that was killed at its very end
        with locked(workdir):
            tidy(config, workdir)
    console.print(f"{workdir}: complete, nothing to do", markup=False, highlight=False)
    return write_curve(config, workdir)


class Origin(NamedTuple):
    """What every ticket of a replicate starts from.

    Attributes:
        variables: the dense weights and their BatchNorm statistics, as NumPy arrays.
        step: of the schedule, to start at.
        initial: the variables of step 0.
        rewind: the whole state at the rewind point; None if the weights are another run's.
    """

    variables: PyTree
    step: int
    initial: PyTree
    rewind: TrainState | None


# By the seed; on the first process.
Origins = Mapping[int, Origin]


def climb(run: Run, seeds: Sequence[int]) -> None:
    """All levels of the replicates that train together."""
    setup = run.setup
    todo = [trial for trial in list_trials(setup.config, run.workdir) if trial.seed in seeds]
    levels = range(setup.config.ladder.levels + 1)

    def not_complete() -> list[list[Trial]]:
        left = [trial for trial in todo if not tickets.is_complete(trial.ticket_dir)]
        run.display.skip((len(todo) - len(left)) * setup.config.train.epochs)
        return [[trial for trial in left if trial.level == level] for level in levels]

    left = multihost.run_on_primary(not_complete) or [[] for _ in levels]
    if multihost.broadcast_from_primary(lambda: not any(left)):
        return
    origins = transferred_origins(run, seeds) if setup.source else own_origins(run, seeds)
    drawn_from: dict[Trial, Ticket] = {}
    for of_level in left:
        drawn_from = climb_level(run, of_level, origins, drawn_from)


def climb_level(
    run: Run, left: Sequence[Trial], origins: Origins, drawn_from: Mapping[Trial, Ticket]
) -> dict[Trial, Ticket]:
    """Trains and records what is left of a level; gives its winning tickets, to draw from."""
    seeds = dict.fromkeys(trial.seed for trial in left)

    def of(seed: int) -> list[Trial]:
        return [trial for trial in left if trial.seed == seed]

    def trainings() -> list[PendingTrial]:
        return [
            training
            for seed in seeds
            for training in level_trainings(run, of(seed), origins[seed], drawn_from)
        ]

    def record() -> None:
        if left:
            write_curve(run.setup.config, run.workdir)
        for seed in seeds:
            run.display.say(_level_line(run, seed, left[0].level))

    kept = train_all(run, multihost.run_on_primary(trainings), run.setup.end_step, keep_ticket)
    multihost.run_on_primary(record)
    return {trial: ticket for trial, ticket in kept.items() if ticket is not None}


def level_trainings(
    run: Run, left: list[Trial], origin: Origin, at_hand: Mapping[Trial, Ticket]
) -> list[PendingTrial]:
    """What is left to be trained of one level of a replicate: the ticket and its controls.

    Args:
        run: the run.
        left: of the level, what is not complete.
        origin: of the replicate.
        at_hand: tickets that need not be loaded to draw from them.
    """
    setup, ladder = run.setup, run.setup.config.ladder
    seed, level = left[0].seed, left[0].level
    keys = Keys.of(seed)
    winner = run.trial(seed, level).ticket_dir
    if tickets.is_complete(winner):  # its controls are left: they get the very mask it has
        mask = tickets.load_ticket(winner).mask
    else:
        mask = level_mask(run, seed, level, origin, keys, at_hand)
    start = UntrainedTicket(mask, origin.variables, origin.step)
    trainings = []
    for trial in left:
        begin, restored = start, None
        if trial.control != WINNING:
            begin = controlled(run, trial, start, origin, keys)
        elif level == 0 and origin.rewind is not None:
            # The dense network goes on from the rewind point as if nothing had happened.
            begin, restored = start._replace(step=setup.rewind_step), origin.rewind
        if ladder.optimizer_state == "restored" and trial.control in {WINNING, *FROM_REWIND_POINT}:
            restored = origin.rewind
        warn_of_collapse(run, trial, begin.mask)
        trainings.append(PendingTrial(trial, begin, restored))
    return trainings


def own_origins(run: Run, seeds: Sequence[int]) -> Origins:
    """The run's own weights at the rewind point: trained to there, or loaded from the disk."""
    setup = run.setup

    def initial() -> dict[int, PyTree]:
        return {seed: jax.device_get(setup.init(Keys.of(seed).init)) for seed in seeds}

    variables = multihost.run_on_primary(initial) or {}
    rewind = rewind_points(run, variables)
    restart = setup.config.ladder.schedule == "restart"
    return {
        seed: Origin(
            variables={"params": state.params, "batch_stats": state.batch_stats},
            step=0 if restart else setup.rewind_step,
            initial=variables[seed],
            rewind=state,
        )
        for seed, state in rewind.items()
    }


def rewind_points(run: Run, initial: Mapping[int, PyTree]) -> dict[int, TrainState]:
    """The states at the rewind step, as NumPy arrays: trained to there, or loaded from the disk."""
    setup = run.setup
    found: dict[int, TrainState] = {}

    def missing() -> list[PendingTrial]:
        trainings = []
        for seed, variables in initial.items():
            begin = UntrainedTicket(masks.ones_like(variables["params"]), variables, 0)
            like = init_state(setup.program.optimizer, begin)
            saved = checkpoints.load_state(rewind_dir(run.workdir, seed), like=like)
            if saved is None:
                trainings.append(PendingTrial(run.trial(seed, 0), begin))
            else:
                found[seed] = saved.state
        return trainings

    def keep(run: Run, training: PendingTrial, state: TrainState, rows: list[Row]) -> TrainState:
        run.save_state(training.trial, rewind_dir(run.workdir, training.trial.seed), state)
        return state

    made = train_all(run, multihost.run_on_primary(missing), setup.rewind_step, keep)
    found |= {trial.seed: state for trial, state in made.items()}
    return {seed: found[seed] for seed in initial}


def transferred_origins(run: Run, seeds: Sequence[int]) -> Origins:
    """Those of the source's tickets."""
    return multihost.run_on_primary(lambda: {s: transferred_origin(run, s) for s in seeds}) or {}


def transferred_origin(run: Run, seed: int) -> Origin:
    """The weights at the source's rewind point, with a new output layer where that is asked for.

    Training starts where a native ticket of the same config would, so that both train as long.
    """
    setup, source, keys = run.setup, run.setup.source, Keys.of(seed)
    assert source is not None
    restart = setup.config.ladder.schedule == "restart"
    variables = source.ticket(seed, 0).variables
    initial = setup.init(keys.init)
    if setup.new_head:
        # Another key: with that of the replicate it would be the head that the source began with.
        fresh = jax.device_get(setup.init(jax.random.fold_in(keys.init, 1)))
        params = heads.with_new_head(variables["params"], fresh["params"])
        variables = {**variables, "params": params}
    return Origin(
        variables=variables,
        step=0 if restart else setup.rewind_step,
        initial=initial,
        rewind=None,
    )


def level_mask(
    run: Run, seed: int, level: int, origin: Origin, keys: Keys, at_hand: Mapping[Trial, Ticket]
) -> PyTree:
    """The mask of a level: everything, the source's, or drawn from what was trained before."""
    setup = run.setup
    if setup.source:
        mask = setup.source.ticket(seed, level).mask
        if setup.new_head:
            head = origin.variables["params"][heads.HEAD]
            policy = setup.config.transfer.head_mask
            mask = heads.mask_for_new_head(mask, head, policy, keys.score)
        return mask
    if level == 0:
        return masks.ones_like(origin.variables["params"])
    from_before = setup.config.ladder.draw in _FROM_BEFORE
    trial = run.trial(seed, level - 1 if from_before else 0)
    parent = at_hand[trial] if trial in at_hand else tickets.load_ticket(trial.ticket_dir)
    return draw_mask(run, level, parent, origin, keys)


def draw_mask(run: Run, level: int, parent: Ticket, origin: Origin, keys: Keys) -> PyTree:
    """Scores the weights that `config.ladder.draw` names, and keeps the best of them.

    The parent is the ticket of the level before, or the dense one.
    """
    setup, ladder = run.setup, run.setup.config.ladder
    network = setup.program.network
    from_before = ladder.draw in _FROM_BEFORE
    at_start = ladder.draw in ("init", "init_nested")
    variables = parent.variables if at_start else parent.trained_variables
    size = ladder.score_batch_size or setup.config.train.batch_size
    preprocess = make_preprocess(setup.dataset.mean, setup.dataset.std, "none")
    # Where every level begins with the whole network, all see the same images: it is one ranking,
    # cut at several places.
    data_keys = jax.random.fold_in(keys.score, level) if from_before else keys.score
    # One key for all levels and rounds, so that a random order of the weights stays what it is.
    score_key = jax.random.split(jax.random.fold_in(keys.score, 0))[1]

    def score(mask: PyTree, done: int) -> PyTree:
        data_key = jax.random.split(jax.random.fold_in(data_keys, done))[0]
        images, labels = setup.feed.sample(data_key, ladder.score_batches, size)
        subject = ScoreInputs(
            # Computed in float32 whatever training computes in, on one device: the same ranking
            # on any number of them.
            loss=partial(BatchLoss, network.with_dtype(jnp.float32), setup.program.task),
            summed_output=SummedOutput(network.with_dtype(jnp.float64)),
            compiler_options=compiler_options(jax.default_backend()),
            params=jax.device_get(masks.apply(mask, variables["params"])),
            mask=mask,
            batch_stats=variables["batch_stats"],
            initial=jax.device_get(origin.initial["params"]),
            images=preprocess(data_key, images, False),
            labels=labels,
            key=score_key,
        )
        return SCORES[ladder.scores](subject)

    sizes = masks.ranking_groups(masks.ones_like(parent.mask), ladder.scope, setup.skip)
    keep = counts_at(ladder, sizes, level)
    rounds = ladder.rounds or OWN_ROUNDS.get(ladder.scores, 1)
    return schedule.prune_iteratively(score, parent.mask, keep, rounds)


def controlled(
    run: Run, trial: Trial, start: UntrainedTicket, origin: Origin, keys: Keys
) -> UntrainedTicket:
    """The ticket that a control makes of the winning one.

    A control with new weights starts at step 0: it gets the warm-up and the whole training.
    """
    setup = run.setup
    skip = setup.skip
    if setup.new_head and setup.config.transfer.head_mask == "dense":
        skip = (*skip, heads.HEAD)
    key = jax.random.fold_in(keys.control, trial.level)
    key = jax.random.fold_in(key, zlib.crc32(trial.control.encode()))
    return CONTROLS[trial.control](start, key, ControlInputs(setup.init, origin.initial, skip))


def _level_line(run: Run, seed: int, level: int) -> str:
    line = f"seed {seed}  level {level:2d}"
    here = [
        u for u in list_trials(run.setup.config, run.workdir) if (u.seed, u.level) == (seed, level)
    ]
    for i, trial in enumerate(here):
        metadata = tickets.read_metadata(trial.ticket_dir)
        if i == 0:
            line += f"  {metadata['density']:8.2%} of weights"
        line += f"   {trial.control} {metadata['result']['test_accuracy']:.2%}"
    return line
