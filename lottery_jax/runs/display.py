"""The output of a run: progress bars or, in a notebook, a line of progress; a line for each level."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from lottery_jax.parallel import multihost
from lottery_jax.runs.plan import in_time
from lottery_jax.system import notebook

# The columns that epochs, accuracy, speed and time left take.
_NUMBERS_WIDTH = 62


@contextmanager
def phase(console: Console, what: str) -> Iterator[None]:
    """Name what a run does before it trains, in a line on the terminal that goes when it is done."""
    if console.file.isatty() and multihost.is_primary():
        with console.status(escape(what)):
            yield
    else:
        yield


class Display:
    """Progress bars for what is being trained and for the whole run, and lines above them.

    Args:
        total_epochs: the epochs of all trainings of the run.
        console: the terminal. Where it is none, lines say what the bars would show.
    """

    def __init__(self, total_epochs: int, console: Console) -> None:
        self.console = console
        # A narrow terminal cuts what is trained, and shortens the bar, before it cuts a number.
        shown_width = max(24, console.width - _NUMBERS_WIDTH)
        self._progress = Progress(
            TextColumn(
                "{task.description}", table_column=Column(no_wrap=True, max_width=shown_width)
            ),
            BarColumn(bar_width=24),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("epochs"),
            TextColumn("{task.fields[status]}"),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.file.isatty(),  # in a log file the lines of the levels are enough
        )
        # Output that goes elsewhere is no business of the notebook in which it is made.
        shown = notebook.in_notebook() and console.file is sys.stdout and not console.quiet
        self._line = notebook.Line() if shown else None
        self._level = self._progress.add_task("starting", total=None, status="", left="")
        self._run = self._progress.add_task("whole run", total=total_epochs, status="", left="")
        # Epochs that are left: of what is being trained, and of the whole run.
        self._level_left, self._left = 0, total_epochs
        # Whether epochs of what is being trained are a part of the whole run.
        self._counted = True
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
        """Print a line above the bars. It is plain text, without rich's markup."""
        self.console.print(line, markup=False, highlight=False)

    def describe(self, label: str, epochs: int = 0, *, counted: bool = True) -> None:
        """Show what is being trained, and until the first step is done that it is compiled.

        Args:
            label: what is being trained.
            epochs: the epochs that end in this training, of all trials in it together.
            counted: whether they are a part of the whole run's. Those that lead to a rewind point
                are not: the dense training goes on from there.
        """
        self._counted, self._level_left = counted, epochs
        label += "" if counted else ", to the rewind point"
        status = "" if self._compiled else "compiling"
        self._progress.reset(
            self._level, total=max(1, epochs), description=label, status=status, left=""
        )
        if status and self._line is None and self._progress.disable:
            self.say("compiling the training step")
        self._show()

    def step_done(self) -> None:
        """Show no longer that the first step is compiled."""
        if not self._compiled:
            self._compiled = True
            self._progress.update(self._level, status="")

    def epoch_done(self, measured: str, examples_per_s: float, trials: int = 1) -> None:
        """Move the bars by an epoch of each of so many trials, and show their mean metric."""
        status = f"{measured:>7}  {examples_per_s:,.0f} examples/s"
        counted = trials if self._counted else 0
        self._compiled = True
        self._level_left -= trials
        self._left -= counted
        self._last = (time.monotonic(), self._last[1] + counted)
        if self._first is None or not counted:  # the way to a rewind point is not timed
            self._first = self._last
        each = self._seconds_per_epoch()
        left, level_left = (
            f"{in_time(each * epochs)} left" if each is not None and epochs > 0 else ""
            for epochs in (self._left, self._level_left)
        )
        self._progress.update(self._level, advance=trials, status=status, left=level_left)
        self._progress.update(self._run, advance=counted, left=left)
        self._show()

    def skip(self, epochs: int) -> None:
        """Move the bar of the whole run past epochs that an earlier process ran."""
        self._progress.advance(self._run, epochs)
        self._left -= epochs

    def _show(self, *, at_once: bool = False) -> None:
        """Show the state of the bars as a line in a notebook."""
        if self._line is None:
            return
        level, run = (self._progress.tasks[task] for task in (self._level, self._run))
        done = f"{run.completed:.0f}/{run.total:.0f} epochs"
        parts = [level.description, done, level.fields["status"], run.fields["left"]]
        if run.finished or at_once:
            parts = [done]
        self._line.show("  ".join(filter(None, parts)), at_once=at_once)

    def _seconds_per_epoch(self) -> float | None:
        """Return the mean since the first epoch; None before there is one."""
        if self._first is None:
            return None
        (began, before), (ended, done) = self._first, self._last
        return (ended - began) / (done - before) if done > before else None

    def say_remaining(self) -> None:
        """Say once how long the rest will take, by the epochs since the first one was done."""
        each = self._seconds_per_epoch()
        if each is None or self._said or not self._left:
            return
        self._said = True
        epochs = self._last[1] - (self._first or self._last)[1]
        measured = f"the last {epochs} epochs" if epochs > 1 else "the last epoch"
        self.say(f"about {in_time(each * self._left)} left, judging by {measured}")
