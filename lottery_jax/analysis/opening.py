"""A run, opened for analysis: its config, its tickets, and an experiment that measures them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import Progress

from lottery_jax import tickets
from lottery_jax.curve import WINNING
from lottery_jax.errors import ConfigError
from lottery_jax.parallel.mesh import find_devices
from lottery_jax.runs.directory import Trial, list_trials
from lottery_jax.runs.experiment import Experiment, set_up
from lottery_jax.runs.parts import NOTHING_GIVEN, Parts
from lottery_jax.runs.record import read_config
from lottery_jax.system.files import local_path
from lottery_jax.tickets import Ticket, load_epoch

NOT_COMPLETE = "run it to its end first"


def open_run(run_dir: str | Path) -> tuple[Path, ConfigDict]:
    """Return the directory of a run and its config.

    Raises:
        ConfigError: it is not a run, or it is a matrix of runs.
    """
    workdir = local_path(run_dir, "run")
    config = read_config(workdir)
    if config.transfer.sources:
        raise ConfigError(f"{workdir}: is a transfer matrix; name one of the runs in it")
    return workdir, config


def choose_trials(
    workdir: Path, config: ConfigDict, levels: Sequence[int], controls: Sequence[str]
) -> list[Trial]:
    """Return the trials of some levels: winning tickets, and the controls that are named.

    Args:
        workdir: the run directory.
        config: of the run.
        levels: the levels; empty: all.
        controls: the controls.

    Raises:
        ConfigError: the run has no such level or control, or a trial is not complete.
    """
    there = range(config.ladder.levels + 1)
    if missing := sorted(set(levels) - set(there)):
        raise ConfigError(f"{workdir}: has no level {missing[0]}; it has 0 to {there[-1]}")
    if unknown := sorted(set(controls) - set(config.controls)):
        raise ConfigError(
            f"{workdir}: has no control {unknown[0]!r}; it has "
            f"{', '.join(config.controls) or 'none'}"
        )
    wanted = {WINNING, *controls}
    chosen = [
        trial
        for trial in list_trials(config, workdir)
        if trial.level in (levels or there) and trial.control in wanted
    ]
    for trial in chosen:
        if not trial.is_complete:
            raise ConfigError(f"{workdir}: {trial}: is not complete; {NOT_COMPLETE}")
    return chosen


def load(trial: Trial, epoch: int | None = None) -> Ticket:
    """Load the ticket of a trial, with the weights that it had after an epoch of its training.

    Args:
        trial: a complete trial.
        epoch: one of `config.train.keep_epochs`; None: the end of the training.

    Raises:
        TicketError: the ticket is damaged, or the epoch was not kept.
    """
    if epoch is None:
        return tickets.load_ticket(trial.ticket_dir)
    return load_epoch(trial.ticket_dir, epoch)


def measuring_experiment(
    trial: Trial, config: ConfigDict, given: Parts = NOTHING_GIVEN
) -> Experiment:
    """Return the experiment of a run as it is needed to measure: on one device, not augmented.

    It does not need the run from which weights or masks came.

    Args:
        trial: a complete trial, whose ticket says which inputs the network takes.
        config: of the run.
        given: the objects that the run was given in place of those that its config names.
    """
    shape = tuple(tickets.read_metadata(trial.ticket_dir)["input_shape"])
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        if config.source and len(shape) == 3:
            changed.data.input_shape = shape
        changed.source = changed.ladder.pretrained = ""
        changed.transfer.align = False
        changed.data.augment = "none"
        changed.train.together = 1
    return set_up(changed, find_devices()[:1], given)


def make_progress(console: Console) -> Progress:
    """Return a progress bar that is shown in a terminal only."""
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def make_console(console: Console | None) -> Console:
    """Return the console; by default plain lines to the terminal."""
    return console or Console(soft_wrap=True, force_jupyter=False)


def mean(values: Iterable[float]) -> float:
    """Return the arithmetic mean."""
    found = list(values)
    return sum(found) / len(found)
