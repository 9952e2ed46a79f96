"""The compiled steps train any `Task` and any `Network`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lottery_jax.models import build_model
from lottery_jax.models.network import LinenNetwork
from lottery_jax.parallel.mesh import make_mesh, to_mesh
from lottery_jax.pruning import masks, scores
from lottery_jax.pruning.connectivity import effective_mask
from lottery_jax.training import optim, tasks
from lottery_jax.training.batches import DeviceData
from lottery_jax.training.loop import fit
from lottery_jax.training.program import init_device_state, make_program
from lottery_jax.training.state import MetricSums
from lottery_jax.training.task import CLASSIFICATION, BatchLoss, Task
from tests import own
from tests.helpers import pruned_values

EXAMPLES, BATCH, SHAPE = 96, 32, (4, 4, 1)


def squared_error(outputs, targets):
    return ((outputs.astype(jnp.float32) - targets) ** 2).mean()


def squared_error_sums(outputs, targets, counted):
    """An answer is right if it is within a quarter of the target."""
    errors = jnp.abs(outputs.astype(jnp.float32) - targets).max(axis=1)
    return MetricSums(
        loss=jnp.where(counted, ((outputs - targets) ** 2).mean(axis=1), 0.0).sum(),
        correct=((errors < 0.25) & counted).sum(dtype=jnp.int32),
        count=counted.sum(dtype=jnp.int32),
    )


REGRESSION = Task(squared_error, squared_error_sums)


def regression_data():
    """Images and the brightness of their halves, float32 `[n, 2]`."""
    images = np.random.default_rng(0).integers(0, 256, (EXAMPLES, *SHAPE), dtype=np.uint8)
    halves = [part.mean(axis=(1, 2, 3)) for part in (images[:, :2], images[:, 2:])]
    return images, np.stack(halves, axis=1).astype(np.float32) / 64


def program_for(network, task, devices=1):
    return make_program(
        network,
        optim.make_optimizer("adam"),
        optim.make_schedule("constant", 0.01, steps_per_epoch=3, epochs=40),
        task=task,
        mesh=make_mesh(jax.devices()[:devices]),
        examples=EXAMPLES,
        batch_size=BATCH,
        mean=(0.5,),
        std=(0.25,),
        steps_per_dispatch=3,
    )


def trained(program, variables, mask):
    """Return the losses of 40 epochs, the last state and its metrics."""
    images, targets = regression_data()
    data, losses = to_mesh(program.mesh, DeviceData(images, targets)), []
    state = init_device_state(program, variables, mask, step=0)
    state = fit(program, state, data, jax.random.key(1), until=120,
                on_epoch=lambda _, report: losses.append(float(report.train_loss)))  # fmt: skip
    return losses, state, program.evaluate(state, data)


@pytest.mark.parametrize("devices", [1, 4])
def test_a_regression_is_trained_and_measured_by_its_own_task(devices):
    program = program_for(build_model("lenet_300_100", 2, width=0.1), REGRESSION, devices)
    init = dataclasses.replace(program.network, input_shape=SHAPE).init
    variables = jax.jit(init)(jax.random.key(0))
    mask = masks.prune(
        scores.magnitude(variables["params"]), masks.ones_like(variables["params"]), 0.5
    )
    losses, state, measured = trained(program, variables, mask)
    assert losses[-1] < 0.1 * losses[0]
    images, targets = regression_data()
    inputs = (images / 255.0 - 0.5) / 0.25
    outputs = np.asarray(program.network.apply_eval(state.params, {}, inputs.astype(np.float32)))
    assert measured.loss == pytest.approx(np.mean((outputs - targets) ** 2), rel=1e-4)
    assert measured.accuracy == np.mean(np.abs(outputs - targets).max(axis=1) < 0.25)
    assert not pruned_values(mask, state.params).any()


@dataclasses.dataclass(frozen=True)
class TwoLayers:
    """A network of plain functions, whose weights are lists of dicts with leaves named `w`."""

    input_shape: tuple[int, ...] = SHAPE
    hidden: int = 20
    outputs: int = 2
    dtype: Any = jnp.float32
    output_layer: str = "1/w"

    def init(self, key):
        keys = jax.random.split(key)
        sizes = (np.prod(self.input_shape), self.hidden, self.outputs)
        params = [
            {"w": jax.random.normal(k, (a, b)) * a**-0.5, "b": jnp.zeros(b)}
            for k, a, b in zip(keys, sizes, sizes[1:], strict=False)
        ]
        return {"params": params, "batch_stats": {"seen": jnp.zeros((), jnp.int32)}}

    def abstract_variables(self):
        return jax.eval_shape(lambda: self.init(jax.random.key(0)))

    def layer_names(self):
        return ["0/w", "1/w"]

    def is_prunable(self, path: str, leaf: Any) -> bool:
        return path.endswith("/w")

    def apply_train(self, params, batch_stats, inputs, key):
        seen = {"seen": batch_stats["seen"] + len(inputs)}
        return self.apply_eval(params, batch_stats, inputs), seen

    def apply_eval(
        self, params, batch_stats, inputs, *, after_layer: Callable[..., Any] | None = None
    ):
        after_layer = after_layer or (lambda y: y)
        x = inputs.reshape(len(inputs), -1).astype(self.dtype)
        x = jax.nn.relu(after_layer(x @ params[0]["w"] + params[0]["b"]))
        return after_layer(x @ params[1]["w"] + params[1]["b"])

    def with_dtype(self, dtype):
        return dataclasses.replace(self, dtype=dtype)

    def mask_as_variables(self, mask):
        params = [{"w": m["w"].astype(jnp.float32), "b": 0.0 * m["b"]} for m in mask]
        return {"params": params, "batch_stats": {"seen": jnp.zeros((), jnp.int32)}}


@pytest.mark.slow
def test_a_network_of_plain_functions_is_scored_pruned_and_trained():
    network = TwoLayers()
    program = program_for(network, REGRESSION)
    variables = jax.device_get(network.init(jax.random.key(0)))
    images, targets = regression_data()
    inputs = ((images / 255.0 - 0.5) / 0.25).astype(np.float32)
    batch = scores.ScoreBatch(variables["batch_stats"], inputs, targets, jax.random.key(2))
    found = scores.snip(BatchLoss(network, REGRESSION), variables["params"], [batch])
    dense = masks.ones_like(variables["params"])
    mask = masks.prune(found, dense, 0.5, prunable=network.is_prunable)
    assert masks.counts(mask, prunable=network.is_prunable) == (180, 16 * 20 + 20 * 2)
    losses, state, _ = trained(program, variables, mask)
    assert losses[-1] < 0.1 * losses[0]
    assert not pruned_values(mask, state.params).any()
    assert int(state.batch_stats["seen"]) == 120 * BATCH


def test_paths_through_a_network_of_plain_functions():
    """Weights of a hidden unit without outputs, and of one without inputs, are on no path."""
    network = TwoLayers()
    mask = masks.ones_like(network.abstract_variables()["params"])
    mask[1]["w"][3] = False
    mask[0]["w"][:, 7] = False
    effective = effective_mask(network, mask)
    expected = jax.tree.map(np.copy, mask)
    expected[0]["w"][:, 3] = False
    expected[1]["w"][7] = False
    jax.tree.map(np.testing.assert_array_equal, effective, expected)


def test_cross_entropy_is_the_mean_negative_log_probability():
    """In float32 also for logits of half precision, and NaN only where an example counts."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 5)).astype(np.float32)
    labels = rng.integers(0, 5, 6)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    losses = -log_p[np.arange(6), labels]
    assert float(CLASSIFICATION.loss(logits, labels)) == pytest.approx(losses.mean(), rel=1e-5)
    half = jnp.asarray(logits, jnp.bfloat16)
    assert CLASSIFICATION.loss(half, labels).dtype == jnp.float32
    logits[5] = np.nan
    sums = CLASSIFICATION.metric_sums(logits, labels, np.arange(6) < 4)
    assert float(sums.loss) == pytest.approx(losses[:4].sum(), rel=1e-5)
    assert int(sums.correct) == (logits[:4].argmax(axis=1) == labels[:4]).sum()
    assert int(sums.count) == 4


def test_only_logits_have_a_temperature():
    """Divided outputs of a regression would be those of another aim."""
    network = LinenNetwork(own.MLP(outputs=1), (8,))
    params = network.init(jax.random.key(0))["params"]
    rng = np.random.default_rng(0)
    images, targets = rng.normal(size=(6, 8)).astype(np.float32), rng.normal(size=6)
    batch = scores.ScoreBatch({}, images, targets.astype(np.float32), jax.random.key(1))
    for task, same in ((tasks.regression(), True), (tasks.classification(), False)):
        if not same:
            batch = batch._replace(labels=np.zeros(6, np.int32))
            network = LinenNetwork(own.MLP(outputs=3), (8,))
            params = network.init(jax.random.key(0))["params"]
        losses = [float(BatchLoss(network, task, t)(params, batch)) for t in (1.0, 200.0)]
        assert (losses[0] == losses[1]) is same
