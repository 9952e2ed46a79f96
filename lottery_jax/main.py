r"""Find winning tickets: train a ladder of ever sparser networks, as a config says.

    python -m lottery_jax.main --config=configs/quickstart.py
    python -m lottery_jax.main --config=configs/vgg19_cifar100.py --workdir=runs/vgg19_cifar100
    python -m lottery_jax.main --config=configs/quickstart.py --config.seeds=3,4 \
        --config.controls=reinit,random --config.ladder.levels=5

Set any key of the config with --config.KEY=VALUE; --help and docs/config.md list the keys and what
they mean. Run the same command again to resume an interrupted run. Results are in the run
directory: curve.csv, metrics.jsonl, report/curve.png and the tickets themselves.

For a run on several machines start the same command on each with --distributed: docs/pods.md.

Exit status: 0 when all is done; 2 after a mistake in the command, the config or the data, or with a
full disk, which one line explains; 75 when another process of the run is gone; 128 plus the
signal's number when a signal stopped the run and all training was saved (130 for Ctrl-C, 143 for
SIGTERM, 129 for SIGHUP, 138 for SIGUSR1, 140 for SIGUSR2).
"""

from __future__ import annotations

import atexit
import functools
import gc
import itertools
import os
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from lottery_jax.config import (
    cannot_load,
    misspelt_override,
    returned_by,
    run_name,
    with_config_file,
    with_last_overrides,
)
from lottery_jax.config.reference import as_text
from lottery_jax.errors import ConfigError, FigureError, LotteryError, one_line
from lottery_jax.system import files, heap, host, signals
from lottery_jax.system.command_line import as_called
from lottery_jax.system.terminal import may_be_closed

if TYPE_CHECKING:
    from rich.console import Console

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The config: a name, such as quickstart ('python -m lottery_jax list configs' lists them), or a "
    "file, such as configs/quickstart.py.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "The run directory. Default: runs/NAME-FINGERPRINT, with the name of the config file and its "
    "argument, and the fingerprint of the config.",
)
_OTHER_VERSIONS = flags.DEFINE_bool(
    "other_versions", False, "Resume a run even if other versions of the software began it."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Run as one of several processes. A TPU slice, SLURM, Open MPI or Kubernetes tells them about "
    "each other; elsewhere give --coordinator, --processes and --process.",
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process.")
_PROCESSES = flags.DEFINE_integer("processes", None, "The number of processes.", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", None, "The number of this process.", lower_bound=0)
_DRY_RUN = flags.DEFINE_flag(
    flags.Flag(
        flags.EnumParser(["true", "measure"]),
        flags.ArgumentSerializer(),
        "dry_run",
        None,
        "Print what would be trained, on what and where, and end: nothing is fetched or written. "
        "--dry_run=measure trains a few steps and estimates the time.",
        boolean=True,  # so that it may stand alone
    )
)
_HELP = {"--help", "-help", "--helpshort", "-helpshort", "-?", "--?"}


def _parse_flags(argv: list[str]) -> ConfigDict:
    """Parse the command line and return the validated config.

    A mistake becomes one line instead of a traceback.
    """
    logging.set_verbosity(logging.ERROR)  # a message below names a config file without get_config
    if _HELP & set(argv[1:]):
        _print_help()
    for argument in argv[1:]:
        if message := misspelt_override(argument):
            _fail(message)
    # ml_collections loads files in a deprecated way, which is not the file's mistake.
    warnings.filterwarnings("ignore", r"the load_module\(\) method", DeprecationWarning)
    try:
        rest: list[str] = flags.FLAGS(with_config_file(with_last_overrides(argv)))
        if len(rest) > 1:
            raise ConfigError(f"unexpected argument {rest[1]!r}; flags start with --")
        if not flags.FLAGS["config"].present:
            raise ConfigError("--config is missing; try --config=quickstart, or --help")
        _check_processes()
        if _WORKDIR.value == "":
            raise ConfigError("--workdir: is empty; name a directory, or leave it out")
        # Before JAX is imported, which takes longer.
        return returned_by(_config_file(argv), _CONFIG.value)
    except LotteryError as error:
        _fail(str(error))
    except flags.Error as error:
        text = str(error)
        _fail(cannot_load(_config_file(argv), error) if "Traceback" in text else text)
    except Exception as error:  # a config file may raise anything
        _fail(cannot_load(_config_file(argv), error))


def _print_help() -> NoReturn:
    """Print how to use the command, its flags and the config's keys; end as absl's --help does."""
    sys.modules[__name__].__doc__ = as_called(__doc__ or "")
    app.usage(shorthelp=True, writeto_stdout=True)
    print(f"\n{as_text()}")
    sys.exit(1)


def _check_processes() -> None:
    """Check that the flags about several processes fit together."""
    named = {"coordinator": _COORDINATOR, "processes": _PROCESSES, "process": _PROCESS}
    given = [name for name, flag in named.items() if flag.value is not None]
    if given and not _DISTRIBUTED.value:
        raise ConfigError(f"--{given[0]}: is for --distributed; add that, or leave it out")
    if given and len(given) < len(named):
        missing = next(name for name in named if name not in given)
        raise ConfigError(f"--{missing}: is missing beside --{given[0]}")
    if given and _PROCESS.value >= _PROCESSES.value:
        raise ConfigError(
            f"--process: {_PROCESS.value} must be from 0 to {_PROCESSES.value - 1}, "
            f"for {_PROCESSES.value} processes"
        )
    if _COORDINATOR.value and not re.fullmatch(r".+:\d{1,5}", _COORDINATOR.value):
        raise ConfigError(f"--coordinator: {_COORDINATOR.value!r} is not HOST:PORT")


def _config_file(argv: list[str]) -> str:
    """Return the file that the last --config=FILE or --config FILE names."""
    found = ""
    for argument, following in itertools.pairwise([*argv, ""]):
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config"):
            found = value if equals else following
    return found or "no file is named"


def _say(message: str, kind: str = "error") -> None:
    print(f"{kind}: {one_line(message)}", file=sys.stderr)


def _fail(message: str) -> NoReturn:
    _say(message)
    sys.exit(2)


def default_workdir(config_file: str, fingerprint: str) -> Path:
    """Return `runs/NAME-FINGERPRINT`, where the same config finds the run that it began.

    >>> str(default_workdir("configs/snip.py:vgg19_cifar10", "0123456789abcdef"))
    'runs/snip_vgg19_cifar10-01234567'
    """
    return Path("runs") / f"{run_name(config_file)}-{fingerprint[:8]}"


def _main(parsed: ConfigDict) -> None:
    """Run what the parsed config says."""
    if _DISTRIBUTED.value:  # the runtime warns of the feature that reports lost processes
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # JAX is imported only now, so that --help and mistakes in flags answer at once. A signal waits
    # until that is over: some modules turn an exception during their import into another error.
    with signals.defer_signals():
        from rich.console import Console

        from lottery_jax.config import fingerprint
        from lottery_jax.parallel import multihost
        from lottery_jax.runs.dry_run import dry_run
        from lottery_jax.runs.ladder import run_ladder
        from lottery_jax.runs.matrix import run_matrix
        from lottery_jax.runs.process import set_up_process
        from lottery_jax.runs.tracking import send_report
        from lottery_jax.runs.transfer import resolve

    logging.set_verbosity(logging.ERROR)  # this program itself says what a user can mend
    try:
        set_up_process(parsed, writes=not _DRY_RUN.value)
        if _DISTRIBUTED.value:
            multihost.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
        host.devices()
        config = resolve(parsed)
        config_file = config_flags.get_config_filename(flags.FLAGS["config"])
        default = default_workdir(config_file, fingerprint(config))
        workdir = files.local_path(_WORKDIR.value or default, "--workdir")
        console = Console(soft_wrap=True, quiet=not multihost.is_primary())
        if _DRY_RUN.value:
            dry_run(config, workdir, console, measure=_DRY_RUN.value == "measure")
            multihost.finish()
            return
        run = run_matrix if config.transfer.sources else run_ladder
        run(config, workdir, console=console, other_versions=_OTHER_VERSIONS.value)
        multihost.run_on_primary(_report, workdir, console)
        if not config.transfer.sources:
            warn = functools.partial(_say, kind="warning")
            multihost.run_on_primary(send_report, config, workdir, warn)
        multihost.finish()
    except LotteryError as error:
        if not error.reported:
            _say(str(error))
        multihost.leave(2)
    except OSError as error:
        _say(
            f"{_describe_oserror(error)}; what was completed is kept. Fix that and run the same "
            "command again to resume"
        )
        multihost.leave(2)
    except (RuntimeError, ValueError) as error:  # the runtime raises these for collectives
        if not multihost.is_loss(error):
            multihost.ending()
            raise
        multihost.leave_after_loss(error)
    except KeyboardInterrupt as interrupt:
        if multihost.is_primary():
            print("stopped; run the same command again to resume", file=sys.stderr)
        multihost.leave(signals.exit_status(interrupt))


def _report(workdir: Path, console: Console) -> None:
    from lottery_jax.report import closing_table, write_report

    written: list[Path] = []
    try:
        written = write_report([workdir])
    except (FigureError, OSError) as error:  # all is trained; `report` can draw it later
        _say(f"{one_line(error)}; the run is complete", "warning")
    console.print(closing_table([workdir]))
    for file in written:
        console.print(str(file), markup=False, highlight=False)


def _describe_oserror(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def main() -> None:
    """The entry point of `python -m lottery_jax.main`."""
    heap.keep_heap()
    # One of the last handlers to run. Python then searches no more for what is unreachable, 0.4 s of
    # a process that has trained, and all memory goes back to the system anyway.
    atexit.register(gc.freeze)
    with may_be_closed():
        try:
            signals.raise_when_asked_to_stop()
            app.run(_main, flags_parser=_parse_flags)
        except KeyboardInterrupt as interrupt:
            print("stopped; run the same command again to resume", file=sys.stderr)
            sys.exit(signals.exit_status(interrupt))


if __name__ == "__main__":
    main()
