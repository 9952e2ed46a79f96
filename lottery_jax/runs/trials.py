"""The trainings of a run as they are on the disk: where each begins or goes on, what it becomes.

A `Trial` (a seed, a level, the winner or a control) is trained from its `UntrainedTicket`, or from its last
checkpoint, and becomes a ticket. All of this is for the first process alone (`processes`).
"""

from __future__ import annotations

import contextlib
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lottery_jax import config as configuration
from lottery_jax import tickets
from lottery_jax.curve import WINNING
from lottery_jax.errors import TrainingError
from lottery_jax.pruning import masks
from lottery_jax.pruning.controls import UntrainedTicket
from lottery_jax.runs import checkpoints, metrics
from lottery_jax.runs.checkpoints import Checkpoint
from lottery_jax.runs.directory import Row, Trial, rewind_dir
from lottery_jax.runs.experiment import Setup
from lottery_jax.system import settings
from lottery_jax.system.files import remove
from lottery_jax.tickets import Ticket
from lottery_jax.training.loop import (
    LOWER_RATE,
    EpochProgress,
    MetricSums,
    Program,
    TrainState,
    init_state,
)

PyTree = Any

_UNMOVED = 0.01  # of the loss of a network that knows nothing; within it a loss has not moved


class Keys(NamedTuple):
    """The keys of a replicate; each use folds in what tells it from the others."""

    init: jax.Array
    train: jax.Array  # every ticket of a seed sees the same batches
    control: jax.Array
    score: jax.Array

    @classmethod
    def of(cls, seed: int) -> Keys:
        """Those of a seed."""
        return cls(*jax.random.split(jax.random.key(seed, impl=settings.PRNG), 4))


class Run:
    """A run in progress: its set-up, and where its results go."""

    def __init__(self, setup: Setup, workdir: Path, display: metrics.Display) -> None:
        self.setup = setup
        self.workdir = workdir
        self.display = display
        self.fingerprint = configuration.fingerprint(setup.config)

    def open_logs(self) -> None:
        """Opens metrics.jsonl, without rows of steps that will be run again, and wandb."""
        config, workdir, display = self.setup.config, self.workdir, self.display
        self.metrics = metrics.MetricsLog(workdir / "metrics.jsonl", self._is_settled)
        self.wandb = metrics.Wandb(
            config.wandb.mode,
            display.say,
            entity=config.wandb.entity,
            project=config.wandb.project,
            name=config.wandb.name,
            folder=workdir,
            config=configuration.flatten(config),
        )

    def trial(self, seed: int, level: int, control: str = WINNING) -> Trial:
        """The trial of that name in this run's directory."""
        return Trial(self.workdir, seed, level, control)

    def _is_settled(self, row: Row) -> bool:
        """Whether a row of metrics.jsonl is of steps that will not be run again."""
        trial = self.trial(row["seed"], row["level"], row["control"])
        if tickets.is_complete(trial.ticket_dir):
            return True
        reached = checkpoints.latest_step(trial.checkpoint_dir)
        if row["level"] == 0:
            reached = max(reached, checkpoints.latest_step(rewind_dir(self.workdir, trial.seed)))
        return bool(row["step"] <= reached)

    def save_state(
        self, trial: Trial, folder: Path, state: TrainState, progress: EpochProgress | None = None
    ) -> None:
        """Saves a checkpoint of a training, of which the rows before it are a part."""
        self.metrics.sync()
        try:
            checkpoints.save_state(folder, state, progress)
        except TrainingError as error:
            rate = float(self.setup.program.schedule(jnp.int32(int(state.step) - 1)))
            raise TrainingError(
                f"{name_of(trial)}: {error} (learning rate {rate:g}); {LOWER_RATE}"
            ) from error

    def rows_of(self, trial: Trial) -> list[Row]:
        """The rows there are of one training."""
        return self.metrics.rows_of(trial.seed, trial.level, trial.control)

    def write(self, row: Row) -> None:
        """Writes a row."""
        self.metrics.write(row)
        self.wandb.log(row)

    def close_logs(self) -> None:
        """Closes them."""
        self.metrics.close()
        self.wandb.finish()


class PendingTrial(NamedTuple):
    """A training that is to be done, or gone on with.

    Attributes:
        trial: which it is.
        begin: the ticket before training.
        restored: the state whose optimizer state to start with; None for a fresh one.
    """

    trial: Trial
    begin: UntrainedTicket
    restored: TrainState | None = None

    def reached(self, until: int) -> int:
        """The step at which it goes on: of its checkpoint, or of its start."""
        saved = checkpoints.latest_step(self.trial.checkpoint_dir)
        # One beyond `until` is of no use: it is there if the rewind point has to be made again.
        return saved if self.begin.step < saved <= until else self.begin.step

    def checkpoint(self, program: Program, until: int) -> Checkpoint:
        """Where it goes on: its checkpoint, or its start."""
        state = init_state(program.optimizer, self.begin, self.restored)
        if self.reached(until) > self.begin.step:
            saved = checkpoints.load_state(self.trial.checkpoint_dir, like=state)
            assert saved is not None
            return saved
        return Checkpoint(state, EpochProgress(jax.device_get(MetricSums.zero()), 0.0))


def name_of(trial: Trial) -> str:
    """A training's name in messages."""
    return f"seed {trial.seed}, level {trial.level}, {trial.control}"


def keep_ticket(
    run: Run, training: PendingTrial, state: TrainState, rows: list[Row]
) -> Ticket | None:
    """Makes a ticket of what was trained to the end, and saves it.

    Gives it back if the next level may be drawn from it.
    """
    trial, begin = training.trial, training.begin
    # The mask that was trained: of a checkpoint, if there was one.
    ticket = Ticket(
        mask=state.mask,
        params=jax.device_get(masks.apply(state.mask, begin.variables["params"])),
        batch_stats=jax.device_get(begin.variables["batch_stats"]),
        trained=state.params,
        trained_batch_stats=state.batch_stats,
        metadata=ticket_metadata(run, trial, begin.step, rows),
    )
    run.metrics.sync()
    ticket = tickets.save_ticket(trial.ticket_dir, ticket)
    discard_checkpoints(trial)
    if trial.level == 0:
        warn_of_chance(run, trial, rows)
    return ticket if trial.control == WINNING else None


def ticket_metadata(run: Run, trial: Trial, start_step: int, rows: list[Row]) -> dict[str, Any]:
    """What a ticket says of itself: its network, where it comes from, what was measured.

    `rewind_step` is where its weights are from, `start_step` where its training began: they differ
    for transferred tickets and for controls.
    """
    setup, config, last = run.setup, run.setup.config, rows[-1]
    optimizer = config.optimizer.to_dict()
    if setup.source:
        found_by = setup.source.found_by(trial.seed, trial.level)
        rewind_step = setup.source.metadata.get("rewind_step")
    else:
        rewind_step = setup.rewind_step
        found_by = {
            "data": setup.dataset.name,
            "optimizer": optimizer,
            "config_fingerprint": run.fingerprint,
        }
    # Only where it is not the usual way, so that the metadata of other tickets stay what they were.
    resize = {} if config.data.resize == "pad" else {"resize": config.data.resize}
    return {
        "model": setup.model_options,
        "num_classes": setup.dataset.num_classes,
        "input_shape": list(setup.dataset.image_shape),
        **resize,
        "layer_order": list(setup.layers),
        "data": setup.dataset.name,
        "mean": list(setup.dataset.mean),
        "std": list(setup.dataset.std),
        "seed": trial.seed,
        "level": trial.level,
        "control": trial.control,
        "method": {
            "draw": config.ladder.draw,
            "scores": config.ladder.scores,
            "scope": config.ladder.scope,
        },
        "rewind_step": rewind_step,
        "start_step": start_step,
        "optimizer": optimizer,
        "found_by": found_by,
        "config_fingerprint": run.fingerprint,
        "lottery_jax_version": version("lottery_jax"),
        "result": {
            "test_accuracy": last["test_accuracy"],
            "test_loss": last["test_loss"],
            "train_loss": last["train_loss"],
            "epochs": last["epoch"],
            "seconds": sum(row["seconds"] for row in rows),
        },
    }


def discard_checkpoints(trial: Trial) -> None:
    """Removes the checkpoints of a training that is complete."""
    remove(trial.checkpoint_dir)
    with contextlib.suppress(OSError):  # missing, or another control's checkpoint is still there
        trial.checkpoint_dir.parent.rmdir()


def warn_of_collapse(run: Run, trial: Trial, mask: PyTree) -> None:
    """Says which layers have no weight left: nothing passes through them any more."""
    if empty := masks.collapsed_layers(mask):
        run.display.say(
            f"warning: {name_of(trial)}: no weight is left in {', '.join(empty)}; unless a shortcut "
            "leads around it, accuracy drops to chance"
        )


def warn_of_chance(run: Run, trial: Trial, rows: list[Row]) -> None:
    """Says that a dense network has learnt nothing, and what that may come from."""
    dataset = run.setup.dataset
    signs = signs_of_chance(rows, dataset.num_classes, dataset.chance)
    if not signs:
        return
    images = "the scale of the images"
    if dataset.padded:
        images += " and the black they were padded with (try config.data.resize=bilinear)"
    run.display.say(
        f"warning: {name_of(trial)}: the dense network has learnt nothing: {signs}; check "
        f"config.optimizer.learning_rate, {images}, and whether labels belong to their images"
    )


def signs_of_chance(rows: list[Row], num_classes: int, chance: float) -> str:
    """What shows that a training, of whose epochs these are the rows, has led to nothing.

    Args:
        rows: the last one with the test accuracy at the end.
        num_classes: what a network that knows nothing has a loss of the logarithm of.
        chance: the test accuracy up to which nothing need have been learnt.

    Returns:
        A few words, empty for a network that has learnt something.
    """
    accuracy, nothing = rows[-1]["test_accuracy"], math.log(num_classes)
    if accuracy <= chance:
        return f"its test accuracy of {accuracy:.1%} is no better than chance (up to {chance:.1%})"
    if all(abs(row["train_loss"] - nothing) <= _UNMOVED * nothing for row in rows):
        return f"its training loss has stayed at ln({num_classes}) = {nothing:.2f}"
    return ""
