"""Training of trials: those that are at the same step are stacked and trained together."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple, TypeVar

import jax

from lottery_jax.errors import TrainingError
from lottery_jax.parallel import multihost
from lottery_jax.parallel.mesh import to_host
from lottery_jax.parallel.replicates import stack, stack_keys, stack_to_mesh, unstack
from lottery_jax.pruning import masks
from lottery_jax.pruning.controls import UntrainedTicket
from lottery_jax.runs.checkpoints import Checkpoint
from lottery_jax.runs.directory import Row, Trial
from lottery_jax.runs.experiment import Experiment
from lottery_jax.runs.recording import Recorder
from lottery_jax.runs.store import RunStore
from lottery_jax.system import settings
from lottery_jax.training.loop import EpochReport, fit
from lottery_jax.training.state import EpochProgress, TrainState, init_state

T = TypeVar("T")


class Keys(NamedTuple):
    """The random keys of a seed, one for each purpose.

    Where a purpose has several uses, each folds in its level, round or control.
    """

    init: jax.Array
    train: jax.Array  # the same for all tickets of a seed: they see the same batches
    control: jax.Array
    score: jax.Array

    @classmethod
    def from_seed(cls, seed: int, order: int = 0) -> Keys:
        """Return the keys of a seed; `order` is `config.train.order`, which changes `train` alone."""
        keys = cls(*jax.random.split(jax.random.key(seed, impl=settings.PRNG), 4))
        return keys._replace(train=jax.random.fold_in(keys.train, order)) if order else keys


class PendingTrial(NamedTuple):
    """A trial that is to be trained.

    Attributes:
        trial: the trial.
        ticket: the ticket before training.
        restored: the state whose optimizer state training starts with; None for a fresh one.
    """

    trial: Trial
    ticket: UntrainedTicket
    restored: TrainState | None = None

    @property
    def first_step(self) -> int:
        """The step at which the training of this network began.

        For a dense network that goes on from its own rewind point this is 0.
        """
        return 0 if self.trial.level == 0 and self.restored is not None else self.ticket.step


class TrainedTrial(NamedTuple):
    """A trial that was trained to the step that was asked for.

    Attributes:
        pending: the trial before training.
        state: its last state, as NumPy arrays.
        rows: its rows of metrics.jsonl, one for each epoch.
        evaluations: its other rows of metrics.jsonl.
    """

    pending: PendingTrial
    state: TrainState
    rows: list[Row]
    evaluations: list[Row]


def batched(members: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the members in groups of at most `size`."""
    for i in range(0, len(members), size):
        yield members[i : i + size]


def train_trials(
    experiment: Experiment,
    store: RunStore,
    pending: Sequence[PendingTrial],
    until: int | None = None,
) -> Generator[list[TrainedTrial], None, None]:
    """Train trials to step `until`, or to their ends, each from its start or its checkpoint.

    Trials that are at the same step are trained together, as many as `experiment.layout` says. A
    signal that asks to stop is raised when the caller has dealt with what was yielded.

    Yields:
        The trials that were trained together.

    Raises:
        TrainingError: a loss or a weight is not finite; names the trial. The other trials are
            trained first. If only a checkpoint shows it, those of the group stop there.
        KeyboardInterrupt: a signal arrived; checkpoints are saved.
    """
    together: dict[tuple[int, int], list[PendingTrial]] = {}  # by first and last step
    for each in pending:
        end = experiment.end_of(each.ticket.step) if until is None else until
        step = store.resume_step(each.trial, each.ticket.step, end)
        together.setdefault((step, end), []).append(each)
    failures: list[TrainingError] = []
    for (_, end), same_steps in together.items():
        for group in batched(same_steps, experiment.layout.stack_size):
            with multihost.preemption_guard() as should_stop:
                while group:
                    try:
                        trained = _train_stacked(experiment, store, group, end, should_stop)
                    except TrainingError as error:
                        failed = _failed(error, [each.trial for each in group])
                        failures.append(_with_name(error, failed[0]))
                        group = [each for each in group if each.trial not in failed]
                        if group:
                            store.display.say(f"{failures[-1]}; the trainings beside it continue")
                    else:
                        yield trained
                        break
    if failures:
        multihost.ending()
        raise failures[0]


def _failed(error: TrainingError, trials: Sequence[Trial]) -> Sequence[Trial]:
    """Return the trial that failed, or all if the error does not say which."""
    if error.replicate is None:
        return trials
    return [trials[min(error.replicate, len(trials) - 1)]]  # places beyond are copies of the last


def _with_name(error: TrainingError, failed: Trial) -> TrainingError:
    if error.replicate is None:  # its message has the name
        return error
    named = TrainingError(f"{failed}: {error}")
    named.reported = not multihost.is_primary()  # all processes have seen it
    return named


def _train_stacked(
    experiment: Experiment,
    store: RunStore,
    group: Sequence[PendingTrial],
    until: int,
    should_stop: Callable[[], bool],
) -> list[TrainedTrial]:
    """Train trials that are at the same step, stacked along a replicate axis."""
    program, count, size = experiment.program, len(group), experiment.layout.stack_size
    trials = [each.trial for each in group]
    checkpoints = [_load_checkpoint(experiment, store, each, until) for each in group]
    densities = [masks.density(checkpoint.state.mask) for checkpoint in checkpoints]
    recorder = Recorder(experiment, store, trials, densities, until)
    first_step, per_epoch = int(checkpoints[0].state.step), program.steps_per_epoch
    epochs, to_the_end = until // per_epoch - first_step // per_epoch, until >= experiment.end_step
    store.display.describe(_label(trials, densities[0]), count * epochs, counted=to_the_end)
    if to_the_end:
        before = first_step - (until - experiment.end_step)  # steps that it does not train
        store.display.skip(count * (before // per_epoch))

    def stop_if_asked(state: TrainState, progress: EpochProgress) -> None:
        store.display.step_done()
        if not should_stop():
            return
        replicates = unstack(to_host((state, progress.sums)), count, size)
        store.save_checkpoints(
            [
                (trial, own, EpochProgress(sums, progress.seconds / count))
                for trial, (own, sums) in zip(trials, replicates, strict=True)
            ]
        )
        for trial, (own, _) in zip(trials, replicates, strict=True):
            store.display.say(f"{trial}: saved at step {int(own.step)}")
        multihost.stop()

    def end_epoch(state: TrainState, report: EpochReport) -> None:
        recorder.end_epoch(state, report)
        if report.step < until:
            stop_if_asked(
                state, EpochProgress(stack([program.task.zero_sums()] * count, size), 0.0)
            )

    state = stack_to_mesh(program.mesh, [checkpoint.state for checkpoint in checkpoints], size)
    recorder.begin(state, [each.ticket.step == first_step for each in group])
    state = fit(
        program,
        state,
        experiment.training_data(trials[0].seed),
        stack_keys(
            [Keys.from_seed(t.seed, experiment.config.train.order).train for t in trials], size
        ),
        until=until,
        progress=EpochProgress(
            stack([checkpoint.progress.sums for checkpoint in checkpoints], size),
            sum(float(checkpoint.progress.seconds) for checkpoint in checkpoints),
        ),
        on_epoch=end_epoch,
        on_step=stop_if_asked,
        eval_every=experiment.config.train.eval_every_steps,
        on_eval=recorder.end_step,
    )
    states = unstack(to_host(state), count, size)
    parts = zip(group, states, recorder.epochs, recorder.evaluations, strict=True)
    return [TrainedTrial(*each) for each in parts]


def _load_checkpoint(
    experiment: Experiment, store: RunStore, pending: PendingTrial, until: int
) -> Checkpoint:
    """Return the checkpoint at which a trial goes on, or its start."""
    state = init_state(experiment.program.optimizer, pending.ticket, pending.restored)
    zero = jax.device_get(experiment.program.task.zero_sums())
    start = Checkpoint(state, EpochProgress(zero, 0.0))
    return store.load_checkpoint(pending.trial, start, until)


def _label(trials: Sequence[Trial], density: float) -> str:
    """Return what is being trained, in a few words."""
    seeds = ",".join(str(seed) for seed in dict.fromkeys(trial.seed for trial in trials))
    controls = ", ".join(dict.fromkeys(trial.control for trial in trials))
    return f"seed {seeds}  level {trials[0].level:2d}  {density:7.2%} {controls}"
