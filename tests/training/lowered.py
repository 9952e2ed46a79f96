"""A train step and the shapes of its arguments: enough to lower it for any platform."""

import jax
import jax.numpy as jnp

from lottery_jax.models import abstract_variables
from lottery_jax.parallel.mesh import make_mesh
from lottery_jax.training import optim
from lottery_jax.training.batches import DeviceData
from lottery_jax.training.program import make_program
from lottery_jax.training.state import MetricSums, TrainState


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
