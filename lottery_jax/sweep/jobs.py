"""Jobs: attempts at runs as processes of this machine or of a cluster, through submitit.

submitit gives a job a process of its own, which starts the ordinary command of a run, passes
signals on to it and records how it ended. What submitit does on SLURM is described in
https://facebookincubator.github.io/submitit/checkpointing.html.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lottery_jax.errors import ConfigError, one_line
from lottery_jax.sweep.attempts import Attempt, Submission, read_attempts, write_attempt
from lottery_jax.system.files import is_alive
from lottery_jax.system.locks import locked
from lottery_jax.system.signals import blocked, not_ignored

# submitit limits how long a local job may last; this is longer than any run.
_A_YEAR_MIN = 60 * 24 * 365
# A job that saves at its time limit is put back into the queue as often as it takes.
_REQUEUES = 1000
# If a driver was killed while it started a local job, the job has begun by then, or never will.
_STARTS_WITHIN_S = 60.0
# Ctrl-C and a closed terminal are meant for the driver, which tells its jobs.
_TERMINAL_SIGNALS = {signal.SIGINT, signal.SIGHUP}


@dataclasses.dataclass
class Job:
    """One attempt at a run, which submitit calls.

    Attributes:
        command: the command of the run.
        folder: where the attempt is recorded; the job holds this folder's lock.
        cores: the processor cores that the command may use; empty: all.
        reached: how far the run was when the job was submitted.
        environment: variables to set for the command, or to remove where the value is None.
        leaves_terminal: whether to leave the terminal of the process that submitted the job.
    """

    command: tuple[str, ...]
    folder: Path
    cores: tuple[int, ...]
    reached: tuple[int, int]
    environment: Mapping[str, str | None]
    leaves_terminal: bool
    _child: subprocess.Popen[bytes] | None = dataclasses.field(default=None, init=False)
    _attempt: Attempt | None = dataclasses.field(default=None, init=False)
    _stopping: bool = dataclasses.field(default=False, init=False)

    def __call__(self) -> int | None:
        """Run the command to its end and return its exit status; None if another job runs it."""
        if self.leaves_terminal:
            os.setsid()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _TERMINAL_SIGNALS)
        warning = _slurms_warning()
        for number in not_ignored():
            if number != warning:  # submitit handles that one
                signal.signal(number, self._pass_on)
        if self.cores:
            os.sched_setaffinity(0, self.cores)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder))
            except ConfigError as error:
                print(one_line(error))
                return None
            return self._run()

    def checkpoint(self) -> Any:
        """Return what submitit submits when SLURM takes the machine away: the job, once all is saved.

        submitit calls it within the handler of a signal, while `_run` waits for the command.
        """
        from submitit.helpers import DelayedSubmission

        self._stop()
        if self._child is not None:
            # WNOWAIT leaves the status to `_run`, which may be about to read it.
            ended = os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)
            if ended is not None:
                exited = ended.si_code == os.CLD_EXITED
                self._record(ended.si_status if exited else -ended.si_status)
        return DelayedSubmission(dataclasses.replace(self))

    def _run(self) -> int:
        from submitit import JobEnvironment

        number = max((a.number for a in read_attempts(self.folder)), default=0) + 1
        log = self.folder / f"attempt_{number}.log"
        self._attempt = Attempt(
            number=number,
            job_id=JobEnvironment().job_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            cores=self.cores,
            reached=self.reached,
            since=time.time(),
            status=None,
            said="",
            log=str(log),
        )
        self._record(None)
        env = {k: v for k, v in {**os.environ, **self.environment}.items() if v is not None}
        # SLURM sends its warning to every process of a job. It would end the command, and so is
        # blocked there.
        with log.open("wb") as output, blocked({_slurms_warning()}):
            child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env
            )
        self._child = child
        if self._stopping:  # the signal came before there was a child
            child.terminate()
        try:
            return child.wait()
        finally:
            if (status := child.poll()) is not None:
                self._record(status)

    def _record(self, status: int | None) -> None:
        assert self._attempt is not None
        said = "" if status is None else last_line(Path(self._attempt.log))
        self._attempt = dataclasses.replace(self._attempt, status=status, said=said)
        write_attempt(self.folder, self._attempt)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        """Ask the command to save and end; only once, since a second signal would not let it save."""
        if not self._stopping:
            self._stopping = True
            if self._child is not None:
                self._child.terminate()


def _slurms_warning() -> signal.Signals:
    """Return the signal that SLURM sends before it takes the machine away; submitit handles it."""
    from submitit import JobEnvironment

    return signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty; an empty text if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 8192))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((one_line(line, 300) for line in reversed(lines) if line.strip()), "")


class Jobs:
    """Submits jobs, and knows which of them have yet to end.

    Args:
        cluster: `local` or `slurm`.
        folder: where submitit keeps its files.
        options: options of SLURM, such as `partition`, `time` and `gpus_per_node`.

    Raises:
        ConfigError: as `check`.
    """

    def __init__(
        self, cluster: str, folder: Path, options: Mapping[str, str | int] | None = None
    ) -> None:
        self.cluster = cluster
        self._folder = folder
        self._submitted: dict[str, Any] = {}
        self._executor = _executor(cluster, folder, options or {})

    def submit(self, job: Job) -> Submission:
        """Submit a job."""
        with blocked(_TERMINAL_SIGNALS) if self.cluster == "local" else contextlib.nullcontext():
            submitted = self._executor.submit(job)
        self._submitted[submitted.job_id] = submitted
        return Submission(self.cluster, str(submitted.job_id), time.time())

    def is_pending(self, submission: Submission, attempts: Sequence[Attempt]) -> bool:
        """Return whether the job that was submitted last has yet to end."""
        if submission.job_id in self._submitted and submission.cluster == self.cluster:
            return not self._submitted[submission.job_id].done()
        return is_pending(submission, attempts, self._folder)

    def stop(self, submission: Submission | None) -> None:
        """End a local job that this process submitted and that has not begun."""
        if submission and submission.cluster == "local" and submission.job_id in self._submitted:
            process = self._submitted[submission.job_id]._process
            if process is not None and process.poll() is None:
                process.terminate()


def is_pending(submission: Submission, attempts: Sequence[Attempt], folder: Path) -> bool:
    """Return whether a job that another process submitted has yet to end, as far as one can tell."""
    if submission.cluster == "local":
        begun = any(attempt.job_id == submission.job_id for attempt in attempts)
        young = time.time() - submission.since < _STARTS_WITHIN_S
        return not begun and young and is_alive(int(submission.job_id))
    if shutil.which("sacct") is None:  # not on the cluster: only the disk can tell
        return not any(a.job_id == submission.job_id and a.status is not None for a in attempts)
    return not _submitit().SlurmJob(folder, submission.job_id).done()


def parse_options(texts: Sequence[str]) -> dict[str, str | int]:
    """Return SLURM's options from `KEY=VALUE`, with whole numbers as such.

    >>> parse_options(["partition=gpu", "time=120", "gpus-per-node=1"])
    {'partition': 'gpu', 'time': 120, 'gpus_per_node': 1}
    """
    options: dict[str, str | int] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"--slurm: {text!r} is not OPTION=VALUE")
        options[key.replace("-", "_")] = int(value) if value.isdecimal() else value
    return options


def check(cluster: str, options: Mapping[str, str | int]) -> None:
    """Check that jobs can be submitted, without writing anything.

    Raises:
        ConfigError: submitit is not installed, an option is unknown, or there is no SLURM here.
    """
    if importlib.util.find_spec("submitit") is None:
        raise ConfigError(
            "submitit, which starts the jobs of a sweep, is not installed: "
            "pip install -e '.[cluster]'"
        )
    if cluster == "slurm":
        _executor(cluster, Path(), options)
    elif options:
        raise ConfigError("--slurm: is for --cluster=slurm")


def _submitit() -> Any:
    """Import submitit, which must not set up logging here: that would close all other handlers."""
    name, before = "SUBMITIT_LOG_LEVEL", os.environ.get("SUBMITIT_LOG_LEVEL")
    os.environ[name] = "NOCONFIG"
    try:
        return importlib.import_module("submitit")
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _executor(cluster: str, folder: Path, options: Mapping[str, str | int]) -> Any:
    submitit = _submitit()
    if cluster == "local":
        # Local jobs are named by their process number, which an earlier process may have had.
        local = submitit.LocalExecutor(folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
        local.update_parameters(timeout_min=_A_YEAR_MIN)
        return local
    try:
        slurm = submitit.SlurmExecutor(folder, max_num_timeout=_REQUEUES)
    except RuntimeError as error:
        raise ConfigError(f"--cluster: slurm: {one_line(error)}") from error
    try:
        slurm.update_parameters(**{"job_name": "lottery_jax", **options})
    except ValueError as error:
        known = sorted(slurm._valid_parameters())
        unknown = [key for key in options if key not in known]
        text = f"unknown option {unknown[0]!r}; legal: {', '.join(known)}" if unknown else error
        raise ConfigError(f"--slurm: {text}") from error
    return slurm


def run_command(config_file: Path, workdir: Path) -> tuple[str, ...]:
    """Return the ordinary command of a run."""
    return (
        sys.executable, "-m", "lottery_jax.main",
        f"--config={config_file}", f"--workdir={workdir}",
    )  # fmt: skip
