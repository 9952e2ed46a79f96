"""One training of a run: train a ticket, record each epoch, keep the result.

A `Unit` (a seed, a level, the winner or a control) is trained from its `Start`, or from its last
checkpoint, and becomes a ticket on the disk.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lottery_jax import config as configuration
from lottery_jax import logs, masks, tickets
from lottery_jax.errors import TrainingError
from lottery_jax.experiment import Setup
from lottery_jax.files import remove
from lottery_jax.logs import WINNING
from lottery_jax.pipeline import put
from lottery_jax.rundir import Row, Unit, rewind_dir
from lottery_jax.signals import postponed
from lottery_jax.tickets import Ticket
from lottery_jax.train import LOWER_RATE, Begun, EpochReport, Start, TrainState, fit, start_state

PyTree = Any


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

    def save_state(self, folder: Path, state: TrainState, begun: Begun | None = None) -> None:
        """Saves a checkpoint, of which the rows before it are a part."""
        self.metrics.sync()
        try:
            tickets.save_state(folder, state, begun)
        except TrainingError as error:
            rate = float(self.setup.program.schedule(jnp.int32(int(state.step) - 1)))
            raise TrainingError(f"{error} (learning rate {rate:g}); {LOWER_RATE}") from error

    def close(self) -> None:
        """Closes the logs."""
        self.metrics.close()
        self.wandb.finish()


def train_on(
    run: Run,
    unit: Unit,
    state: TrainState,
    key: jax.Array,
    until: int,
    rows: list[Row],
    arrived: list[int],
) -> TrainState:
    """Trains a unit from `state`, or from its checkpoint if that is further on, to step `until`.

    Args:
        run: the run.
        unit: which training this is.
        state: to start from; donated.
        key: of the replicate.
        until: the step to stop at.
        rows: of metrics.jsonl that there are of this unit; a row is added for each new epoch.
        arrived: of the `signals.postponed` in which the caller also keeps the state; if a signal
            arrives before step `until`, the state is saved and training ends.

    Raises:
        TrainingError: a loss is not finite; names the unit.
        KeyboardInterrupt: a signal arrived; what was trained is saved.
    """
    program = run.setup.program
    first, begun = int(state.step), None
    reached = tickets.latest_step(unit.state)
    # One beyond `until` is of no use: it is there if the rewind point has to be made again.
    if first < reached <= until and (saved := tickets.load_state(unit.state, like=state)):
        state, begun = put(program.mesh, saved.state), saved.begun
        run.display.skip(reached // program.steps_per_epoch - first // program.steps_per_epoch)
    record = recorder(run, unit, rows)

    def stop_if_asked(state: TrainState, begun: Begun | None = None) -> None:
        if arrived:
            step = int(state.step)
            if step > tickets.latest_step(unit.state):
                run.save_state(unit.state, state, begun)
            run.display.say(f"{name_of(unit)}: saved at step {step}")
            raise KeyboardInterrupt

    def at_epoch(state: TrainState, report: EpochReport) -> None:
        record(state, report)
        if report.step < until:
            stop_if_asked(state)

    try:
        return fit(
            program, state, run.setup.train, key,
            until=until, begun=begun, on_epoch=at_epoch, on_step=stop_if_asked,
        )  # fmt: skip
    except TrainingError as error:
        raise TrainingError(f"{name_of(unit)}: {error}") from error


def name_of(unit: Unit) -> str:
    """A training's name in messages."""
    return f"seed {unit.seed}, level {unit.level}, {unit.control}"


def train_unit(
    run: Run, unit: Unit, begin: Start, train_key: jax.Array, restored: TrainState | None
) -> None:
    """Trains a ticket to the end and keeps it, unless that was done before.

    Args:
        run: the run.
        unit: which training this is.
        begin: the ticket before training.
        train_key: of the replicate: every ticket of a seed sees the same batches.
        restored: the state whose optimizer state to start with; None for a fresh one.
    """
    if tickets.is_complete(unit.ticket):
        run.display.skip(run.setup.config.train.epochs)
        return
    setup = run.setup
    density = masks.density(begin.mask)
    what = f"seed {unit.seed}  level {unit.level:2d}  {density:7.2%} {unit.control}"
    run.display.working_on(what)
    warn_of_collapse(run, unit, begin.mask)
    state = start_state(setup.program, begin.variables, begin.mask, begin.step, restored)
    run.display.skip(begin.step // setup.program.steps_per_epoch)
    rows = run.metrics.rows_of(unit.seed, unit.level, unit.control)
    with postponed() as arrived:  # what was trained to its end is kept first
        state = train_on(run, unit, state, train_key, setup.end_step, rows, arrived)
        # The mask that was trained: of a checkpoint, if there was one.
        mask = jax.device_get(state.mask)
        ticket = Ticket(
            mask=mask,
            params=jax.device_get(masks.apply(mask, begin.variables["params"])),
            batch_stats=jax.device_get(begin.variables["batch_stats"]),
            trained=jax.device_get(state.params),
            trained_batch_stats=jax.device_get(state.batch_stats),
            metadata=ticket_metadata(run, unit, begin.step, rows),
        )
        run.metrics.sync()
        tickets.save_ticket(unit.ticket, ticket)
        discard_checkpoints(unit)


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


def recorder(run: Run, unit: Unit, rows: list[Row]) -> Callable[[TrainState, EpochReport], None]:
    """The function that measures, writes and checkpoints at the end of each epoch of a unit."""
    setup, train = run.setup, run.setup.config.train

    known = {row["step"] for row in rows}

    def record(state: TrainState, report: EpochReport) -> None:
        if report.step in known:  # on the way to a rewind point that has to be made again
            return
        row: Row = {
            "seed": unit.seed,
            "level": unit.level,
            "control": unit.control,
            "epoch": report.epoch,
            "step": report.step,
            "train_loss": report.train_loss,
            "lr": report.learning_rate,
            "images_per_s": round(report.images_per_s, 1),
            "seconds": round(report.seconds, 4),
        }
        last = report.step == setup.end_step
        if last or report.epoch % train.eval_every_epochs == 0:
            measured = setup.program.evaluate(state, setup.test)
            if not math.isfinite(measured.loss):
                raise TrainingError(
                    f"the test loss is {measured.loss} after step {report.step} (learning rate "
                    f"{report.learning_rate:g}); weights or BatchNorm statistics are not finite"
                )
            row |= {"test_accuracy": measured.accuracy, "test_loss": measured.loss}
            if setup.validation is not None:
                measured = setup.program.evaluate(state, setup.validation)
                row |= {"val_accuracy": measured.accuracy, "val_loss": measured.loss}
        rows.append(row)
        run.metrics.write(row)
        run.wandb.log(row)
        run.display.epoch_done(row.get("test_accuracy"), report.images_per_s)
        every = train.checkpoint_every_epochs
        if every and report.epoch % every == 0 and not last:
            run.save_state(unit.state, state)

    return record


def warn_of_collapse(run: Run, unit: Unit, mask: PyTree) -> None:
    """Says which layers have no weight left: nothing passes through them any more."""
    if empty := masks.collapsed_layers(mask):
        run.display.say(
            f"warning: {name_of(unit)}: no weight is left in {', '.join(empty)}; unless a shortcut "
            "leads around it, accuracy drops to chance"
        )
