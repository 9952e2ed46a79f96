"""Iterative magnitude pruning in a training loop of one's own, with a network in Equinox."""

import equinox as eqx
import jax
import numpy as np
import optax

import lottery_jax as lj

REWIND, STEPS, BATCH = 20, 150, 64
data = lj.load_dataset("digits")


def as_inputs(images):
    return (images.reshape(len(images), -1) / 255 - data.mean[0]) / data.std[0]


def loss(model, batch):
    images, labels = batch
    logits = jax.vmap(model)(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@eqx.filter_jit
def accuracy(model):
    logits = jax.vmap(model)(as_inputs(data.x_test))
    return (logits.argmax(-1) == data.y_test).mean()


model = eqx.nn.MLP(64, 10, 128, depth=2, key=jax.random.key(0))  # activations are leaves, too
mask = lj.masks.ones_like(model)
optimizer = optax.adamw(4e-3)
tx = lj.keep_masked(optimizer, mask)


@eqx.filter_jit
def step(model, state, batch):
    updates, state = tx.update(eqx.filter_grad(loss)(model, batch), state, model)
    return eqx.apply_updates(model, updates), state


def train(model, mask, first_step, last_step):
    state = lj.keep_masked(optimizer, mask).init(model)  # `step` reads the mask from the state
    for number in range(first_step, last_step):
        rows = np.random.default_rng(number).integers(0, len(data.x_train), BATCH)
        model, state = step(model, state, (as_inputs(data.x_train[rows]), data.y_train[rows]))
    return model


rewind_point = train(model, mask, 0, REWIND)
print("level  weights  accuracy")
results = []
for level in range(4):
    model = train(lj.masks.apply(mask, rewind_point), mask, REWIND, STEPS)
    results.append(float(accuracy(model)))
    print(f"{level:5}  {lj.masks.density(mask):7.1%}  {results[-1]:8.1%}")
    for name, kept in lj.masks.kernels(mask).items():
        assert (np.asarray(lj.masks.kernels(model)[name])[~kept] == 0).all()
    mask = lj.masks.prune(lj.scores.magnitude(model), mask, 0.5, skip=["layers/2"])
assert results[-1] > results[0] - 0.03, "the accuracy fell"
