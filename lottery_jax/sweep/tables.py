"""The status of a sweep, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rich.table import Table

from lottery_jax.sweep.attempts import STOPPED, describe_end
from lottery_jax.sweep.grid import PlannedRun
from lottery_jax.sweep.plan import Sweep
from lottery_jax.sweep.states import Progress, RunStatus, State, progress, unfinished_sources

_COLOURS = {
    State.RUNNING: "cyan",
    State.FINISHED: "green",
    State.FAILED: "red",
    State.STOPPED: "yellow",
}


class Overview:
    """Makes the table of a sweep again and again, and reads finished runs only once."""

    def __init__(self, sweep: Sweep, at_once: int | None = None) -> None:
        self._sweep = sweep
        self._at_once = at_once
        self._finished: dict[str, Progress] = {}

    def table(self, statuses: Mapping[str, RunStatus]) -> Table:
        """Return a table with a row for each run: state, level, accuracy and time left."""
        runs = self._sweep.plan.runs
        by_run = {run.name: self._progress(run, statuses[run.name]) for run in runs}
        finished = sum(statuses[run.name].state == State.FINISHED for run in runs)
        table = Table(
            title=f"{self._sweep.workdir}: {finished} of {len(runs)} runs finished",
            title_justify="left",
            caption=self._caption(by_run.values()),
            caption_justify="left",
        )
        table.add_column("run", overflow="fold")
        table.add_column("state", overflow="fold")
        for name in ("trainings", "level", "accuracy, %", "time left"):
            table.add_column(name, justify="right", no_wrap=True)
        for run in runs:
            progress = by_run[run.name]
            time_left = ""
            if progress.seconds_left is not None and progress.done < progress.total:
                time_left = in_words(progress.seconds_left)
            table.add_row(
                run.name,
                self.describe(run, statuses),
                f"{progress.done}/{progress.total}",
                self._level(run, progress),
                "" if progress.accuracy is None else f"{100 * progress.accuracy:.2f}",
                time_left,
                style=_COLOURS.get(statuses[run.name].state),
            )
        return table

    def describe(self, run: PlannedRun, statuses: Mapping[str, RunStatus]) -> str:
        """Return a run's state in words: what it waits for, where it runs, how it ended."""
        status = statuses[run.name]
        if status.state == State.RUNNING and status.holder:
            return "running on {host}, process {pid}".format(**status.holder)
        if status.state == State.QUEUED and status.submission:
            return f"queued, job {status.submission.job_id}"
        sources = unfinished_sources(run, statuses)
        if sources and status.state != State.FINISHED:
            return f"waiting for {', '.join(sources)}"
        if status.state in (State.FAILED, State.STOPPED):
            last = status.attempts[-1]
            return f"{'stopped' if last.status in STOPPED else 'failed'}: {describe_end(last)}"
        return str(status.state)

    def _progress(self, run: PlannedRun, status: RunStatus) -> Progress:
        if run.name in self._finished:
            return self._finished[run.name]
        now = progress(self._sweep, run)
        if status.state == State.FINISHED:
            self._finished[run.name] = now
        return now

    def _level(self, run: PlannedRun, progress: Progress) -> str:
        seed = f"seed {progress.seed}: " if len(run.config.seeds) > 1 else ""
        return f"{seed}{'-' if progress.level is None else progress.level} of {progress.levels}"

    def _caption(self, all_runs: Collection[Progress]) -> str | None:
        """Return how long the sweep will take, if new runs take as long as the others."""
        each = [
            p.seconds_left / (p.total - p.done)
            for p in all_runs
            if p.seconds_left and p.done < p.total
        ]
        if not each or self._at_once is None:
            return None
        mean = sum(each) / len(each)
        seconds = sum(
            p.seconds_left if p.seconds_left is not None else mean * (p.total - p.done)
            for p in all_runs
        )
        return f"about {in_words(seconds / self._at_once)} left with {self._at_once} at once"


def in_words(seconds: float) -> str:
    """Return a duration in its two largest units.

    >>> [in_words(s) for s in (3.2, 75, 3 * 3600 + 120, 50 * 3600)]
    ['3 s', '1 min 15 s', '3 h 02 min', '2 d 02 h']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = whole // 60
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = minutes // 60
    return f"{hours // 24} d {hours % 24:02} h"
