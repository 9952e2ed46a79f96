"""Compare our train step with the compiler switches of `models/xla_options.py` and without.

    python benchmarks/switches.py
    python benchmarks/switches.py --models=vgg19 --batches=64

A version of jaxlib that was not tested compiles without them, so this is also the cost of such a
version.
"""

from __future__ import annotations

import json
import statistics

import harness
import train_step

from lottery_jax.models import xla_options


def side(model: str, batch: int, *, switches: bool) -> train_step.Side:
    """Return a step of a run's own program, compiled with all switches or with none."""
    xla_options.is_tested.cache_clear()
    usual = xla_options.TESTED_JAXLIB
    xla_options.TESTED_JAXLIB = usual if switches else frozenset()
    try:
        return train_step.ours(model, batch, "float32")
    finally:
        xla_options.TESTED_JAXLIB = usual
        xla_options.is_tested.cache_clear()


def main() -> None:
    """Measure, and print and write the table."""
    parser = harness.options(__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(train_step.MODELS))
    parser.add_argument("--batches", default="64")
    args = parser.parse_args()
    assert xla_options.is_tested(), "this jaxlib gets no switches; there is nothing to compare"
    rows = []
    for model in args.models.split(","):
        for batch in map(int, args.batches.split(",")):
            with_them = side(model, batch, switches=True)
            without = side(model, batch, switches=False)
            times = harness.interleaved(
                {"with": with_them.step, "without": without.step}, args.repeats
            )
            rows.append(
                {
                    "model": model,
                    "batch": batch,
                    "with_ms": 1000 * statistics.median(times["with"]),
                    "without_ms": 1000 * statistics.median(times["without"]),
                    "ratio": harness.median_ratio(times["without"], times["with"]),
                    "first_with_s": with_them.first_s,
                    "first_without_s": without.first_s,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    columns = {
        "model": "model|",
        "batch": "batch|d",
        "with_ms": "with, ms|.2f",
        "without_ms": "without, ms|.2f",
        "ratio": "ratio|.2f",
        "first_with_s": "first step with, s|.1f",
        "first_without_s": "without, s|.1f",
    }
    title = f"A train step with and without our compiler switches, medians of {args.repeats}."
    harness.write(args.out, "switches", title, columns, rows)


if __name__ == "__main__":
    main()
