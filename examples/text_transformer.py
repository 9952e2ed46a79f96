"""Iterative magnitude pruning of a causal transformer, in Flax Linen, that reads Python's manual.

The text is the language reference that comes with every Python. The default rule prunes the kernels
of dense layers and of attention; a name pattern adds the embedding's table.
"""

from pydoc_data.topics import topics

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lottery_jax as lj

REWIND, STEPS, BATCH, LENGTH, WIDTH = 20, 120, 16, 32, 32
text = "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "replace")[:200_000]
letters, tokens = np.unique(np.frombuffer(text, np.uint8), return_inverse=True)
train_tokens, test_tokens = np.split(tokens.astype(np.int32), [int(0.9 * len(tokens))])


def windows(tokens, starts):
    return tokens[starts[:, None] + np.arange(LENGTH + 1)]


test_batch = windows(test_tokens, np.arange(0, len(test_tokens) - LENGTH - 1, 4 * LENGTH))


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        places = self.param("places", nn.initializers.normal(0.02), (LENGTH, WIDTH))
        x = nn.Embed(len(letters), WIDTH, name="letters")(tokens) + places
        attention = nn.MultiHeadDotProductAttention(2, name="attention")
        x += attention(nn.LayerNorm(name="norm1")(x), mask=nn.make_causal_mask(tokens))
        y = nn.relu(nn.Dense(4 * WIDTH, name="wide")(nn.LayerNorm(name="norm2")(x)))
        x += nn.Dense(WIDTH, name="narrow")(y)
        return nn.Dense(len(letters), name="head")(x)


network = Transformer()


@jax.jit
def loss(params, batch):
    logits = network.apply({"params": params}, batch[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()


PRUNABLE = ["kernel", "embedding"]
params = jax.jit(network.init)(jax.random.key(0), test_batch[:1, :-1])["params"]
mask = lj.masks.ones_like(params)
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
tx = lj.keep_masked(optimizer, mask)


@jax.jit
def step(params, state, batch):
    updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
    return optax.apply_updates(params, updates), state


def train(params, mask, first_step, last_step):
    state = lj.keep_masked(optimizer, mask).init(params)  # `step` reads the mask from the state
    for number in range(first_step, last_step):
        starts = np.random.default_rng(number).integers(0, len(train_tokens) - LENGTH, BATCH)
        params, state = step(params, state, windows(train_tokens, starts))
    return params


rewind_point = train(params, mask, 0, REWIND)
print("level  weights  loss")
losses = []
for level in range(4):
    params = train(lj.masks.apply(mask, rewind_point), mask, REWIND, STEPS)
    losses.append(float(loss(params, test_batch)))
    print(f"{level:5}  {lj.masks.density(mask, prunable=PRUNABLE):7.1%}  {losses[-1]:.3f}")
    for kept, weights in zip(jax.tree.leaves(mask), jax.tree.leaves(params), strict=True):
        assert (np.asarray(weights)[~kept] == 0).all()
    mask = lj.masks.prune(lj.scores.magnitude(params), mask, 0.4, prunable=PRUNABLE)
by_letter = np.bincount(train_tokens, minlength=len(letters)) / len(train_tokens)
unigram = -jnp.log(by_letter[test_batch] + 1e-9).mean()
print(f"knowing how often each letter occurs: {unigram:.3f}")
assert losses[-1] < losses[0] + 0.15 and losses[-1] < 0.9 * unigram, "the loss rose"
