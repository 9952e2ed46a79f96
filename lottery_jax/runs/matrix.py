"""A transfer matrix: the tickets of every source on every target, for all seeds.

    workdir/config.json             the config of the whole
    workdir/<data set>/             its native ladder, with the controls
    workdir/<source>_to_<target>/   the source's tickets trained on the target

Each of them is an ordinary run directory. The same command resumes a matrix at the first cell that is
not complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict
from rich.console import Console

from lottery_jax.config import validate
from lottery_jax.errors import ConfigError
from lottery_jax.parallel import multihost
from lottery_jax.pruning import heads
from lottery_jax.runs.experiment import set_up
from lottery_jax.runs.ladder import run_ladder
from lottery_jax.runs.record import check_workdir
from lottery_jax.runs.store import open_matrix
from lottery_jax.runs.transfer import resolve
from lottery_jax.system import settings
from lottery_jax.system.files import local_path
from lottery_jax.system.imports import name_in_files
from lottery_jax.system.notebook import short_interrupt


@settings.fixed()
@short_interrupt("what was trained is saved; the same call resumes it")
def run_matrix(
    config: ConfigDict,
    workdir: str | Path,
    *,
    devices: list[jax.Device] | None = None,
    console: Console | None = None,
    other_versions: bool = False,
) -> None:
    """Run what is left of a matrix: first the native ladders, then the transfers.

    Args:
        config: a config with `transfer.sources` and `transfer.targets`.
        workdir: a new or empty directory, or one of the same matrix.
        devices: the devices over which batches are sharded; default: all.
        console: where progress is shown; default: the terminal.
        other_versions: whether to resume runs that other versions of packages began.

    Raises:
        ConfigError, DataError: before anything is written.
        TrainingError, OSError, KeyboardInterrupt: as `run_ladder`. Complete tickets are kept.
    """
    config, workdir = resolve(config), local_path(workdir, "workdir")
    console = console or Console(soft_wrap=True, force_jupyter=False)
    if not config.transfer.sources:
        raise ConfigError("config.transfer.sources: a matrix needs at least one source")
    # The versions are checked in the directory of each run.
    multihost.run_on_primary(check_workdir, workdir, config, other_versions=True)
    if not multihost.broadcast_from_primary((workdir / "config.json").is_file):
        multihost.run_on_all(check_cells, config, devices)
    with open_matrix(config, workdir):
        todo = list(cells(config, workdir))
        for i, (title, folder, cell) in enumerate(todo, 1):
            console.print(f"[{i}/{len(todo)}] {title}", markup=False, highlight=False)
            run_ladder(
                cell, folder, devices=devices, console=console, other_versions=other_versions
            )


def cells(config: ConfigDict, workdir: Path) -> Iterator[tuple[str, Path, ConfigDict]]:
    """Yield (title, run directory, config) of each run, sources before the runs that need them."""

    def cell(data: str, **overrides: object) -> ConfigDict:
        c = config.copy_and_resolve_references()
        c.unlock()
        c.data.name = data
        c.transfer.sources = c.transfer.targets = ()
        c.update(overrides)
        return c

    for data in dict.fromkeys((*config.transfer.sources, *config.transfer.targets)):
        # The random tickets of a target stand beside all the tickets that are trained on it.
        controls = (*config.controls, "random") if data in config.transfer.targets else ()
        native = cell(data, controls=tuple(dict.fromkeys(controls)))
        native.transfer.align = False  # its tickets are its own
        yield f"tickets of {data}", workdir / name_in_files(data), native
    for target in config.transfer.targets:
        for source in config.transfer.sources:
            if source != target:
                folder = workdir / name_in_files(source)
                transferred = cell(target, source=str(folder), controls=())
                name = name_in_files(f"{source}_to_{target}")
                yield f"tickets of {source} on {target}", workdir / name, transferred


def check_cells(config: ConfigDict, devices: list[jax.Device] | None = None) -> None:
    """Check every cell of a matrix and load every data set once, rather than the last after hours.

    Raises:
        ConfigError, DataError: one line that says what does not fit.
    """
    names, shapes, classes = {}, {}, {}
    for _, _, cell in cells(config, Path()):
        validate(cell)
        if not cell.source:
            name, dataset = cell.data.name, set_up(cell, devices).dataset
            names[name], shapes[name] = dataset.name, dataset.image_shape
            classes[name] = dataset.num_classes
    if len(set(names.values())) < len(names):
        raise ConfigError(f"config.transfer: a data set has two names in {', '.join(names)}")
    if len(set(shapes.values())) > 1:
        raise ConfigError(
            "config.data.input_shape: the data sets differ in shape ("
            + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            + "); give one for all of them"
        )
    for source in config.transfer.sources:
        for target in config.transfer.targets:
            heads.replaces_head(config.transfer.head, classes[source], classes[target])
