"""What is known of a sweep, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from lottery_jax.sweep.attempts import STOPPED
from lottery_jax.sweep.drive import describe_end
from lottery_jax.sweep.grid import PlannedRun
from lottery_jax.sweep.plan import Sweep
from lottery_jax.sweep.states import Progress, RunStatus, State, progress

_COLOURS = {
    State.RUNNING: "cyan",
    State.FINISHED: "green",
    State.FAILED: "red",
    State.STOPPED: "yellow",
}


class Overview:
    """The table of a sweep, made again and again; what can't change any more is read once."""

    def __init__(self, sweep: Sweep, at_once: int | None = None) -> None:
        self._sweep = sweep
        self._at_once = at_once
        self._finished: dict[str, Progress] = {}

    def table(self, known: Mapping[str, RunStatus]) -> Table:
        """A row for each run: state, level, accuracy and time left."""
        runs = self._sweep.plan.runs
        found = {run.name: self._progress(run, known[run.name]) for run in runs}
        finished = sum(known[run.name].state == State.FINISHED for run in runs)
        table = Table(
            title=f"{self._sweep.workdir}: {finished} of {len(runs)} runs finished",
            title_justify="left",
            caption=self._caption(found),
            caption_justify="left",
        )
        table.add_column("run", overflow="fold")
        table.add_column("state", overflow="fold")
        for name in ("trainings", "level", "accuracy, %", "time left"):
            table.add_column(name, justify="right", no_wrap=True)
        for run in runs:
            its = found[run.name]
            state = known[run.name].state
            table.add_row(
                run.name,
                self.describe(run, known),
                f"{its.done}/{its.total}",
                self._level(run, its),
                "" if its.accuracy is None else f"{100 * its.accuracy:.2f}",
                "" if its.seconds_left is None or not its.done < its.total
                else in_words(its.seconds_left),
                style=_COLOURS.get(state),
            )  # fmt: skip
        return table

    def describe(self, run: PlannedRun, known: Mapping[str, RunStatus]) -> str:
        """A run's state in words: what it waits for, where it runs, how it ended."""
        its = known[run.name]
        if its.state == State.RUNNING and its.holder:
            return "running on {host}, process {pid}".format(**its.holder)
        if its.state == State.QUEUED and its.submission:
            return f"queued, job {its.submission.job_id}"
        waits = [name for name in run.after if known[name].state != State.FINISHED]
        if waits and its.state != State.FINISHED:
            return f"waiting for {', '.join(waits)}"
        if its.state in (State.FAILED, State.STOPPED):
            last = its.attempts[-1]
            return f"{'stopped' if last.status in STOPPED else 'failed'}: {describe_end(last)}"
        return str(its.state)

    def _progress(self, run: PlannedRun, known: RunStatus) -> Progress:
        if run.name not in self._finished:
            its = progress(self._sweep, run)
            if known.state != State.FINISHED:
                return its
            self._finished[run.name] = its
        return self._finished[run.name]

    def _level(self, run: PlannedRun, its: Progress) -> str:
        seed = f"seed {its.seed}: " if len(run.config.seeds) > 1 else ""
        return f"{seed}{'-' if its.level is None else its.level} of {its.levels}"

    def _caption(self, found: Mapping[str, Progress]) -> str | None:
        """How long all of it will take, runs that have not begun taking as long as the others."""
        each = [p.seconds_left / (p.total - p.done)
                for p in found.values() if p.seconds_left and p.done < p.total]  # fmt: skip
        if not each or self._at_once is None:
            return None
        mean = sum(each) / len(each)
        seconds = sum(
            p.seconds_left if p.seconds_left is not None else mean * (p.total - p.done)
            for p in found.values()
        )
        return f"about {in_words(seconds / self._at_once)} left with {self._at_once} at once"


def in_words(seconds: float) -> str:
    """A duration in the largest two trials.

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
