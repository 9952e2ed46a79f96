"""Compile the train step for TPU slices and read its FLOPs, bytes and all-reduces off the result.

`scaling.py --compile` calls this. It needs libtpu (`pip install -e '.[scaling]'`), which has the
TPU's own compiler, but no TPU.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import harness
from scaling_model import CHIPS, NETWORKS, Network

DTYPES = ("bfloat16", "float32")
# All-reduces of fewer bytes sum BatchNorm's statistics or the loss, and not gradients.
_SMALL = 2**16
_WIDTHS = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2}


def lowered_step(network: Network, dtype: str, devices: Sequence[Any], platform: str) -> Any:
    """Lower the train step of a run for a platform (`tpu`, `cuda`, `cpu`) without computing it.

    The data set on the devices has two batches: its size changes only the memory it takes.
    """
    import jax
    import jax.numpy as jnp

    from lottery_jax.models import abstract_variables
    from lottery_jax.parallel.mesh import make_mesh, replicated
    from lottery_jax.training.batches import DeviceData
    from lottery_jax.training.state import MetricSums, TrainState

    examples = 2 * network.batch
    model = _build(network, dtype)
    program = harness.sgd_program(
        model,
        make_mesh(list(devices)),
        channels=network.shape[-1],
        examples=examples,
        batch_size=network.batch,
        augment="crop_flip",
    )
    variables = abstract_variables(model, network.shape)
    params = variables["params"]
    state = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state=jax.eval_shape(program.optimizer.init, params),
        mask=jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, bool), params),
    )
    data = DeviceData(
        jax.ShapeDtypeStruct((examples, *network.shape), jnp.uint8),
        jax.ShapeDtypeStruct((examples,), jnp.int32),
    )
    order = jax.ShapeDtypeStruct((2, network.batch), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    sharding = replicated(program.mesh)
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        (state, jax.eval_shape(MetricSums.zero), data, order, key),
    )
    return program.train_step.trace(*arguments).lower(lowering_platforms=(platform,))


def _build(network: Network, dtype: str) -> Any:
    from lottery_jax.models import build_model

    return build_model(network.model, network.classes, dtype=dtype, **network.options)


def step_facts(network: Network, dtype: str) -> harness.Row:
    """Return the facts of the whole step before compilation.

    `flops` leave out multiplications with padding. `bytes` are the sum over single operations.
    """
    import jax

    from lottery_jax.models import abstract_variables

    model = _build(network, dtype)
    variables = abstract_variables(model, network.shape)
    statistics = jax.tree.leaves(variables["batch_stats"])
    cost = lowered_step(network, dtype, jax.devices()[:1], "tpu").cost_analysis()
    return {
        "flops": cost["flops"],
        "bytes": cost["bytes accessed"],
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        "batchnorms": len(statistics) // 2,
        "channels": sum(leaf.size for leaf in statistics) // 2,
        "multiply_adds": harness.multiply_adds(model, network.shape),
    }


def compiled_facts(network: Network, dtype: str, chip: str, chips: int) -> harness.Row:
    """Return the facts of one chip's part of the step, compiled for a slice of so many chips."""
    from jax.experimental import topologies

    shape = next(s for s in CHIPS[chip].slices if s.chips == chips)
    assert CHIPS[chip].topology is not None, f"there is no compiler for {chip}"
    kind, options = CHIPS[chip].topology
    # The smallest topology that libtpu has is that of a whole host.
    host = {1: "2x2" if kind == "v5e" else "2x2x1"}.get(chips, shape.name)
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=f"{kind}:{host}", **options
    )
    compiled = lowered_step(network, dtype, list(topology.devices)[:chips], "tpu").compile()
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    sizes = all_reduces(compiled.as_text())
    small = [size for size in sizes if size < _SMALL]
    large = [size for size in sizes if size >= _SMALL]
    return {
        "chip": chip,
        "chips": chips,
        "slice": shape.name,
        "dtype": dtype,
        "batch": network.batch,
        "flops": cost["flops"],
        "bytes": cost["bytes accessed"],
        "temporary": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "small": len(small),
        "small_bytes": sum(small),
        "large": len(large),
        "large_bytes": sum(large),
    }


def all_reduces(text: str) -> list[int]:
    """Return the bytes of each all-reduce in a compiled program's text.

    >>> all_reduces("  %a = (f32[64]{0}, bf16[3,3]{1,0}) all-reduce(%b, %c), channel_id=1")
    [274]
    """
    return [
        sum(
            _WIDTHS[dtype] * math.prod(int(size) for size in shape.split(",") if size)
            for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", types)
        )
        for types in re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
    ]


def compile_all(file: Path, networks: Sequence[str]) -> None:
    """Write the facts of some networks into scaling.json, after every compilation."""
    # JAX must not look for a TPU, nor ask a metadata server for one; it reads these when it starts.
    os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", TPU_STDERR_LOG_LEVEL="3")
    os.environ.update(TPU_ACCELERATOR_TYPE="v5litepod-8", TPU_WORKER_HOSTNAMES="localhost")
    results = json.loads(file.read_text()) if file.exists() else {"steps": {}, "compiled": {}}
    results["versions"] = {name: version(name) for name in ("jax", "libtpu")}
    for name in networks:
        network = NETWORKS[name]
        results["steps"][name] = {dtype: step_facts(network, dtype) for dtype in DTYPES}
        wanted = [
            (chip, chips, "bfloat16")
            for chip, about in CHIPS.items()
            if about.topology
            for chips in network.chips
        ]
        if len(network.chips) > 1:
            wanted.append(("TPU v5e", 8, "float32"))
        rows = results["compiled"][name] = []
        for chip, chips, dtype in wanted:
            rows.append(compiled_facts(network, dtype, chip, chips))
            print(json.dumps(rows[-1]), flush=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(results, indent=1) + "\n")
