"""The status and the progress of a sweep's runs, from what is on the disk.

Nothing here depends on the process that drives the sweep: a run is finished when its tickets are
there, and is running while a process holds its lock. Each job writes how its attempt ended into
jobs/RUN/attempt_N.json.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lottery_jax import tickets
from lottery_jax.curve import WINNING
from lottery_jax.errors import ConfigError
from lottery_jax.runs import checkpoints, directory, record
from lottery_jax.sweep.attempts import STOPPED, Attempt, Submission, read_attempts, read_submission
from lottery_jax.sweep.grid import PlannedRun
from lottery_jax.sweep.plan import Sweep
from lottery_jax.system import locks


class State(StrEnum):
    """The state of a run. Running the sweep again resumes runs that failed or were stopped."""

    WAITING = "waiting"  # for another run, or for its turn
    QUEUED = "queued"  # its job has been submitted
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"  # by a signal, with all saved
    FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done: the number of complete trainings.
        total: the number of all trainings.
        level: the last complete level of winning tickets, for the seed that is being trained; None
            before the first one.
        levels: the last level of the ladder.
        seed: the seed that is being trained.
        density: the density of the last complete level, a fraction; None before the first one.
        accuracy: the test accuracy of that level, a fraction; None before the first one.
        seconds: the time that the complete trainings took.
        seconds_left: an estimate of the remaining time; None before anything was trained.
    """

    done: int
    total: int
    level: int | None
    levels: int
    seed: int
    density: float | None
    accuracy: float | None
    seconds: float
    seconds_left: float | None


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """The status of a run.

    Attributes:
        state: what it is doing.
        attempts: all attempts until now.
        holder: the process that works on the run: `host`, `pid`, `since`; None if there is none.
        is_ours: whether that process is a job of the sweep.
        submission: the last job that was submitted; None if there is none.
    """

    state: State
    attempts: tuple[Attempt, ...]
    holder: Mapping[str, Any] | None
    is_ours: bool
    submission: Submission | None

    @property
    def is_active(self) -> bool:
        """Whether the run has a job, which is running or will be."""
        return self.state in (State.RUNNING, State.QUEUED)


def inspect(
    sweep: Sweep, run: PlannedRun, is_pending: Callable[[Submission, tuple[Attempt, ...]], bool]
) -> RunStatus:
    """Return the status of a run.

    Args:
        sweep: the sweep.
        run: a run of it.
        is_pending: whether a submitted job, given the run's attempts, has yet to end.
    """
    folder, jobs = sweep.folder(run), sweep.job_folder(run)
    submission = read_submission(jobs)
    # Asked before the locks: a job that begins and ends in between is seen as its attempt.
    pending = submission is not None and is_pending(submission, read_attempts(jobs))
    job = locks.holder(jobs)
    holder = job or locks.holder(folder)
    attempts = read_attempts(jobs)
    if not holder and attempts and attempts[-1].status is None:
        # The attempt has begun after its lock was looked at, or it was killed.
        job = locks.holder(jobs)
        holder = job or locks.holder(folder)
        attempts = read_attempts(jobs)
    if holder:
        state = State.RUNNING
    elif directory.is_finished(folder, current_config(sweep, run)):
        state = State.FINISHED
    elif pending:
        state = State.QUEUED
    elif not attempts:
        state = State.WAITING
    else:
        state = State.STOPPED if attempts[-1].status in STOPPED else State.FAILED
    return RunStatus(state, attempts, holder, job is not None, submission)


def unfinished_sources(run: PlannedRun, statuses: Mapping[str, RunStatus]) -> list[str]:
    """Return the names of the runs that must be finished before this one starts, and are not."""
    return [name for name in run.after if statuses[name].state != State.FINISHED]


def current_config(sweep: Sweep, run: PlannedRun) -> ConfigDict:
    """Return the run's config, with what it takes from its source once it has begun."""
    try:
        return record.read_config(sweep.folder(run))
    except ConfigError:
        return run.config


def reached(sweep: Sweep, run: PlannedRun) -> tuple[int, int]:
    """Return the number of complete trainings, and the step of the next one's checkpoint, or -1."""
    trials = directory.list_trials(current_config(sweep, run), sweep.folder(run))
    left = [trial for trial in trials if not tickets.is_complete(trial.ticket_dir)]
    step = checkpoints.latest_step(left[0].checkpoint_dir) if left else -1
    return len(trials) - len(left), step


def progress(sweep: Sweep, run: PlannedRun) -> Progress:
    """Return how far a run is, for people."""
    folder, config = sweep.folder(run), current_config(sweep, run)
    trials = directory.list_trials(config, folder)
    done = [trial for trial in trials if tickets.is_complete(trial.ticket_dir)]
    left = len(trials) - len(done)
    times = [float(row["seconds"]) for row in _curve(folder)]
    winners = [trial for trial in done if trial.control == WINNING]
    last = winners[-1] if winners else None
    metadata = tickets.read_metadata(last.ticket_dir) if last else {}
    return Progress(
        done=len(done),
        total=len(trials),
        level=last.level if last else None,
        levels=config.ladder.levels,
        seed=last.seed if last else config.seeds[0],
        density=metadata.get("density"),
        accuracy=metadata.get("result", {}).get("test_accuracy"),
        seconds=sum(times),
        seconds_left=_seconds_left(times, left, folder, len(trials) * config.train.epochs),
    )


def _seconds_left(times: list[float], left: int, folder: Path, epochs: int) -> float | None:
    """Estimate the remaining time from the complete trainings, or else from the epochs so far."""
    if not left:
        return 0.0
    if times:
        return left * sum(times) / len(times)
    seconds = _epoch_seconds(folder)
    return (epochs - len(seconds)) * sum(seconds) / len(seconds) if seconds else None


def _curve(folder: Path) -> list[dict[str, str]]:
    try:
        with (folder / "curve.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError:
        return []


def _epoch_seconds(folder: Path) -> list[float]:
    """Return how long each epoch took, from the lines of metrics.jsonl that are whole."""
    seconds = []
    try:
        text = (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            seconds.append(float(json.loads(line)["seconds"]))
        except (ValueError, KeyError, TypeError):  # half a line, which a process is writing
            continue
    return seconds
