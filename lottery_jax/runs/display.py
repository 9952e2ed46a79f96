"""The terminal output of a run: a progress bar, and a line for each level."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lottery_jax.runs.plan import in_time


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
            # In a log file or a notebook the lines of the levels are enough.
            disable=not console.file.isatty(),
        )
        self._task = self._progress.add_task("starting", total=total_epochs, status="")
        self._left = total_epochs
        self._measured: list[tuple[float, int]] = []  # (time at an epoch's end, epochs left)
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
        self._progress.stop()

    def say(self, line: str) -> None:
        """Print a line above the bar. It is plain text, without rich's markup."""
        self.console.print(line, markup=False, highlight=False)

    def describe(self, label: str) -> None:
        """Show what is being trained, and until the first step is done that it is compiled."""
        self._progress.update(self._task, description=label)
        if not self._compiled:
            self._progress.update(self._task, status="compiling")

    def step_done(self) -> None:
        """Show no longer that the first step is compiled."""
        if not self._compiled:
            self._compiled = True
            self._progress.update(self._task, status="")

    def epoch_done(self, accuracy: float | None, images_per_s: float, trials: int = 1) -> None:
        """Move the bar by an epoch of each of so many trials. The accuracy is their mean."""
        measured = f"{accuracy:7.2%}  " if accuracy is not None else ""
        self._progress.update(self._task, status=f"{measured}{images_per_s:,.0f} images/s")
        self._progress.advance(self._task, trials)
        self._compiled = True
        self._left -= trials
        self._measured.append((time.monotonic(), self._left))

    def skip(self, epochs: int) -> None:
        """Move the bar past epochs that an earlier process ran."""
        self._progress.advance(self._task, epochs)
        self._left -= epochs

    def say_remaining(self) -> None:
        """Say once how long the rest will take, by the epochs since the first one was done."""
        if self._said or len(self._measured) < 2 or not self._left:
            return
        (began, before), (ended, left) = self._measured[0], self._measured[-1]
        if before > left:
            self._said = True
            remaining = self._left * (ended - began) / (before - left)
            self.say(f"about {in_time(remaining)} remain, by the {before - left} epochs so far")
