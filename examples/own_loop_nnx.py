"""Iterative magnitude pruning in a training loop of one's own, with a network in Flax NNX."""

import jax
import numpy as np
import optax
from flax import nnx

import lottery_jax as lj

REWIND, STEPS, BATCH = 20, 150, 64
data = lj.load_dataset("digits")


def as_inputs(images):
    return (images.reshape(len(images), -1) / 255 - data.mean[0]) / data.std[0]


class Network(nnx.Module):
    def __init__(self, rngs):
        self.dense1 = nnx.Linear(64, 128, rngs=rngs)
        self.dense2 = nnx.Linear(128, 64, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.dense2(nnx.relu(self.dense1(x)))))


graph, params = nnx.split(Network(nnx.Rngs(0)), nnx.Param)  # params is an nnx.State, a pytree


def loss(params, batch):
    images, labels = batch
    logits = nnx.merge(graph, params)(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@jax.jit
def accuracy(params):
    logits = nnx.merge(graph, params)(as_inputs(data.x_test))
    return (logits.argmax(-1) == data.y_test).mean()


mask = lj.masks.ones_like(params)
optimizer = optax.adamw(4e-3)
tx = lj.keep_masked(optimizer, mask)


@jax.jit
def step(params, state, batch):
    updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
    return optax.apply_updates(params, updates), state


def train(params, mask, first_step, last_step):
    state = lj.keep_masked(optimizer, mask).init(params)  # `step` reads the mask from the state
    for number in range(first_step, last_step):
        rows = np.random.default_rng(number).integers(0, len(data.x_train), BATCH)
        params, state = step(params, state, (as_inputs(data.x_train[rows]), data.y_train[rows]))
    return params


rewind_point = train(params, mask, 0, REWIND)
print("level  weights  accuracy")
results = []
for level in range(4):
    params = train(lj.masks.apply(mask, rewind_point), mask, REWIND, STEPS)
    results.append(float(accuracy(params)))
    print(f"{level:5}  {lj.masks.density(mask):7.1%}  {results[-1]:8.1%}")
    for kept, weights in zip(jax.tree.leaves(mask), jax.tree.leaves(params), strict=True):
        assert (np.asarray(weights)[~kept] == 0).all()
    mask = lj.masks.prune(lj.scores.magnitude(params), mask, 0.5, skip=["head"])
assert results[-1] > results[0] - 0.03, "the accuracy fell"
