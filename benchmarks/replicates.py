"""Compare training replicates together with training them one after another.

    python benchmarks/replicates.py

The results are the reason for what `lottery_jax.parallel.replicates.choose_layout` chooses.

- Steps: `fit` trains `--replicates` networks one after another on one device (as with
  `config.train.together=1`), by `vmap` on one device, and spread over all devices; a CPU gets a
  device for each core. The pixels are made up.
- The digits ladder: the quickstart's recipe with 8 seeds and no controls, all together and one by
  one, with tickets and curve, and with compiled programs from an earlier run.

Each side runs as a process of its own, in turn. Ratios are the time one after another over the time
together: above 1, together is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import harness

from lottery_jax.system import host

# network: (image shape, batch size, steps to time)
NETWORKS = {
    "lenet_300_100": ((8, 8, 1), 64, 600),
    "lenet_300_100 at 28x28": ((28, 28, 1), 60, 200),
    "conv2": ((28, 28, 1), 60, 10),
    "resnet20": ((32, 32, 3), 64, 6),
    "vgg11": ((32, 32, 3), 64, 4),
}
SIDES = ("apart", "vmap", "devices")


def steps(network: str, side: str, replicates: int) -> harness.Row:
    """Return the milliseconds that a step of one replicate takes."""
    import jax

    if side == "devices":
        jax.config.update("jax_num_cpu_devices", min(len(host.cores()), replicates))

    from lottery_jax.models import FULLY_CONNECTED, build_model, init_variables
    from lottery_jax.parallel.mesh import make_mesh, to_mesh
    from lottery_jax.parallel.replicates import stack_keys, stack_to_mesh
    from lottery_jax.pruning import masks
    from lottery_jax.pruning.controls import UntrainedTicket
    from lottery_jax.training.batches import DeviceData
    from lottery_jax.training.loop import fit
    from lottery_jax.training.state import init_state

    shape, batch, count = NETWORKS[network]
    name = network.partition(" ")[0]
    images, labels = harness.made_up_images(8 * batch, shape)
    model = build_model(name, 10)
    devices = jax.devices() if side == "devices" else jax.devices()[:1]
    mesh = make_mesh(devices, len(devices))
    program = harness.sgd_program(
        model,
        mesh,
        channels=shape[-1],
        examples=len(labels),
        batch_size=batch,
        steps_per_dispatch=32 if name in FULLY_CONNECTED else 1,
        vmapped=side == "vmap",
    )
    data = to_mesh(mesh, DeviceData(images, labels))
    init = jax.jit(lambda key: init_variables(model, key, shape))
    starts = [jax.device_get(init(jax.random.key(i))) for i in range(replicates)]
    states = [
        init_state(program.optimizer, UntrainedTicket(masks.ones_like(start["params"]), start, 0))
        for start in starts
    ]
    keys = [jax.random.key(i) for i in range(replicates)]
    # A device loops over the replicates stacked on it, and convolutions in loops are slow on CPU:
    # networks with convolutions are stacked to one replicate for each device.
    size = (
        replicates
        if side == "vmap" or (name in FULLY_CONNECTED and side == "devices")
        else len(devices)
    )
    groups = [slice(i, i + size) for i in range(0, replicates, size)]

    def run(until: int) -> float:
        seconds = 0.0
        for group in groups:
            state = jax.block_until_ready(stack_to_mesh(mesh, states[group], size))
            began = time.perf_counter()
            fit(program, state, data, stack_keys(keys[group], size), until=until)
            seconds += time.perf_counter() - began
        return seconds

    run(count)  # compiles
    return {"ms": 1e3 * run(count) / count / replicates, "groups": len(groups)}


def ladder(side: str) -> harness.Row:
    """Return the seconds of `run_ladder`."""
    import jax
    from rich.console import Console

    from lottery_jax import recipes
    from lottery_jax.runs.ladder import run_ladder
    from lottery_jax.runs.process import set_up_process

    config = recipes.quickstart()
    config.seeds, config.controls = tuple(range(8)), ()
    config.train.together = 1 if side == "apart" else 0
    set_up_process(config)
    devices = len(jax.devices())
    with tempfile.TemporaryDirectory() as workdir:
        began = time.perf_counter()
        rows = run_ladder(config, Path(workdir) / "run", console=Console(quiet=True))
        seconds = time.perf_counter() - began
    accuracies = [row["test_accuracy"] for row in rows]
    return {"seconds": seconds, "devices": devices, "test_accuracy": accuracies}


def measure(network: str, replicates: int, repeats: int) -> harness.Row:
    """Measure the sides in turn and return one row."""
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(repeats):
        for side in SIDES:
            arguments = (f"--side=steps:{network}:{side}", f"--replicates={replicates}")
            found[side].append(harness.child("replicates.py", *arguments)["ms"])
    return {
        "what": f"{network}, {replicates} replicates, ms a step of each",
        **{side: statistics.median(found[side]) for side in SIDES},
        "vmap_ratio": harness.median_ratio(found["apart"], found["vmap"]),
        "devices_ratio": harness.median_ratio(found["apart"], found["devices"]),
        "runs": found,
    }


def measure_ladder(repeats: int) -> harness.Row:
    """Measure the whole ladder and return one row; the first run of each side compiles."""
    runs: dict[str, list[harness.Row]] = {"apart": [], "devices": []}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(repeats + 1):
            for side, rows in runs.items():
                arguments = (f"--side=ladder:{side}",)
                rows.append(
                    harness.child("replicates.py", *arguments, JAX_COMPILATION_CACHE_DIR=cache)
                )
    seconds = {side: [row["seconds"] for row in rows[1:]] for side, rows in runs.items()}
    same = runs["apart"][-1]["test_accuracy"], runs["devices"][-1]["test_accuracy"]
    assert sorted(same[0]) == sorted(same[1]), "the two ways found different tickets"
    return {
        "what": "digits ladder, 8 seeds, s",
        **{side: statistics.median(values) for side, values in seconds.items()},
        "devices_ratio": harness.median_ratio(seconds["apart"], seconds["devices"]),
        "runs": runs,
    }


def main() -> None:
    """Measure, and print and write the table."""
    parser = harness.options(__doc__.splitlines()[0])
    parser.set_defaults(repeats=5)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--replicates", type=int, default=8)
    parser.add_argument("--no-ladder", action="store_true")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        kind, *rest = args.side.split(":")
        row = ladder(*rest) if kind == "ladder" else steps(*rest, args.replicates)
        print(json.dumps(row))
        return
    networks = args.networks.split(",")
    rows = [measure(network, args.replicates, args.repeats) for network in networks]
    if not args.no_ladder:
        rows.append(measure_ladder(args.repeats))
    columns = {
        "what": "what|",
        "apart": "one after another|.3g",
        "vmap": "vmap, one device|.3g",
        "devices": "one each on all devices|.3g",
        "vmap_ratio": "ratio, vmap|.2f",
        "devices_ratio": "ratio, all devices|.2f",
    }
    title = f"Replicates together against one after another, medians of {args.repeats}, in turn."
    harness.write(args.out, "replicates", title, columns, rows)


if __name__ == "__main__":
    main()
