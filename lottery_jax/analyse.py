"""Measure why tickets win or fail.

python -m lottery_jax.analyse stability RUN --levels=3,6 --controls=reinit,shuffle_layers
python -m lottery_jax.analyse levels RUN
python -m lottery_jax.analyse rewind RUN --level=8 --steps=0,100,500
python -m lottery_jax.analyse masks RUN [RUN ...]

Each analysis writes RUN/analysis/NAME.csv and a figure beside it, and prints a table. With --epoch=N
all but `rewind` look at the weights after an epoch that config.train.keep_epochs kept. docs/analysis.md
has the definitions. What has to be trained is resumed by the same command. Exit status: as of
`python -m lottery_jax.main`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lottery_jax.errors import FigureError, one_line
from lottery_jax.system import heap, signals
from lottery_jax.system.command_line import CommandParser, exit_status_of_runs, path_argument

if TYPE_CHECKING:
    from rich.console import Console

Row = Mapping[str, Any]
_STABLE = ("limit of stability, 2 %", 2.0)


def _stability(args: argparse.Namespace, console: Console) -> None:
    from lottery_jax.analysis.stability import stability
    from lottery_jax.report import analyses

    rows = stability(
        args.run, levels=args.levels, controls=args.controls, orders=args.orders,
        alphas=args.alphas, epoch=args.epoch, console=console,
    )  # fmt: skip
    panels = [
        analyses.panel(rows, "l2", "L2 distance", title="distance"),
        analyses.panel(rows, "barrier", "error barrier, %", title="barrier", limit=_STABLE),
    ]
    notes = [
        "Each network and the same start trained in another order of the data. The barrier is the "
        "largest test error on the line between the two less the mean of the ends."
    ]
    _write(args.run / "analysis", _named("stability", args.epoch), rows, panels, notes, console)
    columns = {"density": ".2%", "l2": ".3g", "cosine": ".2g", "barrier": ".2%", "error_a": ".2%"}
    console.print(analyses.table(rows, ("level", "control"), columns))


def _levels(args: argparse.Namespace, console: Console) -> None:
    from lottery_jax.analysis.levels import levels
    from lottery_jax.report import analyses

    rows = levels(
        args.run, alphas=args.alphas, within=args.within / 100, epoch=args.epoch, console=console
    )
    named = [
        {**row, "control": "winning", "above": row["next_error"] - row["dense_error"]}
        for row in rows
    ]
    panels = [
        analyses.panel(
            named, "barrier", "error barrier, %", title="barrier to the next level", limit=_STABLE
        ),
        analyses.panel(
            named, "above", "test error above the dense network's, %", title="the next level",
            limit=(f"limit of matching, {args.within:g} points", args.within),
        ),
    ]  # fmt: skip
    notes = ["The trained tickets of each level and the next, without any more training."]
    _write(args.run / "analysis", _named("levels", args.epoch), rows, panels, notes, console)
    columns = {"density": ".2%", "barrier": ".2%", "next_error": ".2%", "matches": ".0%"}
    console.print(analyses.table(rows, ("level", "next_level"), columns))


def _rewind(args: argparse.Namespace, console: Console) -> None:
    from lottery_jax.analysis.rewind import rewind
    from lottery_jax.report import analyses

    search = rewind(
        args.run, level=args.level, steps=args.steps, stable_below=args.stable_below / 100,
        within=None if args.stable_only else args.within / 100, orders=args.orders,
        alphas=args.alphas, console=console,
    )  # fmt: skip
    folder = args.run / "analysis"
    name = f"rewind_level_{args.level:02d}"
    files = [analyses.write_csv(folder / f"{name}.csv", search.rows)]
    limits = {
        "barrier": ("error barrier, %", args.stable_below),
        "gap": (
            "test error above the dense network's, %",
            None if args.stable_only else args.within,
        ),
    }
    title = f"{args.run.name}: level {args.level} by rewind step"
    _draw(
        lambda: files.extend(analyses.write_steps_figure(folder / name, search.rows, title, limits))
    )
    columns = {"barrier": ".2%", "gap": "+.2%", "stable": ".0f", "matches": ".0f"}
    console.print(analyses.table(search.rows, ("step",), columns))
    _print_files(files, console)
    console.print(search.config_line, markup=False, highlight=False)


def _masks(args: argparse.Namespace, console: Console) -> None:
    from lottery_jax.analysis import masks
    from lottery_jax.analysis.pixels import pixels
    from lottery_jax.report import analyses

    folder = args.run[0] / "analysis"
    measured = masks.densities(args.run, epoch=args.epoch)
    overlaps = masks.overlap(args.run, epoch=args.epoch)
    layers = masks.layers(args.run)
    # Several runs are a line each, without their controls.
    series = "run" if len(args.run) > 1 else "control"
    drawn = [row for row in measured if series == "control" or row["control"] == "winning"]
    panels = [
        analyses.panel(drawn, "effective_share", "weights on a path, %", series=series,
                       title="on paths from input to output"),
        analyses.panel(drawn, "start_sign", "weights of the same sign, %", series=series,
                       title="before and after training"),
        analyses.panel(drawn, "dense_sign", "weights of the same sign, %", series=series,
                       title="after training, here and dense"),
    ]  # fmt: skip
    kinds = {"seeds": "pairs of seeds", "runs": "pairs of runs"}
    compared = [{**row, "pair": kinds[row["kind"]]} for row in overlaps if row["kind"] in kinds]
    if compared:
        panels += [
            analyses.panel(compared, "over_chance_within_layers", "overlap over chance",
                           series="pair", title="masks, by layer", colour=len(panels[0].lines)),
            analyses.panel(compared, "same_trained", "weights of the same sign, %",
                           series="pair", title="weights that both keep", colour=len(panels[0].lines)),
        ]  # fmt: skip
    files = [analyses.write_csv(folder / "layers.csv", layers)]
    if overlaps:
        files.append(analyses.write_csv(folder / f"{_named('overlap', args.epoch)}.csv", overlaps))
    _write(folder, _named("masks", args.epoch), measured, panels, [], console)
    if pictures := pixels(args.run[0]):
        is_kernel = pictures[0]["is_kernel"]
        shown = (
            "the kernel of the first layer" if is_kernel else "pixels that the first layer reads"
        )
        title = f"{args.run[0].name}: {shown}"
        _draw(
            lambda: files.extend(analyses.write_pixels_figure(folder / "pixels", pictures, title))
        )
    _print_files(files, console)
    columns = {
        "density": ".2%",
        "effective_density": ".2%",
        "start_sign": ".1%",
        "dense_sign": ".1%",
    }
    if pruned := [row for row in drawn if row["level"]]:
        console.print(analyses.table(pruned, ("run", "level", "control"), columns))
    if compared:
        columns = {"jaccard": ".3f", "over_chance": ".2f", "over_chance_within_layers": ".2f"}
        console.print(analyses.table(compared, ("pair", "level"), columns))


def _named(name: str, epoch: int | None) -> str:
    """Return the name of an analysis' files."""
    return name if epoch is None else f"{name}_epoch_{epoch:05}"


def _write(
    folder: Path,
    name: str,
    rows: Sequence[Row],
    panels: Any,
    notes: Sequence[str],
    console: Console,
) -> None:
    """Write the table and the figure of an analysis, and print the files."""
    from lottery_jax.report import analyses

    files = [analyses.write_csv(folder / f"{name}.csv", rows)]
    seeds = len({row["seed"] for row in rows})
    title = f"{folder.parent.name}: {name}"
    _draw(lambda: files.extend(analyses.write_figure(folder / name, panels, title, seeds, notes)))
    _print_files(files, console)


def _draw(draw: Callable[[], None]) -> None:
    """Draw; a figure that can't be drawn is a warning, since all numbers are written."""
    try:
        draw()
    except FigureError as error:
        print(f"warning: {one_line(error)}", file=sys.stderr)


def _print_files(files: Sequence[Path], console: Console) -> None:
    for file in files:
        console.print(str(file), markup=False, highlight=False)


def _whole(text: str) -> tuple[int, ...]:
    """Return whole numbers of text such as `3,6`."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers, such as 3,6")
    return tuple(map(int, parts))


def _names(text: str) -> tuple[str, ...]:
    """Return names of text such as `reinit,random`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m lottery_jax.analyse",
        description="Measure why tickets win or fail, and write tables and figures of it.",
    )
    commands = parser.add_subparsers(dest="analysis", required=True, metavar="ANALYSIS")

    def command(name: str, run: Callable[..., None], text: str, **options: Any) -> CommandParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("run", type=path_argument, metavar="RUN", **options)
        made.set_defaults(function=run)
        return made

    def add_line(made: CommandParser, *, trains: bool) -> None:
        made.add_argument("--alphas", type=int, default=30, metavar="N",
                          help="networks on each line, its ends included; default: 30")  # fmt: skip
        if trains:
            made.add_argument("--orders", type=int, default=1, metavar="N",
                              help="other orders of the data to train in; default: 1")  # fmt: skip

    def add_epoch(made: CommandParser) -> None:
        made.add_argument("--epoch", type=int, metavar="N",
                          help="look at the weights after this epoch (config.train.keep_epochs); "
                          "default: at the end of the training")  # fmt: skip

    def add_within(made: CommandParser) -> None:
        made.add_argument("--within", type=float, default=0.2, metavar="POINTS",
                          help="how much more error than the dense network a ticket that matches it "
                          "may have; default: 0.2 points")  # fmt: skip

    a = command("stability", _stability, "Train a run's tickets in another order of the data, and "
                "measure distances and error barriers.")  # fmt: skip
    a.add_argument("--levels", type=_whole, default=(), metavar="L,L",
                   help="default: all, the dense network included")  # fmt: skip
    a.add_argument("--controls", type=_names, default=(), metavar="NAME,NAME",
                   help="controls of the run beside the tickets; default: all")  # fmt: skip
    add_line(a, trains=True)
    add_epoch(a)
    a = command("levels", _levels, "Measure error barriers between the trained tickets of successive "
                "levels; nothing is trained.")  # fmt: skip
    add_within(a)
    add_line(a, trains=False)
    add_epoch(a)
    a = command("rewind", _rewind, "Search for the earliest rewind step at which the tickets of a "
                "level are stable and match the dense network; trains a ladder for each step that is "
                "tried.")  # fmt: skip
    a.add_argument("--level", type=int, required=True, metavar="L", help="the level to look at")
    a.add_argument("--steps", type=_whole, default=(), metavar="N,N",
                   help="the steps to choose from; default: 0, and each twice the one before from an "
                   "eighth of an epoch to half of the training")  # fmt: skip
    a.add_argument("--stable_below", type=float, default=2.0, metavar="POINTS",
                   help="the barrier below which a ticket is stable; default: 2 points")  # fmt: skip
    a.add_argument("--stable_only", action="store_true", help="tickets need not match")
    add_within(a)
    add_line(a, trains=True)
    a = command("masks", _masks, "Describe masks: overlap against chance, effective density, fan-in and "
            "fan-out, signs; nothing is trained.", nargs="+")  # fmt: skip
    add_epoch(a)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = _parser().parse_args(argv)

    def command() -> None:
        signals.raise_when_asked_to_stop()
        with signals.defer_signals():
            from rich.console import Console

            from lottery_jax.runs.process import set_up_process
            from lottery_jax.runs.record import read_config
        runs = args.run if isinstance(args.run, list) else [args.run]
        set_up_process(read_config(runs[0]))
        args.function(args, Console(soft_wrap=True))

    return exit_status_of_runs(command)


if __name__ == "__main__":
    heap.keep_heap()
    sys.exit(main())
