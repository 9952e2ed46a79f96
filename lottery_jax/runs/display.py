"""The output of a run: a progress bar or, in a notebook, a line of progress; a line for each level."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lottery_jax.runs.plan import in_time
from lottery_jax.system import notebook


class Display:
    """A progress bar over all epochs of a run, and lines above it."""

    def __init__(self, total_epochs: int, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("epochs  {task.fields[status]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.file.isatty(),  # in a log file the lines of the levels are enough
        )
        # Output that goes elsewhere is no business of the notebook in which it is made.
        shown = notebook.in_notebook() and console.file is sys.stdout and not console.quiet
        self._line = notebook.Line() if shown else None
        self._task = self._progress.add_task("starting", total=total_epochs, status="")
        self._left = total_epochs
        # The time at the end of the first epoch and of the last one, and the epochs done by then.
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)
        self._compiled = self._said = False

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._last[1]:
            self._show(at_once=True)
        self._progress.stop()

    def say(self, line: str) -> None:
        """Print a line above the bar. It is plain text, without rich's markup."""
        self.console.print(line, markup=False, highlight=False)

    def describe(self, label: str) -> None:
        """Show what is being trained, and until the first step is done that it is compiled."""
        self._progress.update(self._task, description=label)
        if not self._compiled:
            self._progress.update(self._task, status="compiling")
        self._show()

    def step_done(self) -> None:
        """Show no longer that the first step is compiled."""
        if not self._compiled:
            self._compiled = True
            self._progress.update(self._task, status="")

    def epoch_done(self, measured: str, examples_per_s: float, trials: int = 1) -> None:
        """Move the bar by an epoch of each of so many trials, and show their mean metric."""
        status = f"{measured:>7}  {examples_per_s:,.0f} examples/s"
        self._progress.update(self._task, status=status)
        self._progress.advance(self._task, trials)
        self._compiled = True
        self._left -= trials
        self._last = (time.monotonic(), self._last[1] + trials)
        if self._first is None or not trials:  # epochs before a rewind point are not counted
            self._first = self._last
        self._show()

    def skip(self, epochs: int) -> None:
        """Move the bar past epochs that an earlier process ran."""
        self._progress.advance(self._task, epochs)
        self._left -= epochs

    def _show(self, *, at_once: bool = False) -> None:
        """Show the state of the bar as a line in a notebook."""
        if self._line is None:
            return
        task = self._progress.tasks[self._task]
        done, total = f"{task.completed:.0f}", f"{task.total:.0f}"
        remaining = self._seconds_left()
        parts = [task.description, f"{done}/{total} epochs", task.fields["status"]]
        if task.finished or at_once:
            parts = parts[1:2]
        elif remaining is not None:
            parts.append(f"{in_time(remaining)} left")
        self._line.show("  ".join(filter(None, parts)), at_once=at_once)

    def _seconds_left(self) -> float | None:
        """Return an estimate by the epochs since the first one; None before there are some."""
        if self._first is None:
            return None
        (began, before), (ended, done) = self._first, self._last
        return self._left * (ended - began) / (done - before) if done > before else None

    def say_remaining(self) -> None:
        """Say once how long the rest will take, by the epochs since the first one was done."""
        remaining = self._seconds_left()
        if remaining is None or self._said or not self._left:
            return
        self._said = True
        epochs = self._last[1] - (self._first or self._last)[1]
        self.say(f"about {in_time(remaining)} remain, by the last {epochs} epochs")
