"""What a sweep is, as it is kept in its directory.

workdir/sweep.json             the command, the runs, their configs and what they wait for
workdir/jobs/RUN/config.py     the run's config, as a config file of its own
workdir/jobs/RUN/              what became of each attempt, and its log
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
    """A sweep and where it is.

    Attributes:
        workdir: its directory; absolute.
        plan: its runs.
        cores: how many processor cores each local job is held to; 0: all there are.
        given: the command's config files, overrides and grid, for people to read.
    """

    workdir: Path
    plan: Plan
    cores: int
    given: dict[str, Any]

    def folder(self, run: PlannedRun) -> Path:
        """The run directory."""
        return self.workdir / run.name

    def job_folder(self, run: PlannedRun) -> Path:
        """Where what became of its attempts is kept."""
        return self.workdir / "jobs" / run.name

    def config_file(self, run: PlannedRun) -> Path:
        """The run's own config file."""
        return self.job_folder(run) / "config.py"


def is_sweep(workdir: Path) -> bool:
    """Whether a directory is that of a sweep."""
    return (workdir / NAME).is_file()


def read(workdir: Path) -> Sweep:
    """The sweep in a directory.

    Raises:
        ConfigError: there is none, or it can't be read.
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
    """A config whose source, if it is of the sweep, is where the sweep is now."""
    if run["after"]:
        config.unlock()
        config.source = str(workdir / run["after"][0])
        config.lock()
    return config


def assert_equal_across_processes(there: Sweep, here: Sweep) -> None:
    """Checks that a command asks for every run that the sweep has, and for the same; more may come.

    Raises:
        ConfigError: one line that names the run and what differs.
    """
    asked = {run.name: run for run in here.plan.runs}
    for run in there.plan.runs:
        if run.name not in asked:
            raise ConfigError(
                f"{there.workdir}: has the run {run.name}, which this command has not; give the "
                "same command, with more values if you like, or choose another --workdir"
            )
        differ = differing_keys(run.config, asked[run.name].config)
        if run.after != asked[run.name].after:
            differ.append(f"its source: {run.config.source}, {asked[run.name].config.source}")
        if differ:
            raise ConfigError(
                f"{there.workdir}: its run {run.name} has another config (there, here): "
                f"{'; '.join(differ)}; choose another --workdir"
            )


def write(sweep: Sweep) -> None:
    """Writes sweep.json and the runs' config files."""
    for run in sweep.plan.runs:
        file = sweep.config_file(run)
        values = pprint.pformat(flatten(run.config), width=90)
        text = _CONFIG_FILE.format(
            name=run.name,
            file=file,
            workdir=sweep.folder(run),
            values="\n".join(f"        {line}" for line in values.splitlines()),
        )
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            write_text(file, text)
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
    text = json.dumps(record, indent=1) + "\n"
    if not is_sweep(sweep.workdir) or (sweep.workdir / NAME).read_text(encoding="utf-8") != text:
        write_text(sweep.workdir / NAME, text)
