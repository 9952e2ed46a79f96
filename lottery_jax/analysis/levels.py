"""Linear connectivity of successive levels, from saved tickets alone; nothing is trained.

Paul, Chen, Larsen, Frankle, Ganguli & Dziugaite ("Unmasking the lottery ticket hypothesis", ICLR
2023) find that two successive networks of iterative pruning are connected without a barrier if and
only if they match the dense network.
"""

from __future__ import annotations

import functools
from pathlib import Path

from rich.console import Console

from lottery_jax import tickets
from lottery_jax.analysis import distance, interpolation
from lottery_jax.analysis.line import Line, error_of
from lottery_jax.analysis.opening import (
    NOT_COMPLETE,
    load,
    make_console,
    make_progress,
    measuring_experiment,
    open_run,
)
from lottery_jax.curve import WINNING, metric_of
from lottery_jax.errors import ConfigError
from lottery_jax.runs.directory import Row, Trial
from lottery_jax.runs.parts import NOTHING_GIVEN, Parts

MATCHING = 0.002  # 0.2 points


def levels(
    run_dir: str | Path,
    *,
    alphas: int = 30,
    within: float = MATCHING,
    epoch: int | None = None,
    console: Console | None = None,
    given: Parts = NOTHING_GIVEN,
) -> list[Row]:
    """Measure the line between the trained winning tickets of each level and the next.

    Args:
        run_dir: a run of which at least two levels of a seed are complete.
        alphas: the number of networks on each line, its ends included.
        within: how much more error than the dense network a ticket that matches it may have.
        epoch: look at the weights after this epoch of each training, one of
            `config.train.keep_epochs`; default: at its end.
        console: where progress is shown; default: the terminal.
        given: the objects that the run was given in place of those that its config names.

    Returns:
        A row for each seed and level but the last: the `barrier` of the test error on the line to
        the next level, and whether the sparser of the two `matches` the dense network of its seed.
        `error_a` and `error_b` are the ends of the line, with BatchNorm's statistics recomputed;
        `error`, `next_error` and `dense_error` were measured after training, or are measured with
        the weights of `epoch`.

    Raises:
        ConfigError: it is no run, or no two successive levels are complete.
        TicketError: a ticket is damaged, or its weights after `epoch` were not kept.
    """
    points = interpolation.line(alphas)
    workdir, config = open_run(run_dir)
    pairs = [
        (first, second)
        for seed in config.seeds
        for level in range(config.ladder.levels)
        if (first := Trial(workdir, seed, level, WINNING)).is_complete
        and (second := Trial(workdir, seed, level + 1, WINNING)).is_complete
    ]
    if not pairs:
        raise ConfigError(
            f"{workdir}: has no two successive levels that are complete; {NOT_COMPLETE}"
        )
    line = Line(measuring_experiment(pairs[0][0], config, given))

    @functools.cache
    def error_after(trial: Trial) -> float:
        if epoch is None:
            return measured_error(trial)
        return line.error(load(trial, epoch).trained_variables)

    rows: list[Row] = []
    with make_progress(make_console(console)) as progress:
        for first, second in progress.track(pairs, description="lines between levels"):
            a, b = load(first, epoch), load(second, epoch)
            errors = line.errors(a.trained_variables, b.trained_variables, points)
            dense, error, next_error = map(
                error_after, (Trial(workdir, first.seed, 0, WINNING), first, second)
            )
            rows.append(
                {
                    "seed": first.seed,
                    "level": first.level,
                    "next_level": second.level,
                    "density": a.density,
                    "next_density": b.density,
                    "l2": distance.l2(a.trained, b.trained),
                    "barrier": interpolation.barrier(errors),
                    "error_a": errors[0],
                    "error_b": errors[-1],
                    "error": error,
                    "next_error": next_error,
                    "dense_error": dense,
                    "matches": matches(next_error, dense, within),
                }
            )
    return rows


def measured_error(trial: Trial) -> float:
    """Return the test error that was measured when a trial's training ended."""
    result = tickets.read_metadata(trial.ticket_dir)["result"]
    metric = metric_of(result)
    return error_of(float(result[f"test_{metric}"]), metric)


def matches(error: float, dense_error: float, within: float = MATCHING) -> bool:
    """Return whether a network matches the dense one: at most `within` more error.

    >>> matches(0.112, 0.110), matches(0.113, 0.110)
    (True, False)
    """
    return error - dense_error <= within + 1e-9  # the difference of two floats is not exact
