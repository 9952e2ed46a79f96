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
from lottery_jax.parallel.mesh import fetch
from lottery_jax.parallel.replicates import put_stacked, stack, stack_keys, unstack
from lottery_jax.pruning import masks
from lottery_jax.runs.checkpoints import Checkpoint, latest_step
from lottery_jax.runs.directory import Row, Unit
from lottery_jax.runs.experiment import Setup
from lottery_jax.runs.trials import Keys, Run, Training, name_of
from lottery_jax.training.loop import Begun, EpochReport, Totals, TrainState, first_not_finite, fit

PyTree = Any
T = TypeVar("T")
Keep = Callable[[Run, Training, TrainState, list[Row]], T]


def train_all(
    run: Run, trainings: Sequence[Training] | None, until: int, keep: Keep[T]
) -> dict[Unit, T]:
    """Trains each to step `until`, from its start or its checkpoint, and has it kept.

    Those that are at the same step are trained together, as many as `Setup.layout` says.

    Args:
        run: the run.
        trainings: on the first process.
        until: the step to stop at.
        keep: given the run, the training, its last state as NumPy arrays and the rows of its
            epochs; called on the first process.

    Returns:
        What `keep` gives, by the unit; empty on other processes than the first.

    Raises:
        TrainingError: a loss is not finite; names the training.
        KeyboardInterrupt: a signal arrived; what was trained is saved.
    """
    of = {training.unit: training for training in trainings or ()}

    def plan() -> list[list[list[Any]]]:
        at_step: dict[int, list[Unit]] = {}
        for unit, training in of.items():
            at_step.setdefault(training.reached(until), []).append(unit)
        return [
            [[unit.seed, unit.level, unit.control] for unit in group]
            for units in at_step.values()
            for group in batched(units, run.setup.layout.at_once)
        ]

    kept: dict[Unit, T] = {}
    failures: list[TrainingError] = []
    for group in multihost.from_first(plan):
        units = [run.unit(*name) for name in group]
        with multihost.asked_to_stop() as asked:  # what was trained to its end is kept first
            while units:
                try:
                    kept |= train_together(run, units, of, until, keep, asked)
                    break
                except TrainingError as error:
                    failed = _failed(error, units)
                    failures.append(_named(error, failed))
                    run.display.say(f"{failures[-1]}; the trainings beside it continue")
                    units = [unit for unit in units if unit not in failed]
    if failures:
        multihost.ending()
        raise failures[0]
    return kept


def _failed(error: TrainingError, units: Sequence[Unit]) -> Sequence[Unit]:
    """Those that can't be trained further: the one that the error is of, or all."""
    if error.replicate is None:
        return units
    return [units[min(error.replicate, len(units) - 1)]]  # beyond them are copies of the last


def _named(error: TrainingError, failed: Sequence[Unit]) -> TrainingError:
    if error.replicate is None:  # which are named already
        return error
    named = TrainingError(f"{name_of(failed[0])}: {error}")
    named.told = not multihost.is_first()  # all have seen it
    return named


def batched(members: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The members in groups of at most `size`."""
    for i in range(0, len(members), size):
        yield members[i : i + size]


def train_together(
    run: Run,
    units: Sequence[Unit],
    of: Mapping[Unit, Training],
    until: int,
    keep: Keep[T],
    asked: Callable[[], bool],
) -> dict[Unit, T]:
    """Trains what is at the same step, a replicate each of one stacked state."""
    setup, program, count = run.setup, run.setup.program, len(units)
    size = setup.layout.at_once
    like = _structure(setup)

    def checkpoint(unit: Unit) -> Checkpoint:
        return _from_first(lambda: of[unit].checkpoint(program, until), like)

    checkpoints = [checkpoint(unit) for unit in units]
    rows = multihost.from_first(lambda: [run.rows_of(unit) for unit in units])
    record = recorder(run, units, rows)
    density = masks.density(checkpoints[0].state.mask)
    run.display.working_on(_label(units, density))
    first_step = int(checkpoints[0].state.step)
    run.display.skip(count * (first_step // program.steps_per_epoch))

    def save_all(state: TrainState, begun: Begun) -> None:
        of_each = unstack((state, begun.totals), count, size)
        shares = [Begun(totals, begun.seconds / count) for _, totals in of_each]
        save_states(run, units, [own for own, _ in of_each], shares)
        for unit in units:
            saved = latest_step(unit.state)
            run.display.say(f"{name_of(unit)}: saved at step {saved}")

    def at_step(state: TrainState, begun: Begun) -> None:
        if asked():
            state, totals = fetch((state, begun.totals))
            multihost.on_first(lambda: save_all(state, begun._replace(totals=totals)))
            multihost.stop()

    def at_epoch(state: TrainState, report: EpochReport) -> None:
        record(state, report)
        if report.step < until:
            at_step(state, Begun(stack([Totals.zero()] * count, size), 0.0))

    state = fit(
        program,
        put_stacked(program.mesh, [checkpoint.state for checkpoint in checkpoints], size),
        setup.train_of(units[0].seed),
        stack_keys([Keys.of(unit.seed).train for unit in units], size),
        until=until,
        begun=Begun(
            stack([checkpoint.begun.totals for checkpoint in checkpoints], size),
            sum(float(checkpoint.begun.seconds) for checkpoint in checkpoints),
        ),
        on_epoch=at_epoch,
        on_step=at_step,
    )
    trained = unstack(fetch(state), count, size)

    def keep_all() -> dict[Unit, T]:
        kept: dict[Unit, T] = {}

        def keep_one(unit: Unit, state: TrainState, of_unit: list[Row]) -> None:
            kept[unit] = keep(run, of[unit], state, of_unit)

        _for_each(keep_one, zip(units, trained, rows, strict=True))
        return kept

    return multihost.on_first(keep_all) or {}


def save_states(
    run: Run, units: Sequence[Unit], states: Sequence[TrainState], begun: Sequence[Begun | None]
) -> None:
    """Saves checkpoints that are further on than those there are.

    Raises:
        TrainingError: a state is not finite; the others are saved.
    """

    def save(unit: Unit, state: TrainState, of_epoch: Begun | None) -> None:
        if int(state.step) > latest_step(unit.state):
            run.save_state(unit, unit.state, state, of_epoch)

    _for_each(save, zip(units, states, begun, strict=True))


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
    leaves = multihost.from_first(lambda: [np.asarray(a) for a in jax.tree.leaves(action())])
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _structure(setup: Setup) -> Checkpoint:
    """A checkpoint of a run without its arrays."""
    variables = jax.eval_shape(setup.init, jax.random.key(0))
    optimizer = setup.program.optimizer

    def start(variables: PyTree) -> Checkpoint:
        params = variables["params"]
        opt_state, stats = optimizer.init(params), variables["batch_stats"]
        state = TrainState(jnp.int32(0), params, stats, opt_state, mask=params)
        return Checkpoint(state, Begun(Totals.zero(), 0.0))

    return jax.eval_shape(start, variables)


def _label(units: Sequence[Unit], density: float) -> str:
    """What is being trained, in a few words."""
    seeds = ",".join(str(seed) for seed in dict.fromkeys(unit.seed for unit in units))
    controls = ", ".join(dict.fromkeys(unit.control for unit in units))
    return f"seed {seeds}  level {units[0].level:2d}  {density:7.2%} {controls}"


def recorder(
    run: Run, units: Sequence[Unit], rows: Sequence[list[Row]]
) -> Callable[[TrainState, EpochReport], None]:
    """The function that measures, writes and checkpoints at the end of each epoch of a group.

    `rows` are those that there are of each training; new ones are added.
    """
    setup, train = run.setup, run.setup.config.train
    count = len(units)
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
        new = [
            (
                i,
                {
                    "seed": unit.seed,
                    "level": unit.level,
                    "control": unit.control,
                    "epoch": report.epoch,
                    "step": report.step,
                    "train_loss": _of(report.train_loss, i),
                    "lr": report.learning_rate,
                    "images_per_s": round(report.images_per_s * count, 1),
                    "seconds": round(report.seconds / count, 4),
                    **{key: _of(values, i) for key, values in measured.items()},
                },
            )
            for i, unit in enumerate(units)
            if report.step not in known[i]
        ]
        for i, row in new:
            rows[i].append(row)
        every = train.checkpoint_every_epochs
        states: list[TrainState] = []
        if every and report.epoch % every == 0 and not last:
            states = unstack(fetch(state), count, run.setup.layout.at_once)

        def write() -> None:
            for _, row in new:
                run.write(row)
            at = [i for i, _ in new] if states else []
            save_states(run, [units[i] for i in at], [states[i] for i in at], [None] * len(at))

        multihost.on_first(write)
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
