"""Models: golden sizes and names."""

import functools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lottery_jax.errors import ConfigError
from lottery_jax.models import (
    FULLY_CONNECTED,
    MODELS,
    abstract_variables,
    build_model,
    init_variables,
    layer_names,
    layers,
)
from lottery_jax.pruning import masks

# (model, options, classes) -> (parameters, prunable weights). VGG19, ResNet50 (ImageNet stem) and
# AlexNet are those of the Generalizing Lottery Tickets experiments; LeNet and ConvN those of
# Frankle & Carbin (2019) at 28x28x1.
GOLDEN = {
    ("lenet_300_100", "", 10): (266_610, 266_200),
    ("conv2", "", 10): (3_317_450, 3_316_800),
    ("conv4", "", 10): (1_933_258, 1_932_352),
    ("conv6", "", 10): (1_802_698, 1_801_280),
    ("vgg11", "", 10): (9_231_114, 9_222_848),
    ("vgg13", "", 10): (9_416_010, 9_407_168),
    ("vgg16", "", 10): (14_728_266, 14_715_584),
    ("vgg19", "", 10): (20_040_522, 20_024_000),
    ("vgg19", "", 100): (20_086_692, 20_070_080),
    ("resnet20", "cifar", 10): (272_474, 270_896),
    ("resnet32", "cifar", 10): (466_906, 464_432),
    ("resnet56", "cifar", 10): (855_770, 851_504),
    ("resnet18", "cifar", 10): (11_173_962, 11_164_352),
    ("resnet34", "cifar", 10): (21_282_122, 21_265_088),
    ("resnet50", "cifar", 10): (23_520_842, 23_467_712),
    ("resnet50", "imagenet", 10): (23_528_522, 23_475_392),
    ("resnet50", "imagenet", 100): (23_712_932, 23_659_712),
    ("alexnet", "", 10): (23_272_266, 23_262_912),
    ("alexnet", "", 100): (23_640_996, 23_631_552),
    # By hand: 12 blocks of 12 * 192**2 weights, patches of 4x4x3, a class token and 64 positions.
    ("vit_tiny", "", 10): (5_362_762, 5_319_552),
}


def input_shape(name):
    return (28, 28, 1) if name.startswith(("lenet", "conv")) else (32, 32, 3)


def build(name, stem, classes, **options):
    return build_model(name, classes, **({"stem": stem} if stem else {}), **options)


@pytest.mark.long
def test_weights_are_drawn_as_documented():
    """VGG's Xavier normal is not truncated; biases are 0, BatchNorm starts as the identity."""
    variables = init_variables(build_model("vgg11", 10, width=0.5), jax.random.key(0), (16, 16, 1))
    layer = variables["params"]["conv5_1"]
    kernel = np.asarray(layer["kernel"])
    std = np.sqrt(2 / (9 * 256 + 9 * 256))
    np.testing.assert_allclose(kernel.std(), std, rtol=0.01)
    assert np.abs(kernel).max() > 3.5 * std
    assert not layer["bias"].any()
    norm = variables["params"]["bn5_1"]
    assert (norm["scale"] == 1).all() and not norm["bias"].any()


@functools.cache
def abstract_params(name, stem, classes):
    return abstract_variables(build(name, stem, classes), input_shape(name))["params"]


@pytest.mark.parametrize("name, stem, classes", GOLDEN)
def test_golden_sizes(name, stem, classes):
    params = abstract_params(name, stem, classes)
    sizes = (
        sum(leaf.size for leaf in jax.tree.leaves(params)),
        sum(leaf.size for leaf in masks.kernels(params).values()),
    )
    assert sizes == GOLDEN[name, stem, classes]


def test_every_model_has_a_golden_size():
    assert set(MODELS) == {name for name, _, _ in GOLDEN}


def test_networks_without_a_convolution_are_known():
    """`choose_layout` needs to know before any device is there."""
    for name, stem, classes in GOLDEN:
        kernels = masks.kernels(abstract_params(name, stem, classes)).values()
        assert (name in FULLY_CONNECTED) == all(kernel.ndim == 2 for kernel in kernels), name


@pytest.mark.parametrize(
    "name, stem, millions",
    [("vgg19", "", 398.1), ("resnet50", "imagenet", 83.4), ("alexnet", "", 62.7)],
)
def test_golden_multiply_adds(name, stem, millions):
    """Strides, paddings and poolings: each output pixel costs one pass over the kernel."""
    model, total = build(name, stem, 10), 0

    def count(call, args, kwargs, context):
        nonlocal total
        out = call(*args, **kwargs)
        if (
            isinstance(context.module, (layers.Conv, nn.Dense))
            and context.method_name == "__call__"
        ):
            kernel = context.module.variables["params"]["kernel"]
            total += kernel.size * (out.size // (out.shape[0] * out.shape[-1]))
        return out

    variables = abstract_variables(model, (32, 32, 3))
    with nn.intercept_methods(count):
        jax.eval_shape(
            lambda v, x: model.apply(v, x, train=False), variables, jnp.zeros((1, 32, 32, 3))
        )
    assert round(total / 1e6, 1) == millions


# One of each family; the others are `long`.
SMALL = ("lenet_300_100", "conv2", "vgg11", "resnet20", "alexnet", "vit_tiny")


@pytest.mark.parametrize(
    "name, dtype",
    [
        *(pytest.param(name, "float32", marks=[pytest.mark.long] * (name not in SMALL))
          for name in MODELS),
        *((name, "bfloat16") for name in ("conv2", "resnet20")),
        *(pytest.param(name, "bfloat16", marks=pytest.mark.long) for name in ("vgg11", "alexnet")),
    ],
)  # fmt: skip
def test_a_narrow_one_gives_finite_logits_from_float32_parameters(name, dtype):
    model = build_model(name, 7, width=0.05, dtype=dtype)
    shapes = abstract_variables(model, (32, 32, 3))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    rng = np.random.default_rng(0)
    # Positive, as running variances must be.
    variables = jax.tree.map(lambda a: rng.uniform(0.01, 0.2, a.shape).astype(a.dtype), shapes)
    x = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    logits = jax.jit(partial(model.apply, train=False))(variables, x)
    assert logits.shape == (2, 7)
    assert logits.dtype == dtype
    assert np.isfinite(np.asarray(logits, np.float32)).all()
    assert not np.array_equal(logits[0], logits[1])


def test_layer_names_run_from_input_to_output():
    names = layer_names(build_model("resnet20", 10), (32, 32, 3))
    assert names[:3] == ["stem", "block1_1/conv1", "block1_1/conv2"]
    assert names[7:10] == ["block2_1/conv1", "block2_1/conv2", "block2_1/shortcut"]
    assert names[-1] == "head"
    assert layer_names(build_model("vgg19", 10), (32, 32, 3))[8] == "conv4_1"


def test_an_unknown_model_is_an_error_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"did you mean 'vgg19'"):
        build_model("vgg91", 10)
    with pytest.raises(ConfigError, match="config.model.stem"):
        build_model("resnet18", 10, stem="cifarr")
    with pytest.raises(ConfigError, match="does not take these options"):
        build_model("vgg19", 10, stem="cifar")
