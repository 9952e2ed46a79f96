"""Permuted units leave a network's function, and matching finds them again."""

import jax
import numpy as np
import pytest
from flax import nnx

from lottery_jax.errors import ConfigError
from lottery_jax.models import build_model, networks
from lottery_jax.models.layers import BatchNorm
from lottery_jax.models.network import LinenNetwork, as_network
from lottery_jax.models.xla_options import compiler_options
from lottery_jax.pruning import masks
from lottery_jax.pruning.matching import match_units
from lottery_jax.pruning.permutations import (
    check_symmetry,
    find_symmetry,
    permute,
    random_permutations,
)
from tests import own
from tests.helpers import assert_same
from tests.pruning.small_networks import DEEP, QUICK, SHALLOW, Residual

# How many groups there are: a layer each, or a stage each and what is within its blocks.
GROUPS = {"lenet_300_100": 2, "conv2": 4, "conv4": 6, "conv6": 8, "vgg11": 8, "vgg13": 10,
          "vgg16": 13, "vgg19": 16, "alexnet": 7, "resnet20": 3 + 9, "resnet32": 3 + 15,
          "resnet56": 3 + 27, "resnet18": 4 + 8, "resnet34": 4 + 16, "resnet50": 5 + 32,
          "vit_tiny": 1 + 12}  # fmt: skip
SLOW, LONG = pytest.mark.slow, pytest.mark.long
NETWORKS = [
    *QUICK,
    *(pytest.param(f"shallow_{name}", marks=SLOW) for name in ("resnet", "bottleneck", "vit")),
    *(pytest.param(name, marks=LONG) for name in ("shallow_vgg", *DEEP, "resnet50_imagenet")),
]


def make(name, width=None, shape=None):
    """A network by the name of a test, and the number of its groups."""
    if name.startswith("shallow_"):
        module, shape, groups = SHALLOW[name.removeprefix("shallow_")]
        return LinenNetwork(module, shape), groups
    name, imagenet, _ = name.partition("_imagenet")
    options = {"stem": "imagenet"} if imagenet else {}
    usual = (QUICK | DEEP)[name]
    built = build_model(name, 10, width=width or usual[0], **options)
    return LinenNetwork(built, shape or usual[1]), GROUPS[name]


def random_variables(network, seed=0):
    """Numbers of which no two are the same; variances are positive, as they must be."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        size = np.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.2
        # A unit with a bias below zero may be dead, and nothing tells dead units apart.
        if path[-1].key in ("var", "scale", "bias"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        array = 1.5 * size * rng.standard_normal(leaf.shape)
        if leaf.ndim > 1:  # otherwise a unit whose inputs are all positive may never be above zero
            array -= array.mean(tuple(range(leaf.ndim - 1)))
        return array.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, network.abstract_variables())


def outputs(network, variables, images):
    def apply(variables, images):
        return network.apply_eval(variables["params"], variables["batch_stats"], images)

    options = compiler_options("cpu", run_once=True)
    return np.asarray(jax.jit(apply, compiler_options=options)(variables, images))


def examples(network, count, seed=1):
    shape = (count, *network.input_shape)
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_permuted_network_computes_the_same(name):
    network, groups = make(name)
    symmetry = find_symmetry(network)
    assert len(symmetry.units) == groups
    variables, images = random_variables(network), examples(network, 4)
    permutations = random_permutations(symmetry, np.random.default_rng(2))
    permuted = permute(variables, symmetry, permutations)
    assert sum(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(variables), jax.tree.leaves(permuted), strict=True)
    ) > len(network.layer_names())
    y = outputs(network, variables, images)
    assert y.std() > 0.01
    np.testing.assert_allclose(outputs(network, permuted, images), y, atol=1e-4 * np.abs(y).max())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in (*QUICK, "resnet20") else LONG)
        for name in QUICK | DEEP
    ],
)
def test_a_mask_that_is_permuted_back_and_forth_is_itself(name):
    """Each layer keeps its count, and layers of the output side keep their places."""
    network, _ = make(name)
    symmetry, rng = find_symmetry(network), np.random.default_rng(3)
    shapes = network.abstract_variables()["params"]
    mask = jax.tree.map(lambda leaf: rng.random(leaf.shape) < 0.3, shapes)
    permutations = random_permutations(symmetry, rng)
    permuted = permute(mask, symmetry, permutations)
    assert masks.layer_counts(permuted) == masks.layer_counts(mask)
    inverse = {group: np.argsort(order) for group, order in permutations.items()}
    assert_same(permute(permuted, symmetry, inverse), mask)
    same = {group: np.arange(count) for group, count in symmetry.units.items()}
    assert_same(permute(mask, symmetry, same), mask)
    kept = permuted["head"]["kernel"].sum(0)
    np.testing.assert_array_equal(kept, mask["head"]["kernel"].sum(0))
    np.testing.assert_array_equal(permuted["head"]["bias"], mask["head"]["bias"])


def with_statistics(network, variables, images):
    """The variables with BatchNorm's statistics of these images, so that no unit is dead."""
    if not variables["batch_stats"]:
        return variables
    zeros = jax.tree.map(np.zeros_like, variables["batch_stats"])

    def apply(params, images):
        return network.apply_train(params, zeros, images, jax.random.key(0))[1]

    options = compiler_options("cpu", run_once=True)
    found = jax.jit(apply, compiler_options=options)(variables["params"], images)
    stats = jax.tree.map(lambda s: np.asarray(s) / np.float32(1 - BatchNorm.momentum), found)
    return {"params": variables["params"], "batch_stats": stats}


def recovered(network, noise, seed=4, variables=None):
    """The permutation of a copy with noise, and the one that matching finds."""
    symmetry, rng = find_symmetry(network), np.random.default_rng(seed)
    a = variables or random_variables(network)
    truth = random_permutations(symmetry, rng)

    def disturb(leaf):
        return leaf + noise * leaf.std() * rng.standard_normal(leaf.shape).astype(np.float32)

    b = permute(a, symmetry, truth)
    b["params"] = jax.tree.map(disturb, b["params"])
    batches = [examples(network, 100, seed=s) for s in range(2)]
    return truth, match_units(network, symmetry, a, b, batches)


# Deep networks are wider here than above: more units can be mistaken for each other.
COPIES = {"vgg11": (0.1, (16, 16, 1)), "resnet20": (0.25, (8, 8, 3)), "vit_tiny": (0.05, (8, 8, 3))}


@pytest.mark.parametrize(
    "name",
    [
        *QUICK,
        pytest.param("shallow_vgg", marks=SLOW),
        *(pytest.param(f"shallow_{name}", marks=LONG) for name in ("resnet", "bottleneck", "vit")),
        *(pytest.param(name, marks=LONG) for name in COPIES),
    ],
)
def test_matching_finds_the_permutation_of_a_copy(name):
    """All units of all groups, with noise in all weights of the copy."""
    network, _ = make(name, *COPIES.get(name, ()))
    variables, noise = random_variables(network), 0.005
    if (
        name in COPIES
    ):  # in a deep network of random numbers units die, and those of a layer are alike
        images = np.concatenate([examples(network, 100, seed=s) for s in range(2)])
        variables, noise = with_statistics(network, variables, images), 1e-4
    truth, found = recovered(network, noise, variables=variables)
    assert_same(found, truth)


def test_matching_maximises_the_correlation_of_numpy():
    """Against `np.corrcoef` of all examples at once, with units that are constant."""
    network, _ = make("lenet_300_100", 0.03, (4, 4, 1))
    symmetry = find_symmetry(network)
    a, b = random_variables(network, 5), random_variables(network, 6)
    a["params"]["dense1"]["bias"][:3] = -100.0  # dead: zero for all examples
    b["params"]["dense1"]["kernel"][:, 4] = 0.0  # constant, and perhaps not zero
    images = [examples(network, count, seed=i) for i, count in enumerate((60, 60, 3))]
    found = match_units(network, symmetry, a, b, images)
    x = np.concatenate(images).reshape(-1, 16).astype(np.float64)
    for group, (first, second) in {
        "dense1": [np.maximum(0, x @ v["params"]["dense1"]["kernel"] + v["params"]["dense1"]["bias"])
                   for v in (a, b)],
    }.items():  # fmt: skip
        with np.errstate(all="ignore"):
            likeness = np.corrcoef(first.T, second.T)[: first.shape[1], first.shape[1] :]
        dead = (first.std(0) < 1e-9)[:, None] | (second.std(0) < 1e-9)
        likeness = np.where(dead, 0.0, likeness)
        assert sorted(found[group]) == list(range(len(likeness)))
        best = likeness[found[group], np.arange(len(likeness))].sum()
        rng = np.random.default_rng(0)
        others = [likeness[rng.permutation(len(likeness)), np.arange(len(likeness))].sum()
                  for _ in range(200)]  # fmt: skip
        swaps = []
        for i in range(len(likeness)):
            for j in range(i):
                order = found[group].copy()
                order[[i, j]] = order[[j, i]]
                swaps.append(likeness[order, np.arange(len(order))].sum())
        assert best >= max(*others, *swaps) - 1e-6
        assert np.isfinite(best) and best > 0


class Declared(Residual):
    """The same network, with its wiring."""

    def wiring(self):
        return {"first": ("", "x"), "second": ("x", "x"), "last": ("x", "")}


def test_a_shortcut_is_no_chain_until_it_is_declared():
    network = as_network(Residual(), (2, 2, 1))
    with pytest.raises(ConfigError, match=r"no plain chain of layers.*wiring\(\)"):
        check_symmetry(network, find_symmetry(network))
    network = as_network(Declared(), (2, 2, 1))
    symmetry = find_symmetry(network)
    assert symmetry.units == {"x": 8}
    check_symmetry(network, symmetry)


def test_a_wiring_that_does_not_fit_is_refused():
    class Wrong(Residual):
        def wiring(self):
            return {"first": ("", "x"), "secnd": ("x", "x")}

    class Narrow(Residual):
        def wiring(self):
            return {"first": ("", "x"), "last": ("", "x")}

    with pytest.raises(ConfigError, match="names 'secnd', but there is no such layer"):
        find_symmetry(as_network(Wrong(), (2, 2, 1)))
    with pytest.raises(ConfigError, match="other layers of 'x'"):
        find_symmetry(as_network(Narrow(), (2, 2, 1)))


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(networks.linen(own.MLP()), id="linen"),
        pytest.param(networks.nnx(lambda rngs: own.NNX(10, rngs=rngs)), id="nnx", marks=LONG),
    ],
)
def test_chains_of_ones_own_are_recognised(network):
    """With a normalisation after a hidden layer, in Linen and in NNX."""
    network = as_network(network, (8, 8, 1))
    symmetry = find_symmetry(network)
    check_symmetry(network, symmetry)
    truth, found = recovered(network, noise=0.02)
    assert_same(found, truth)


def test_an_nnx_module_declares_its_wiring():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.second = (nnx.Linear(8, 8, rngs=rngs) for _ in range(2))
            self.last = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.first(x))
            return self.last(x + nnx.relu(self.second(x)))

        def wiring(self):
            return Declared().wiring()

    network = as_network(networks.nnx(lambda rngs: Net(rngs)), (8,))
    symmetry = find_symmetry(network)
    assert symmetry.units == {"x": 8}
    check_symmetry(network, symmetry)


def test_a_network_without_these_methods_is_told_what_to_do():
    with pytest.raises(ConfigError, match=r"no methods wiring\(\) and layer_inputs\(\)"):
        find_symmetry(object())
