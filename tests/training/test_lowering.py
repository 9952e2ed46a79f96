"""The train step as it is lowered for GPU and TPU, on machines that have neither."""

import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from lottery_jax.models import abstract_variables, build_model
from lottery_jax.parallel.mesh import make_mesh
from lottery_jax.training import optim
from lottery_jax.training.batches import DeviceData
from lottery_jax.training.program import make_program
from lottery_jax.training.state import MetricSums, TrainState
from tests.pruning.test_permutations import SHALLOW

DTYPES = ["float32", "bfloat16"]
# Products, with the types of their operands and of their result.
PRODUCT = re.compile(r"stablehlo\.(?:convolution|dot_general)\b.*: (\(tensor.*)")


def step_and_shapes(model, shape, devices=None, batch=8):
    """Return a train step and the shapes of its arguments, those of its state and sums first."""
    program = make_program(
        model,
        optim.make_optimizer("sgd", momentum=0.9, weight_decay=1e-4),
        optim.make_schedule("constant", 0.1, steps_per_epoch=2, epochs=1),
        mesh=make_mesh(devices or jax.devices()[:1]),
        examples=2 * batch,
        batch_size=batch,
        mean=(0.5,) * shape[-1],
        std=(0.25,) * shape[-1],
        augment="crop_flip",
    )
    variables = abstract_variables(model, shape)
    params = variables["params"]
    state = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state=jax.eval_shape(program.optimizer.init, params),
        mask=jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, bool), params),
    )
    data = DeviceData(
        jax.ShapeDtypeStruct((2 * batch, *shape), jnp.uint8),
        jax.ShapeDtypeStruct((2 * batch,), jnp.int32),
    )
    order = jax.ShapeDtypeStruct((2, batch), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return program.train_step, (state, jax.eval_shape(MetricSums.zero), data, order, key)


def module_of(name, dtype):
    if name in SHALLOW:
        module, shape, _ = SHALLOW[name]
        return module.clone(dtype=jnp.dtype(dtype)), shape
    return build_model(name, 10, width=0.1, dtype=dtype), (32, 32, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name",
    [
        "resnet",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("lenet_300_100", "conv2", "vgg19", "resnet20", "resnet50", "vit_tiny")
        ),
    ],
)
def test_the_step_for_accelerators(name, dtype):
    """Nothing calls the host or has 64 bits, states are donated, and products have the dtype asked for."""
    step, shapes = step_and_shapes(*module_of(name, dtype))
    text = jax.export.export(step, platforms=["cuda", "tpu"])(*shapes).mlir_module()
    assert "callback" not in text and "f64" not in text
    assert set(re.findall(r"custom_call @([\w.]+)", text)) <= {"Sharding"}
    donated = len(re.findall(r"jax\.buffer_donor|tf\.aliasing_output", text))
    assert donated == len(jax.tree.leaves(shapes[:2]))
    products = PRODUCT.findall(text)
    assert len(products) >= 3 * sum(path.endswith("kernel") for path in kernels(shapes)) - 1
    short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    wrong = [types for types in products if set(re.findall(r"(b?f\d+)>", types)) != {short}]
    # The softmax of attention, and what it weighs, are float32 whatever the rest is.
    assert not wrong or name == "vit_tiny", wrong


def kernels(shapes):
    paths = jax.tree_util.tree_flatten_with_path(shapes[0].params)[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


FOR_A_TPU = """
import json, re, sys
import jax
from jax.experimental import topologies
from lottery_jax.models import build_model
from tests.training.test_lowering import step_and_shapes
chip = topologies.get_topology_desc(
    platform="tpu", topology_name="v5e:2x2", chips_per_host_bounds=(2, 2, 1)
).devices[0]
model = build_model(sys.argv[1], 10, dtype="bfloat16")
step, shapes = step_and_shapes(model, (32, 32, 3), [chip], batch=128)
compiled = step.trace(*shapes).lower(lowering_platforms=("tpu",)).compile()
text = compiled.as_text()
print(json.dumps({
    "copies": re.findall(r"= (\\w+\\[[\\d,]*\\])\\S* copy\\(", text),
    "convolutions": len(re.findall(r" convolution\\(", text)),
    "wide": "f64[" in text,
    "host": re.findall(r"(?:infeed|outfeed|send|recv)\\(|host_compute|callback", text),
    "donated": compiled.memory_analysis().alias_size_in_bytes,
    "state": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes[0])),
}))
"""


@pytest.mark.long
@pytest.mark.parametrize("name", ["vgg11", "resnet20"])
def test_the_step_that_the_compiler_of_tpus_makes(name):
    """States keep their memory, and no image or kernel changes its layout around a convolution."""
    quiet = {"TPU_SKIP_MDS_QUERY": "1", "TPU_STDERR_LOG_LEVEL": "3"}
    slice_of = {"TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost"}
    child = subprocess.run(
        [sys.executable, "-c", FOR_A_TPU, name],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **quiet, **slice_of},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, f"pip install -e '.[scaling]' has the compiler: {child.stderr}"
    found = json.loads(child.stdout.splitlines()[-1])
    assert found["convolutions"] > 8 and not found["wide"] and not found["host"]
    assert found["donated"] >= found["state"]
    # Masks and pixels, of one byte each, are copied; activations, weights and gradients are not.
    moved = [shape for shape in found["copies"] if shape.count(",") == 3]
    assert not [shape for shape in moved if not shape.startswith(("pred", "u8"))]
