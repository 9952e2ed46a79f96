"""Compile train steps for a TPU, without one, and check what the compiler has made of them.

    nox -s tpu

It needs libtpu (`.[scaling]`), with which JAX looks for a TPU at every start: hence no test of the suite.
"""

import os
import re
import sys

# JAX and libtpu read these when they start: there is no TPU to look for, nor a server to ask for one.
if __name__ == "__main__":
    os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", TPU_STDERR_LOG_LEVEL="3")
    os.environ.update(TPU_ACCELERATOR_TYPE="v5litepod-8", TPU_WORKER_HOSTNAMES="localhost")

import jax
from jax.experimental import topologies

from lottery_jax.models import build_model
from tests.training.lowered import step_and_shapes


def check(name: str) -> None:
    """Compile one network's step and raise AssertionError if it is not as it should be."""
    chip = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    model = build_model(name, 10, dtype="bfloat16")
    step, shapes = step_and_shapes(model, (32, 32, 3), [chip], batch=128)
    compiled = step.trace(*shapes).lower(lowering_platforms=("tpu",)).compile()
    text = compiled.as_text()
    convolutions = len(re.findall(r" convolution\(", text))
    assert convolutions > 8, convolutions
    assert "f64[" not in text
    assert not re.findall(r"(?:infeed|outfeed|send|recv)\(|host_compute|callback", text)
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes[0]))
    donated = compiled.memory_analysis().alias_size_in_bytes
    assert donated >= state, (donated, state)
    # No image and no kernel changes its layout around a convolution; masks and pixels, of a byte, do.
    copies = re.findall(r"= (\w+\[[\d,]*\])\S* copy\(", text)
    moved = [shape for shape in copies if shape.count(",") == 3]
    assert not [shape for shape in moved if not shape.startswith(("pred", "u8"))], moved
    print(
        f"{name}: {convolutions} convolutions, {donated} bytes in place, {len(moved)} copies of bytes"
    )


if __name__ == "__main__":
    for network in sys.argv[1:]:
        check(network)
