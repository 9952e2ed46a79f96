"""What became of each attempt at a run: small files in jobs/RUN/ of a sweep's directory.

attempt_N.json    written by the job that makes the attempt, which holds the folder's lock
attempt_N.log     what it printed
submitted.json    written by the process that drives the sweep
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from lottery_jax.system.files import write_text
from lottery_jax.system.signals import ASK_TO_STOP

# Exit statuses of a run that a signal ended: with all saved, or before there was anything to save.
SAVED = tuple(128 + number for number in ASK_TO_STOP)
STOPPED = (*SAVED, *(-number for number in ASK_TO_STOP))
MISTAKE = 2  # in the config or the data, or a full disk: another attempt would end the same way


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One process that worked on a run.

    Attributes:
        number: from 1.
        job_id: submitit's.
        host: the machine.
        pid: of the job's process there.
        cores: those it is held to; empty: all.
        reached: how far the run was when the job was submitted, as `reached` says it.
        since: seconds since the epoch.
        status: its exit status; None while it runs, or if it was killed together with its job.
        said: the last line of its log.
        log: the file.
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
    """What was submitted last for a run.

    Attributes:
        cluster: `local` or `slurm`.
        job_id: submitit's.
        since: seconds since the epoch.
        slot: which of the places for jobs at once it has.
    """

    cluster: str
    job_id: str
    since: float
    slot: int = 0


def read_attempts(folder: Path) -> tuple[Attempt, ...]:
    """The attempts there were, the first one first; files that can't be read are passed over."""
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
    """Writes what is known of an attempt; for the process that holds the folder's lock."""
    text = json.dumps(dataclasses.asdict(attempt), indent=1) + "\n"
    write_text(folder / f"attempt_{attempt.number}.json", text)


def read_submission(folder: Path) -> Submission | None:
    """What was submitted last."""
    try:
        record = json.loads((folder / "submitted.json").read_text(encoding="utf-8"))
        return Submission(**record)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_submission(folder: Path, submission: Submission) -> None:
    """Writes what was submitted; for the process that drives the sweep."""
    write_text(folder / "submitted.json", json.dumps(dataclasses.asdict(submission)) + "\n")
