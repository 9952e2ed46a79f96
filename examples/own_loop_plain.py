"""Iterative magnitude pruning in a training loop in plain JAX: parameters are lists and dicts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lottery_jax as lj

REWIND, STEPS, BATCH = 20, 150, 64
data = lj.load_dataset("digits")


def as_inputs(images):
    return (images.reshape(len(images), -1) / 255 - data.mean[0]) / data.std[0]


def init(key):
    sizes = [64, 128, 64, 10]
    pairs = zip(sizes[:-1], sizes[1:], jax.random.split(key, 3), strict=True)
    return [
        {"w": jax.random.normal(key, (n, m)) * (2 / n) ** 0.5, "b": jnp.zeros(m)}
        for n, m, key in pairs
    ]


def network(params, x):
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def loss(params, batch):
    images, labels = batch
    logits = network(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@jax.jit
def accuracy(params):
    logits = network(params, as_inputs(data.x_test))
    return (logits.argmax(-1) == data.y_test).mean()


params = init(jax.random.key(0))
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
    mask = lj.masks.prune(lj.scores.magnitude(params), mask, 0.5, skip=["2"])
assert results[-1] > results[0] - 0.03, "the accuracy fell"
