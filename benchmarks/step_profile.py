"""Print the time of a train step by kind of operation, as XLA's CPU backend traces it.

    python benchmarks/step_profile.py vgg19 64

The trace misses the threads that run convolutions; these take most of the time of a step that the
traced operations do not explain. Operations that run side by side are each counted in full.
"""

from __future__ import annotations

import argparse
import collections
import statistics
import tempfile
from pathlib import Path

import harness
import jax
from jax.profiler import ProfileData
from train_step import MODELS, ours

STEPS = 5


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("batch", type=int)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--most", type=int, default=16, help="number of rows")
    args = parser.parse_args()
    step = ours(args.model, args.batch, args.dtype).step
    seconds = statistics.median(harness.interleaved({"ours": step}, STEPS)["ours"])
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                step()
        (trace,) = Path(folder).rglob("*.xplane.pb")
        totals = by_kind(ProfileData.from_file(str(trace)))
    print(f"a step takes {1e3 * seconds:.1f} ms; traced, ms a step:\n")
    for kind, milliseconds in totals.most_common(args.most):
        print(f"{milliseconds:8.2f}  {kind}")


def by_kind(profile: ProfileData) -> collections.Counter[str]:
    """Return milliseconds a step by kind of operation, named as in the compiled program."""
    totals: collections.Counter[str] = collections.Counter()
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                if "hlo_op" in dict(event.stats):
                    totals[event.name.split(".")[0]] += event.duration_ns / 1e6 / STEPS
    return totals


if __name__ == "__main__":
    main()
