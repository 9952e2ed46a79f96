"""What a run writes down as it goes: metrics.jsonl, curve.csv, the terminal, wandb when asked."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lottery_jax.curve import CURVE_COLUMNS
from lottery_jax.errors import one_line
from lottery_jax.system.files import name_in_oserror, write_text


def write_curve(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes curve.csv: one row a (seed, level, control), whole or not at all, if it changed."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, CURVE_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if not path.is_file() or path.read_bytes() != text.getvalue().encode():
        write_text(path, text.getvalue())


# What tells a row of metrics.jsonl from all others.
_IDENTIFY = {"seed", "level", "control", "step"}


class MetricsLog:
    """metrics.jsonl: one line an epoch, appended as epochs end.

    A row is written before the checkpoint of the same step. After an interruption there may
    therefore be rows of steps that will be run again: `keep` says which rows to keep.
    """

    def __init__(self, path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
        self._path = path
        if path.is_file():
            kept = [json.dumps(row) + "\n" for row in self._rows() if keep(row)]
            write_text(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row; when this returns a crash of this process can't lose it."""
        with name_in_oserror(self._path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """When this returns a power failure can't lose a row either."""
        with name_in_oserror(self._path):
            os.fsync(self._file.fileno())

    def rows_of(self, seed: int, level: int, control: str) -> list[dict[str, Any]]:
        """The rows there are of one training."""
        wanted = (seed, level, control)
        return [r for r in self._rows() if (r["seed"], r["level"], r["control"]) == wanted]

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):  # the end of a row that could not be written before
            self._file.close()

    def _rows(self) -> Iterator[dict[str, Any]]:
        # A line may be half of one, if a process died while it wrote it, or no row at all.
        with self._path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with contextlib.suppress(ValueError, RecursionError):
                    row = json.loads(line)
                    if isinstance(row, dict) and row.keys() >= _IDENTIFY:
                        yield row


PROJECT = "lottery_jax"  # the default
_ID = "wandb_id"


def _read_id(file: Path) -> str | None:
    """The id of a run's run at wandb, as far as there is one that can be read."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if re.fullmatch(r"[\w-]{1,128}", text) else None


class Wandb:
    """Sends rows to Weights & Biases, or nowhere if `mode` is `disabled`.

    Where an argument is the default, wandb's environment variables are honoured: WANDB_MODE,
    WANDB_ENTITY, WANDB_PROJECT, WANDB_NAME, WANDB_DIR, and those for which there is no argument. A
    run that is resumed goes on in its run there, whose id is kept in `folder`.

    wandb is imported only when asked for; whatever it raises becomes one warning and the run goes
    on without it.

    Args:
        mode: `online`, `offline` or `disabled` (the default).
        warn: prints a line.
        entity: whose project; empty: the default.
        project: the project; `lottery_jax` is the default.
        name: of the run; empty: the name of `folder`, the default.
        folder: the run directory.
        config: what the run is of.
    """

    def __init__(
        self,
        mode: Any,
        warn: Callable[[str], None],
        *,
        entity: str,
        project: str,
        name: str,
        folder: Path,
        config: Mapping[str, Any],
    ) -> None:
        self._run: Any = None
        self._warn = warn
        env = {key: value for key, value in os.environ.items() if value}
        if mode == "disabled":
            mode = env.get("WANDB_MODE", mode)
        if mode == "disabled":
            return
        known_id = _read_id(folder / _ID)

        def start() -> None:
            import wandb

            # A server that does not answer holds a run up for so long, at its start and its end.
            patience = {"init_timeout": 30, "finish_timeout": 60}
            known = wandb.Settings.model_fields
            self._run = wandb.init(
                mode=mode,
                id=env.get("WANDB_RUN_ID") or known_id,
                resume=None if mode == "offline" or "WANDB_RESUME" in env else "allow",
                settings=wandb.Settings(**{k: v for k, v in patience.items() if k in known}),
                entity=entity or None,
                project=None if project == PROJECT and "WANDB_PROJECT" in env else project,
                name=name or (None if "WANDB_NAME" in env else folder.name),
                dir=None if "WANDB_DIR" in env else str(folder),
                config=dict(config),
            )
            if self._run.id != known_id:
                write_text(folder / _ID, f"{self._run.id}\n")

        self._attempt(start)

    def log(self, row: Mapping[str, Any]) -> None:
        """Sends the row's numbers, under `seed_<seed>/<control>/<key>`."""
        if self._run is None:
            return
        prefix = f"seed_{row['seed']}/{row['control']}"
        numbers = {f"{prefix}/{k}": v for k, v in row.items() if isinstance(v, (int, float))}
        self._attempt(lambda: self._run.log(numbers))

    def finish(self) -> None:
        """Waits until what was sent has arrived."""
        if self._run is not None:
            self._attempt(self._run.finish)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            self._run = None
            said = one_line(f"{type(error).__name__}: {error}", 200)
            self._warn(f"wandb: {said}; the run goes on without it")
            with contextlib.suppress(Exception):  # what is broken would complain again at exit
                import wandb

                wandb.teardown(exit_code=1)


class Display:
    """The terminal: a progress bar over all epochs of the run, and a line for each level."""

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
        """Prints a line above the bar; `line` is plain text, without rich's markup."""
        self.console.print(line, markup=False, highlight=False)

    def working_on(self, what: str) -> None:
        """Names what is being trained."""
        self._progress.update(self._task, description=what)

    def epoch_done(self, accuracy: float | None, images_per_s: float, trainings: int = 1) -> None:
        """Moves the bar on by one epoch of so many trainings; the accuracy is their mean."""
        measured = f"{accuracy:7.2%}  " if accuracy is not None else ""
        self._progress.update(self._task, status=f"{measured}{images_per_s:,.0f} images/s")
        self._progress.advance(self._task, trainings)

    def skip(self, epochs: int) -> None:
        """Moves the bar past epochs that an earlier process ran."""
        self._progress.advance(self._task, epochs)
