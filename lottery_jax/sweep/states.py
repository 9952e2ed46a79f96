"""What is known of the runs of a sweep, from what is on the disk.

Nothing here depends on the process that drives the sweep: a run is finished when its tickets are
there, and goes on while somebody holds its lock. What became of each attempt is in
jobs/RUN/attempt_N.json, which the job itself writes.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping
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
    """Of a run. Those that failed or were stopped are gone on with by running the sweep again."""

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
        done: trainings that are complete.
        total: trainings there are.
        level: the last complete level of the winning tickets, of the seed that is being trained.
        levels: the last level there is.
        seed: that seed.
        density: of that level, a fraction; None before there is one.
        accuracy: of that level on the test set, a fraction; likewise.
        seconds: that the complete trainings took.
        seconds_left: an estimate from the trainings that are complete; None before there is one.
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
    """What is known of a run.

    Attributes:
        state: what it is doing.
        attempts: those there were.
        holder: who is working on it: `host`, `pid`, `since`.
        is_ours: whether that is a job of the sweep.
        submission: what was submitted last.
    """

    state: State
    attempts: tuple[Attempt, ...]
    holder: Mapping[str, Any] | None
    is_ours: bool
    submission: Submission | None

    @property
    def is_active(self) -> bool:
        """Whether a job is there, running or not yet."""
        return self.state in (State.RUNNING, State.QUEUED)


def inspect(sweep: Sweep, run: PlannedRun, *, is_pending: bool) -> RunStatus:
    """What is known of a run.

    Args:
        sweep: the sweep.
        run: of it.
        is_pending: whether the job that was submitted last is still there, as far as one can ask.
    """
    folder, jobs = sweep.folder(run), sweep.job_folder(run)
    job = locks.holder(jobs)
    held = job or locks.holder(folder)
    attempts, submission = read_attempts(jobs), read_submission(jobs)
    last = attempts[-1] if attempts else None
    if not held and last and last.status is None:
        # It has just begun, after its lock was looked at, or it was killed.
        job = locks.holder(jobs)
        held = job or locks.holder(folder)
        attempts = read_attempts(jobs)
        last = attempts[-1]
    if held:
        state = State.RUNNING
    elif directory.is_finished(folder, config_of(sweep, run)):
        state = State.FINISHED
    elif submission and is_pending:
        state = State.QUEUED
    elif last is None:
        state = State.WAITING
    else:
        state = State.STOPPED if last.status in STOPPED else State.FAILED
    return RunStatus(state, attempts, held, job is not None, submission)


def config_of(sweep: Sweep, run: PlannedRun) -> ConfigDict:
    """The run's config, with what it takes from its source once it has begun."""
    try:
        return record.read_config(sweep.folder(run))
    except ConfigError:
        return run.config


def reached(sweep: Sweep, run: PlannedRun) -> tuple[int, int]:
    """How far a run is: complete trainings, and the step of the checkpoint within the next one."""
    trials = directory.list_trials(config_of(sweep, run), sweep.folder(run))
    left = [trial for trial in trials if not tickets.is_complete(trial.ticket_dir)]
    step = checkpoints.latest_step(left[0].checkpoint_dir) if left else -1
    return len(trials) - len(left), step


def progress(sweep: Sweep, run: PlannedRun) -> Progress:
    """How far a run is, for people."""
    folder, config = sweep.folder(run), config_of(sweep, run)
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
    """From the trainings that are complete, or else from the epochs there were."""
    if times or not left:
        return left * sum(times) / len(times) if left else 0.0
    seconds = _epoch_seconds(folder)
    return (epochs - len(seconds)) * sum(seconds) / len(seconds) if seconds else None


def _curve(folder: Path) -> list[dict[str, str]]:
    try:
        with (folder / "curve.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError:
        return []


def _epoch_seconds(folder: Path) -> list[float]:
    """How long each epoch took, from the rows of metrics.jsonl that are whole."""
    seconds = []
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in lines.splitlines():
        try:
            seconds.append(float(json.loads(line)["seconds"]))
        except (ValueError, KeyError, TypeError):  # half a line, of a process that writes it
            continue
    return seconds
