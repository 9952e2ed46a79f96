"""The trainings of a run: train tickets, record each epoch, keep the results.

A `Unit` (a seed, a level, the winner or a control) is trained from its `Start`, or from its last
checkpoint, and becomes a ticket on the disk. Those at the same step may train together, a replicate
each of one stacked state; what becomes of them, and what is written, is the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lottery_jax import config as configuration
from lottery_jax import logs, masks, tickets
from lottery_jax.errors import TrainingError
from lottery_jax.experiment import Setup
from lottery_jax.files import remove
from lottery_jax.logs import WINNING
from lottery_jax.replicates import put_stacked, stack, stack_keys, unstack
from lottery_jax.rundir import Row, Unit, rewind_dir
from lottery_jax.signals import postponed
from lottery_jax.tickets import Checkpoint, Ticket
from lottery_jax.train import (
    LOWER_RATE,
    Begun,
    EpochReport,
    Start,
    Totals,
    TrainState,
    fit,
    state_of,
)

PyTree = Any
T = TypeVar("T")


class Run:
    """A run in progress: its set-up, and where its results go."""

    def __init__(self, setup: Setup, workdir: Path, display: logs.Display) -> None:
        config = setup.config
        self.setup = setup
        self.workdir = workdir
        self.display = display
        self.fingerprint = configuration.fingerprint(config)
        self.metrics = logs.MetricsLog(workdir / "metrics.jsonl", self._is_settled)
        self.wandb = logs.Wandb(
            config.wandb.mode,
            display.say,
            entity=config.wandb.entity,
            project=config.wandb.project,
            name=config.wandb.name or workdir.name,
            folder=workdir,
            config=configuration.flatten(config),
        )

    def unit(self, seed: int, level: int, control: str = WINNING) -> Unit:
        """The unit of that name in this run's directory."""
        return Unit(self.workdir, seed, level, control)

    def _is_settled(self, row: Row) -> bool:
        """Whether a row of metrics.jsonl is of steps that will not be run again."""
        unit = self.unit(row["seed"], row["level"], row["control"])
        if tickets.is_complete(unit.ticket):
            return True
        reached = tickets.latest_step(unit.state)
        if row["level"] == 0:
            reached = max(reached, tickets.latest_step(rewind_dir(self.workdir, unit.seed)))
        return bool(row["step"] <= reached)

    def save_state(
        self, unit: Unit, folder: Path, state: TrainState, begun: Begun | None = None
    ) -> None:
        """Saves a checkpoint of a training, of which the rows before it are a part."""
        self.metrics.sync()
        try:
            tickets.save_state(folder, state, begun)
        except TrainingError as error:
            rate = float(self.setup.program.schedule(jnp.int32(int(state.step) - 1)))
            raise TrainingError(
                f"{name_of(unit)}: {error} (learning rate {rate:g}); {LOWER_RATE}"
            ) from error

    def close(self) -> None:
        """Closes the logs."""
        self.metrics.close()
        self.wandb.finish()


class Training(NamedTuple):
    """A training that is to be done, or gone on with.

    Attributes:
        unit: which it is.
        begin: the ticket before training.
        key: of the replicate: every ticket of a seed sees the same batches.
        restored: the state whose optimizer state to start with; None for a fresh one.
    """

    unit: Unit
    begin: Start
    key: jax.Array
    restored: TrainState | None = None


Keep = Callable[[Run, Training, TrainState, list[Row]], T]


def train_all(run: Run, trainings: Sequence[Training], until: int, keep: Keep[T]) -> dict[Unit, T]:
    """Trains each to step `until`, from its start or its checkpoint, and has it kept.

    Those that are at the same step are trained together, as many as `Setup.layout` says.

    Returns:
        What `keep` gives.

    Raises:
        TrainingError: a loss is not finite; names the training.
        KeyboardInterrupt: a signal arrived; what was trained is saved.
    """
    at_step: dict[int, list[Training]] = {}
    for training in trainings:
        at_step.setdefault(_reached(training, until), []).append(training)
    kept: dict[Unit, T] = {}
    for members in at_step.values():
        for group in batched(members, run.setup.layout.at_once):
            kept |= train_together(run, group, until, keep)
    return kept


def _reached(training: Training, until: int) -> int:
    """The step of the checkpoint to go on from, or of the start."""
    reached = tickets.latest_step(training.unit.state)
    # One beyond `until` is of no use: it is there if the rewind point has to be made again.
    return reached if training.begin.step < reached <= until else training.begin.step


def train_together(run: Run, group: Sequence[Training], until: int, keep: Keep[T]) -> dict[Unit, T]:
    """Trains what is at the same step, a replicate each of one stacked state."""
    setup, program, count = run.setup, run.setup.program, len(group)
    run.display.working_on(_label(group))
    begun = [_begun(run, training, until) for training in group]
    states = [checkpoint.state for checkpoint in begun]
    of_epoch = [checkpoint.begun for checkpoint in begun]
    run.display.skip(count * (int(states[0].step) // program.steps_per_epoch))
    rows = [run.metrics.rows_of(t.unit.seed, t.unit.level, t.unit.control) for t in group]
    record = recorder(run, group, rows)

    def save_all(state: TrainState, begun: Begun) -> None:
        of_each = unstack(program.mesh, (state, begun.totals), count)
        for training, (own, totals) in zip(group, of_each, strict=True):
            if int(own.step) > tickets.latest_step(training.unit.state):
                share = Begun(totals, begun.seconds / count)
                run.save_state(training.unit, training.unit.state, own, share)
            run.display.say(f"{name_of(training.unit)}: saved at step {int(own.step)}")

    def at_step(state: TrainState, begun: Begun) -> None:
        if arrived:
            save_all(state, begun)
            raise KeyboardInterrupt

    def at_epoch(state: TrainState, report: EpochReport) -> None:
        record(state, report)
        if report.step < until:
            at_step(state, Begun(stack(program.mesh, [Totals.zero()] * count), 0.0))

    with postponed() as arrived:  # what was trained to its end is kept first
        try:
            state = fit(
                program,
                put_stacked(program.mesh, states),
                setup.train,
                stack_keys(program.mesh, [training.key for training in group]),
                until=until,
                begun=Begun(
                    stack(program.mesh, [totals for totals, _ in of_epoch]),
                    sum(seconds for _, seconds in of_epoch),
                ),
                on_epoch=at_epoch,
                on_step=at_step,
            )
        except TrainingError as error:
            unit = group[min(error.replicate, count - 1)].unit
            raise TrainingError(f"{name_of(unit)}: {error}") from error
        return {
            training.unit: keep(run, training, own, of_unit)
            for training, own, of_unit in zip(
                group, unstack(program.mesh, state, count), rows, strict=True
            )
        }


def _begun(run: Run, training: Training, until: int) -> Checkpoint:
    """Where a training goes on: its checkpoint, or its start."""
    state = state_of(run.setup.program.optimizer, training.begin, training.restored)
    if _reached(training, until) > training.begin.step:
        saved = tickets.load_state(training.unit.state, like=state)
        assert saved is not None
        return saved
    return Checkpoint(state, Begun(jax.device_get(Totals.zero()), 0.0))


def batched(members: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The members in groups of at most `size`."""
    for i in range(0, len(members), size):
        yield members[i : i + size]


def name_of(unit: Unit) -> str:
    """A training's name in messages."""
    return f"seed {unit.seed}, level {unit.level}, {unit.control}"


def _label(group: Sequence[Training]) -> str:
    """What is being trained, in a few words."""
    units = [training.unit for training in group]
    seeds = ",".join(str(seed) for seed in dict.fromkeys(unit.seed for unit in units))
    controls = ",".join(dict.fromkeys(unit.control for unit in units))
    density = masks.density(group[0].begin.mask)
    return f"seed {seeds}  level {units[0].level:2d}  {density:7.2%} {controls}"


def keep_ticket(run: Run, training: Training, state: TrainState, rows: list[Row]) -> Ticket | None:
    """Makes a ticket of what was trained to the end, and saves it.

    Gives it back if the next level may be drawn from it.
    """
    unit, begin = training.unit, training.begin
    # The mask that was trained: of a checkpoint, if there was one.
    ticket = Ticket(
        mask=state.mask,
        params=jax.device_get(masks.apply(state.mask, begin.variables["params"])),
        batch_stats=jax.device_get(begin.variables["batch_stats"]),
        trained=state.params,
        trained_batch_stats=state.batch_stats,
        metadata=ticket_metadata(run, unit, begin.step, rows),
    )
    run.metrics.sync()
    ticket = tickets.save_ticket(unit.ticket, ticket)
    discard_checkpoints(unit)
    return ticket if unit.control == WINNING else None


def ticket_metadata(run: Run, unit: Unit, start_step: int, rows: list[Row]) -> dict[str, Any]:
    """What a ticket says of itself: its network, where it comes from, what was measured.

    `rewind_step` is where its weights are from, `start_step` where its training began: they differ
    for transferred tickets and for controls.
    """
    setup, config, last = run.setup, run.setup.config, rows[-1]
    optimizer = config.optimizer.to_dict()
    if setup.source:
        found_by = setup.source.found_by(unit.seed, unit.level)
        rewind_step = setup.source.metadata.get("rewind_step")
    else:
        rewind_step = setup.rewind_step
        found_by = {
            "data": setup.dataset.name,
            "optimizer": optimizer,
            "config_fingerprint": run.fingerprint,
        }
    return {
        "model": setup.model_options,
        "num_classes": setup.dataset.num_classes,
        "input_shape": list(setup.dataset.image_shape),
        "layer_order": list(setup.layers),
        "data": setup.dataset.name,
        "mean": list(setup.dataset.mean),
        "std": list(setup.dataset.std),
        "seed": unit.seed,
        "level": unit.level,
        "control": unit.control,
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


def discard_checkpoints(unit: Unit) -> None:
    """Removes the checkpoints of a training that is complete."""
    remove(unit.state)
    with contextlib.suppress(OSError):  # missing, or another control's checkpoint is still there
        unit.state.parent.rmdir()


def recorder(
    run: Run, group: Sequence[Training], rows: Sequence[list[Row]]
) -> Callable[[TrainState, EpochReport], None]:
    """The function that measures, writes and checkpoints at the end of each epoch of a group.

    `rows` are those that there are of each training; new ones are added.
    """
    setup, train, mesh = run.setup, run.setup.config.train, run.setup.program.mesh
    known = [{row["step"] for row in of_unit} for of_unit in rows]

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
        for i, training in enumerate(group):
            if report.step not in known[i]:
                row: Row = {
                    "seed": training.unit.seed,
                    "level": training.unit.level,
                    "control": training.unit.control,
                    "epoch": report.epoch,
                    "step": report.step,
                    "train_loss": _of(report.train_loss, i),
                    "lr": report.learning_rate,
                    "images_per_s": round(report.images_per_s, 1),
                    "seconds": round(report.seconds / len(group), 4),
                    **{key: _of(values, i) for key, values in measured.items()},
                }
                rows[i].append(row)
                run.metrics.write(row)
                run.wandb.log(row)
        accuracy = np.mean(measured["test_accuracy"]) if measured else None
        run.display.epoch_done(accuracy, report.images_per_s, len(group))
        every = train.checkpoint_every_epochs
        if every and report.epoch % every == 0 and not last:
            for training, own in zip(group, unstack(mesh, state, len(group)), strict=True):
                run.save_state(training.unit, training.unit.state, own)

    return record


def _of(values: Any, replicate: int) -> float:
    """A replicate's own of what was measured."""
    return float(values if np.ndim(values) == 0 else values[replicate])


def _check_finite(loss: Any, report: EpochReport) -> None:
    if not np.isfinite(loss).all():
        at = int(np.argmin(np.isfinite(loss)))
        raise TrainingError(
            f"the test loss is {_of(loss, at)} after step {report.step} (learning rate "
            f"{report.learning_rate:g}); weights or BatchNorm statistics are not finite",
            replicate=at,
        )


def warn_of_collapse(run: Run, unit: Unit, mask: PyTree) -> None:
    """Says which layers have no weight left: nothing passes through them any more."""
    if empty := masks.collapsed_layers(mask):
        run.display.say(
            f"warning: {name_of(unit)}: no weight is left in {', '.join(empty)}; unless a shortcut "
            "leads around it, accuracy drops to chance"
        )
