"""Convolution, pooling and BatchNorm: against NumPy and the library, and what they compile to."""

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from numpy.lib.stride_tricks import sliding_window_view

from lottery_jax.models import build_model, convolution, init_variables, layers
from lottery_jax.models.xla_options import compiler_options
from lottery_jax.parallel.mesh import make_mesh, to_mesh
from lottery_jax.pruning import masks
from lottery_jax.training import optim
from lottery_jax.training.batches import DeviceData, epoch_order
from lottery_jax.training.program import init_device_state, make_program
from lottery_jax.training.state import MetricSums

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def numpy_convolution(x, kernel, stride, padding, gradient):
    """Return the output and the gradients of its product with `gradient`, all in float64."""
    kh, kw, _, _ = kernel.shape
    around = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(x.astype(np.float64), around)
    windows = sliding_window_view(padded, (kh, kw), (1, 2))[:, ::stride, ::stride]
    y = np.einsum("nhwcij,ijco->nhwo", windows, kernel)
    of_kernel = np.einsum("nhwcij,nhwo->ijco", windows, gradient)
    of_padded = np.zeros_like(padded)
    for row in range(y.shape[1]):
        for column in range(y.shape[2]):
            window = np.einsum("no,ijco->nijc", gradient[:, row, column], kernel)
            i, j = row * stride, column * stride
            of_padded[:, i : i + kh, j : j + kw] += window
    height, width = x.shape[1:3]
    return y, of_padded[:, padding : padding + height, padding : padding + width], of_kernel


def with_gradients(function, x, kernel, gradient):
    y, backward = jax.vjp(function, x, kernel)
    return y, *backward(gradient)


@st.composite
def convolutions(draw):
    count = draw(st.sampled_from([1, 2, 3, 5, 7]))
    padding = draw(st.integers(0, 3))
    least = max(1, count - 2 * padding)
    height, width = (draw(st.integers(least, least + 5)) for _ in range(2))
    return height, width, count, draw(st.integers(1, 3)), padding


@pytest.mark.slow
@settings(max_examples=8)
@given(convolutions())
def test_a_convolution_is_the_sum_it_should_be(shape):
    """Any size, odd or not square, stride and padding: values and both gradients."""
    check_convolution("chosen", shape)


@pytest.mark.long
@settings(max_examples=40)
@given(convolutions())
@pytest.mark.parametrize("formula", ["chosen", "taps"])
def test_many_convolutions_are_the_sums_they_should_be(formula, shape):
    check_convolution(formula, shape)


def check_convolution(formula, shape):
    height, width, count, stride, padding = shape
    # XLA itself aborts on some gradients of the library's convolution with an even kernel.
    assume(count % 2 or formula == "taps")
    function = convolution.conv2d if formula == "chosen" else convolution.taps
    x, kernel = normal(2, height, width, 3), normal(count, count, 3, 4)
    y = jax.eval_shape(lambda x, k: function(x, k, stride, padding), x, kernel)
    gradient = normal(*y.shape)
    ours = jax.jit(
        partial(with_gradients, lambda x, k: function(x, k, stride, padding)),
        compiler_options=compiler_options("cpu"),
    )(x, kernel, gradient)
    for a, b in zip(ours, numpy_convolution(x, kernel, stride, padding, gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=5e-5)


def test_a_kernel_gradient_in_parts_is_the_whole(monkeypatch):
    x, kernel, gradient = normal(8, 6, 6, 3), normal(3, 3, 3, 4), normal(8, 6, 6, 4)

    def run():
        function = jax.jit(partial(with_gradients, lambda x, k: convolution.conv2d(x, k, 1, 1)))
        text = function.lower(x, kernel, gradient).as_text()
        return text.count("stablehlo.convolution"), function(x, kernel, gradient)

    whole, expected = run()
    written_out = 4 * x.shape[0] * 6 * 6 * 9 * 3
    monkeypatch.setattr(convolution, "_FRESH", written_out // 4)
    parts, ours = run()
    assert (whole, parts) == (3, 2 + 4)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_taps_keep_the_dtype_and_add_up_in_at_least_float32(dtype):
    with jax.enable_x64(dtype == "float64"):
        x, kernel = (jnp.asarray(a, dtype) for a in (normal(2, 2, 2, 64), normal(3, 3, 64, 8)))
        y = convolution.taps(x, kernel, 1, 1)
        assert y.dtype == dtype
        wide = numpy_convolution(
            np.asarray(x, np.float64), np.asarray(kernel, np.float64), 1, 1, np.zeros((2, 2, 2, 8))
        )[0]
        np.testing.assert_allclose(
            np.asarray(y, np.float64), wide, rtol=0, atol=float(jnp.finfo(dtype).eps) * 512
        )


@pytest.mark.long
def test_a_gradient_can_be_differentiated_again():
    """GraSP needs forward over reverse mode; compared with differences of gradients."""
    x, kernel = normal(2, 4, 4, 3), normal(3, 3, 3, 4)

    def loss(x, kernel):
        return (layers.max_pool2(convolution.conv2d(x, kernel, 1, 1)) ** 3).sum()

    direction = normal(*kernel.shape)
    gradient = jax.grad(loss, 1)
    _, product = jax.jvp(lambda k: gradient(x, k), (kernel,), (direction,))
    with jax.enable_x64(True):

        def library(x, kernel):
            y = convolution.library(x, kernel, 1, 1)
            return (nn.max_pool(y, (2, 2), (2, 2)) ** 3).sum()

        wide = jax.grad(library, 1)
        x64, k64, d64 = (np.asarray(a, np.float64) for a in (x, kernel, direction))
        expected = (wide(x64, k64 + 1e-6 * d64) - wide(x64, k64 - 1e-6 * d64)) / 2e-6
    np.testing.assert_allclose(product, expected, rtol=1e-3, atol=1e-2)


def step_and_arguments(name="vgg19", batch=8):
    """Return a narrow network's train step and its arguments, on one device."""
    model = build_model(name, 10, width=0.1)
    shape = (32, 32, 3)
    program = make_program(
        model,
        optim.make_optimizer("sgd", momentum=0.9, weight_decay=1e-4),
        optim.make_schedule("constant", 0.1, steps_per_epoch=2, epochs=1),
        mesh=make_mesh(jax.devices()[:1]),
        examples=2 * batch,
        batch_size=batch,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    variables = jax.jit(lambda key: init_variables(model, key, shape))(jax.random.key(0))
    state = init_device_state(program, variables, masks.ones_like(variables["params"]), 0)
    images = RNG.integers(0, 256, (2 * batch, *shape), dtype=np.uint8)
    data = to_mesh(program.mesh, DeviceData(images, np.zeros(2 * batch, np.int32)))
    key = jax.random.key(1)
    order = epoch_order(key, np.int32(0), examples=2 * batch, batch_size=batch)
    return program.train_step, (state, to_mesh(program.mesh, MetricSums.zero()), data, order, key)


@pytest.mark.long
@pytest.mark.parametrize("platform", ["cuda", pytest.param("tpu", marks=pytest.mark.long)])
def test_on_gpu_and_tpu_every_convolution_is_the_librarys(platform):
    """VGG19 has 16: forward, kernel gradient, and all but the first an input gradient."""
    step, arguments = step_and_arguments()
    text = jax.export.export(step, platforms=[platform])(*arguments).mlir_module()
    assert text.count("stablehlo.convolution(") == 3 * 16 - 1
    # The dense head alone: forward, and both gradients.
    assert text.count("stablehlo.dot_general ") == 3
    assert text.count("stablehlo.optimization_barrier") == 1


@pytest.mark.long
def test_on_cpu_small_images_are_matrix_products():
    step, arguments = step_and_arguments()
    text = jax.export.export(step, platforms=["cpu"])(*arguments).mlir_module()
    # The stages of 32, 16 and 8 pixels, and the kernel gradients at 4: 8 layers and 4.
    assert text.count("stablehlo.convolution(") == 3 * 8 - 1 + 4
    # At 4 pixels 9 taps, forward and back; at 2 also for the kernel.
    assert text.count("stablehlo.dot_general ") == 3 + 4 * 2 * 9 + 4 * 3 * 9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv2", pytest.param("alexnet", marks=pytest.mark.long)])
def test_weights_are_updated_in_place(name):
    """The new state takes the memory of the old one, without a copy of weights."""
    step, arguments = step_and_arguments(name)
    compiled = step.lower(*arguments).compile()
    state = arguments[0]
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert compiled.memory_analysis().alias_size_in_bytes >= size
    kernel = state.params["dense2"]["kernel"]
    shape = ",".join(map(str, kernel.shape))
    assert not re.search(rf"= f32\[{shape}\]\S* copy\(%state_params", compiled.as_text())
    step(*arguments)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_batch_norm_is_flaxs():
    """Output, statistics and gradients when training, and the output in evaluation."""
    x, weight = normal(4, 3, 5, 6) * 2 + 1, normal(4, 3, 5, 6)
    params = {"scale": normal(6), "bias": normal(6)}
    stats = {"mean": normal(6), "var": np.abs(normal(6)) + 0.1}

    def run(module, x, params):
        y, updated = module.apply(
            {"params": params, "batch_stats": stats}, x, mutable=["batch_stats"]
        )
        return (y * weight).sum(), (y, updated["batch_stats"])

    def results(module):
        gradient = jax.jit(jax.grad(partial(run, module), (0, 1), has_aux=True))
        return gradient(x, params)

    for train in (True, False):
        ours = results(layers.BatchNorm(train))
        flaxs = results(nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5))
        assert jax.tree.structure(ours) == jax.tree.structure(flaxs)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(flaxs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_batch_norm_starts_as_flaxs_does():
    ours = layers.BatchNorm(True).init(jax.random.key(0), normal(2, 2, 2, 3))
    flaxs = nn.BatchNorm(False).init(jax.random.key(0), normal(2, 2, 2, 3))
    assert jax.tree.structure(ours) == jax.tree.structure(flaxs)
    jax.tree.map(np.testing.assert_array_equal, ours, flaxs)


def test_the_statistics_of_a_batch_have_gradients_too():
    with jax.enable_x64(True):
        arguments = RNG.normal(size=(3, 2, 2, 4)), RNG.normal(size=4), RNG.normal(size=4)
        check_grads(lambda *a: layers._normalise(*a, 1e-5), arguments, order=1, modes=["rev"])


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 5, 7, 2)])
def test_max_pool_is_the_librarys_and_so_is_its_gradient_without_ties(shape):
    x = normal(*shape)

    def library(x):
        return nn.max_pool(x, (2, 2), (2, 2))

    np.testing.assert_array_equal(layers.max_pool2(x), library(x))
    weight = normal(*library(x).shape)
    ours = jax.grad(lambda x: (layers.max_pool2(x) * weight).sum())(x)
    np.testing.assert_allclose(ours, jax.grad(lambda x: (library(x) * weight).sum())(x))


def test_ties_share_the_gradient():
    x = np.array([[3.0, 3.0], [1.0, 3.0]], np.float32).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda x: 6 * layers.max_pool2(x).sum())(x)
    np.testing.assert_array_equal(gradient.reshape(2, 2), [[2, 2], [0, 2]])
