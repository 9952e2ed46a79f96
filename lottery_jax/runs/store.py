"""The store of a run: what happens on its disk, on the primary process alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from lottery_jax import tickets
from lottery_jax.curve import WINNING, metric_of, show_metric
from lottery_jax.errors import TrainingError
from lottery_jax.models.cost import multiply_adds_by_layer
from lottery_jax.parallel import multihost
from lottery_jax.parallel.multihost import on_primary
from lottery_jax.runs.checkpoints import Checkpoint, latest_step, load_state, save_state
from lottery_jax.runs.directory import (
    Row,
    Trial,
    is_finished,
    leftovers,
    list_trials,
    rewind_dir,
    tidy,
    write_curve,
)
from lottery_jax.runs.display import Display
from lottery_jax.runs.experiment import Experiment
from lottery_jax.runs.metrics import MetricsLog
from lottery_jax.runs.plan import make_plan
from lottery_jax.runs.record import (
    check_data,
    check_network,
    check_workdir,
    record_config,
    record_versions,
)
from lottery_jax.runs.tracking import open_tracking
from lottery_jax.system.files import remove
from lottery_jax.system.locks import locked
from lottery_jax.tickets import Ticket
from lottery_jax.training.loop import LOWER_RATE
from lottery_jax.training.state import EpochProgress, MetricSums, TrainState
from lottery_jax.types import PyTree

# Says of a trial whether it is to be trained now.
Only = Callable[[Trial], bool]


def finished_rows(config: ConfigDict, workdir: Path, console: Console) -> list[Row] | None:
    """Return the rows of curve.csv of a run that is complete, or None."""
    if not multihost.broadcast_from_primary(is_finished, workdir, config):
        return None
    return multihost.broadcast_from_primary(_close_finished, config, workdir, console)


def _close_finished(config: ConfigDict, workdir: Path, console: Console) -> list[Row]:
    if leftovers(config, workdir):  # of a process that was killed at its very end
        with locked(workdir):
            tidy(config, workdir)
    console.print(f"{workdir}: complete, nothing to do", markup=False, highlight=False)
    return write_curve(config, workdir)


@contextmanager
def open_matrix(config: ConfigDict, workdir: Path) -> Iterator[None]:
    """Hold the directory of a transfer matrix, whose runs have directories in it."""
    with ExitStack() as exit_stack:
        multihost.run_on_primary(_begin_matrix, exit_stack, config, workdir)
        yield


def _begin_matrix(exit_stack: ExitStack, config: ConfigDict, workdir: Path) -> None:
    exit_stack.enter_context(locked(workdir))
    check_workdir(workdir, config, other_versions=True)  # each run checks its own
    record_config(workdir, config)


class RunStore:
    """The directory of one run: whatever must happen there on the primary process alone.

    All processes of a run call the same methods in the same order. The primary process does what
    a method says, and all processes get its result or its error.

    Attributes:
        display: the terminal; silent on all processes but the primary.
    """

    def __init__(
        self, workdir: Path, experiment: Experiment, display: Display, only: Only | None = None
    ) -> None:
        self._workdir = workdir
        self._only = only
        self._experiment = experiment
        self._config = experiment.config
        self._zero = jax.device_get(experiment.program.task.zero_sums())
        self.display = display

    @classmethod
    @contextmanager
    def open(
        cls,
        workdir: Path,
        experiment: Experiment,
        console: Console,
        *,
        other_versions: bool,
        only: Only | None = None,
    ) -> Iterator[RunStore]:
        """Hold the directory: locked, checked, recorded, with its logs open.

        Args:
            workdir: the run directory.
            experiment: the run's experiment.
            console: the terminal.
            other_versions: whether to resume a run that other versions of packages began.
            only: says of a trial whether it is to be trained now; default: all are.

        Raises:
            ConfigError, DataError: it holds something else, or another process is in it.
        """
        config = experiment.config
        if not multihost.is_primary():
            console = Console(quiet=True)
        with ExitStack() as exit_stack:
            trials = list_trials(config, workdir)
            total = sum(only is None or only(trial) for trial in trials) * config.train.epochs
            display = exit_stack.enter_context(Display(total, console))
            store = cls(workdir, experiment, display, only)
            multihost.run_on_primary(store._begin, exit_stack, other_versions)
            yield store

    def _begin(self, exit_stack: ExitStack, other_versions: bool) -> None:
        config, workdir, data_sha256 = self._config, self._workdir, self._experiment.data_sha256
        exit_stack.enter_context(locked(workdir))
        # Again: another process may have begun something here while the data were read.
        check_workdir(workdir, config, other_versions=other_versions)
        check_data(workdir, data_sha256)
        network_sha256 = self._experiment.network_sha256
        check_network(workdir, network_sha256)
        program, layers = self._experiment.program, self._experiment.layers
        cost = {
            "steps_per_epoch": program.steps_per_epoch,
            "multiply_adds": multiply_adds_by_layer(program.network, layers),
        }
        record_config(workdir, config, data_sha256, network_sha256, cost)
        record_versions(workdir)
        tidy(config, workdir)
        # Both are there on the primary process only.
        self._metrics = MetricsLog(workdir / "metrics.jsonl", self._is_final)
        exit_stack.callback(self._metrics.close)
        rows = (self._metrics.kept, self._metrics.dropped)
        self._tracking = open_tracking(config, workdir, *rows, self.display.say, self._rows_from)
        exit_stack.callback(self._tracking.finish)
        plan = make_plan(config, program.network, layers, workdir, program.mesh.devices.flat)
        for line in plan.lines():
            self.display.say(line)
        for note in self._experiment.dataset.notes:
            self.display.say(note)

    def _is_final(self, row: Row) -> bool:
        """Return whether a row of metrics.jsonl belongs to a step that will not be run again."""
        trial = self.trial(row["seed"], row["level"], row["control"])
        if trial.is_complete:
            return True
        reached = latest_step(trial.checkpoint_dir)
        if row["level"] == 0:
            folder = rewind_dir(self._workdir, trial.seed, trial.control)
            reached = max(reached, latest_step(folder))
        return bool(row["step"] <= reached)

    def _rows_from(self, number: int) -> Iterator[tuple[Row, float | None]]:
        """Yield the rows of metrics.jsonl from a number on, with densities of complete tickets."""
        for row in islice(self._metrics.rows(), number, None):
            trial = self.trial(row["seed"], row["level"], row["control"])
            complete = trial.is_complete
            yield row, tickets.read_metadata(trial.ticket_dir)["density"] if complete else None

    def trial(self, seed: int, level: int, control: str = WINNING) -> Trial:
        """Return the trial of that name in this directory."""
        return Trial(self._workdir, seed, level, control)

    def incomplete(self, seeds: Sequence[int]) -> list[Trial]:
        """Return the trials of these seeds that have no trained ticket yet."""
        names = multihost.broadcast_from_primary(self._incomplete, seeds)
        total = sum(trial.seed in seeds for trial in self._trials())
        self.display.skip((total - len(names)) * self._config.train.epochs)
        return [self.trial(*name) for name in names]

    def _incomplete(self, seeds: Sequence[int]) -> list[list[Any]]:
        return [
            [trial.seed, trial.level, trial.control]
            for trial in self._trials()
            if trial.seed in seeds and not trial.is_complete
        ]

    def _trials(self) -> list[Trial]:
        """Return the trials of the run that are to be trained now."""
        trials = list_trials(self._config, self._workdir)
        return [trial for trial in trials if self._only is None or self._only(trial)]

    @on_primary
    def is_complete(self, trial: Trial) -> bool:
        """Return whether a trial has a trained ticket."""
        return trial.is_complete

    def load_ticket(self, folder: Path) -> Ticket:
        """Return a ticket of this run or of another one.

        Raises:
            TicketError: it is damaged.
        """
        return Ticket(**multihost.broadcast_from_primary(_load_ticket, folder))

    @on_primary
    def read_metadata(self, folder: Path) -> dict[str, Any]:
        """Return the metadata of a ticket of this run or of another one."""
        return tickets.read_metadata(folder)

    @on_primary
    def save_tickets(self, trained: Sequence[tuple[Trial, Ticket]]) -> None:
        """Save the tickets of trials that are complete, and remove their checkpoints."""
        self._metrics.sync()
        for trial, ticket in trained:
            tickets.save_ticket(trial.ticket_dir, ticket)
            remove(trial.checkpoint_dir)
            with suppress(OSError):  # missing, or another control's checkpoint is still there
                trial.checkpoint_dir.parent.rmdir()

    @on_primary
    def save_epochs(self, reached: Sequence[tuple[Trial, int, TrainState]]) -> None:
        """Keep the weights of trials after an epoch; they stay when the trial is complete."""
        for trial, epoch, state in reached:
            tickets.save_epoch(trial.ticket_dir, epoch, state.params, state.batch_stats)

    def load_rewind_state(self, dense: Trial, template: TrainState) -> TrainState | None:
        """Return the state of a dense trial at the rewind point as NumPy arrays.

        It is None before the rewind point is reached.
        """
        folder = rewind_dir(dense.workdir, dense.seed, dense.control)
        if multihost.broadcast_from_primary(latest_step, folder) < 0:
            return None
        return _broadcast_tree(_load_state, template, folder, template, self._zero)

    @on_primary
    def save_rewind_states(self, reached: Sequence[tuple[Trial, TrainState]]) -> None:
        """Save the states at the rewind point.

        Raises:
            TrainingError: a state is not finite; the others are saved.
        """
        self._save_states(
            (trial, rewind_dir(self._workdir, trial.seed, trial.control), state, None)
            for trial, state in reached
        )

    @on_primary
    def resume_step(self, trial: Trial, start_step: int, until: int) -> int:
        """Return the step at which a trial goes on: that of its checkpoint, or `start_step`.

        A checkpoint beyond `until` is of no use. There is one if a rewind point is made again.
        """
        saved = latest_step(trial.checkpoint_dir)
        return saved if start_step < saved <= until else start_step

    def load_checkpoint(self, trial: Trial, fallback: Checkpoint, until: int) -> Checkpoint:
        """Return a trial's checkpoint as NumPy arrays, or `fallback`, as `resume_step` says.

        All processes get the arrays of the primary, also those of `fallback`.
        """
        return _broadcast_tree(self._load_checkpoint, fallback, trial, fallback, until)

    def _load_checkpoint(self, trial: Trial, fallback: Checkpoint, until: int) -> Checkpoint:
        start_step = int(fallback.state.step)
        if not start_step < latest_step(trial.checkpoint_dir) <= until:
            return fallback
        saved = load_state(trial.checkpoint_dir, fallback.state, zero=self._zero)
        assert saved is not None
        return saved

    @on_primary
    def save_checkpoints(
        self, reached: Sequence[tuple[Trial, TrainState, EpochProgress | None]]
    ) -> None:
        """Save checkpoints that are further than those on the disk.

        Raises:
            TrainingError: a state is not finite; the others are saved.
        """
        self._save_states(
            (trial, trial.checkpoint_dir, state, progress)
            for trial, state, progress in reached
            if int(state.step) > latest_step(trial.checkpoint_dir)
        )

    def _save_states(
        self, states: Iterable[tuple[Trial, Path, TrainState, EpochProgress | None]]
    ) -> None:
        """Save all that can be saved, then raise the first TrainingError."""
        self._metrics.sync()
        failures = []
        for trial, folder, state, progress in states:
            try:
                save_state(folder, state, progress, zero=self._zero)
            except TrainingError as error:
                rate = float(self._experiment.program.schedule(jnp.int32(int(state.step) - 1)))
                failures.append(
                    TrainingError(f"{trial}: {error} (learning rate {rate:g}); {LOWER_RATE}")
                )
        if failures:
            raise failures[0]

    @on_primary
    def rows_of(self, trials: Sequence[Trial]) -> list[list[Row]]:
        """Return the rows of metrics.jsonl of each trial: epochs, and evaluations with a `kind`."""
        return [self._metrics.rows_of(t.seed, t.level, t.control) for t in trials]

    @on_primary
    def write_rows(self, rows: Sequence[Row], densities: Sequence[float]) -> None:
        """Append rows to metrics.jsonl, and send them to the trackers with their densities."""
        for row, density in zip(rows, densities, strict=True):
            self._metrics.write(row)
            self._tracking.log(row, density)

    @on_primary
    def finish_level(self, seeds: Collection[int], level: int) -> None:
        """Update curve.csv, show the level's accuracies and send them to the trackers."""
        rows = write_curve(self._config, self._workdir)
        self._tracking.log_level([r for r in rows if r["level"] == level and r["seed"] in seeds])
        if level == self._config.ladder.levels:
            for seed in seeds:
                self._tracking.keep_ticket(self.trial(seed, level))
        for seed in seeds:
            line = f"seed {seed}  level {level:2d}"
            for trial in self._trials():
                if (trial.seed, trial.level) == (seed, level):
                    metadata = tickets.read_metadata(trial.ticket_dir)
                    if trial.control == WINNING:
                        line += f"  {metadata['density']:8.2%} of weights"
                    result = metadata["result"]
                    metric = metric_of(result)
                    line += f"   {trial.control} {show_metric(result[f'test_{metric}'], metric)}"
            self.display.say(line)
        if level == 0:
            self.display.say_remaining()

    @on_primary
    def curve(self) -> list[Row]:
        """Return the rows of curve.csv."""
        return write_curve(self._config, self._workdir)


def _load_ticket(folder: Path) -> dict[str, Any]:
    return dict(vars(tickets.load_ticket(folder)))


def _load_state(folder: Path, template: TrainState, zero: MetricSums) -> TrainState:
    saved = load_state(folder, template, zero=zero)
    assert saved is not None
    return saved.state


def _broadcast_tree(action: Callable[..., PyTree], template: PyTree, *args: Any) -> PyTree:
    """`broadcast_from_primary` for a tree with the structure of `template`, of any node types."""
    if not multihost.is_multiprocess():
        return action(*args)
    leaves = multihost.broadcast_from_primary(_leaves_of, action, *args)
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _leaves_of(action: Callable[..., PyTree], *args: Any) -> list[Any]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(action(*args))]
