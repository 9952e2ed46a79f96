"""A sweep as its directory stores it.

workdir/sweep.json             the command; the runs with their configs and the runs they wait for
workdir/jobs/RUN/config.py     the run's config, as a config file of its own
workdir/jobs/RUN/              the record of each attempt, and its log
workdir/RUN/                   the run directory
"""

from __future__ import annotations

import dataclasses
import json
import pprint
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lottery_jax.config import differing_keys, flatten, from_json, to_json
from lottery_jax.errors import ConfigError
from lottery_jax.sweep.grid import Plan, PlannedRun
from lottery_jax.system.files import write_text

FORMAT_VERSION = 1
NAME = "sweep.json"

_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    ConfigError,
)

_CONFIG_FILE = """\
# The run {name} of a sweep, on its own:
#     python -m lottery_jax.main --config={file} --workdir={workdir}

from lottery_jax.config import default_config


def get_config():
    config = default_config()
    config.update_from_flattened_dict(
{values}
    )
    return config
"""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep and its directory.

    Attributes:
        workdir: the sweep's directory; absolute.
        plan: its runs.
        cores: the number of processor cores that each local job may use; 0: all.
        given: the command's config files, overrides and grid, for people to read.
    """

    workdir: Path
    plan: Plan
    cores: int
    given: dict[str, Any]

    def folder(self, run: PlannedRun) -> Path:
        """Return the run directory."""
        return self.workdir / run.name

    def job_folder(self, run: PlannedRun) -> Path:
        """Return the directory that holds the records of a run's attempts."""
        return self.workdir / "jobs" / run.name

    def config_file(self, run: PlannedRun) -> Path:
        """Return the run's own config file."""
        return self.job_folder(run) / "config.py"


def is_sweep(workdir: Path) -> bool:
    """Return whether a directory is that of a sweep."""
    return (workdir / NAME).is_file()


def read(workdir: Path) -> Sweep:
    """Return the sweep in a directory.

    Raises:
        ConfigError: there is no sweep, or it can't be read.
    """
    try:
        record = json.loads((workdir / NAME).read_text(encoding="utf-8"))
        if record["format_version"] != FORMAT_VERSION:
            raise ValueError(f"its format is {record['format_version']}, here {FORMAT_VERSION}")
        runs = tuple(
            PlannedRun(name, _moved(from_json(run["config"]), workdir, run), tuple(run["after"]))
            for name, run in record["runs"].items()
        )
        matrices = {name: from_json(config) for name, config in record["matrices"].items()}
        return Sweep(workdir, Plan(runs, matrices), int(record["cores"]), dict(record["given"]))
    except _UNREADABLE as error:
        raise ConfigError(f"{workdir}: is not a sweep ({NAME}: {error})") from error


def _moved(config: ConfigDict, workdir: Path, run: dict[str, Any]) -> ConfigDict:
    """Point the config at where the sweep is now, if its source is a run of the sweep."""
    if run["after"]:
        with config.unlocked():
            config.source = str(workdir / run["after"][0])
    return config


def check_contains(sweep: Sweep, stored: Sweep) -> None:
    """Check that a command's sweep has every run of the stored one, with the same config.

    Raises:
        ConfigError: one line that names the run and what differs.
    """
    runs = {run.name: run for run in sweep.plan.runs}
    for run in stored.plan.runs:
        if run.name not in runs:
            raise ConfigError(
                f"{stored.workdir}: has the run {run.name}, which this command has not; give the "
                "same command, with more values if you like, or choose another --workdir"
            )
        same_name = runs[run.name]
        differ = differing_keys(run.config, same_name.config)
        if run.after != same_name.after:
            differ.append(f"its source: {run.config.source}, {same_name.config.source}")
        if differ:
            raise ConfigError(
                f"{stored.workdir}: its run {run.name} has another config (there, here): "
                f"{'; '.join(differ)}; choose another --workdir"
            )


def write(sweep: Sweep) -> None:
    """Write sweep.json and the runs' config files, unless they are there."""
    for run in sweep.plan.runs:
        file = sweep.config_file(run)
        values = pprint.pformat(flatten(run.config), width=90)
        text = _CONFIG_FILE.format(
            name=run.name,
            file=file,
            workdir=sweep.folder(run),
            values="\n".join(f"        {line}" for line in values.splitlines()),
        )
        _write_if_changed(file, text)
    record = {
        "format_version": FORMAT_VERSION,
        "given": sweep.given,
        "cores": sweep.cores,
        "runs": {
            run.name: {"after": list(run.after), "config": to_json(run.config)}
            for run in sweep.plan.runs
        },
        "matrices": {name: to_json(config) for name, config in sweep.plan.matrices.items()},
    }
    _write_if_changed(sweep.workdir / NAME, json.dumps(record, indent=1) + "\n")


def _write_if_changed(file: Path, text: str) -> None:
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        write_text(file, text)
