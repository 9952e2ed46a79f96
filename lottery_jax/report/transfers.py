"""Read a transfer matrix: the tickets of several data sets, each trained on several data sets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from lottery_jax.curve import WINNING
from lottery_jax.errors import ConfigError
from lottery_jax.report.curves import (
    RANDOM,
    UNREADABLE,
    NothingYetError,
    Point,
    RunCurve,
    read_config,
    read_run,
)
from lottery_jax.report.names import data_names, network_name
from lottery_jax.system.imports import name_in_files

# A cell is marked if its density differs from the target's own by more than this, relatively.
_COMPARABLE_DENSITY = 0.05


@dataclasses.dataclass(frozen=True)
class TransferMatrix:
    """The tickets of several data sets, each trained on several data sets.

    Attributes:
        workdir: the directory that holds the runs.
        sources: data sets on which tickets were drawn.
        targets: data sets on which tickets were trained.
        density: the fraction of weights at which to compare tickets.
        runs: the runs by (source, target); the native run where both are the same.
        missing: phrases that name runs, or parts of runs, that do not exist yet.
    """

    workdir: Path
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    density: float
    runs: dict[tuple[str, str], RunCurve]
    missing: tuple[str, ...]

    @property
    def title(self) -> str:
        """The network, the optimizer, and the method if it is not IMP."""
        run = next(iter(self.runs.values()))
        method = f", {run.unusual_method}" if run.unusual_method else ""
        return f"{network_name(run.network)}, {run.optimizer}{method}: tickets across data sets"

    @property
    def all_sources(self) -> list[str]:
        """All data sets that have tickets; the targets have tickets of their own."""
        return list(dict.fromkeys((*self.sources, *self.targets)))

    @property
    def names(self) -> dict[str, str]:
        """The name of each data set in figures and tables; no two are the same."""
        return data_names(self.all_sources)

    @property
    def level(self) -> int:
        """The level whose density in the native runs is nearest to `density`."""
        natives = [run for (source, target), run in self.runs.items() if source == target]
        points = [p for run in natives or self.runs.values() for p in run.series[WINNING]]
        if not points:
            return 0
        return min(points, key=lambda p: (abs(p.remaining - 100 * self.density), p.level)).level

    @property
    def densities(self) -> str:
        """The range of densities at `level`, in words."""
        points = (self.point(source, target, self.level) for source, target in self.runs)
        found = [point.remaining for point in points if point]
        low, high = f"{min(found):.2f}", f"{max(found):.2f}"
        return f"{low} %" if low == high else f"{low} to {high} %"

    def point(self, source: str, target: str, level: int) -> Point | None:
        """Return a source's tickets on a target; the source `random` has the random tickets."""
        is_random = source == RANDOM
        run = self.runs.get((target if is_random else source, target))
        return run.points(RANDOM if is_random else WINNING).get(level) if run else None

    def differences(self, source: str, target: str, level: int) -> dict[int, float]:
        """Return for each seed the accuracy less that of the target's own ticket of the seed."""
        point, native = self.point(source, target, level), self.point(target, target, level)
        if point is None or native is None:
            return {}
        native_by_seed = native.accuracies
        return {
            s: a - native_by_seed[s] for s, a in point.accuracies.items() if s in native_by_seed
        }

    def is_comparable(self, source: str, target: str, level: int) -> bool:
        """Return whether about as many weights remain as in the target's own ticket of the level."""
        point, native = self.point(source, target, level), self.point(target, target, level)
        if point is None or native is None:
            return True
        return math.isclose(point.remaining, native.remaining, rel_tol=_COMPARABLE_DENSITY)

    def incomparable(self) -> list[str]:
        """Return a sentence for each cell whose density is not that of the target's own ticket."""
        sentences = []
        for target in self.targets:
            native = self.point(target, target, self.level)
            for source in self.sources:
                point = self.point(source, target, self.level)
                if point and native and not self.is_comparable(source, target, self.level):
                    sentences.append(
                        f"† {source} on {target}: {point.remaining:.2f} % of the weights remain; in "
                        f"the target's own ticket {native.remaining:.2f} %."
                    )
        return sentences

    def spread_note(self) -> str:
        """Return a sentence that explains ±."""
        if all(len(run.seeds) == 1 for run in self.runs.values()):
            return "One seed."
        return "± is one standard deviation over seeds, differences being taken seed by seed."


def is_matrix(workdir: Path) -> bool:
    """Return whether a directory holds a transfer matrix and not a single run."""
    try:
        transfer = read_config(workdir).get("transfer", {})
        named = bool(transfer.get("sources") and transfer.get("targets"))
    except UNREADABLE:
        return False
    return named and not (workdir / "curve.csv").is_file()


def cell_names(sources: Sequence[str], targets: Sequence[str]) -> dict[tuple[str, str], str]:
    """Return the directory of each run of a matrix by (source, target), native runs first."""
    names = {(name, name): name_in_files(name) for name in (*sources, *targets)}
    return names | {
        (s, t): name_in_files(f"{s}_to_{t}") for s in sources for t in targets if s != t
    }


def read_matrix(workdir: Path, density: float | None = None) -> TransferMatrix:
    """Read the runs of a transfer matrix that exist.

    Args:
        workdir: the directory with config.json, `DATASET/` and `SOURCE_to_TARGET/`.
        density: the fraction of weights at which to compare tickets; default: the config's.

    Raises:
        ConfigError: the directory is not a transfer matrix, a run is damaged, or no run has a
            complete level.
    """
    try:
        transfer = read_config(workdir)["transfer"]
        sources, targets = tuple(transfer["sources"]), tuple(transfer["targets"])
        density = float(transfer.get("density", 0.03)) if density is None else density
    except UNREADABLE as error:
        raise ConfigError(f"{workdir}: is not a transfer matrix: {error}") from error
    if not 0 < density <= 1:
        raise ConfigError(f"density must be above 0 and at most 1 (0.03 for 3 %), not {density:g}")
    names = cell_names(sources, targets)
    runs: dict[tuple[str, str], RunCurve] = {}
    missing = []
    for key, name in names.items():
        try:
            if not (workdir / name / "curve.csv").is_file():
                raise NothingYetError
            runs[key] = read_run(workdir / name)
        except NothingYetError:
            missing.append(f"{name} (no level yet)")
    if not runs:
        raise ConfigError(f"{workdir}: no run of the matrix has a complete level yet")
    done = {
        key: {(seed, point.level) for point in run.tickets.values() for seed in point.accuracies}
        for key, run in runs.items()
    }
    wanted = set().union(*done.values())
    for key, trainings in done.items():
        if to_go := len(wanted - trainings):
            missing.append(f"{names[key]} ({to_go} of {len(wanted)} trainings to go)")
    return TransferMatrix(workdir, sources, targets, density, runs, tuple(missing))
