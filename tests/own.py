"""Networks, tasks and data of one's own, which tests name by import path."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from lottery_jax.training.tasks import make_task


class OwnMLP(nn.Module):
    """A Linen network with a nested output layer, neither `dtype` nor `width`, and `deterministic`."""

    hidden: int = 16
    outputs: int = 10

    @nn.compact
    def __call__(self, x, deterministic=True):
        x = nn.relu(nn.Dense(self.hidden)(x.reshape(len(x), -1)))
        x = nn.Dropout(0.1)(nn.LayerNorm()(x), deterministic=deterministic)
        return nn.Sequential([nn.Dense(self.outputs)])(x)


class OwnNNX(nnx.Module):
    """An NNX network with a list, BatchNorm and dropout."""

    def __init__(self, num_classes, hidden=16, *, rngs):
        self.layers = nnx.List([nnx.Linear(64, hidden, rngs=rngs), nnx.Linear(hidden, hidden, rngs=rngs)])
        self.norm = nnx.BatchNorm(hidden, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(hidden, num_classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.layers[0](x.reshape(len(x), -1))))
        return self.out(nnx.relu(self.layers[1](self.dropout(x))))


def not_a_network():
    return {}


def mean_absolute():
    """A task of one's own."""

    def error(outputs, targets):
        return jnp.abs(outputs[:, 0] - targets)

    return make_task(error, metric="mae", values=error)


def sgd(learning_rate):
    return optax.sgd(learning_rate, momentum=0.9)


def two_numbers(key=0, examples=96):
    """Inputs `[n, 6]` and float targets `[n]`, a smooth function of them."""
    rng = np.random.default_rng(key)
    x = rng.normal(size=(examples, 6)).astype(np.float32)
    return x, np.sin(x[:, 0]) + x[:, 1] * x[:, 2]


def key(seed=0):
    return jax.random.key(seed)
