r"""Find winning tickets: train a ladder of ever sparser networks, as a config says.

    python -m lottery_jax.main --config=configs/quickstart.py
    python -m lottery_jax.main --config=configs/vgg19_cifar100.py --workdir=runs/vgg19_cifar100
    python -m lottery_jax.main --config=configs/quickstart.py --config.seeds=3,4 \
        --config.controls=reinit,random --config.ladder.levels=5

Every key of the config can be set with --config.KEY=VALUE; lottery_jax/config.py lists the keys
and what they mean. Run the same command again to resume an interrupted run. Results are in the run
directory: curve.csv, metrics.jsonl, report/curve.png and the tickets themselves.

Exit status: 0 done; 2 a mistake in the command, the config or the data, or a full disk, said in one
line; 130 and 143 stopped by Ctrl-C or SIGTERM, with what was trained saved.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from lottery_jax import signals
from lottery_jax.config import misspelt_override
from lottery_jax.errors import ConfigError, LotteryError, one_line

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The config file, such as configs/quickstart.py.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run directory. Default: runs/NAME-FINGERPRINT, NAME from the config file."
)
_OTHER_VERSIONS = flags.DEFINE_bool(
    "other_versions", False, "Go on even with what other versions of the software have begun."
)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; a mistake becomes one line instead of a traceback."""
    for argument in argv[1:]:
        if message := misspelt_override(argument):
            _fail(message)
    try:
        rest: list[str] = flags.FLAGS(argv)
        if len(rest) > 1:
            raise ConfigError(f"unexpected argument {rest[1]!r}; flags start with --")
        if _CONFIG.value is None:
            raise ConfigError("--config is missing; try --config=configs/quickstart.py, or --help")
        _CONFIG.value.keys()  # a file that can't be loaded raises only when it is used
    except (flags.Error, LotteryError, AttributeError, KeyError, TypeError, ValueError) as error:
        _fail(str(error))
    except (OSError, SyntaxError, ImportError, NameError) as error:
        _fail(f"--config: can't be loaded: {_last_line(error)}")
    return rest


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _fail(message: str) -> NoReturn:
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(2)


def default_workdir(config_file: str, fingerprint: str) -> Path:
    """`runs/NAME-FINGERPRINT`: the same config finds the run it began, another one its own."""
    return Path("runs") / f"{Path(config_file.partition(':')[0]).stem}-{fingerprint[:8]}"


def set_up_process() -> None:
    """Settings of JAX that belong to a program and not to a library.

    Compiled programs are kept for the next run in a directory of the user's own, unless the user
    has named one.
    """
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache = base / "lottery_jax" / "xla"
        try:
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            return  # no place to keep them; compile each time
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        # A small network is dozens of programs that compile in a tenth of a second each.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _main(argv: list[str]) -> None:
    del argv
    # JAX is imported only now, so that --help and mistakes in flags answer at once.
    from rich.console import Console

    from lottery_jax import config as configuration
    from lottery_jax.experiment import resolve
    from lottery_jax.ladder import run_ladder
    from lottery_jax.matrix import run_matrix
    from lottery_jax.report import closing_table, write_report

    logging.set_verbosity(logging.ERROR)  # what a user can mend is said by this program
    console = Console(soft_wrap=True)
    try:
        config = resolve(_CONFIG.value)
        config_file = config_flags.get_config_filename(flags.FLAGS["config"])
        default = default_workdir(config_file, configuration.fingerprint(config))
        workdir = Path(_WORKDIR.value or default).expanduser()
        set_up_process()
        run = run_matrix if config.transfer.sources else run_ladder
        run(config, workdir, console=console, other_versions=_OTHER_VERSIONS.value)
        files = write_report([workdir])
        console.print(closing_table([workdir]))
        for file in files:
            console.print(str(file), markup=False, highlight=False)
    except LotteryError as error:
        _fail(str(error))
    except OSError as error:
        _fail(
            f"{_said_by_the_system(error)}; what was completed is kept: mend that and run the same "
            "command again to resume"
        )


def _said_by_the_system(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def main() -> None:
    """The entry point of `python -m lottery_jax.main`."""
    try:
        signals.raise_on_sigterm()
        app.run(_main, flags_parser=_parse_flags)
    except KeyboardInterrupt as interrupt:
        print("stopped; run the same command again to resume", file=sys.stderr)
        sys.exit(signals.exit_status(interrupt))


if __name__ == "__main__":
    main()
