"""Distances, interpolation and barriers, against closed forms and plain NumPy."""

import numpy as np
import pytest

from lottery_jax.analysis import distance, interpolation
from lottery_jax.errors import ConfigError


def some_tree(seed):
    rng = np.random.default_rng(seed)
    return {
        "a": {"kernel": rng.standard_normal((3, 4), np.float32)},
        "b": {"kernel": rng.standard_normal((2, 2, 1, 5), np.float32), "bias": np.float32(seed)},
    }


def as_vector(tree):
    a, b = tree["a"], tree["b"]
    parts = [a["kernel"].ravel(), b["kernel"].ravel(), np.ravel(b["bias"])]
    return np.concatenate(parts).astype(np.float64)


def test_distances_are_those_of_one_long_vector():
    a, b = some_tree(1), some_tree(2)
    u, v = as_vector(a), as_vector(b)
    assert distance.l2(a, b) == pytest.approx(np.linalg.norm(u - v), rel=1e-12)
    cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
    assert distance.cosine(a, b) == pytest.approx(1 - cosine, rel=1e-9)


def test_a_network_is_at_no_distance_from_itself_and_opposite_to_its_negative():
    a = some_tree(3)
    negative = {k: {n: -leaf for n, leaf in layer.items()} for k, layer in a.items()}
    assert distance.l2(a, a) == 0.0 and distance.cosine(a, a) == 0.0
    assert distance.cosine(a, negative) == pytest.approx(2.0)
    assert np.isnan(distance.cosine(a, {k: {n: 0 * x for n, x in t.items()} for k, t in a.items()}))


def test_the_ends_of_a_line_are_the_networks_to_the_bit():
    a, b = some_tree(1), some_tree(2)
    for alpha, end in ((np.float32(0), a), (np.float32(1), b)):
        at = interpolation.interpolate(a, b, alpha)
        assert all(at[k][n].tobytes() == end[k][n].tobytes() for k in end for n in end[k])


@pytest.mark.parametrize("count", [3, 30, 31])
def test_the_barrier_of_a_quadratic_is_known(count):
    """On the line from u to v, |w|^2 is a parabola; its negative rises by |u - v|^2 / 4 midway.

    With `count` points the one next to the middle is off it by h = 0 or 1 / (2 (count - 1)), which
    takes h^2 |u - v|^2 away.
    """
    u, v = np.array([3.0, 1.0]), np.array([-1.0, 2.0])
    points = interpolation.line(count)
    ws = [interpolation.interpolate({"w": u}, {"w": v}, float(t))["w"] for t in points]
    off = 0.0 if count % 2 else 0.5 / (count - 1)
    square = np.sum((u - v) ** 2)
    # For -|w|^2 less the straight line between its ends: t (1 - t) |u - v|^2.
    chord = [-(1 - t) * (u @ u) - t * (v @ v) for t in points]
    errors = [-(w @ w) - c for w, c in zip(ws, chord, strict=True)]
    assert interpolation.barrier([-e for e in errors]) == pytest.approx(0.0, abs=1e-6)
    assert interpolation.barrier(errors) == pytest.approx((0.25 - off**2) * square, rel=1e-6)


def test_a_barrier_counts_from_the_mean_of_the_ends():
    assert interpolation.barrier([0.2, 0.5, 0.4]) == pytest.approx(0.2)
    assert interpolation.barrier([0.2, 0.1, 0.4]) == pytest.approx(
        0.1
    )  # the worse end is on it too
    assert interpolation.barrier([0.3, 0.1, 0.3]) == 0.0


def test_a_line_has_points_between_its_ends():
    assert interpolation.line(5).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    with pytest.raises(ConfigError, match="alphas: 2 leave none"):
        interpolation.line(2)
