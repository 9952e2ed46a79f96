"""The ladder: draw a ticket, train it, record it, draw the next.

    for each seed
        train to the rewind point
        for each level
            mask    = what is kept of the level before (level 0: everything)
            trained = the ticket (mask, weights of the rewind point), trained
            record it; train and record the controls of the same density

A ticket that is on disk is not trained again, so running a directory again resumes it, and running
a finished one does nothing.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console

from lottery_jax import config as configuration
from lottery_jax import logs, masks, tickets
from lottery_jax.controls import CONTROLS
from lottery_jax.errors import TrainingError
from lottery_jax.experiment import Setup, set_up
from lottery_jax.logs import WINNING
from lottery_jax.pipeline import put
from lottery_jax.rundir import (
    Row,
    Unit,
    check_workdir,
    record_config,
    rewind_dir,
    units,
    write_curve,
)
from lottery_jax.scores import SCORES
from lottery_jax.tickets import Ticket
from lottery_jax.train import EpochReport, TrainState, fit, start_state

PyTree = Any


class Run:
    """A run in progress: its set-up, and where its results go."""

    def __init__(self, setup: Setup, workdir: Path, display: logs.Display) -> None:
        config = setup.config
        for unit in units(config, workdir):
            if tickets.is_complete(unit.ticket):
                _discard_checkpoints(unit)  # a process killed just then may have left some
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

    def close(self) -> None:
        """Closes the logs."""
        self.metrics.close()
        self.wandb.finish()


def run_ladder(
    config: ConfigDict,
    workdir: str | Path,
    *,
    devices: list[jax.Device] | None = None,
    console: Console | None = None,
) -> list[Row]:
    """Runs a config's ladders, or what is left of them.

    Args:
        config: of `config.default_config`'s form.
        workdir: the run directory; a new or empty one, or one of the same config.
        devices: over which to shard batches; default: all.
        console: where to show progress.

    Returns:
        The rows of `curve.csv`.

    Raises:
        ConfigError, DataError: before anything is written.
        TrainingError: a loss is not finite; what was completed before is kept.
    """
    config = configuration.validate(config)
    workdir = Path(workdir)
    # In a notebook too: plain lines, which a notebook shows as one block of text.
    console = console or Console(soft_wrap=True, force_jupyter=False)
    check_workdir(workdir, config)
    todo = [unit for unit in units(config, workdir) if not tickets.is_complete(unit.ticket)]
    if todo:
        setup = set_up(config, devices)
        record_config(workdir, config)
        total = len(units(config, workdir)) * config.train.epochs
        with logs.Display(total, console) as display:
            run = Run(setup, workdir, display)
            try:
                for seed in config.seeds:
                    climb(run, seed)
            finally:
                run.close()
    else:
        console.print(f"{workdir}: complete, nothing to do", markup=False, highlight=False)
    return write_curve(config, workdir)


def climb(run: Run, seed: int) -> None:
    """All levels of one replicate."""
    setup, ladder = run.setup, run.setup.config.ladder
    todo = [u for u in units(setup.config, run.workdir) if u.seed == seed]
    if all(tickets.is_complete(unit.ticket) for unit in todo):
        run.display.skip(len(todo) * setup.config.train.epochs)
        return
    init_key, train_key, control_key = jax.random.split(jax.random.key(seed), 3)
    rewind = rewind_point(run, seed, init_key, train_key)
    start = {"params": rewind.params, "batch_stats": rewind.batch_stats}
    before: Ticket | None = None
    for level in range(ladder.levels + 1):
        here = [unit for unit in todo if unit.level == level]
        if all(tickets.is_complete(unit.ticket) for unit in here):
            run.display.skip(len(here) * setup.config.train.epochs)
            before = None
            continue
        if level == 0:
            mask = masks.dense(start["params"])
        else:
            before = before or tickets.load_ticket(run.unit(seed, level - 1).ticket)
            mask = draw_mask(setup, before)
        restored = rewind if level == 0 or ladder.optimizer_state == "restored" else None
        restart = level > 0 and ladder.schedule == "restart"
        before = None
        for unit in here:
            if unit.control == WINNING:
                first = 0 if restart else setup.rewind_step
                before = train_unit(run, unit, mask, start, first, train_key, restored)
            else:
                control = CONTROLS[unit.control]
                key = jax.random.fold_in(control_key, level)
                key = jax.random.fold_in(key, zlib.crc32(unit.control.encode()))
                other_mask, variables = control(mask, key, setup.init, setup.skip)
                # New weights are those of step 0: they get the warm-up and the whole training.
                train_unit(run, unit, other_mask, variables, 0, train_key, None)
        write_curve(setup.config, run.workdir)
        run.display.say(_level_line(here))


def draw_mask(setup: Setup, ticket: Ticket) -> PyTree:
    """The next level's mask: the trained weights of this one, scored and ranked."""
    ladder = setup.config.ladder
    scores = SCORES[ladder.scores](ticket.trained)
    return masks.prune(
        scores, ticket.mask, ladder.prune_fraction, scope=ladder.scope, skip=setup.skip
    )


def rewind_point(run: Run, seed: int, init_key: jax.Array, train_key: jax.Array) -> TrainState:
    """The state at the rewind step, as NumPy arrays: trained to there, or loaded from the disk."""
    setup, unit = run.setup, run.unit(seed, 0)
    variables = setup.init(init_key)
    state = start_state(setup.program, variables, masks.dense(variables["params"]), step=0)
    folder = rewind_dir(run.workdir, seed)
    saved = tickets.load_state(folder, like=state)
    if saved is None:
        run.display.working_on(f"seed {seed}  to the rewind point")
        state = train_on(run, unit, state, train_key, setup.rewind_step, rows=[])
        tickets.save_state(folder, state)
        saved = jax.device_get(state)
    return saved


def train_on(
    run: Run, unit: Unit, state: TrainState, key: jax.Array, until: int, rows: list[Row]
) -> TrainState:
    """Trains a unit from `state`, or from its checkpoint if that is further on, to step `until`.

    Adds a row for each epoch to `rows`.

    Raises:
        TrainingError: a loss is not finite; names the unit.
    """
    program = run.setup.program
    first = int(state.step)
    reached = tickets.latest_step(unit.state)
    if reached > first and (saved := tickets.load_state(unit.state, like=state)) is not None:
        state = put(program.mesh, saved)
        run.display.skip(reached // program.steps_per_epoch - first // program.steps_per_epoch)
    try:
        record = recorder(run, unit, rows)
        return fit(program, state, run.setup.train, key, until=until, on_epoch=record)
    except TrainingError as error:
        where = f"seed {unit.seed}, level {unit.level}, {unit.control}"
        raise TrainingError(f"{where}: {error}") from error


def train_unit(
    run: Run,
    unit: Unit,
    mask: PyTree,
    variables: PyTree,
    first: int,
    train_key: jax.Array,
    restored: TrainState | None,
) -> Ticket:
    """Trains a ticket to the end and keeps it; loads it if that was done before.

    Args:
        run: the run.
        unit: which training this is.
        mask: of the ticket.
        variables: the weights to start from and their BatchNorm statistics.
        first: the step of the schedule and of the order of batches to start at.
        train_key: of the replicate: every ticket of a seed sees the same batches.
        restored: the state whose optimizer state to start with; None for a fresh one.
    """
    if tickets.is_complete(unit.ticket):
        run.display.skip(run.setup.config.train.epochs)
        return tickets.load_ticket(unit.ticket)
    setup, config = run.setup, run.setup.config
    density = masks.density(mask)
    what = f"seed {unit.seed}  level {unit.level:2d}  {density:7.2%} {unit.control}"
    run.display.working_on(what)
    warn_of_collapse(run, unit, mask)
    state = start_state(setup.program, variables, mask, first, restored)
    run.display.skip(first // setup.program.steps_per_epoch)
    start = jax.device_get({"params": state.params, "batch_stats": state.batch_stats})
    rows = run.metrics.rows_of(unit.seed, unit.level, unit.control)
    state = train_on(run, unit, state, train_key, setup.end_step, rows)
    last = rows[-1]
    ticket = Ticket(
        mask=mask,
        params=start["params"],
        batch_stats=start["batch_stats"],
        trained=jax.device_get(state.params),
        trained_batch_stats=jax.device_get(state.batch_stats),
        metadata={
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
            "rewind_step": setup.rewind_step,
            "optimizer": config.optimizer.to_dict(),
            "config_fingerprint": run.fingerprint,
            "lottery_jax_version": version("lottery_jax"),
            "result": {
                "test_accuracy": last["test_accuracy"],
                "test_loss": last["test_loss"],
                "train_loss": last["train_loss"],
                "epochs": last["epoch"],
                "seconds": sum(row["seconds"] for row in rows),
            },
        },
    )
    ticket = tickets.save_ticket(unit.ticket, ticket)
    _discard_checkpoints(unit)
    return ticket


def _discard_checkpoints(unit: Unit) -> None:
    tickets.discard(unit.state)
    with contextlib.suppress(OSError):  # missing, or another control's checkpoint is still there
        unit.state.parent.rmdir()


def recorder(run: Run, unit: Unit, rows: list[Row]) -> Callable[[TrainState, EpochReport], None]:
    """The function that measures, writes and checkpoints at the end of each epoch of a unit."""
    setup, train = run.setup, run.setup.config.train

    def record(state: TrainState, report: EpochReport) -> None:
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
            tickets.save_state(unit.state, state)

    return record


def warn_of_collapse(run: Run, unit: Unit, mask: PyTree) -> None:
    """Says which layers have no weight left: nothing passes through them any more."""
    if empty := masks.collapsed_layers(mask):
        run.display.say(
            f"warning: seed {unit.seed}, level {unit.level}, {unit.control}: no weight is left in "
            f"{', '.join(empty)}; unless a shortcut leads around it, accuracy drops to chance"
        )


def _level_line(here: list[Unit]) -> str:
    line = f"seed {here[0].seed}  level {here[0].level:2d}"
    for i, unit in enumerate(here):
        metadata = tickets.read_metadata(unit.ticket)
        if i == 0:
            line += f"  {metadata['density']:8.2%} of weights"
        line += f"   {unit.control} {metadata['result']['test_accuracy']:.2%}"
    return line
