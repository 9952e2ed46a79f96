"""Trains what is left of a run, several trainings together, and records each epoch.

All processes come here; what is on the disk the first one reads and writes for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lottery_jax.errors import TrainingError
from lottery_jax.parallel import multihost
from lottery_jax.parallel.mesh import to_host
from lottery_jax.parallel.replicates import stack, stack_keys, stack_to_mesh, unstack
from lottery_jax.pruning import masks
from lottery_jax.runs.checkpoints import Checkpoint, latest_step
from lottery_jax.runs.directory import Row, Trial
from lottery_jax.runs.experiment import Setup
from lottery_jax.runs.trials import Keys, PendingTrial, Run, name_of
from lottery_jax.training.loop import (
    EpochProgress,
    EpochReport,
    MetricSums,
    TrainState,
    first_not_finite,
    fit,
)

PyTree = Any
T = TypeVar("T")
Keep = Callable[[Run, PendingTrial, TrainState, list[Row]], T]


def train_all(
    run: Run, trainings: Sequence[PendingTrial] | None, until: int, keep: Keep[T]
) -> dict[Trial, T]:
    """Trains each to step `until`, from its start or its checkpoint, and has it kept.

    Those that are at the same step are trained together, as many as `Setup.layout` says.

    Args:
        run: the run.
        trainings: on the first process.
        until: the step to stop at.
        keep: given the run, the training, its last state as NumPy arrays and the rows of its
            epochs; called on the first process.

    Returns:
        What `keep` gives, by the trial; empty on other processes than the first.

    Raises:
        TrainingError: a loss is not finite; names the training.
        KeyboardInterrupt: a signal arrived; what was trained is saved.
    """
    of = {training.trial: training for training in trainings or ()}

    def plan() -> list[list[list[Any]]]:
        at_step: dict[int, list[Trial]] = {}
        for trial, training in of.items():
            at_step.setdefault(training.reached(until), []).append(trial)
        return [
            [[trial.seed, trial.level, trial.control] for trial in group]
            for trials in at_step.values()
            for group in batched(trials, run.setup.layout.stack_size)
        ]

    kept: dict[Trial, T] = {}
    failures: list[TrainingError] = []
    for group in multihost.broadcast_from_primary(plan):
        trials = [run.trial(*name) for name in group]
        with multihost.preemption_guard() as asked:  # what was trained to its end is kept first
            while trials:
                try:
                    kept |= train_together(run, trials, of, until, keep, asked)
                    break
                except TrainingError as error:
                    failed = _failed(error, trials)
                    failures.append(_named(error, failed))
                    run.display.say(f"{failures[-1]}; the trainings beside it continue")
                    trials = [trial for trial in trials if trial not in failed]
    if failures:
        multihost.ending()
        raise failures[0]
    return kept


def _failed(error: TrainingError, trials: Sequence[Trial]) -> Sequence[Trial]:
    """Those that can't be trained further: the one that the error is of, or all."""
    if error.replicate is None:
        return trials
    return [trials[min(error.replicate, len(trials) - 1)]]  # beyond them are copies of the last


def _named(error: TrainingError, failed: Sequence[Trial]) -> TrainingError:
    if error.replicate is None:  # which are named already
        return error
    named = TrainingError(f"{name_of(failed[0])}: {error}")
    named.reported = not multihost.is_primary()  # all have seen it
    return named


def batched(members: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The members in groups of at most `size`."""
    for i in range(0, len(members), size):
        yield members[i : i + size]


def train_together(
    run: Run,
    trials: Sequence[Trial],
    of: Mapping[Trial, PendingTrial],
    until: int,
    keep: Keep[T],
    asked: Callable[[], bool],
) -> dict[Trial, T]:
    """Trains what is at the same step, a replicate each of one stacked state."""
    setup, program, count = run.setup, run.setup.program, len(trials)
    size = setup.layout.stack_size
    like = _structure(setup)

    def checkpoint(trial: Trial) -> Checkpoint:
        return _from_first(lambda: of[trial].checkpoint(program, until), like)

    checkpoints = [checkpoint(trial) for trial in trials]
    rows = multihost.broadcast_from_primary(lambda: [run.rows_of(trial) for trial in trials])
    record = recorder(run, trials, rows)
    density = masks.density(checkpoints[0].state.mask)
    run.display.working_on(_label(trials, density))
    first_step = int(checkpoints[0].state.step)
    run.display.skip(count * (first_step // program.steps_per_epoch))

    def save_all(state: TrainState, progress: EpochProgress) -> None:
        of_each = unstack((state, progress.totals), count, size)
        shares = [EpochProgress(totals, progress.seconds / count) for _, totals in of_each]
        save_states(run, trials, [own for own, _ in of_each], shares)
        for trial in trials:
            saved = latest_step(trial.checkpoint_dir)
            run.display.say(f"{name_of(trial)}: saved at step {saved}")

    def at_step(state: TrainState, progress: EpochProgress) -> None:
        if asked():
            state, totals = to_host((state, progress.totals))
            multihost.run_on_primary(lambda: save_all(state, progress._replace(totals=totals)))
            multihost.stop()

    def at_epoch(state: TrainState, report: EpochReport) -> None:
        record(state, report)
        if report.step < until:
            at_step(state, EpochProgress(stack([MetricSums.zero()] * count, size), 0.0))

    state = fit(
        program,
        stack_to_mesh(program.mesh, [checkpoint.state for checkpoint in checkpoints], size),
        setup.train_of(trials[0].seed),
        stack_keys([Keys.of(trial.seed).train for trial in trials], size),
        until=until,
        progress=EpochProgress(
            stack([checkpoint.progress.totals for checkpoint in checkpoints], size),
            sum(float(checkpoint.progress.seconds) for checkpoint in checkpoints),
        ),
        on_epoch=at_epoch,
        on_step=at_step,
    )
    trained = unstack(to_host(state), count, size)

    def keep_all() -> dict[Trial, T]:
        kept: dict[Trial, T] = {}

        def keep_one(trial: Trial, state: TrainState, of_trial: list[Row]) -> None:
            kept[trial] = keep(run, of[trial], state, of_trial)

        _for_each(keep_one, zip(trials, trained, rows, strict=True))
        return kept

    return multihost.run_on_primary(keep_all) or {}


def save_states(
    run: Run,
    trials: Sequence[Trial],
    states: Sequence[TrainState],
    progress: Sequence[EpochProgress | None],
) -> None:
    """Saves checkpoints that are further on than those there are.

    Raises:
        TrainingError: a state is not finite; the others are saved.
    """

    def save(trial: Trial, state: TrainState, of_epoch: EpochProgress | None) -> None:
        if int(state.step) > latest_step(trial.checkpoint_dir):
            run.save_state(trial, trial.checkpoint_dir, state, of_epoch)

    _for_each(save, zip(trials, states, progress, strict=True))


def _for_each(action: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
    """Does it for each, and raises the first TrainingError at the end."""
    failures = []
    for each in arguments:
        try:
            action(*each)
        except TrainingError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def _from_first(action: Callable[[], PyTree], like: PyTree) -> PyTree:
    """What `action` gives on the first process, a tree of the structure of `like`, on all of them."""
    leaves = multihost.broadcast_from_primary(
        lambda: [np.asarray(a) for a in jax.tree.leaves(action())]
    )
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _structure(setup: Setup) -> Checkpoint:
    """A checkpoint of a run without its arrays."""
    variables = jax.eval_shape(setup.init, jax.random.key(0))
    optimizer = setup.program.optimizer

    def start(variables: PyTree) -> Checkpoint:
        params = variables["params"]
        opt_state, stats = optimizer.init(params), variables["batch_stats"]
        state = TrainState(jnp.int32(0), params, stats, opt_state, mask=params)
        return Checkpoint(state, EpochProgress(MetricSums.zero(), 0.0))

    return jax.eval_shape(start, variables)


def _label(trials: Sequence[Trial], density: float) -> str:
    """What is being trained, in a few words."""
    seeds = ",".join(str(seed) for seed in dict.fromkeys(trial.seed for trial in trials))
    controls = ", ".join(dict.fromkeys(trial.control for trial in trials))
    return f"seed {seeds}  level {trials[0].level:2d}  {density:7.2%} {controls}"


def recorder(
    run: Run, trials: Sequence[Trial], rows: Sequence[list[Row]]
) -> Callable[[TrainState, EpochReport], None]:
    """The function that measures, writes and checkpoints at the end of each epoch of a group.

    `rows` are those that there are of each training; new ones are added.
    """
    setup, train = run.setup, run.setup.config.train
    count = len(trials)
    known = [{row["step"] for row in of_trial} for of_trial in rows]

    def record(state: TrainState, report: EpochReport) -> None:
        if all(report.step in steps for steps in known):
            return  # on the way to a rewind point that has to be made again
        last = report.step == setup.end_step
        measured: dict[str, Any] = {}
        if last or report.epoch % train.eval_every_epochs == 0:
            test = setup.program.evaluate(state, setup.test)
            _check_finite(test.loss, report)
            measured = {"test_accuracy": test.accuracy, "test_loss": test.loss}
            if setup.validation is not None:
                held_out = setup.program.evaluate(state, setup.validation)
                measured |= {"val_accuracy": held_out.accuracy, "val_loss": held_out.loss}
        new = [
            (
                i,
                {
                    "seed": trial.seed,
                    "level": trial.level,
                    "control": trial.control,
                    "epoch": report.epoch,
                    "step": report.step,
                    "train_loss": _of(report.train_loss, i),
                    "lr": report.learning_rate,
                    "images_per_s": round(report.images_per_s * count, 1),
                    "seconds": round(report.seconds / count, 4),
                    **{key: _of(values, i) for key, values in measured.items()},
                },
            )
            for i, trial in enumerate(trials)
            if report.step not in known[i]
        ]
        for i, row in new:
            rows[i].append(row)
        every = train.checkpoint_every_epochs
        states: list[TrainState] = []
        if every and report.epoch % every == 0 and not last:
            states = unstack(to_host(state), count, run.setup.layout.stack_size)

        def write() -> None:
            for _, row in new:
                run.write(row)
            at = [i for i, _ in new] if states else []
            save_states(run, [trials[i] for i in at], [states[i] for i in at], [None] * len(at))

        multihost.run_on_primary(write)
        accuracies = np.ravel(measured["test_accuracy"])[:count] if measured else None
        mean = None if accuracies is None else float(accuracies.mean())
        run.display.epoch_done(mean, report.images_per_s * count, count)

    return record


def _of(values: Any, replicate: int) -> float:
    """A replicate's own of what was measured."""
    return float(values if np.ndim(values) == 0 else values[replicate])


def _check_finite(loss: Any, report: EpochReport) -> None:
    if (at := first_not_finite(loss)) is not None:
        raise TrainingError(
            f"the test loss is {_of(loss, at)} after step {report.step} (learning rate "
            f"{report.learning_rate:g}); weights or BatchNorm statistics are not finite",
            replicate=at,
        )
