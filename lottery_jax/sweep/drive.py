"""Starts what can start, as many at once as are wanted, until nothing is left to do.

What is going on is read from the disk each time, so this process can be killed at any moment: the
jobs go on, and the next one finds them.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence

from lottery_jax.sweep import states
from lottery_jax.sweep.attempts import (
    MISTAKE,
    SAVED,
    Attempt,
    read_attempts,
    read_submission,
    write_submission,
)
from lottery_jax.sweep.grid import PlannedRun
from lottery_jax.sweep.jobs import Job, Jobs, command_of
from lottery_jax.sweep.plan import Sweep
from lottery_jax.sweep.states import RunStatus, State
from lottery_jax.system import host
from lottery_jax.system.signals import defer_signals

# Between two looks at the disk, in seconds.
_EVERY = {"local": 0.25, "slurm": 5.0}


@dataclasses.dataclass(frozen=True)
class Slots:
    """What local jobs share.

    Attributes:
        number: how many jobs there are at once.
        cores: of each; empty: all of the machine.
        gpus: of each, as CUDA_VISIBLE_DEVICES has them; empty: what this process sees.
    """

    number: int
    cores: tuple[tuple[int, ...], ...] = ()
    gpus: tuple[str, ...] = ()


def share(number: int, cores: int, gpus: Sequence[str] = ()) -> Slots:
    """Gives each of `number` jobs so many cores of those that this process may use.

    Neighbouring jobs share cores only where there are too few.
    """
    there = host.cores()
    if not cores or cores >= len(there):
        return Slots(number, (), tuple(gpus))
    groups = tuple(
        tuple(sorted(there[(i * cores + k) % len(there)] for k in range(cores)))
        for i in range(number)
    )
    return Slots(number, groups, tuple(gpus))


class Driver:
    """Drives a sweep; for the process that holds its lock.

    Args:
        sweep: written to the disk.
        jobs: where they run.
        slots: how many at once, and what each gets.
        retries: how often in a row a run may end without having got further.
        say: prints a line.
    """

    def __init__(
        self,
        sweep: Sweep,
        jobs: Jobs,
        slots: Slots,
        *,
        retries: int,
        say: Callable[[str], None],
    ) -> None:
        self._sweep = sweep
        self._jobs = jobs
        self._slots = slots
        self._retries = retries
        self._say = say
        self._stopping = False
        self._known: dict[str, RunStatus] = {}
        # How often a run was submitted since it got further, and how far it was.
        self._tries: dict[str, tuple[tuple[int, int], int]] = {}
        self._before = {run.name: len(self._attempts(run)) for run in sweep.plan.runs}

    def run(self, show: Callable[[Mapping[str, RunStatus]], None]) -> dict[str, RunStatus]:
        """Drives the sweep to its end; returns what is known of each run.

        Args:
            show: is given what is known, again and again.

        Raises:
            KeyboardInterrupt: once local jobs have saved; those of a cluster go on.
        """
        try:
            while True:
                self._look()
                show(self._known)
                if not self._start() and not any(k.is_active for k in self._known.values()):
                    return self._known
                time.sleep(_EVERY[self._jobs.cluster])
        except KeyboardInterrupt:
            if self._jobs.cluster == "local":
                self._stop_jobs(show)
            raise

    def waits_for(self, run: PlannedRun) -> list[str]:
        """The runs that must be finished before this one starts, and are not."""
        return [name for name in run.after if self._known[name].state != State.FINISHED]

    def given_up(self, run: PlannedRun) -> bool:
        """Whether the run has failed in a way that this process does not try again."""
        known = self._known[run.name]
        if known.is_active or known.state == State.FINISHED:
            return False
        new = known.attempts[self._before[run.name] :]
        if new and new[-1].status == MISTAKE:
            return True
        reached, tries = self._tries.get(run.name, ((0, -1), 0))
        return tries > self._retries and states.reached(self._sweep, run) == reached

    def _attempts(self, run: PlannedRun) -> tuple[Attempt, ...]:
        return read_attempts(self._sweep.job_folder(run))

    def _look(self) -> None:
        for run in self._sweep.plan.runs:
            before = self._known.get(run.name)
            if before and before.state == State.FINISHED:
                continue
            submission = read_submission(self._sweep.job_folder(run))
            pending = self._jobs.is_pending(submission, self._attempts(run))
            now = states.inspect(self._sweep, run, is_pending=pending)
            self._known[run.name] = now
            if line := self._news(run, before, now):
                self._say(f"{run.name}: {line}")

    def _news(self, run: PlannedRun, before: RunStatus | None, now: RunStatus) -> str:
        if before and (before.state, len(before.attempts)) == (now.state, len(now.attempts)):
            return ""
        if now.state == State.FINISHED:
            progress = states.progress(self._sweep, run)
            if not before or progress.accuracy is None:
                return "finished before"
            seed = f" of seed {progress.seed}" if len(run.config.seeds) > 1 else ""
            return f"finished, {progress.accuracy:.2%} at level {progress.level}{seed}"
        if now.state == State.RUNNING and now.holder:
            attempt = f"attempt {len(now.attempts)}, " if now.attempts else ""
            return "running ({}process {pid} on {host})".format(attempt, **now.holder)
        if before is None:
            return ""
        if now.state in (State.STOPPED, State.FAILED):
            last = now.attempts[-1]
            again = "" if self._stopping or self.given_up(run) else "; it is tried again"
            return f"{describe_end(last)}{again}"
        return ""

    def _start(self) -> bool:
        """Submits what can start; returns whether anything was submitted."""
        started = False
        for run in self._sweep.plan.runs:
            active = [known for known in self._known.values() if known.is_active]
            if len(active) >= self._slots.number:
                break
            known = self._known[run.name]
            if known.is_active or known.state == State.FINISHED:
                continue
            if self.waits_for(run) or self.given_up(run):
                continue
            self._submit(run, active)
            started = True
        return started

    def _submit(self, run: PlannedRun, active: Sequence[RunStatus]) -> None:
        reached = states.reached(self._sweep, run)
        before, tries = self._tries.get(run.name, (reached, 0))
        self._tries[run.name] = (reached, tries + 1 if reached == before else 1)
        slot = self._free_slot(active)
        folder = self._sweep.job_folder(run)
        local = self._jobs.cluster == "local"
        job = Job(
            command=command_of(self._sweep.config_file(run), self._sweep.folder(run)),
            folder=folder,
            cores=self._slots.cores[slot] if local and self._slots.cores else (),
            reached=reached,
            environment={"CUDA_VISIBLE_DEVICES": self._gpus(slot)} if local else {},
            leaves_terminal=local,
        )
        with defer_signals():  # no job without a note of it
            submission = dataclasses.replace(self._jobs.submit(job), slot=slot)
            write_submission(folder, submission)
        state = dataclasses.replace(
            self._known[run.name], state=State.QUEUED, submission=submission
        )
        self._known[run.name] = state

    def _free_slot(self, active: Sequence[RunStatus]) -> int:
        taken = {known.submission.slot for known in active if known.submission}
        return next((i for i in range(self._slots.number) if i not in taken), 0)

    def _gpus(self, slot: int) -> str | None:
        """For submitit hides the GPUs of a local job."""
        if self._slots.gpus:
            return self._slots.gpus[slot % len(self._slots.gpus)]
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    def _stop_jobs(self, show: Callable[[Mapping[str, RunStatus]], None]) -> None:
        """Has local jobs save and end. A second Ctrl-C does not wait for them."""
        self._stopping = True
        self._say("stopping: the runs save what was trained")
        while True:
            self._look()
            show(self._known)
            active = [known for known in self._known.values() if _can_be_stopped(known)]
            if not active:
                return
            for known in active:
                if known.holder is None:
                    self._jobs.stop(known.submission)
                else:
                    _terminate(int(known.holder["pid"]))
            time.sleep(_EVERY[self._jobs.cluster])


def _can_be_stopped(known: RunStatus) -> bool:
    """Whether it is a job of this machine; a run that somebody else works on is left alone."""
    if known.holder is not None:
        return known.is_ours and known.holder["host"] == socket.gethostname()
    of_here = known.submission is not None and known.submission.cluster == "local"
    return known.state == State.QUEUED and of_here


def _terminate(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:  # it has just ended
        return


def describe_end(attempt: Attempt) -> str:
    """How an attempt ended, in a line."""
    which = f"attempt {attempt.number}"
    status = attempt.status
    if status is None:
        return f"{which} was killed together with its job"
    if status in SAVED:
        return f"{which} was stopped, with all saved"
    how = f"was killed by {_signal(-status)}" if status < 0 else f"ended with status {status}"
    said = f": {attempt.said}" if attempt.said and status >= 0 else ""
    return f"{which} {how}{said}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
