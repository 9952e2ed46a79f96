"""The Linen adapter keeps the promises of `Network`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lottery_jax.models import build_model
from lottery_jax.models.network import LinenNetwork, as_network
from lottery_jax.pruning import masks
from tests.helpers import assert_same
from tests.own import small_vgg

SHAPE = (8, 6, 1)


def vgg(dtype="float32", shape=SHAPE):
    return LinenNetwork(small_vgg(4).clone(dtype=jnp.dtype(dtype)), shape)


@pytest.fixture(scope="module")
def variables():
    """Positive numbers, as running variances must be."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.uniform(0.1, 0.5, leaf.shape).astype(leaf.dtype),
        vgg().abstract_variables(),
    )


def images():
    return np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float32)


def test_equal_networks_share_a_compiled_program(variables):
    """Networks are static arguments: another dtype needs another program, an equal one does not."""
    traces = []

    def outputs(network, variables, inputs):
        traces.append(network)
        return network.apply_eval(variables["params"], variables["batch_stats"], inputs)

    jitted = jax.jit(outputs, static_argnums=0)
    for network in (vgg(), vgg(), vgg("bfloat16").with_dtype(jnp.float32), vgg("bfloat16")):
        jitted(network, variables, images())
    assert traces == [vgg(), vgg("bfloat16")]


@pytest.mark.slow
def test_another_dtype_computes_otherwise_with_the_same_variables(variables):
    outputs = [
        network.apply_eval(variables["params"], variables["batch_stats"], images())
        for network in (vgg(), vgg().with_dtype(jnp.bfloat16))
    ]
    assert [y.dtype for y in outputs] == [jnp.float32, jnp.bfloat16]
    np.testing.assert_allclose(outputs[0], outputs[1].astype(jnp.float32), rtol=0.1)
    assert vgg().with_dtype(jnp.bfloat16).abstract_variables() == vgg().abstract_variables()


@pytest.mark.slow
def test_training_updates_statistics_and_evaluation_reads_them(variables):
    params, stats = variables["params"], variables["batch_stats"]
    before = jax.tree.map(np.copy, variables)
    _, updated = vgg().apply_train(params, stats, images(), jax.random.key(0))
    assert jax.tree.structure(updated) == jax.tree.structure(stats)
    assert all(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(updated), jax.tree.leaves(stats), strict=True)
    )
    assert_same(variables, before)
    old, new = (vgg().apply_eval(params, s, images()) for s in (stats, updated))
    assert not np.allclose(old, new)


def test_a_network_without_statistics_has_an_empty_tree_of_them():
    network = LinenNetwork(build_model("lenet_300_100", 4, width=0.05), SHAPE)
    variables = network.init(jax.random.key(0))
    assert variables["batch_stats"] == {}
    _, updated = network.apply_train(variables["params"], {}, images(), jax.random.key(0))
    assert updated == {}


def test_a_function_after_layers_meets_each_layer_with_a_kernel_once(variables):
    """It meets them from the input to the output; BatchNorm and activations are no such layers."""
    network, met = vgg(), []

    def double(y):
        met.append(y.shape)
        return 2 * y

    params, stats = variables["params"], variables["batch_stats"]
    plain = network.apply_eval(params, stats, images())
    doubled = network.apply_eval(params, stats, images(), after_layer=double)
    channels = [params[name]["kernel"].shape[-1] for name in network.layer_names()]
    assert [shape[-1] for shape in met] == channels
    assert not np.allclose(plain, doubled)


def test_names_of_layers_are_those_of_their_masks():
    for name, shape in (("resnet20", (32, 32, 3)), ("conv2", (8, 8, 1))):
        network = LinenNetwork(build_model(name, 10, width=0.2), shape)
        params = network.abstract_variables()["params"]
        prunable = masks.kernels(params, prunable=network.is_prunable)
        assert sorted(network.layer_names()) == sorted(prunable) == sorted(masks.kernels(params))
        assert network.layer_names()[-1] == network.output_layer


def test_images_that_are_too_small_are_an_error():
    with pytest.raises(ValueError, match="can't be pooled"):
        LinenNetwork(build_model("vgg11", 4, width=0.05), (8, 8, 1)).layer_names()


def test_a_mask_as_variables_passes_signal_where_the_mask_does():
    network = vgg()
    mask = masks.ones_like(network.abstract_variables()["params"])
    rng = np.random.default_rng(2)
    for kernel in masks.kernels(mask).values():
        kernel[...] = rng.random(kernel.shape) < 0.5
    variables = network.mask_as_variables(mask)
    for name, kernel in masks.kernels(variables["params"]).items():
        np.testing.assert_array_equal(kernel, masks.kernels(mask)[name].astype(np.float32))
    norm, stats = variables["params"]["bn1_1"], variables["batch_stats"]["bn1_1"]
    assert (norm["scale"] == 1).all() and not np.any(norm["bias"])
    assert (stats["var"] == 1).all() and not np.any(stats["mean"])
    assert not np.any(variables["params"]["head"]["bias"])


def test_a_module_becomes_a_network_and_a_network_stays():
    network = vgg()
    assert as_network(network.module, SHAPE) == network
    assert as_network(network, (1, 1, 1)) is network
