"""The cost of a network against sums by hand."""

import pytest

from lottery_jax.models import abstract_variables, build_model
from lottery_jax.models.cost import multiply_adds, multiply_adds_by_layer, prunable_sizes
from lottery_jax.models.network import LinenNetwork


def test_each_weight_of_a_dense_layer_is_used_once():
    network = LinenNetwork(build_model("lenet_300_100", 10), (28, 28, 1))
    assert multiply_adds(network) == 784 * 300 + 300 * 100 + 100 * 10 == 266_200


def test_each_weight_of_a_convolution_is_used_at_each_position():
    """Conv-2: two 3x3 convolutions of 64 channels, max-pooling, then 256, 256 and 10 units."""
    convolutions = (3 * 3 * 1 * 64 + 3 * 3 * 64 * 64) * 28 * 28
    dense = 14 * 14 * 64 * 256 + 256 * 256 + 256 * 10
    network = LinenNetwork(build_model("conv2", 10), (28, 28, 1))
    assert multiply_adds(network) == convolutions + dense
    by_layer = multiply_adds_by_layer(network)
    assert list(by_layer) == list(network.layer_names())
    assert list(by_layer.values())[1:3] == [3 * 3 * 64 * 64 * 28 * 28, 14 * 14 * 64 * 256]


def test_strides_and_shortcuts_count_by_their_outputs():
    """ResNet-20: three stages of six 3x3 convolutions at 32, 16 and 8 pixels."""
    expected, before = 3 * 3 * 3 * 16 * 32**2, 16
    for channels, pixels in ((16, 32), (32, 16), (64, 8)):
        expected += 3 * 3 * (before + 5 * channels) * channels * pixels**2
        if before != channels:
            expected += before * channels * pixels**2  # the shortcut's 1x1 convolution
        before = channels
    network = LinenNetwork(build_model("resnet20", 10), (32, 32, 3))
    assert multiply_adds(network) == expected + 64 * 10


@pytest.mark.parametrize("name, prunable", [("conv2", 3_316_800), ("lenet_300_100", 266_200)])
def test_the_prunable_weights_of_layers_add_up(name, prunable):
    model = build_model(name, 10)
    network = LinenNetwork(model, (28, 28, 1))
    sizes = prunable_sizes(network, abstract_variables(model, (28, 28, 1))["params"])
    assert sum(sizes.values()) == prunable
    assert set(sizes) == set(network.layer_names())
