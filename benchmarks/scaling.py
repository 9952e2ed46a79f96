"""Estimate what a train step costs on TPU slices and H100s, and how far more chips help.

    python benchmarks/scaling.py             # write the tables and the figure of docs/scaling.md
    python benchmarks/scaling.py --compile   # make results/scaling.json first: half an hour

`--compile` builds the train step of a run and compiles it for TPU slices (`scaling_compile.py`). No
accelerator is needed. The tables follow from the facts of the compiled steps and the figures of the
chips by arithmetic (`scaling_model.py`). There is no compiler for the H100 here: its rows take the
facts of the TPU's programs. Nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import harness
from scaling_compile import DTYPES, compile_all
from scaling_model import (
    CHIPS,
    NETWORKS,
    Chip,
    Estimate,
    Slice,
    at_batch,
    epoch_seconds,
    estimates,
    ladder_epochs,
    matrix_epochs,
    step_seconds,
)

DOCUMENT = Path(__file__).parent.parent / "docs" / "scaling.md"
_MAIN = ("vgg19", "resnet50")  # networks that are compiled for many slices
# A chip that is not looked at, but whose measured speed checks the arithmetic.
_A100 = Chip({"bfloat16": 312e12}, 2039e9, 300e9, 32e9)
# Hours of 90 epochs of ResNet50 v1.5 on ImageNet on one A100 of 80 GB, mixed precision, batch 512,
# as NVIDIA measured them with MXNet (docs/scaling.md).
_A100_HOURS, _A100_BATCH = 8.75, 512
# Bytes of an ImageNet training image on average, and how many a CPU core decodes in a second
# (assumptions, see docs/scaling.md).
_JPEG_BYTES, _DECODED_IMAGES = 110e3, 500

# One row of a table: cells by heading.
Cells = dict[str, str]


def table(rows: Sequence[Cells]) -> str:
    """Return rows with the same headings as a Markdown table."""
    return harness.markdown(list(rows[0]), [list(row.values()) for row in rows])


def digits(number: float) -> str:
    """Format a number with three digits, or with all digits before the point if there are more.

    >>> digits(0.04567), digits(4.5), digits(4567.8)
    ('0.0457', '4.50', '4,568')
    """
    places = 2 - math.floor(math.log10(abs(number))) if number else 0
    return f"{number:,.{max(0, places)}f}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def tables(results: harness.Row) -> dict[str, str]:
    """Return all tables of docs/scaling.md by name."""
    return {
        "steps": steps_table(results),
        **{f"roofline-{name}": roofline_table(results, name) for name in _MAIN},
        **{f"ladders-{name}": ladders_table(results, name) for name in _MAIN},
        "growing": growing_table(results),
        "float32": float32_table(results),
        "matrix": matrix_table(results),
        "feeding": feeding_table(results),
        "check": check_table(results),
    }


def steps_table(results: harness.Row) -> str:
    """Return the facts of a step of the whole batch."""
    rows = []
    for name, network in NETWORKS.items():
        for dtype in DTYPES:
            facts = results["steps"][name][dtype]
            compiled = ""
            found = _v5e_rows(results, name, dtype)
            if found:
                chips = found[0]["chips"]
                compiled = f"{found[0]['bytes'] * chips / 1e9:.1f}"
                compiled += f" on {chips} chips" if chips > 1 else ""
            rows.append(
                {
                    "network": network.label,
                    "dtype": dtype,
                    "batch": str(network.batch),
                    "parameters, M": f"{facts['parameters'] / 1e6:.2f}",
                    "BatchNorms": str(facts["batchnorms"]),
                    "GFLOP a step": f"{facts['flops'] / 1e9:,.0f}",
                    "an image": f"{facts['flops'] / network.batch / 1e9:.2f}",
                    "6 x multiply-adds": f"{6 * facts['multiply_adds'] / 1e9:.2f}",
                    "GB, each operation by itself": f"{facts['bytes'] / 1e9:,.1f}",
                    "GB, compiled for v5e": compiled,
                }
            )
    return table(rows)


def _v5e_rows(results: harness.Row, name: str, dtype: str) -> list[harness.Row]:
    """Return the facts of a network's steps compiled for v5e, on the fewest chips first."""
    rows = results["compiled"][name]
    return [row for row in rows if (row["chip"], row["dtype"]) == ("TPU v5e", dtype)]


def roofline_table(results: harness.Row, name: str) -> str:
    """Return the parts of a step on each slice, in milliseconds."""
    network, rows = NETWORKS[name], []
    first: dict[str, float] = {}
    parameters = results["steps"][name]["bfloat16"]["parameters"]
    for chip, shape, facts, step in estimates(results, name):
        chip_seconds = shape.chips * step.as_compiled
        efficiency = first.setdefault(chip, chip_seconds) / chip_seconds
        several = shape.chips > 1
        rows.append(
            {
                "chip": chip,
                "chips": str(shape.chips),
                "slice": shape.name,
                "images a chip": str(network.batch // shape.chips),
                "FLOPs, ms": _ms(step.compute),
                "bytes, ms": _ms(step.memory),
                "least bytes, ms": _ms(step.least_memory),
                "BatchNorm, ms": _ms(step.statistics) if several else "",
                "gradients, ms": _ms(step.gradients) if several else "",
                "step as compiled, ms": _ms(step.as_compiled),
                "least step, ms": _ms(step.least),
                "images/s": f"{network.batch / step.as_compiled:,.0f}",
                "efficiency": f"{efficiency:.0%}",
                "GB a chip": f"{(facts['temporary'] + 9 * parameters) / 1e9:.1f}",
            }
        )
    return table(rows)


def ladders_table(results: harness.Row, name: str) -> str:
    """Compare one ladder on a whole slice with a ladder on each of its smallest parts."""
    network, rows = NETWORKS[name], []
    first: dict[str, tuple[int, float]] = {}
    for chip, shape, _, step in estimates(results, name):
        epoch = epoch_seconds(network, next(iter(network.sets)), step.as_compiled)
        ladder = ladder_epochs(network.epochs) * epoch / 3600
        part, alone = first.setdefault(chip, (shape.chips, ladder))
        rows.append(
            {
                "chip": chip,
                "chips": str(shape.chips),
                "epoch, s": digits(epoch),
                "training, h": digits(network.epochs * epoch / 3600),
                "ladder, h": digits(ladder),
                "ladders a day": digits(24 / ladder),
                "chip hours a ladder": digits(shape.chips * ladder),
                "ladders a day, side by side": digits(24 / alone * (shape.chips // part)),
                "chip hours each": digits(part * alone),
            }
        )
    return table(rows)


def growing_table(results: harness.Row) -> str:
    """Let the batch grow with the chips: a chip computes as it does on 8, all-reduces get longer."""
    rows = []
    for name in _MAIN:
        network = NETWORKS[name]
        parameters = results["steps"][name]["bfloat16"]["parameters"]
        for chip, eight, facts, step in estimates(results, name):
            if not CHIPS[chip].topology or eight.chips != 8:
                continue
            for shape in CHIPS[chip].slices:
                if shape.chips in (8, 32, 64, 256):
                    larger = step_seconds(facts, parameters, CHIPS[chip], shape)
                    batch = network.batch // 8 * shape.chips
                    rows.append(
                        {
                            "network": network.label,
                            "chip": chip,
                            "chips": str(shape.chips),
                            "batch": f"{batch:,}",
                            "step as compiled, ms": _ms(larger.as_compiled),
                            "images/s": f"{batch / larger.as_compiled:,.0f}",
                            "efficiency, of 8 chips": f"{step.as_compiled / larger.as_compiled:.0%}",
                        }
                    )
    return table(rows)


def float32_table(results: harness.Row) -> str:
    """Compare the two dtypes on 8 chips of v5e."""
    return table(
        [
            {
                "network": NETWORKS[name].label,
                "dtype": dtype,
                "GB a chip moves": f"{facts['bytes'] / 1e9:.2f}",
                "GB it holds": f"{facts['temporary'] / 1e9:.2f}",
                "MB of gradients": f"{facts['large_bytes'] / 1e6:.0f}",
                "FLOPs, ms": _ms(step.compute),
                "bytes, ms": _ms(step.memory),
                "gradients, ms": _ms(step.gradients),
                "step as compiled, ms": _ms(step.as_compiled),
            }
            for name in _MAIN
            for dtype in DTYPES
            for chip, shape, facts, step in estimates(results, name, dtype)
            if (chip, shape.chips) == ("TPU v5e", 8)
        ]
    )


def matrix_table(results: harness.Row) -> str:
    """Return the chip hours of the matrices, each training on the fewest chips looked at."""
    rows, totals, all_trainings = [], dict.fromkeys(CHIPS, (0.0, 0.0)), 0
    for name, network in NETWORKS.items():
        trainings, epochs = matrix_epochs(network.epochs, len(network.sets))
        fewest: dict[str, Estimate] = {}
        for estimate in estimates(results, name):
            fewest.setdefault(estimate.chip, estimate)
        all_trainings += (count := trainings * len(network.sets))
        images = epochs * sum(train for train, _ in network.sets.values())
        row = {
            "matrix": f"{network.model}, {network.shape[0]} pixels",
            "data sets": str(len(network.sets)),
            "trainings": f"{count:,}",
            "images, 1e9": f"{images / 1e9:,.1f}",
        }
        for chip, (_, shape, _, step) in fewest.items():
            low, high = (
                shape.chips
                * epochs
                * sum(epoch_seconds(network, target, seconds) for target in network.sets)
                / 3600
                for seconds in (step.least, step.as_compiled)
            )
            totals[chip] = (totals[chip][0] + low, totals[chip][1] + high)
            row[f"{chip}, chip hours"] = f"{digits(low)} to {digits(high)}"
        rows.append(row)
    last = dict.fromkeys(rows[0], "") | {"matrix": "together", "trainings": f"{all_trainings:,}"}
    for chip, (low, high) in totals.items():
        last[f"{chip}, chip hours"] = f"{digits(low)} to {digits(high)}"
    return table([*rows, last])


def feeding_table(results: harness.Row) -> str:
    """Return the bytes a second of ImageNet's images, for the slowest and the fastest estimate."""
    network, rows = NETWORKS["resnet50"], []
    size = math.prod(network.shape)
    for chip, shape, _, step in estimates(results, "resnet50"):
        if shape.chips in (1, 8, 256):
            for label, seconds in (("as compiled", step.as_compiled), ("least", step.least)):
                rate = network.batch / seconds / shape.chips
                rows.append(
                    {
                        "chip": chip,
                        "chips": str(shape.chips),
                        "step": label,
                        "images/s a chip": f"{rate:,.0f}",
                        "GB/s of pixels a chip": f"{rate * size / 1e9:.2f}",
                        "of the host link": f"{rate * size / CHIPS[chip].host_link:.1%}",
                        "MB/s of JPEG a chip": f"{rate * _JPEG_BYTES / 1e6:,.0f}",
                        "CPU cores a chip": f"{rate / _DECODED_IMAGES:.1f}",
                    }
                )
    return table(rows)


def check_table(results: harness.Row) -> str:
    """Compare the arithmetic for one A100 with NVIDIA's measurement."""
    facts = at_batch(_v5e_rows(results, "resnet50", "bfloat16"), _A100_BATCH)
    parameters = results["steps"]["resnet50"]["bfloat16"]["parameters"]
    step = step_seconds(facts, parameters, _A100, Slice((1,), (False,)))
    measured = 90 * NETWORKS["resnet50"].sets["ImageNet"][0] / _A100_HOURS / 3600
    compiled, least = _A100_BATCH / step.as_compiled, _A100_BATCH / step.least
    return table(
        [
            {
                "ResNet50, one A100": "batch 512, mixed precision",
                "as compiled, images/s": f"{compiled:,.0f}",
                "least step": f"{least:,.0f}",
                "measured by NVIDIA": f"{measured:,.0f}",
                "of as compiled": f"{measured / compiled:.0%}",
                "of the least": f"{measured / least:.0%}",
            }
        ]
    )


def fill(document: str, parts: dict[str, str]) -> str:
    """Return the document with each table between its two markers, `<!-- NAME -->` and `<!-- end -->`.

    Raises:
        ValueError: a table's marker is missing or is there several times.
    """
    for name, text in parts.items():
        pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        document, found = pattern.subn(lambda m, text=text: f"{m[1]}\n{text}\n\n{m[2]}", document)
        if found != 1:
            raise ValueError(f"<!-- {name} --> must be there once, but is there {found} times")
    return document


def draw(results: harness.Row, stem: Path) -> None:
    """Draw images a second over chips for one training, with lines of perfect scaling."""
    from matplotlib.figure import Figure

    from lottery_jax.report.axes import COLOURS
    from lottery_jax.report.figures import save

    figure = Figure(figsize=(9.2, 4.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), _MAIN, strict=True):
        network = NETWORKS[name]
        found = estimates(results, name)
        for colour, chip in zip(COLOURS, CHIPS, strict=False):
            of_chip = [estimate for estimate in found if estimate.chip == chip]
            chips = [estimate.shape.chips for estimate in of_chip]
            rates = [network.batch / e.step.as_compiled / 1e3 for e in of_chip]
            best = [network.batch / e.step.least / 1e3 for e in of_chip]
            axes.plot(chips, rates, color=colour, marker="o", markersize=4.5, label=chip)
            axes.fill_between(chips, rates, best, color=colour, alpha=0.13, linewidth=0)
            perfect = [rates[0] * n / chips[0] for n in chips]
            axes.plot(chips, perfect, color=colour, linewidth=0.9, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(ticks := [1, 4, 8, 16, 32, 64, 128, 256], [str(t) for t in ticks])
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_title(f"{network.label}, batch {network.batch}, bfloat16", loc="left", fontsize=10)
        axes.set_xlabel("chips for one training")
        axes.grid(color="0.92", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("thousand images a second (estimate)")
    figure.axes[0].legend(frameon=False, fontsize=9)
    note = "Lines: the step as compiled. Bands: up to the least step. Dotted: perfect scaling of the lines."
    figure.supxlabel(note, fontsize=8, color="0.3")
    save(figure, stem)


def main() -> None:
    """Compile if the command line says so; write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the results")
    parser.add_argument("--compile", action="store_true", help="make scaling.json; needs libtpu")
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="to compile"
    )
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="the document to fill")
    args = parser.parse_args()
    if args.compile and find_spec("libtpu") is None:
        parser.error("--compile needs libtpu: pip install -e '.[scaling]'")
    file = args.out / "scaling.json"
    if args.compile:
        compile_all(file, args.networks)
    if not file.exists():
        parser.error(f"{file} is not there; --compile makes it")
    results = json.loads(file.read_text())
    if missing := set(NETWORKS) - set(results["compiled"]):
        parser.error(f"{file} lacks {', '.join(sorted(missing))}; --compile makes it")
    try:
        text = fill(args.document.read_text(encoding="utf-8"), tables(results))
    except (OSError, ValueError) as error:
        parser.error(f"{args.document}: {error}")
    args.document.write_text(text, encoding="utf-8")
    draw(results, args.document.with_suffix(""))
    print(f"wrote {args.document} and its figure")


if __name__ == "__main__":
    main()
