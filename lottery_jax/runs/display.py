"""The terminal output of a run: a progress bar, and a line for each level."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


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
        """Show what is being trained."""
        self._progress.update(self._task, description=label)

    def epoch_done(self, measured: str, examples_per_s: float, trials: int = 1) -> None:
        """Move the bar by an epoch of each of so many trials, and show their mean metric."""
        status = f"{measured:>7}  {examples_per_s:,.0f} examples/s"
        self._progress.update(self._task, status=status)
        self._progress.advance(self._task, trials)

    def skip(self, epochs: int) -> None:
        """Move the bar past epochs that an earlier process ran."""
        self._progress.advance(self._task, epochs)
