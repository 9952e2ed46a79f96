"""Stability to the order of the data: the same start, trained in two orders.

A *branch* of a run trains its tickets from their very start in another order of batches, with other
augmentation and dropout. It is an ordinary transfer run with `config.train.order` in the directory
`RUN/orders/ORDER`, so it is resumed like any other run.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from lottery_jax.analysis import distance, interpolation
from lottery_jax.analysis.line import Line
from lottery_jax.analysis.opening import (
    choose_trials,
    load,
    make_console,
    make_progress,
    measuring_experiment,
    open_run,
)
from lottery_jax.errors import ConfigError, TicketError
from lottery_jax.runs.directory import Row, Trial
from lottery_jax.runs.ladder import run_ladder
from lottery_jax.runs.parts import NOTHING_GIVEN, Parts
from lottery_jax.tickets import Ticket, tree_hash

# Controls that a branch can't train from their very start: each depends on trained networks or on
# scores of the run, and the branch trains others and draws nothing.
NOT_IN_BRANCHES = ("aligned", "unaligned", "invert", "replayed_random")
# Keys with which a run has no branch: the value with which it has one, and the reason.
_BRANCHED_WITH = {
    "ladder.optimizer_state": ("fresh", "the optimizer state of its tickets is not kept"),
    "ladder.retrain": ("weights", "its tickets start from trained weights, a branch's do not"),
    "ladder.pretrained": ("", "a branch takes its weights from the run alone"),
    "transfer.align": (False, "its masks match networks that it trains, and a branch has others"),
}


def stability(
    run_dir: str | Path,
    *,
    levels: Sequence[int] = (),
    controls: Sequence[str] = (),
    orders: int = 1,
    alphas: int = 30,
    epoch: int | None = None,
    console: Console | None = None,
    given: Parts = NOTHING_GIVEN,
) -> list[Row]:
    """Train what is missing of a run's branches, and compare them with the run.

    Args:
        run_dir: a finished run.
        levels: the levels to look at; default: all, the dense network included.
        controls: the controls to look at beside the winning tickets; default: all of the run but
            those in `NOT_IN_BRANCHES`.
        orders: the number of other orders.
        alphas: the number of networks on each line, its ends included.
        epoch: compare the weights after this epoch of each training, one of
            `config.train.keep_epochs`; default: at its end.
        console: where progress is shown; default: the terminal.
        given: the objects that the run was given in place of those that its config names.

    Returns:
        A row for each order, seed, level and control, with `l2` and `cosine` between the weights
        that were trained in the two orders, the `barrier` of the test error on the line between
        them, and the errors of the two ends.

    Raises:
        ConfigError: it is no finished run, has no such level or control, or can't be branched.
        TicketError: a branch did not start from the very weights that the run started from,
            or the weights after `epoch` were not kept.
    """
    points = interpolation.line(alphas)
    console = make_console(console)
    workdir, config = open_run(run_dir)
    check_branches(workdir, config, orders)
    if refused := [name for name in controls if name in NOT_IN_BRANCHES]:
        raise ConfigError(
            f"controls: {refused[0]} depends on networks or scores that another order of the data "
            "does not have; leave it out"
        )
    trials = choose_trials(workdir, config, levels, controls or _branch_controls(config))
    branches = {
        order: train_branch(workdir, config, trials, order, console, given)
        for order in range(config.train.order + 1, config.train.order + 1 + orders)
    }
    line = Line(measuring_experiment(trials[0], config, given))
    rows = []
    with make_progress(console) as progress:
        for order, branch in branches.items():
            for trial in progress.track(trials, description=f"lines to order {order}"):
                other = Trial(branch, trial.seed, trial.level, trial.control)
                rows.append(_compare(trial, other, order, line, points, epoch))
    return rows


def train_branch(
    workdir: Path,
    config: ConfigDict,
    trials: Sequence[Trial],
    order: int,
    console: Console,
    given: Parts = NOTHING_GIVEN,
) -> Path:
    """Train the trials of a run in another order, as far as that is not done; return its directory."""
    branch = workdir / "orders" / str(order)
    names = {
        (t.seed, t.level, t.control)
        for t in trials
        if not Trial(branch, t.seed, t.level, t.control).is_complete
    }
    if names:
        missing = len(names)
        console.print(
            f"{branch}: {missing} trainings in another order of the data",
            markup=False,
            highlight=False,
        )
        run_ladder(
            branch_config(workdir, config, order),
            branch,
            console=console,
            only=lambda trial: (trial.seed, trial.level, trial.control) in names,
            **given._asdict(),
        )
    return branch


def branch_config(workdir: Path, config: ConfigDict, order: int) -> ConfigDict:
    """Return the config of a run's branch: its own, with the run as the source, in another order.

    It is the same whichever levels and controls are trained, so that later calls can add others.
    """
    branch = config.copy_and_resolve_references()
    with branch.unlocked():
        branch.source = str(workdir)
        branch.controls = _branch_controls(config)
        branch.transfer.head = "keep"
        branch.train.order = order
        branch.wandb.mode = "disabled"
    return branch


def check_branches(name: str | Path, config: ConfigDict, orders: int) -> None:
    """Check that a run can be trained in other orders of the data.

    Args:
        name: the start of a message.
        config: of the run.
        orders: the number of other orders.

    Raises:
        ConfigError: its tickets start from what a branch does not have.
    """
    if orders < 1:
        raise ConfigError(f"orders: {orders} is not 1 or more")
    for key, (needed, reason) in _BRANCHED_WITH.items():
        if (value := attrgetter(key)(config)) != needed:
            raise ConfigError(
                f"{name}: has config.{key}={value!r}, with which no other order of the data can "
                f"be trained: {reason}; a run with {needed!r} can be analysed"
            )


def _branch_controls(config: ConfigDict) -> tuple[str, ...]:
    return tuple(name for name in config.controls if name not in NOT_IN_BRANCHES)


def _compare(
    trial: Trial, other: Trial, order: int, line: Line, alphas: Any, epoch: int | None
) -> Row:
    """Return the row of a trial and the same one in another order."""
    a, b = load(trial, epoch), load(other, epoch)
    if _start(a) != _start(b):
        raise TicketError(
            f"{other.ticket_dir}: does not start from the mask and the weights of "
            f"{trial.ticket_dir}, so the two can't be compared; was the run changed after its "
            "branch was trained? Remove the branch to train it anew"
        )
    errors = line.errors(a.trained_variables, b.trained_variables, alphas)
    return {
        "seed": trial.seed,
        "level": trial.level,
        "control": trial.control,
        "order": order,
        "density": a.density,
        "l2": distance.l2(a.trained, b.trained),
        "cosine": distance.cosine(a.trained, b.trained),
        "barrier": interpolation.barrier(errors),
        "error_a": errors[0],
        "error_b": errors[-1],
    }


def _start(ticket: Ticket) -> tuple[str, Any]:
    """Return what a ticket's training starts from: the bits of its mask and weights, and the step."""
    bits = tree_hash((ticket.mask, ticket.params, ticket.batch_stats))
    return bits, ticket.metadata.get("start_step")
