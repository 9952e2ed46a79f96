"""Runs, transfer matrices and sweeps as objects: their rows, tickets, configs and figures.

    run = lj.open_run("runs/quickstart")
    run.plot()
    run.ticket(seed=0, level=9)

Nothing is written. A run may still be going on: then there is what is complete.
"""

from __future__ import annotations

import abc
import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
from ml_collections import ConfigDict

from lottery_jax import config as configuration
from lottery_jax import report, tickets
from lottery_jax.curve import WINNING, curve_columns
from lottery_jax.errors import ConfigError, EnvironmentFault, TicketError
from lottery_jax.models.network import Network
from lottery_jax.report.curves import NothingYetError, series_label
from lottery_jax.runs import directory, record
from lottery_jax.runs.directory import Row, Trial
from lottery_jax.sweep import plan
from lottery_jax.system.files import local_path
from lottery_jax.system.imports import short_name
from lottery_jax.tickets import Ticket

if TYPE_CHECKING:
    from lottery_jax.report.figures import Figure


def open_run(workdir: str | os.PathLike[str]) -> OpenedRun | OpenedMatrix | OpenedSweep:
    """Open the directory of a run, a transfer matrix or a sweep for reading.

    Raises:
        ConfigError: it is none of them, or its config can't be read.
    """
    folder = local_path(workdir, "workdir")
    if plan.is_sweep(folder):
        return OpenedSweep(folder)
    return OpenedMatrix(folder) if report.is_matrix(folder) else OpenedRun(folder)


class _Opened(abc.ABC):
    """What runs, matrices and sweeps have in common: rows."""

    workdir: Path
    _labels: tuple[str, ...] = ()  # the columns before those of curve.csv

    @property
    @abc.abstractmethod
    def rows(self) -> list[Row]:
        """The rows of curve.csv, one for each complete ticket."""

    def to_pandas(self) -> Any:
        """Return `rows` as a pandas.DataFrame.

        Raises:
            EnvironmentFault: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise EnvironmentFault("to_pandas needs pandas: pip install pandas") from error
        rows = self.rows
        return pandas.DataFrame(rows, columns=None if rows else (*self._labels, *curve_columns()))


class OpenedRun(_Opened):
    """A run, as far as it is complete.

    Attributes:
        workdir: the run directory.
        config: the config of the run, as it was resolved when the run began.
    """

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        self.config: ConfigDict = record.read_config(workdir)

    @property
    def rows(self) -> list[Row]:
        """The rows that `run_ladder` returns: one for each complete ticket.

        Raises:
            TicketError: the metadata of a ticket is damaged.
        """
        return directory.curve_rows(self.config, self.workdir)

    @property
    def _complete(self) -> list[Trial]:
        trials = directory.list_trials(self.config, self.workdir)
        return [trial for trial in trials if trial.is_complete]

    def ticket(
        self,
        seed: int | None = None,
        level: int | None = None,
        control: str = WINNING,
        *,
        epoch: int | None = None,
        model: Network | nn.Module | None = None,
    ) -> Ticket:
        """Load a ticket of the run.

        Args:
            seed: default: the first seed that has such tickets.
            level: default: the last complete level of that seed.
            control: the name of a control, or `winning` for the ticket itself.
            epoch: an epoch that `config.train.keep_epochs` kept: then the ticket's trained weights
                are those after this epoch. Default: those at the end.
            model: as for `load_ticket`.

        Raises:
            TicketError: there is no such ticket or epoch, or it is damaged.
        """
        complete = self._complete
        found = [
            trial
            for trial in complete
            if seed in (None, trial.seed) and level in (None, trial.level)
            if trial.control == control
        ]
        if not found:
            there = {
                name: ", ".join(str(v) for v in dict.fromkeys(getattr(t, name) for t in complete))
                for name in ("seed", "level", "control")
            }
            what = "; ".join(f"{name} {values or '-'}" for name, values in there.items())
            raise TicketError(
                f"{self.workdir}: has no complete ticket of seed {seed}, level {level}, {control}; "
                f"there are: {what}"
            )
        chosen = max((t for t in found if t.seed == found[0].seed), key=lambda t: t.level)
        if epoch is not None:
            return tickets.load_epoch(chosen.ticket_dir, epoch, model)
        return tickets.load_ticket(chosen.ticket_dir, model)

    def tickets(self, control: str | None = None) -> Iterator[Ticket]:
        """Load the complete tickets one after another, in the order in which they were trained.

        Args:
            control: `winning` or the name of a control; default: all of them.

        Raises:
            TicketError: a ticket is damaged.
        """
        for trial in self._complete:
            if control in (None, trial.control):
                yield tickets.load_ticket(trial.ticket_dir)

    def plot(self, *others: OpenedRun) -> Figure:
        """Draw accuracy over weights remaining as a matplotlib Figure, which notebooks show.

        Args:
            others: other runs to draw into the same figure.

        Raises:
            ConfigError: a run has no complete level, or a file of it is damaged.
        """
        runs = [report.read_run(run.workdir) for run in (self, *others)]
        return report.for_notebooks(report.runs_figure(runs))

    def __repr__(self) -> str:
        total = len(directory.list_trials(self.config, self.workdir))
        return f"Run({_setting(self.config)}: {len(self._complete)} of {total} tickets, {self.workdir})"

    def _repr_html_(self) -> str:
        """Return a table of the metric by level: mean and standard deviation over seeds."""
        try:
            run = report.read_run(self.workdir)
        except ConfigError:  # no level is complete, or a file is damaged
            return f"<div>{escape(repr(self))}</div>"
        names = [series_label(name) for name in run.series]
        head = "".join(f"<th>{escape(name)}</th>" for name in ("level", "weights left, %", *names))
        points = {name: run.points(name) for name in run.series}
        body = ""
        for level, first in run.tickets.items():
            cells = [str(level), f"{first.remaining:.2f}"]
            for series in points.values():
                point = series.get(level)
                cells.append(_mean_and_deviation(point) if point else "")
            body += f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        return (
            f"<div><b>{escape(run.title)}</b><br>{escape(run.quantity)}, "
            f"{escape(report.spread([run]))}</div>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )


class _OpenedRuns(_Opened):
    """Several runs.

    Attributes:
        runs: the runs that have begun, by the name of their directory.
    """

    runs: dict[str, OpenedRun]
    _columns: Mapping[str, Mapping[str, Any]]  # by run, its values of `_labels`
    _total: int

    @property
    def rows(self) -> list[Row]:
        """The rows of all runs, with columns before them that say which run a row belongs to.

        Raises:
            TicketError: the metadata of a ticket is damaged.
        """
        return [
            {**self._columns[name], **row} for name, run in self.runs.items() for row in run.rows
        ]

    def ticket(
        self,
        run: str,
        seed: int | None = None,
        level: int | None = None,
        control: str = WINNING,
        *,
        model: Network | nn.Module | None = None,
    ) -> Ticket:
        """Load a ticket of a run, as `OpenedRun.ticket` does.

        Raises:
            ConfigError: no such run has begun.
            TicketError: there is no such ticket, or it is damaged.
        """
        if run not in self.runs:
            names = ", ".join(self.runs) or "none has begun"
            raise ConfigError(f"{self.workdir}: has no run {run!r}; runs: {names}")
        return self.runs[run].ticket(seed, level, control, model=model)

    def tickets(self, control: str | None = None) -> Iterator[Ticket]:
        """Load the complete tickets of all runs one after another.

        Args:
            control: `winning` or the name of a control; default: all of them.
        """
        for run in self.runs.values():
            yield from run.tickets(control)

    def __repr__(self) -> str:
        kind = type(self).__name__.removeprefix("Opened")
        return f"{kind}({len(self.runs)} of {self._total} runs begun, {self.workdir})"

    def _repr_html_(self) -> str:
        runs = "".join(
            f"<li>{escape(name)}: {escape(repr(r))}</li>" for name, r in self.runs.items()
        )
        return f"<div>{escape(repr(self))}<ul>{runs}</ul></div>"


class OpenedMatrix(_OpenedRuns):
    """A transfer matrix, as far as it is complete. Its rows begin with `source` and `target`.

    Attributes:
        workdir: its directory.
        config: the config of the whole.
        runs: the runs that have begun: `DATASET` natively, `SOURCE_to_TARGET` of another's tickets.
    """

    _labels = ("source", "target")

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        self.config: ConfigDict = record.read_config(workdir)
        names = report.cell_names(self.config.transfer.sources, self.config.transfer.targets)
        self._columns = {
            name: {"source": source, "target": target} for (source, target), name in names.items()
        }
        self._total = len(names)
        self.runs = _begun(workdir, self._columns)

    def plot(self) -> Figure:
        """Draw accuracy over weights remaining, with a pair of axes for each target.

        Raises:
            ConfigError: no run has a complete level, or a file is damaged.
        """
        return report.for_notebooks(report.matrix_figure(report.read_matrix(self.workdir)))

    def heat_map(self, density: float | None = None) -> Figure:
        """Draw how much better or worse each source's tickets do than the target's own.

        Args:
            density: the share of weights at which to compare; default: the config's.

        Raises:
            ConfigError: no run has a complete level, or a file is damaged.
        """
        matrix = report.read_matrix(self.workdir, density)
        return report.for_notebooks(report.matrix_heat_map(matrix))


class OpenedSweep(_OpenedRuns):
    """A sweep, as far as it is complete. Its rows begin with `run` and the keys that runs differ in.

    Attributes:
        workdir: its directory.
        config: the config of each run that was planned, by its name.
        runs: the runs that have begun.
        matrices: the transfer matrices among them that have begun, by the names of their directories.
    """

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        sweep = plan.read(workdir)
        self.config: dict[str, ConfigDict] = {run.name: run.config for run in sweep.plan.runs}
        flat = {name: configuration.flatten(config) for name, config in self.config.items()}
        first = next(iter(flat.values()), {})
        differ = [key for key in first if any(f[key] != first[key] for f in flat.values())]
        self._labels = ("run", *differ)
        self._columns = {
            name: {"run": name, **{key: f[key] for key in differ}} for name, f in flat.items()
        }
        self._total = len(flat)
        self.runs = _begun(workdir, flat)
        names = [name for name in sweep.plan.matrices if report.is_matrix(workdir / name)]
        self.matrices = {name: OpenedMatrix(workdir / name) for name in names}
        folders = [workdir / name for name in sweep.plan.matrices]
        self._single = [r.workdir for r in self.runs.values() if r.workdir.parent not in folders]

    def plot(self) -> Figure:
        """Draw the runs in one figure; runs that differ in their seeds alone are one curve.

        Cells of a matrix are left out: `matrices` draw theirs.

        Raises:
            ConfigError: there is nothing to draw yet, or a file is damaged.
        """
        drawn = []
        for folder in self._single:
            with contextlib.suppress(NothingYetError):
                drawn.append(report.read_run(folder))
        if drawn:
            return report.for_notebooks(report.runs_figure(report.pooled(drawn)))
        if len(self.matrices) == 1:
            return next(iter(self.matrices.values())).plot()
        raise ConfigError(
            f"{self.workdir}: has no run to draw, apart from matrices, which `matrices` holds: "
            f"{', '.join(self.matrices) or 'none has begun'}"
        )


def _begun(workdir: Path, names: Mapping[str, Any]) -> dict[str, OpenedRun]:
    found = [name for name in names if (workdir / name / "config.json").is_file()]
    return {name: OpenedRun(workdir / name) for name in found}


def _setting(config: ConfigDict) -> str:
    return f"{short_name(config.model.name)} on {config.data.name}"


def _mean_and_deviation(point: report.Point) -> str:
    spread = f" ± {point.std:.2f}" if len(point.accuracies) > 1 else ""
    return f"{point.mean:.2f}{spread}"
