"""Recording of trials that train together: measurements, rows of metrics.jsonl, checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lottery_jax.curve import show_metric
from lottery_jax.errors import TrainingError
from lottery_jax.parallel.mesh import to_host
from lottery_jax.parallel.replicates import unstack
from lottery_jax.runs.directory import Row, Trial
from lottery_jax.runs.experiment import Experiment
from lottery_jax.runs.metrics import EVALUATION, KIND, UNTRAINED
from lottery_jax.runs.store import RunStore
from lottery_jax.training.loop import EpochReport, first_not_finite
from lottery_jax.training.state import TrainState


class Recorder:
    """Measures, writes and checkpoints trials that train together.

    Rows are written, and epochs kept, before the checkpoint of the same step. Steps whose rows are there
    already, on the way to a rewind point that has to be made again, are not recorded twice.

    Args:
        experiment: the run's experiment.
        store: the run's store.
        trials: the trials.
        densities: for each trial, the share of its weights that remain.
        until: the step at which they end: that of the rewind point, or of the whole training.

    Attributes:
        epochs: for each trial, its rows of epochs.
        evaluations: for each trial, its rows of evaluations between them.
    """

    def __init__(
        self,
        experiment: Experiment,
        store: RunStore,
        trials: Sequence[Trial],
        densities: Sequence[float],
        until: int,
    ) -> None:
        self._experiment = experiment
        self._store = store
        self._trials = trials
        self._densities = densities
        # The way to a rewind point is a part of level 0, which is evaluated at its end.
        self._end = until if until >= experiment.end_step else None
        rows = store.rows_of(trials)
        self.epochs = [[row for row in each if KIND not in row] for each in rows]
        self.evaluations = [[row for row in each if KIND in row] for each in rows]
        self._measured: tuple[int, dict[str, Any]] = (-1, {})

    def begin(self, state: TrainState, at_start: Sequence[bool]) -> None:
        """Evaluate tickets before they are trained, if the config asks for it.

        Args:
            state: the stacked state from which training goes on.
            at_start: for each trial, whether that is the state in which it starts.
        """
        if self._experiment.config.train.eval_untrained and self._end is not None:
            self._evaluated(state, int(np.ravel(to_host(state.step))[0]), UNTRAINED, at_start)

    def end_step(self, state: TrainState, step: int) -> None:
        """Evaluate and write a row for each trial, within an epoch or at its end."""
        self._evaluated(state, step, EVALUATION, [True] * len(self._trials))

    def _evaluated(self, state: TrainState, step: int, kind: str, wanted: Sequence[bool]) -> None:
        count = len(self._trials)
        known = [{r["step"] for r in each if r[KIND] == kind} for each in self.evaluations]
        new = [i for i in range(count) if wanted[i] and step not in known[i]]
        if not new:
            return
        measured = self._measure(state, step)
        rows = [
            {**_name(self._trials[i]), KIND: kind, "step": step, **_own(measured, i)} for i in new
        ]
        for i, row in zip(new, rows, strict=True):
            self.evaluations[i].append(row)
        self._store.write_rows(rows, [self._densities[i] for i in new])

    def end_epoch(self, state: TrainState, report: EpochReport) -> None:
        """Measure, write and checkpoint at the end of an epoch."""
        experiment, count = self._experiment, len(self._trials)
        train = experiment.config.train
        known = [{row["step"] for row in each} for each in self.epochs]
        new = [i for i in range(count) if report.step not in known[i]]
        if not new:
            return  # on the way to a rewind point that has to be made again
        is_last = report.step == self._end
        if is_last and train.eval_every_steps:
            self.end_step(state, report.step)
        measured: dict[str, Any] = {}
        if is_last or report.epoch % train.eval_every_epochs == 0:
            measured = self._measure(state, report.step)
        rows = [
            {
                **_name(self._trials[i]),
                "epoch": report.epoch,
                "step": report.step,
                "train_loss": _of_replicate(report.train_loss, i),
                "lr": report.learning_rate,
                "images_per_s": round(report.images_per_s * count, 1),
                "seconds": round(report.seconds / count, 4),
                **_own(measured, i),
            }
            for i in new
        ]
        for i, row in zip(new, rows, strict=True):
            self.epochs[i].append(row)
        self._store.write_rows(rows, [self._densities[i] for i in new])
        keep = _is_kept(report.epoch, train.keep_epochs)
        every = train.checkpoint_every_epochs
        checkpoint = every and report.epoch % every == 0 and not is_last
        if keep or checkpoint:
            states = unstack(to_host(state), count, experiment.layout.stack_size)
        if keep:
            self._store.save_epochs([(self._trials[i], report.epoch, states[i]) for i in new])
        if checkpoint:
            self._store.save_checkpoints([(self._trials[i], states[i], None) for i in new])
        metric = experiment.program.task.metric
        shown = ""
        if measured:
            shown = show_metric(float(np.ravel(measured[f"test_{metric}"])[:count].mean()), metric)
        self._store.display.epoch_done(shown, report.images_per_s * count, count)

    def _measure(self, state: TrainState, step: int) -> dict[str, Any]:
        """Return losses and metrics on the test set, and on the validation set if there is one.

        Raises:
            TrainingError: the test loss is not finite.
        """
        if self._measured[0] == step:  # an epoch ends where steps are evaluated
            return self._measured[1]
        experiment, program = self._experiment, self._experiment.program
        test = program.evaluate(state, experiment.test)
        if (at := first_not_finite(test.loss)) is not None:
            raise TrainingError(
                f"the test loss is {_of_replicate(test.loss, at)} after step {step} (learning rate "
                f"{float(program.schedule(jnp.int32(max(step - 1, 0)))):g}); weights or BatchNorm "
                "statistics are not finite",
                replicate=at,
            )
        metric = program.task.metric
        measured = {f"test_{metric}": test.accuracy, "test_loss": test.loss}
        if experiment.validation is not None:
            validation = program.evaluate(state, experiment.validation)
            measured |= {f"val_{metric}": validation.accuracy, "val_loss": validation.loss}
        self._measured = (step, measured)
        return measured


def _is_kept(epoch: int, keep_epochs: Sequence[int]) -> bool:
    """Return whether weights are kept after an epoch.

    >>> [epoch for epoch in range(1, 10) if _is_kept(epoch, (-4, 2))]
    [2, 4, 8]
    """
    return epoch in keep_epochs or any(n < 0 and epoch % n == 0 for n in keep_epochs)


def _name(trial: Trial) -> Row:
    return {"seed": trial.seed, "level": trial.level, "control": trial.control}


def _own(measured: dict[str, Any], replicate: int) -> Row:
    return {key: _of_replicate(values, replicate) for key, values in measured.items()}


def _of_replicate(values: Any, replicate: int) -> float:
    """Return a replicate's own value of an array of all, or of a scalar."""
    return float(values if np.ndim(values) == 0 else values[replicate])
