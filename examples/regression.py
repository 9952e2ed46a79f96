"""Iterative magnitude pruning of a network that predicts a number, with a loss of one's own.

The data are scikit-learn's records of 442 patients: ten measurements, and how far their diabetes
progressed within a year. The loss is the squared error; the step is plain gradient descent written
by hand, without optax, so the mask is applied after each step.
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_diabetes

import lottery_jax as lj

REWIND, STEPS, RATE, DECAY = 50, 1000, 0.05, 0.01
inputs, targets = (np.float32(values) for values in load_diabetes(return_X_y=True))
inputs, targets = inputs / inputs.std(0), (targets - targets.mean()) / targets.std()
order = np.random.default_rng(0).permutation(len(inputs))
train_set, test_set = ((inputs[rows], targets[rows]) for rows in np.split(order, [300]))


def init(key):
    sizes = [10, 64, 64, 1]
    pairs = zip(sizes[:-1], sizes[1:], jax.random.split(key, 3), strict=True)
    return [
        {"w": jax.random.normal(key, (n, m)) / n**0.5, "b": jnp.zeros(m)} for n, m, key in pairs
    ]


@jax.jit
def loss(params, batch):
    x, y = batch
    for layer in params[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return jnp.mean((x @ params[-1]["w"] + params[-1]["b"] - y[:, None]) ** 2)


@jax.jit
def train(params, mask, first_step, last_step):
    def step(_, params):
        grads = jax.grad(loss)(params, train_set)
        moved = jax.tree.map(lambda w, g: w - RATE * (g + DECAY * w), params, grads)
        return lj.masks.apply(mask, moved)

    return jax.lax.fori_loop(first_step, last_step, step, lj.masks.apply(mask, params))


params = init(jax.random.key(0))
mask = lj.masks.ones_like(params)
rewind_point = train(params, mask, 0, REWIND)
print("level  weights  squared error of test data (1: the mean is guessed)")
losses = []
for level in range(4):
    params = train(rewind_point, mask, REWIND, STEPS)
    losses.append(float(loss(params, test_set)))
    print(f"{level:5}  {lj.masks.density(mask):7.1%}  {losses[-1]:.3f}")
    for kept, weights in zip(jax.tree.leaves(mask), jax.tree.leaves(params), strict=True):
        assert (np.asarray(weights)[~np.asarray(kept)] == 0).all()
    mask = lj.masks.prune(lj.scores.magnitude(params), mask, 0.5)
assert losses[-1] < 1.1 * losses[0] and losses[-1] < 0.8, "the error rose"
