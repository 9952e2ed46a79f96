"""Networks, a task, an optimizer and data of one's own, which tests name by import path."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lottery_jax as lj
from lottery_jax.models.vgg import VGG


def small_vgg(num_classes=10):
    """Return a VGG of two stages in place of five, which compiles in a second or two.

    On 8x8 pixels its convolutions have 8 and 4 pixels a side: each is another algorithm on CPU.
    """
    return VGG(num_classes, ((8,), (16,)))


class Outputs(nn.Module):
    """A layer within a module."""

    outputs: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.outputs)(x)


class MLP(nn.Module):
    """A Linen network with a nested output layer, neither `dtype` nor `width`, and `deterministic`."""

    hidden: int = 16
    outputs: int = 10

    @nn.compact
    def __call__(self, x, deterministic=True):
        x = nn.relu(nn.Dense(self.hidden)(x.reshape(len(x), -1)))
        x = nn.Dropout(0.1)(nn.LayerNorm()(x), deterministic=deterministic)
        return Outputs(self.outputs)(x)


class NNX(nnx.Module):
    """An NNX network with a list, BatchNorm and dropout."""

    def __init__(self, num_classes, hidden=16, *, rngs):
        first, second = nnx.Linear(64, hidden, rngs=rngs), nnx.Linear(hidden, hidden, rngs=rngs)
        self.layers = nnx.List([first, second])
        self.norm = nnx.BatchNorm(hidden, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(hidden, num_classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.layers[0](x.reshape(len(x), -1))))
        return self.out(nnx.relu(self.layers[1](self.dropout(x))))


class Scale(nn.Module):
    """A network without a weight that can be pruned."""

    @nn.compact
    def __call__(self, x):
        return x.reshape(len(x), -1)[:, :10] * self.param("factor", nn.initializers.ones, (10,))


class Bag(nn.Module):
    """An embedding of tokens, their mean, and a dense layer."""

    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(2)(nn.relu(nn.Dense(8)(nn.Embed(16, 8)(tokens).mean(1))))


def tokens(examples=96):
    """Return sequences of tokens; the class says whether most are above 7."""
    x = np.random.default_rng(0).integers(0, 16, (examples, 9))
    y = (np.median(x, axis=1) > 7).astype(np.int32)
    cut = 3 * examples // 4
    return lj.Dataset.from_arrays(x[:cut], y[:cut], x[cut:], y[cut:], name="tokens")


def not_a_network():
    return {}


def fails(**options):
    raise RuntimeError("on purpose")


def mean_absolute(scale=1.0):
    """Return a task of one's own."""

    def error(outputs, targets):
        return scale * jnp.abs(outputs[:, 0] - targets)

    return lj.tasks.make_task(error, metric="mae", values=error)


def sgd(learning_rate):
    return optax.sgd(learning_rate, momentum=0.9)


def smooth_function(examples=160):
    """Return a data set of inputs `[n, 6]` and float targets `[n]`, a smooth function of them."""
    x = np.random.default_rng(0).normal(size=(examples, 6)).astype(np.float32)
    y = np.sin(x[:, 0]) + 0.5 * x[:, 1]
    cut = 3 * examples // 4
    return lj.Dataset.from_arrays(x[:cut], y[:cut], x[cut:], y[cut:], name="smooth")
