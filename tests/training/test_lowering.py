"""The train step as it is lowered for GPU and TPU, on machines that have neither.

tests/compile_for_tpu.py looks at what the TPU's own compiler makes of it.
"""

import re

import jax
import jax.numpy as jnp
import pytest

from lottery_jax.models import build_model
from tests.pruning.small_networks import SHALLOW
from tests.training.lowered import step_and_shapes

DTYPES = ["float32", "bfloat16"]
# Products, with the types of their operands and of their result.
PRODUCT = re.compile(r"stablehlo\.(?:convolution|dot_general)\b.*: (\(tensor.*)")


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
    # The softmax of attention is float32 whatever the rest is, and so are the products around it.
    allowed = len(products) // 8 if (name, dtype) == ("vit_tiny", "bfloat16") else 0
    assert len(wrong) <= allowed, wrong


def kernels(shapes):
    paths = jax.tree_util.tree_flatten_with_path(shapes[0].params)[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
