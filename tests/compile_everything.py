"""Compile a program of every kind, narrow, for the CPU; an abort within XLA ends this process.

    python tests/compile_everything.py                  with the switches that users get
    python tests/compile_everything.py --with_switches  with all switches, whatever the jaxlib is
    python tests/compile_everything.py --small          without the larger networks

Nothing is run. If the second command ends with "all compiled" for a new jaxlib, the version may be
added to `xla_options.TESTED_JAXLIB`.
"""

import os
import sys
import time

if __name__ == "__main__":  # before JAX is imported
    # Four devices, to put replicates on. What can abort comes before LLVM, whose passes take longest.
    os.environ["XLA_FLAGS"] = (
        "--xla_force_host_platform_device_count=4"
        " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    )
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np

from lottery_jax.models import FULLY_CONNECTED, MODELS, abstract_variables, build_model, xla_options
from lottery_jax.models.network import LinenNetwork
from lottery_jax.parallel.mesh import make_mesh
from lottery_jax.parallel.replicates import map_replicates
from lottery_jax.pruning import masks, scores
from lottery_jax.pruning.controls import UntrainedTicket
from lottery_jax.runs.experiment import STEPS_PER_DISPATCH
from lottery_jax.training import optim
from lottery_jax.training.batches import DeviceData, eval_order
from lottery_jax.training.program import compiled, make_program
from lottery_jax.training.state import MetricSums, init_state
from lottery_jax.training.task import CLASSIFICATION, BatchLoss, SummedOutput

SMALL = ("lenet_300_100", "conv2")  # networks of which every kind of program is compiled
# The smallest image each family takes; batches down to a single image.
SHAPES = {"vgg": (32, 32, 3), "alexnet": (32, 32, 3), "resnet": (8, 8, 3)}


def shape_of(name):
    return next((s for family, s in SHAPES.items() if name.startswith(family)), (8, 8, 1))


def build(name, dtype="float32"):
    width = 0.02 if name.startswith(("vgg", "alexnet", "lenet", "conv")) else 0.125
    return build_model(name, 10, width=width, dtype=dtype)


def programs(name, batch, *, replicas=1, stacked=0, vmapped=False, dtype="float32", streamed=False,
             optimizer="sgd", augment="none"):  # fmt: skip
    """(a name, a jitted function, its arguments) of each program that trains a network."""
    model, shape, examples = build(name, dtype), shape_of(name), 3 * batch
    mesh = make_mesh(jax.devices()[: max(replicas, 1)], replicas)
    loops = name in FULLY_CONNECTED and not streamed
    program = make_program(
        model,
        optim.make_optimizer(optimizer, momentum=0.9, weight_decay=1e-4),
        optim.make_schedule("cosine", 0.1, steps_per_epoch=3, epochs=2, warmup_epochs=1),
        mesh=mesh, examples=examples, batch_size=batch, mean=(0.5,) * shape[2],
        std=(0.2,) * shape[2], augment=augment, steps_per_dispatch=STEPS_PER_DISPATCH if loops else 1,
        vmapped=vmapped,
    )  # fmt: skip
    variables = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract_variables(model, shape)
    )
    state = init_state(
        program.optimizer, UntrainedTicket(masks.ones_like(variables["params"]), variables, 0)
    )
    sums, key = jax.device_get(MetricSums.zero()), jax.random.key(0)
    images = batch if streamed else examples
    data = DeviceData(np.zeros((images, *shape), np.uint8), np.zeros(images, np.int32))
    order = None if streamed else np.zeros((3, batch), np.int32)
    cover = (None, np.ones(batch, bool)) if streamed else eval_order(examples, batch)

    def several(tree):
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * stacked), tree) if stacked else tree

    of = program.stacked if stacked else program
    own = several((state, sums, order, key))
    yield "step", of.train_step, (*own[:2], data, own[2], own[3], 1)
    yield "order", of.epoch_order, (own[3], np.int32(0))
    yield "evaluation", of.eval_pass, (own[0].params, own[0].batch_stats, data, *cover)
    options = xla_options.compiler_options("cpu", run_once=True)
    init = jax.jit(LinenNetwork(model, shape).init, compiler_options=options)
    yield "initialisation", init, (key,)


def score_programs(name, batch):
    """Yield the programs of the scores that need gradients."""
    network = LinenNetwork(build(name), shape_of(name))
    variables, options = network.abstract_variables(), xla_options.compiler_options("cpu")
    params, stats = variables["params"], variables["batch_stats"]
    images = np.zeros((batch, *network.input_shape), np.float32)
    examples = scores.ScoreBatch(stats, images, np.zeros(batch, np.int32), jax.random.key(0))
    gradient = scores._compiled(scores._gradient, options)
    yield "gradient", gradient, (BatchLoss(network, CLASSIFICATION), params, examples)
    product = scores._compiled(scores._hessian_product, options)
    loss = BatchLoss(network, CLASSIFICATION, scores.GRASP_TEMPERATURE)
    yield "hessian", product, (loss, params, params, examples)
    ones = np.ones((1, *network.input_shape), np.float32)
    yield "flow", scores._flow_gradient, (SummedOutput(network), params, stats, ones)


def nested(count):
    """Loops within calls, within loops, over replicates, each with barriers in it."""

    def inner(_, pair):
        return jax.lax.optimization_barrier((pair[0] * 2 + pair[1], pair[1] @ pair[1].T))

    def outer(x, n):
        call = jax.jit(lambda pair: jax.lax.fori_loop(0, n, inner, pair), inline=False)
        return jax.lax.scan(lambda pair, _: (jax.lax.optimization_barrier(call(pair)), None),
                            (x, x), length=3)[0]  # fmt: skip

    mesh = make_mesh(jax.devices()[:2], 2)
    for vmapped in (False, True):
        function = map_replicates(outer, mesh, (1,), vmapped=vmapped)
        yield "nested", compiled(function, mesh, out_shardings=None), (
            np.ones((4, count, count), np.float32), 2,
        )  # fmt: skip


def everything(names):
    """(a description, a jitted function, its arguments) of all that is compiled here."""
    for name in names:
        if name not in SMALL:  # all that these add to the small ones' kinds is their layers
            yield from described(f"{name}, batch 1", [next(programs(name, 1))])
            continue
        for batch in (1, 32):
            yield from described(f"{name}, batch {batch}", programs(name, batch))
        for vmapped in (False, True):
            found = programs(name, 1, replicas=2, stacked=4, vmapped=vmapped)
            yield from described(f"{name}, stacked, vmapped={vmapped}", found)
        found = programs(name, 1, dtype="bfloat16", augment="crop_flip", optimizer="adam")
        yield from described(f"{name}, bfloat16, crop_flip, adam", found)
        yield from described(f"{name}, scores", score_programs(name, 1))
    yield from described("streamed", programs("conv2", 1, streamed=True))
    for count in (2, 64):
        yield from described(f"nested, {count}", nested(count))


def described(what, found):
    for kind, function, arguments in found:
        yield f"{what}: {kind}", function, arguments


def main():
    if "--with_switches" in sys.argv:
        xla_options.TESTED_JAXLIB = frozenset({jax.lib.__version__})
    count = 0
    names = SMALL if "--small" in sys.argv else sorted(MODELS)
    for what, function, arguments in everything(names):
        print(what, end="", flush=True)  # or an abort would not say where
        began = time.perf_counter()
        function.lower(*arguments).compile()
        print(f" ({time.perf_counter() - began:.1f} s)", flush=True)
        count += 1
    print(f"jaxlib {jax.lib.__version__}: all compiled, {count} programs, with the switches "
          f"{', '.join(xla_options.compiler_options('cpu')) or 'none'}")  # fmt: skip


if __name__ == "__main__":
    main()
