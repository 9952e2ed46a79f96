"""Records of the attempts at a run: small files in jobs/RUN/ of a sweep's directory.

attempt_N.json    written by the job of the attempt, which holds the folder's lock
attempt_N.log     what the attempt printed
submitted.json    written by the process that drives the sweep
"""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

from lottery_jax.system.files import write_text
from lottery_jax.system.signals import ASK_TO_STOP

# Exit statuses of a run that a signal ended: with all saved; or before there was anything to save.
SAVED = tuple(128 + number for number in ASK_TO_STOP)
STOPPED = (*SAVED, *(-number for number in ASK_TO_STOP))
# A mistake in the config or the data, or a full disk: another attempt would end the same way.
MISTAKE = 2


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One process that worked on a run.

    Attributes:
        number: counted from 1.
        job_id: submitit's name of the job.
        host: the machine.
        pid: the number of the job's process there.
        cores: the processor cores that it may use; empty: all.
        reached: how far the run was when the job was submitted, as `states.reached` returns it.
        since: the time of its start, in seconds since 1970.
        status: its exit status; None while it runs, or if it was killed together with its job.
        said: the last line of its log.
        log: the log file.
    """

    number: int
    job_id: str
    host: str
    pid: int
    cores: tuple[int, ...]
    reached: tuple[int, int]
    since: float
    status: int | None
    said: str
    log: str


@dataclasses.dataclass(frozen=True)
class Submission:
    """The last job that was submitted for a run.

    Attributes:
        cluster: `local` or `slurm`.
        job_id: submitit's name of the job.
        since: the time of submission, in seconds since 1970.
        slot: the job's place among those that run at once, from 0.
    """

    cluster: str
    job_id: str
    since: float
    slot: int = 0


def read_attempts(folder: Path) -> tuple[Attempt, ...]:
    """Return all attempts in their order, without files that can't be read."""
    found = []
    for file in folder.glob("attempt_*.json"):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            record["cores"], record["reached"] = tuple(record["cores"]), tuple(record["reached"])
            found.append(Attempt(**record))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return tuple(sorted(found, key=lambda attempt: attempt.number))


def write_attempt(folder: Path, attempt: Attempt) -> None:
    """Write the record of an attempt; for the process that holds the folder's lock."""
    text = json.dumps(dataclasses.asdict(attempt), indent=1) + "\n"
    write_text(folder / f"attempt_{attempt.number}.json", text)


def read_submission(folder: Path) -> Submission | None:
    """Return the last submission; None if there is none that can be read."""
    try:
        record = json.loads((folder / "submitted.json").read_text(encoding="utf-8"))
        return Submission(**record)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_submission(folder: Path, submission: Submission) -> None:
    """Write the record of a submission; for the process that drives the sweep."""
    write_text(folder / "submitted.json", json.dumps(dataclasses.asdict(submission)) + "\n")


def describe_end(attempt: Attempt) -> str:
    """Return how an attempt ended, in a line."""
    attempt_n, status = f"attempt {attempt.number}", attempt.status
    if status is None:
        return f"{attempt_n} was killed together with its job"
    if status in SAVED:
        return f"{attempt_n} was stopped, with all saved"
    if status < 0:
        return f"{attempt_n} was killed by {_signal_name(-status)}"
    return f"{attempt_n} ended with status {status}" + (f": {attempt.said}" if attempt.said else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
