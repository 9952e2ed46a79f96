"""Optimizers against formulas written out in NumPy; schedules at their edges."""

import jax.numpy as jnp
import numpy as np
import pytest

from lottery_jax.errors import ConfigError
from lottery_jax.training.optim import OPTIMIZERS, make_optimizer, make_schedule

RATE, DECAY = 0.1, 0.01


def run(name, steps=5, **options):
    """Weights after some steps on the loss |w|^4 / 4, whose gradient is w^3."""
    optimizer = make_optimizer(name, weight_decay=DECAY, **options)
    w = jnp.array([1.0, -2.0, 0.5])
    state = optimizer.init(w)
    for _ in range(steps):
        direction, state = optimizer.update(w**3, state, w)
        w = w - RATE * direction
    return np.asarray(w)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_pytorchs(nesterov):
    w, buffer = np.array([1.0, -2.0, 0.5]), np.zeros(3)
    for _ in range(5):
        grad = w**3 + DECAY * w
        buffer = 0.9 * buffer + grad
        w = w - RATE * (grad + 0.9 * buffer if nesterov else buffer)
    np.testing.assert_allclose(run("sgd", momentum=0.9, nesterov=nesterov), w, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_is_the_papers(name):
    w, m, v = np.array([1.0, -2.0, 0.5]), np.zeros(3), np.zeros(3)
    for t in range(1, 6):
        coupled = DECAY * w if name == "adam" else 0.0
        grad = w**3 + coupled
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - RATE * (step + (DECAY * w if name == "adamw" else 0.0))
    np.testing.assert_allclose(run(name, b1=0.9, b2=0.999), w, rtol=1e-4)


def test_every_optimizer_is_covered():
    assert set(OPTIMIZERS) == {"sgd", "adam", "adamw"}
    with pytest.raises(ConfigError, match="did you mean 'adam'"):
        make_optimizer("adan")


def test_the_rate_drops_after_the_stated_epoch():
    """With 97 steps an epoch, steps 0..7759 are the first 80 epochs."""
    rate = make_schedule("step", 0.1, steps_per_epoch=97, epochs=160, milestones=(80, 120))
    at = [float(rate(jnp.int32(step))) for step in (0, 7759, 7760, 11639, 11640, 15519)]
    np.testing.assert_allclose(at, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


def test_warm_up_multiplies_any_schedule_and_does_not_shift_it():
    rate = make_schedule(
        "step", 1.0, steps_per_epoch=10, epochs=4, milestones=(2,), warmup_epochs=1
    )
    at = [float(rate(jnp.int32(step))) for step in (0, 4, 9, 19, 20)]
    np.testing.assert_allclose(at, [0.1, 0.5, 1.0, 1.0, 0.1], rtol=1e-6)


def test_cosine_goes_from_the_rate_to_zero():
    rate = make_schedule("cosine", 0.4, steps_per_epoch=10, epochs=4)
    at = [float(rate(jnp.int32(step))) for step in (0, 20, 40)]
    np.testing.assert_allclose(at, [0.4, 0.2, 0.0], atol=1e-6)
