"""Errors on a line and BatchNorm's statistics, against NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lottery_jax.analysis.batch_statistics import average, decay_of, make_statistics_pass
from lottery_jax.analysis.line import Line
from lottery_jax.datasets.dataset import Dataset
from lottery_jax.errors import ConfigError
from lottery_jax.models.layers import BatchNorm
from lottery_jax.models.network import LinenNetwork
from lottery_jax.parallel.mesh import make_mesh
from lottery_jax.runs.experiment import set_up
from lottery_jax.runs.parts import Parts
from lottery_jax.training.batches import DeviceData, epoch_order, make_preprocess


class TwoLayers(nn.Module):
    """Dense, BatchNorm, ReLU, dense: small enough to be written down in NumPy."""

    momentum: float = 0.9
    ours: bool = True

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(5, name="hidden")(x.reshape(len(x), -1))
        if self.ours:
            x = BatchNorm(train, momentum=self.momentum, name="norm")(x[:, None, None])[:, 0, 0]
        else:
            x = nn.BatchNorm(not train, momentum=self.momentum, name="norm")(x)
        return nn.Dense(3, name="head")(nn.relu(x))


SHAPE = (2, 2, 1)
MEAN, STD = (0.4,), (0.3,)


def pixels(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, *SHAPE), dtype=np.uint8), rng.integers(0, 3, n).astype(np.int32)


def normalised(images):
    return ((images / 255.0 - MEAN[0]) / STD[0]).reshape(len(images), -1)


def hidden(params, images):
    layer = params["hidden"]
    return normalised(images) @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])


def variables_of(network, seed):
    """Weights and statistics that are far from those of any data."""
    variables = jax.device_get(network.init(jax.random.key(seed)))
    stats = jax.tree.map(lambda s: np.full_like(s, 7.0 + seed), variables["batch_stats"])
    return {"params": variables["params"], "batch_stats": stats}


@pytest.mark.parametrize(
    "momentum, ours, batch_size",
    [
        (0.9, True, 20),
        pytest.param(0.5, False, 60, marks=pytest.mark.long),
    ],  # three batches, or one
)
def test_statistics_are_those_of_a_full_pass(momentum, ours, batch_size, one_device):
    """The mean over batches of their means and variances, whatever the momentum and the start."""
    network = LinenNetwork(TwoLayers(momentum, ours), SHAPE)
    variables, (images, labels) = variables_of(network, 1), pixels(60)
    mesh, preprocess = make_mesh(one_device), make_preprocess(MEAN, STD, "none")
    order = epoch_order(jax.random.key(3), 0, examples=60, batch_size=batch_size)
    run = jax.jit(make_statistics_pass(network, preprocess, mesh))
    data = DeviceData(jnp.asarray(images), jnp.asarray(labels))
    decay = decay_of(run, variables, data, order[:1])
    assert all(np.allclose(leaf, momentum, atol=1e-7) for leaf in jax.tree.leaves(decay))
    zeros = jax.tree.map(np.zeros_like, variables["batch_stats"])
    sums = run(variables["params"], zeros, data, order)
    found = average(sums, len(order), decay)["norm"]
    batches = [hidden(variables["params"], images[rows]) for rows in np.asarray(order)]
    np.testing.assert_allclose(found["mean"], np.mean([b.mean(0) for b in batches], 0), atol=1e-5)
    np.testing.assert_allclose(found["var"], np.mean([b.var(0) for b in batches], 0), rtol=1e-4)
    # The same, batch by batch, as a set that stays on the disk comes.
    parts = [
        run(variables["params"], zeros, DeviceData(data.images[rows], data.labels[rows]), None)
        for rows in order
    ]
    again = average(jax.tree.map(lambda *leaves: sum(leaves), *parts), len(parts), decay)["norm"]
    np.testing.assert_allclose(again["var"], found["var"], rtol=1e-5)


class Counts(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        calls = self.variable("batch_stats", "calls", jnp.zeros, ())
        if train:
            calls.value += 1.0
        return nn.Dense(3, name="head")(x.reshape(len(x), -1))


def test_statistics_that_are_no_running_averages_are_refused(one_device):
    network = LinenNetwork(Counts(), SHAPE)
    preprocess = make_preprocess(MEAN, STD, "none")
    run = make_statistics_pass(network, preprocess, make_mesh(one_device))
    variables = jax.device_get(network.init(jax.random.key(0)))
    with pytest.raises(ConfigError, match="are no running averages"):
        decay_of(run, variables, DeviceData(*map(jnp.asarray, pixels(4))), None)


@pytest.mark.slow
def test_errors_on_a_line_are_those_of_networks_written_in_numpy(tiny_config, one_device):
    """With statistics from the whole training set at each point, and every test image counted."""
    (x, y), (x_test, y_test) = pixels(60), pixels(300, seed=1)
    data = Dataset.from_arrays(x, y, x_test, y_test, name="pixels")
    config = tiny_config(**{"train.batch_size": 60, "data.augment": "none"})
    experiment = set_up(config, one_device, Parts(model=TwoLayers(), data=data))
    a, b = (variables_of(experiment.program.network, seed) for seed in (1, 5))
    mean, std = data.mean[0], data.std[0]

    def predicted(alpha):
        params = jax.tree.map(
            lambda u, v: (1 - alpha) * np.float64(u) + alpha * np.float64(v),
            a["params"], b["params"],
        )  # fmt: skip

        def forward(images):
            flat = ((images / 255.0 - mean) / std).reshape(len(images), -1)
            return flat @ params["hidden"]["kernel"] + params["hidden"]["bias"]

        seen = forward(x)
        z = (forward(x_test) - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-5)
        z = np.maximum(z * params["norm"]["scale"] + params["norm"]["bias"], 0)
        return z @ params["head"]["kernel"] + params["head"]["bias"]

    alphas = np.array([0, 0.3, 1], np.float32)
    errors = Line(experiment).errors(a, b, alphas)
    for alpha, error in zip(alphas, errors, strict=True):
        wrong = np.mean(np.argmax(predicted(alpha), 1) != y_test)
        assert error == pytest.approx(wrong, abs=1.01 / 300)  # a tie may fall either way
    assert len(set(errors)) > 1
