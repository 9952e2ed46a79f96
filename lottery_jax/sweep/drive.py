"""The loop that starts runs, a limited number at once, until nothing is left to do.

The driver reads the status of each run from the disk each time, so it can be killed at any moment:
its jobs go on, and the next driver finds them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence

from lottery_jax.sweep import states
from lottery_jax.sweep.attempts import MISTAKE, describe_end, read_attempts, write_submission
from lottery_jax.sweep.grid import PlannedRun
from lottery_jax.sweep.jobs import Job, Jobs, run_command
from lottery_jax.sweep.plan import Sweep
from lottery_jax.sweep.states import RunStatus, State
from lottery_jax.system import host
from lottery_jax.system.signals import defer_signals

# Seconds between two looks at the disk.
_INTERVAL = {"local": 0.25, "slurm": 5.0}


@dataclasses.dataclass(frozen=True)
class Slots:
    """The places of local jobs that run at once.

    Attributes:
        number: the number of places.
        cores: the processor cores of each place; empty: each job may use all.
        gpus: the GPU of each place, as in CUDA_VISIBLE_DEVICES; empty: what this process sees.
    """

    number: int
    cores: tuple[tuple[int, ...], ...] = ()
    gpus: tuple[str, ...] = ()


def make_slots(number: int, cores: int, gpus: Sequence[str] = ()) -> Slots:
    """Divide the cores that this process may use among `number` places, `cores` for each.

    Neighbouring places share cores only where there are too few.
    """
    available = host.cores()
    if not cores or cores >= len(available):
        return Slots(number, (), tuple(gpus))
    groups = tuple(
        tuple(sorted(available[(i * cores + k) % len(available)] for k in range(cores)))
        for i in range(number)
    )
    return Slots(number, groups, tuple(gpus))


class Driver:
    """Drives a sweep; for the process that holds the sweep's lock.

    Args:
        sweep: the sweep, already written to the disk.
        jobs: submits its jobs.
        slots: the places of jobs that run at once.
        retries: how often in a row a run may end without progress.
        print_line: prints a line.
    """

    def __init__(
        self,
        sweep: Sweep,
        jobs: Jobs,
        slots: Slots,
        *,
        retries: int,
        print_line: Callable[[str], None],
    ) -> None:
        self._sweep = sweep
        self._jobs = jobs
        self._slots = slots
        self._retries = retries
        self._print_line = print_line
        self._stopping = False
        self._statuses: dict[str, RunStatus] = {}
        # How far a run was when it last made progress, and how often it was submitted since.
        self._tries: dict[str, tuple[tuple[int, int], int]] = {}
        self._attempts_before = {
            run.name: len(read_attempts(sweep.job_folder(run))) for run in sweep.plan.runs
        }

    def run(self, show: Callable[[Mapping[str, RunStatus]], None]) -> dict[str, RunStatus]:
        """Drive the sweep to its end and return the status of each run.

        Args:
            show: shows the statuses; it is called again and again.

        Raises:
            KeyboardInterrupt: once local jobs have saved; jobs on a cluster go on.
        """
        try:
            while True:
                self._update_statuses(show)
                if not self._start_runs() and not self._active():
                    return self._statuses
                time.sleep(_INTERVAL[self._jobs.cluster])
        except KeyboardInterrupt:
            if self._jobs.cluster == "local":
                self._stop_jobs(show)
            raise

    def gives_up(self, run: PlannedRun) -> bool:
        """Return whether the run has failed in a way that this process does not try again."""
        status = self._statuses[run.name]
        if status.is_active or status.state == State.FINISHED:
            return False
        new = status.attempts[self._attempts_before[run.name] :]
        if new and new[-1].status == MISTAKE:
            return True
        reached, tries = self._tries.get(run.name, ((0, -1), 0))
        return tries > self._retries and states.reached(self._sweep, run) == reached

    def _active(self) -> list[RunStatus]:
        return [status for status in self._statuses.values() if status.is_active]

    def _update_statuses(self, show: Callable[[Mapping[str, RunStatus]], None]) -> None:
        for run in self._sweep.plan.runs:
            before = self._statuses.get(run.name)
            if before and before.state == State.FINISHED:
                continue
            now = states.inspect(self._sweep, run, self._jobs.is_pending)
            self._statuses[run.name] = now
            if line := self._describe_change(run, before, now):
                self._print_line(f"{run.name}: {line}")
        show(self._statuses)

    def _describe_change(self, run: PlannedRun, before: RunStatus | None, now: RunStatus) -> str:
        """Return a line about what has happened to a run; empty if that is nothing."""
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
            again = "" if self._stopping or self.gives_up(run) else "; it is tried again"
            return f"{describe_end(last)}{again}"
        return ""

    def _start_runs(self) -> bool:
        """Submit the runs that can start, and return whether there were any."""
        started = False
        for run in self._sweep.plan.runs:
            active, status = self._active(), self._statuses[run.name]
            if len(active) >= self._slots.number:
                break
            if status.is_active or status.state == State.FINISHED:
                continue
            if states.unfinished_sources(run, self._statuses) or self.gives_up(run):
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
            command=run_command(self._sweep.config_file(run), self._sweep.folder(run)),
            folder=folder,
            cores=self._slots.cores[slot] if local and self._slots.cores else (),
            reached=reached,
            environment={"CUDA_VISIBLE_DEVICES": self._gpus(slot)} if local else {},
            leaves_terminal=local,
        )
        with defer_signals():  # no job without its record
            submission = dataclasses.replace(self._jobs.submit(job), slot=slot)
            write_submission(folder, submission)
        self._statuses[run.name] = dataclasses.replace(
            self._statuses[run.name], state=State.QUEUED, submission=submission
        )

    def _free_slot(self, active: Sequence[RunStatus]) -> int:
        taken = {status.submission.slot for status in active if status.submission}
        return next((i for i in range(self._slots.number) if i not in taken), 0)

    def _gpus(self, slot: int) -> str | None:
        """Return a job's CUDA_VISIBLE_DEVICES; submitit would hide all GPUs from a local job."""
        if self._slots.gpus:
            return self._slots.gpus[slot % len(self._slots.gpus)]
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    def _stop_jobs(self, show: Callable[[Mapping[str, RunStatus]], None]) -> None:
        """Let local jobs save and end. A second Ctrl-C does not wait for them."""
        self._stopping = True
        self._print_line("stopping: the runs save what was trained")
        while True:
            self._update_statuses(show)
            active = [status for status in self._statuses.values() if _can_be_stopped(status)]
            if not active:
                return
            for status in active:
                if status.holder is None:
                    self._jobs.stop(status.submission)
                else:
                    with contextlib.suppress(ProcessLookupError):  # it has just ended
                        os.kill(int(status.holder["pid"]), signal.SIGTERM)
            time.sleep(_INTERVAL[self._jobs.cluster])


def _can_be_stopped(status: RunStatus) -> bool:
    """Return whether the run has a job on this machine; other processes are left alone."""
    if status.holder is not None:
        return status.is_ours and status.holder["host"] == socket.gethostname()
    is_local = status.submission is not None and status.submission.cluster == "local"
    return status.state == State.QUEUED and is_local
