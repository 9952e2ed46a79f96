"""Trackers, which show a run while it trains: Weights & Biases, trackio and TensorBoard.

    Tracking      all trackers of a run; one that fails is switched off with a warning
    Tracker       what each of them does
    WandbRun      a run of wandb, or of trackio, which has the same interface
    EventFiles    files for TensorBoard

Their packages are imported here alone, and only if the config asks for them.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ml_collections import ConfigDict

from lottery_jax import config as configuration
from lottery_jax.curve import WINNING
from lottery_jax.errors import ConfigError, LotteryError, one_line
from lottery_jax.runs.directory import Trial
from lottery_jax.runs.shown_values import Row, epoch_values, level_values
from lottery_jax.system.files import write_text

PROJECT = "lottery_jax"  # the default
# What `wandb.artifacts` can name.
REPORT, TICKET = "report", "ticket"
# The files of the run directory in which a run's names elsewhere are kept.
_WANDB_ID, _TRACKIO_NAME = "wandb_id", "trackio_name"
_INSTALL = {
    "wandb": "wandb",
    "trackio": "'lottery_jax[trackio]'",
    "tensorboard": "'lottery_jax[tensorboard]'",
}
# Seconds between two times that events are written to the disk.
_FLUSH = 10.0

T = TypeVar("T")
# Returns the rows of metrics.jsonl from a number on, with their densities where they are known.
RowsFrom = Callable[[int], Iterable[tuple[Row, float | None]]]


class Tracker(Protocol):
    """A place that shows a run. Whatever its methods raise, `Tracking` deals with it."""

    def log(self, number: int, values: Mapping[str, float]) -> None:
        """Take the `epoch_values` of a row; `number` is its line in metrics.jsonl, from 0."""

    def log_level(self, number: int, level: int, values: Mapping[str, float]) -> None:
        """Take the `level_values` of a level that is complete; `number` is that of its last row."""

    def keep(self, path: Path, name: str, kind: str) -> None:
        """Take a folder of files."""

    def finish(self) -> None:
        """Wait until everything is sent or written."""


class Tracking:
    """All trackers of a run. A tracker that raises is switched off with one warning.

    Args:
        starts: for each tracker's name, the function that starts it.
        rows: the number of rows that metrics.jsonl has.
        warn: prints a line.
        artifacts: the kinds of folders to send: `report`, `ticket`.
    """

    def __init__(
        self,
        starts: Mapping[str, Callable[[], Tracker]],
        rows: int,
        warn: Callable[[str], None],
        artifacts: Sequence[str] = (),
    ) -> None:
        self._next, self._warn, self._artifacts = rows, warn, artifacts
        self._trackers: dict[str, Tracker] = {}
        for name, start in starts.items():
            if (tracker := self._attempt(name, start)) is not None:
                self._trackers[name] = tracker

    def log(self, row: Row, density: float) -> None:
        """Send a row of metrics.jsonl, of a network that has this share of its weights."""
        number = self._next
        self._next += 1
        self._on_each(lambda tracker: tracker.log(number, epoch_values(row, density)))

    def log_level(self, rows: Sequence[Row]) -> None:
        """Send the rows of curve.csv of a level that is complete."""
        number = max(0, self._next - 1)
        self._on_each(
            lambda tracker: tracker.log_level(number, rows[0]["level"], level_values(rows))
        )

    def keep(self, path: Path, name: str, kind: str) -> None:
        """Send a folder, if the config asks for its kind. A failure switches no tracker off."""
        for at, tracker in self._trackers.items() if kind in self._artifacts else ():
            try:
                tracker.keep(path, name, kind)
            except Exception as error:
                self._warn(f"{at}: {_said(error)}; {name} is not sent")

    def keep_ticket(self, trial: Trial) -> None:
        """Send the ticket of a trial, if the config asks for tickets."""
        self.keep(trial.ticket_dir, f"{TICKET}-seed_{trial.seed}", TICKET)

    def finish(self) -> None:
        """Wait until everything is sent or written."""
        self._on_each(lambda tracker: tracker.finish())

    def _on_each(self, action: Callable[[Tracker], object]) -> None:
        for name, tracker in list(self._trackers.items()):
            self._attempt(name, partial(action, tracker))

    def _attempt(self, name: str, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except Exception as error:
            self._trackers.pop(name, None)
            said = _said(error)
            if isinstance(error, ImportError):
                said += f"; pip install {_INSTALL[name]}"
            self._warn(f"{name}: {said}; the run goes on without it")
            if name == "wandb":
                with contextlib.suppress(Exception):  # wandb would complain again at exit
                    import wandb

                    wandb.teardown(exit_code=1)
            return None


def open_tracking(
    config: ConfigDict,
    folder: Path,
    rows: int,
    dropped: int,
    warn: Callable[[str], None],
    rows_from: RowsFrom = lambda number: (),
) -> Tracking:
    """Start the trackers that a config asks for.

    A resumed run continues what it began there: its id at wandb and its name at trackio are kept in
    the run directory.

    Args:
        config: the run's config.
        folder: the run directory.
        rows: the number of rows that metrics.jsonl has.
        dropped: the number of rows after them that a killed process sent and that come again.
        warn: prints a line.
        rows_from: returns the rows from a number on, for a wandb that lacks some of them.
    """
    starts = _dashboard(config, folder, rows, dropped, rows_from)
    if config.tensorboard:
        starts["tensorboard"] = partial(EventFiles, folder / "tensorboard")
    return Tracking(starts, rows, warn, config.wandb.artifacts)


def send_report(config: ConfigDict, folder: Path, warn: Callable[[str], None]) -> None:
    """Send the folder `report` and the last tickets of a complete run, if the config asks for them.

    Tickets were sent before, unless the run was killed in between. They are sent again since wandb
    makes no new version of an artifact whose content is the same.
    """
    if config.wandb.artifacts:
        tracking = Tracking(_dashboard(config, folder, 0, 0), 0, warn, config.wandb.artifacts)
        tracking.keep(folder / "report", REPORT, REPORT)
        for seed in config.seeds:
            trial = Trial(folder, seed, config.ladder.levels, WINNING)
            if trial.is_complete:
                tracking.keep_ticket(trial)
        tracking.finish()


def _said(error: Exception) -> str:
    """Return one line of an error, with its type unless the message is this package's own."""
    known = isinstance(error, (ImportError, LotteryError))
    return one_line(str(error) if known else f"{type(error).__name__}: {error}", 200)


class WandbRun:
    """A run of wandb, or of trackio, which has the same interface.

    Args:
        run: the result of `wandb.init` or `trackio.init`.
        there: the number of steps that it has.
        rows: the number of rows that metrics.jsonl has.
        dropped: the number of rows after them that a killed process wrote and that come again. Those
            that are there are not sent twice, unless there are more steps than all these rows.
    """

    def __init__(self, run: Any, there: int, rows: int, dropped: int) -> None:
        self._run, self._there = run, there
        self._shift = there - rows if there - rows > dropped else 0

    def log(self, number: int, values: Mapping[str, float]) -> None:
        """Send a row. Steps always grow: wandb drops others."""
        if number + self._shift >= self._there:
            self._run.log(dict(values), step=number + self._shift)

    def log_level(self, number: int, level: int, values: Mapping[str, float]) -> None:
        """Send a level's values beside its last row."""
        self._run.log(dict(values), step=max(number + self._shift, self._there))

    def keep(self, path: Path, name: str, kind: str) -> None:
        """Send a folder as an artifact of the run's own."""
        self._run.log_artifact(str(path), name=f"{name}-{self._run.id}", type=kind)

    def finish(self) -> None:
        """Wait until everything is sent."""
        self._run.finish()


class EventFiles:
    """Event files for TensorBoard. They are written by this thread, so that no error is lost.

    Rows that come again after a process was killed have the steps and values that they had.

    Args:
        folder: the folder for them, made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names.
        place = f"{int(time.time()):010d}.{socket.gethostname()}.{uuid.uuid4().hex[:8]}"
        self._writer = RecordWriter((folder / f"events.out.tfevents.{place}").open("xb"))
        self._event, self._summary = Event, Summary
        self._write(0, file_version="brain.Event:2")
        self._flush()

    def log(self, number: int, values: Mapping[str, float]) -> None:
        """Write a row's values at the step of its number."""
        self._write_values(number, values)
        if time.monotonic() - self._flushed > _FLUSH:
            self._flush()

    def log_level(self, number: int, level: int, values: Mapping[str, float]) -> None:
        """Write a level's values, with the level as their step."""
        self._write_values(level, values)
        self._flush()

    def keep(self, path: Path, name: str, kind: str) -> None:
        """Do nothing: TensorBoard has no artifacts, and these files lie beside its own."""

    def finish(self) -> None:
        """Write what is left, and close the file."""
        self._writer.close()

    def _write_values(self, step: int, values: Mapping[str, float]) -> None:
        each = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(step, summary=self._summary(value=each))

    def _write(self, step: int, **content: Any) -> None:
        event = self._event(wall_time=time.time(), step=step, **content)
        self._writer.write(event.SerializeToString())

    def _flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()


def _dashboard(
    config: ConfigDict,
    folder: Path,
    rows: int,
    dropped: int,
    rows_from: RowsFrom = lambda number: (),
) -> dict[str, Callable[[], Tracker]]:
    """Return how to start wandb or trackio, whichever the config names; nothing if it is disabled."""
    mode, client = config.wandb.mode, config.wandb.client
    if mode == "disabled":
        mode = _environment().get("WANDB_MODE", mode)
    if mode == "disabled":
        return {}
    start = _start_trackio if client == "trackio" else _start_wandb

    def begin() -> Tracker:
        run, there = start(config, folder, mode)
        there = rows if there is None else there
        tracker = WandbRun(run, there, rows, dropped)
        if there < rows:  # a killed process wrote them, but did not send them
            for number, row in enumerate(rows_from(there), there):
                tracker.log(number, epoch_values(*row))
        return tracker

    return {client: begin}


def _start_wandb(config: ConfigDict, folder: Path, mode: Any) -> tuple[Any, int | None]:
    """Begin or continue the run at wandb; return it, and the steps that it has if they are known.

    Where a key has its default, wandb's environment variables are honoured, and so are those that
    have no key.
    """
    import wandb

    keys, env, known_id = config.wandb, _environment(), _read(folder / _WANDB_ID)
    # Seconds that a server that does not answer can delay the start and the end of a run.
    patience = {"init_timeout": 30, "finish_timeout": 60}
    known = wandb.Settings.model_fields
    run = wandb.init(
        mode=mode,
        id=env.get("WANDB_RUN_ID") or known_id,
        resume=None if mode == "offline" or "WANDB_RESUME" in env else "allow",
        settings=wandb.Settings(**{k: v for k, v in patience.items() if k in known}),
        entity=keys.entity or None,
        project=None if keys.project == PROJECT and "WANDB_PROJECT" in env else keys.project,
        name=keys.name or (None if "WANDB_NAME" in env else folder.name),
        group=keys.group or None,
        tags=list(keys.tags) or None,
        job_type=keys.job_type or None,
        dir=None if "WANDB_DIR" in env else str(folder),
        config=configuration.flatten(config),
    )
    if run.id != known_id:
        write_text(folder / _WANDB_ID, f"{run.id}\n")
    # Charts of what is logged once a level have the density as their horizontal axis.
    run.define_metric("curve/density", hidden=True)
    run.define_metric("curve/*", step_metric="curve/density")
    return run, run.step if run.resumed else None


def _start_trackio(config: ConfigDict, folder: Path, mode: Any) -> tuple[Any, int | None]:
    """Begin or continue the run at trackio, which knows a run by its name; return it.

    Raises:
        ConfigError: `wandb.mode` and trackio's environment variables contradict each other.
    """
    import trackio

    env = _environment()
    remote = [name for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL") if name in env]
    if remote and mode == "offline":
        raise ConfigError(f"{remote[0]} is set, but config.wandb.mode is offline; unset it")
    if not remote and mode == "online":
        raise ConfigError("config.wandb.mode=online needs TRACKIO_SPACE_ID or TRACKIO_SERVER_URL")
    keys, name = config.wandb, _read(folder / _TRACKIO_NAME)
    if name is None:
        shown = re.sub(r"[^\w.-]", "_", keys.name or folder.name)[:100]
        name = f"{shown}-{uuid.uuid4().hex[:8]}"
        write_text(folder / _TRACKIO_NAME, f"{name}\n")
    run = trackio.init(
        keys.project,
        name=name,
        group=keys.group or None,
        config=configuration.flatten(config),
        resume="allow",
        embed=False,
    )
    return run, None


def _environment() -> dict[str, str]:
    """Return the environment variables that are not empty."""
    return {key: value for key, value in os.environ.items() if value}


def _read(file: Path) -> str | None:
    """Return the name in a file of the run directory, if there is one that can be read."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if re.fullmatch(r"[\w.-]{1,200}", text) else None
