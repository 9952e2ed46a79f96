"""Each score equals a computation that shares no code with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lottery_jax.models import abstract_variables, build_model
from lottery_jax.models.network import LinenNetwork
from lottery_jax.models.vgg import VGG
from lottery_jax.pruning import masks, schedule, scores
from lottery_jax.training.task import CLASSIFICATION, BatchLoss, SummedOutput, Task

SHAPE, CLASSES = (4, 4, 1), 3
STAGES = ((4,), (6, 6))  # of a VGG: the channels of the convolutions of each
KEY = jax.random.key(5)


def numpy_variables(model, shape, rng):
    """Weights of a sensible size and BatchNorm statistics that are not the initial ones."""
    found = abstract_variables(model, shape)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return (rng.normal(size=leaf.shape) * np.sqrt(2 / fan_in)).astype(np.float32)
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, found)


def snip(model, params, stats, images, labels, key=KEY):
    """SNIP's scores of a network of this package for its cross-entropy."""
    loss = BatchLoss(LinenNetwork(model), CLASSIFICATION)
    return scores.snip(loss, params, batches(stats, images, labels, key))


def batches(stats, images, labels, key=KEY):
    keys = jax.random.split(key, len(labels))
    return [scores.ScoreBatch(stats, *row) for row in zip(images, labels, keys, strict=True)]


def grasp(model, params, mask, images, labels, temperature=200.0):
    loss = BatchLoss(LinenNetwork(model), CLASSIFICATION, temperature)
    return scores.grasp(loss, params, mask, batches({}, images, labels))


def synflow(model, params, stats, shape):
    output = SummedOutput(LinenNetwork(model).with_dtype(jnp.float64))
    return scores.synflow(output, params, stats, np.ones((1, *shape)))


@pytest.fixture(scope="module")
def mlp():
    """(model, params, images of three batches, labels) of LeNet with few units."""
    rng = np.random.default_rng(0)
    model = build_model("lenet_300_100", CLASSES, width=0.03)
    params = numpy_variables(model, SHAPE, rng)["params"]
    images = rng.normal(size=(3, 6, *SHAPE)).astype(np.float32)
    return model, params, images, rng.integers(0, CLASSES, (3, 6)).astype(np.int32)


LAYERS = ("dense1", "dense2", "head")


def numpy_gradient(params, images, labels, temperature=1.0):
    """Backpropagation by hand in float64: mean cross-entropy of a network of dense layers."""
    weights = [np.asarray(params[n]["kernel"], np.float64) for n in LAYERS]
    biases = [np.asarray(params[n]["bias"], np.float64) for n in LAYERS]
    activations, hidden = [np.asarray(images, np.float64).reshape(len(images), -1)], None
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        hidden = activations[-1] @ w + b
        activations.append(np.maximum(hidden, 0) if i < 2 else hidden)
    logits = activations.pop() / temperature
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    delta = p / p.sum(axis=1, keepdims=True) - np.eye(CLASSES)[labels]
    delta /= temperature * len(images)
    grads = {}
    for name, w, a in zip(reversed(LAYERS), reversed(weights), reversed(activations), strict=True):
        grads[name] = a.T @ delta
        delta = (delta @ w.T) * (a > 0)
    return grads


def numpy_loss(params, images, labels):
    x = np.asarray(images, np.float64).reshape(len(images), -1)
    for name in LAYERS:
        x = x @ np.asarray(params[name]["kernel"], np.float64) + params[name]["bias"]
        x = np.maximum(x, 0) if name != "head" else x
    x -= x.max(axis=1, keepdims=True)
    return (np.log(np.exp(x).sum(axis=1)) - x[np.arange(len(x)), labels]).mean()


def mean_gradient(params, images, labels, **kwargs):
    each = [numpy_gradient(params, x, y, **kwargs) for x, y in zip(images, labels, strict=True)]
    return {name: np.mean([g[name] for g in each], axis=0) for name in LAYERS}


def test_snip_is_the_effect_of_scaling_each_connection(mlp):
    """The paper's definition: finite differences of the loss over each weight's multiplier."""
    model, params, images, labels = mlp
    found = snip(model, params, {}, images[:1], labels[:1])
    step = 1e-5
    for name in LAYERS:
        kernel = np.asarray(params[name]["kernel"], np.float64)
        expected = np.zeros_like(kernel)
        for place in np.ndindex(kernel.shape):
            losses = []
            for sign in (1, -1):
                moved = kernel.copy()
                moved[place] *= 1 + sign * step
                other = {**params, name: {**params[name], "kernel": moved}}
                losses.append(numpy_loss(other, images[0], labels[0]))
            expected[place] = abs(losses[0] - losses[1]) / (2 * step)
        np.testing.assert_allclose(found[name]["kernel"], expected, atol=1e-6)


def test_snip_averages_gradients_over_batches_before_the_absolute_value(mlp):
    model, params, images, labels = mlp
    found = snip(model, params, {}, images, labels)
    grads = mean_gradient(params, images, labels)
    for name in LAYERS:
        expected = np.abs(grads[name] * params[name]["kernel"])
        np.testing.assert_allclose(found[name]["kernel"], expected, rtol=2e-4, atol=1e-7)


def quadratic(params, batch):
    """Return a loss of a plain dict of arrays, whose gradient and Hessian are known."""
    x, y = batch
    residual = x @ params["w"] + params["b"] - y
    return 0.5 * (residual**2).mean()


@pytest.fixture(scope="module")
def regression():
    rng = np.random.default_rng(9)
    params = {"w": rng.normal(size=4).astype(np.float32), "b": np.float32(0.3)}
    return (
        params,
        [rng.normal(size=(5, 4)).astype(np.float32) for _ in range(3)],
        rng.normal(size=(3, 5)).astype(np.float32),
    )


def test_snip_of_any_loss_on_any_tree(regression):
    params, xs, ys = regression
    grads = {"w": np.zeros(4), "b": 0.0}
    for x, y in zip(xs, ys, strict=True):
        residual = (x @ params["w"] + params["b"] - y).astype(np.float64)
        grads["w"] += x.T @ residual / 15
        grads["b"] += residual.sum() / 15
    found = scores.snip(quadratic, params, zip(xs, ys, strict=True))  # batches that come once
    for name, grad in grads.items():
        np.testing.assert_allclose(found[name], np.abs(grad * params[name]), rtol=1e-4)


def test_batches_are_needed(regression):
    params, mask = regression[0], masks.ones_like(regression[0])
    for score in (
        lambda batches: scores.snip(quadratic, params, batches),
        lambda batches: scores.grasp(quadratic, params, mask, batches),
    ):
        with pytest.raises(ValueError, match="batches: there is none"):
            score([])


def test_grasp_of_any_loss_on_any_tree(regression):
    """The Hessian of a quadratic loss is x^T x / n; the bias is not prunable and has no part."""
    params, xs, ys = regression
    mask = {"w": np.array([True, False, True, True]), "b": np.array(True)}
    params = {**params, "w": np.where(mask["w"], params["w"], np.float32(0))}
    pairs = list(zip(xs, ys, strict=True))
    residuals = [(x @ params["w"] + params["b"] - y).astype(np.float64) for x, y in pairs]
    gradient = sum(x.T @ r for (x, _), r in zip(pairs, residuals, strict=True)) / 15
    hessian = sum(x.astype(np.float64).T @ x for x, _ in pairs) / 15
    found = scores.grasp(
        quadratic, params, mask, zip(xs, ys, strict=True), prunable=lambda path, _: path == "w"
    )
    expected = params["w"] * (hessian @ np.where(mask["w"], gradient, 0))
    np.testing.assert_allclose(found["w"], expected, rtol=1e-3, atol=1e-6)


def test_equal_losses_share_one_compiled_gradient(mlp):
    """A loss made anew in each round, of an equal network, is not traced again."""
    _, params, images, labels = mlp
    traces = []

    def traced(logits, labels):
        traces.append(logits)
        return CLASSIFICATION.loss(logits, labels)

    task = Task(traced, CLASSIFICATION.metric_sums)
    for _ in range(3):
        loss = BatchLoss(LinenNetwork(build_model("lenet_300_100", CLASSES, width=0.03)), task)
        scores.snip(loss, params, batches({}, images, labels))
    assert len(traces) == 1
    scores.snip(BatchLoss(loss.network, task, 2.0), params, batches({}, images, labels))
    assert len(traces) == 2


def test_products_for_scores_keep_all_bits_of_float32(mlp):
    """TF32 and bfloat16, the defaults of GPUs and TPUs, would reorder weights."""
    model, params, images, labels = mlp
    loss = BatchLoss(LinenNetwork(model), CLASSIFICATION)
    batch = batches({}, images, labels)[0]
    for compute in (
        lambda p: scores.snip(loss, p, [batch]),
        lambda p: scores.grasp(loss, p, masks.ones_like(params), [batch]),
    ):
        text = str(jax.make_jaxpr(compute)(params))
        products = [line for line in text.splitlines() if "dot_general[" in line]
        precisions = text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
        assert precisions == len(products) > 0


def test_grasp_is_weight_times_hessian_times_gradient(mlp):
    """The Hessian's product with the gradient is computed by finite differences of gradients."""
    model, params, images, labels = mlp
    rng = np.random.default_rng(3)
    mask = jax.tree.map(lambda p: rng.random(p.shape) < 0.7 if p.ndim > 1 else p == p, params)
    params = jax.tree.map(lambda m, p: np.where(m, p, 0), mask, params)
    found = grasp(model, params, mask, images, labels, temperature=2.0)
    grads = mean_gradient(params, images, labels, temperature=2.0)
    step, sides = 1e-5, []
    for sign in (1, -1):
        moved = {
            name: {
                "kernel": params[name]["kernel"]
                + sign * step * np.where(mask[name]["kernel"], grads[name], 0),
                "bias": params[name]["bias"],
            }
            for name in LAYERS
        }
        sides.append(mean_gradient(moved, images, labels, temperature=2.0))
    for name in LAYERS:
        product = (sides[0][name] - sides[1][name]) / (2 * step)
        expected = params[name]["kernel"] * product
        np.testing.assert_allclose(
            found[name]["kernel"], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
        )


def test_synflow_is_the_flow_through_every_path(mlp):
    """R is a product of matrices; a weight's score is the part of it that passes through."""
    model, params, _, _ = mlp
    params = {n: {"kernel": p["kernel"], "bias": np.zeros_like(p["bias"])}
              for n, p in params.items()}  # fmt: skip
    found = synflow(model, params, {}, SHAPE)
    weights = [np.abs(np.asarray(params[n]["kernel"], np.float64)) for n in LAYERS]
    into = np.ones(16)
    for i, name in enumerate(LAYERS):
        out = np.ones(CLASSES)
        for w in reversed(weights[i + 1 :]):
            out = w @ out
        expected = weights[i] * into[:, None] * out[None, :]
        np.testing.assert_allclose(found[name]["kernel"], expected, rtol=1e-12)
        assert found[name]["kernel"].dtype == np.float64
        into = into @ weights[i]


@pytest.fixture(scope="module")
def vgg():
    """(model, variables) with BatchNorm, max-pooling and, at first, no biases."""
    model = VGG(CLASSES, STAGES)
    return model, numpy_variables(model, (16, 16, 1), np.random.default_rng(1))


def without_offsets(variables):
    """Biases and running means 0: the network is then linear in each layer's |w|."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * (path[-1].key not in ("bias", "mean")), variables
    )


@pytest.mark.slow
def test_synflow_is_conserved_from_layer_to_layer(vgg):
    """Tanaka et al., theorem 1: every layer's scores sum to the same R; here with BatchNorm."""
    model, variables = vgg
    variables = without_offsets(variables)
    found = synflow(model, variables["params"], variables["batch_stats"], (16, 16, 1))
    sums = [kernel.sum() for kernel in masks.kernels(found).values()]
    assert len(sums) == 4
    np.testing.assert_allclose(sums, sums[0], rtol=1e-9)


@pytest.mark.slow
def test_synflow_survives_what_overflows_float32(vgg):
    model, variables = vgg
    variables = without_offsets(variables)
    small = synflow(model, variables["params"], variables["batch_stats"], (16, 16, 1))
    large = masks.with_kernels(
        variables["params"],
        {n: k * np.float32(1e13) for n, k in masks.kernels(variables["params"]).items()},
    )
    found = synflow(model, large, variables["batch_stats"], (16, 16, 1))
    for name, kernel in masks.kernels(found).items():
        assert kernel.max() > np.finfo(np.float32).max
        np.testing.assert_allclose(kernel, masks.kernels(small)[name] * 1e52, rtol=1e-5)


@pytest.mark.slow
def test_scores_that_look_at_data_use_the_batchs_statistics_and_move_none(vgg):
    """Other running statistics, the same scores; and what was given is unchanged."""
    model, variables = vgg
    rng = np.random.default_rng(2)
    images = rng.normal(size=(2, 5, 16, 16, 1)).astype(np.float32)
    labels = rng.integers(0, CLASSES, (2, 5)).astype(np.int32)
    before = jax.tree.map(np.copy, variables)
    other = jax.tree.map(lambda s: s * 3 + 1, variables["batch_stats"])
    params = variables["params"]
    one = snip(model, params, variables["batch_stats"], images, labels)
    two = snip(model, params, other, images, labels)
    jax.tree.map(np.testing.assert_array_equal, one, two)
    jax.tree.map(np.testing.assert_array_equal, variables, before)


@pytest.mark.slow
def test_snip_agrees_with_pytorch_autograd(vgg):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    model, variables = vgg
    rng = np.random.default_rng(4)
    images = rng.normal(size=(1, 6, 16, 16, 1)).astype(np.float32)
    labels = rng.integers(0, CLASSES, (1, 6)).astype(np.int32)
    params, stats = variables["params"], variables["batch_stats"]
    found = snip(model, params, stats, images, labels)

    kernels = {
        name: torch.tensor(np.ascontiguousarray(np.moveaxis(k, (-1, -2), (0, 1)))).requires_grad_()
        for name, k in masks.kernels(params).items()
    }
    x = torch.tensor(images[0]).permute(0, 3, 1, 2)
    for stage, widths in enumerate(STAGES, 1):
        x = F.max_pool2d(x, 2) if stage > 1 else x
        for i in range(1, len(widths) + 1):
            bias = torch.tensor(params[f"conv{stage}_{i}"]["bias"])
            norm = params[f"bn{stage}_{i}"]
            x = F.conv2d(x, kernels[f"conv{stage}_{i}"], bias, padding=1)
            x = F.batch_norm(
                x, None, None, torch.tensor(norm["scale"]), torch.tensor(norm["bias"]),
                training=True,
            )  # fmt: skip
            x = F.relu(x)
    x = F.linear(x.mean(dim=(2, 3)), kernels["head"], torch.tensor(params["head"]["bias"]))
    F.cross_entropy(x, torch.tensor(labels[0], dtype=torch.long)).backward()
    for name, kernel in kernels.items():
        expected = (kernel.grad * kernel).abs().detach().numpy()
        expected = np.moveaxis(expected, (0, 1), (-1, -2))
        np.testing.assert_allclose(
            masks.kernels(found)[name], expected, rtol=2e-3, atol=1e-3 * expected.max()
        )


@pytest.mark.slow
def test_snip_with_dropout_is_a_function_of_the_key():
    """AlexNet: the same key gives the same scores, another key others."""
    model = build_model("alexnet", CLASSES, width=0.01)
    rng = np.random.default_rng(1)
    params = numpy_variables(model, (32, 32, 3), rng)["params"]
    images = rng.normal(size=(1, 4, 32, 32, 3)).astype(np.float32)
    labels = np.zeros((1, 4), np.int32)
    a, b, c = (snip(model, params, {}, images, labels, jax.random.key(k)) for k in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert not np.array_equal(a["dense2"]["kernel"], c["dense2"]["kernel"])


def test_random_scores_do_not_look_at_the_weights(mlp):
    _, params, _, _ = mlp
    one = scores.random(params, KEY)
    two = scores.random(jax.tree.map(lambda p: p * 0 + 7, params), KEY)
    jax.tree.map(np.testing.assert_array_equal, one, two)
    other = scores.random(params, jax.random.key(6))
    assert not np.array_equal(one["head"]["kernel"], other["head"]["kernel"])


def test_random_pruning_is_uniform_over_all_layers():
    params = {"big": {"kernel": np.zeros((200, 500))}, "small": {"kernel": np.zeros((50, 100))}}
    mask = masks.prune(scores.random(params, KEY), masks.ones_like(params), 0.9)
    for kept, total in masks.layer_counts(mask).values():
        assert abs(kept - 0.1 * total) < 5 * np.sqrt(0.09 * total)


def erdos_renyi_kernel(shapes, density):
    """Evci et al. (2020): raise epsilon until the count is right; full layers leave the sum."""
    dense = set()
    while True:
        sizes = {n: np.prod(s) for n, s in shapes.items()}
        wanted = density * sum(sizes.values()) - sum(sizes[n] for n in dense)
        epsilon = wanted / sum(sum(s) for n, s in shapes.items() if n not in dense)
        full = {n for n, s in shapes.items()
                if n not in dense and epsilon * sum(s) >= sizes[n]}  # fmt: skip
        if not full:
            return {n: sizes[n] if n in dense else epsilon * sum(s) for n, s in shapes.items()}
        dense |= full


@pytest.mark.parametrize("density", [0.5, 0.1, 0.02])
def test_erk_gives_the_layers_the_densities_of_the_rule(density):
    shapes = {"a": (3, 3, 3, 16), "b": (3, 3, 16, 64), "c": (3, 3, 64, 64), "head": (64, 10)}
    params = {name: {"kernel": np.zeros(shape, np.float32)} for name, shape in shapes.items()}
    mask = masks.prune(scores.erk(params, KEY), masks.ones_like(params), 1 - density)
    expected = erdos_renyi_kernel(shapes, density)
    for name, (kept, _) in masks.layer_counts(mask).items():
        assert abs(kept - expected[name]) <= 2, name
    assert density < 0.2 or masks.layer_counts(mask)["a"][0] == 432
    other = masks.prune(scores.erk(params, jax.random.key(8)), masks.ones_like(params), 1 - density)
    assert not np.array_equal(other["c"]["kernel"], mask["c"]["kernel"])


def test_rounds_end_at_the_exact_count_and_nest():
    rng = np.random.default_rng(0)
    params = {"a": {"kernel": rng.normal(size=(30, 40))}, "b": {"kernel": rng.normal(size=(40, 5))}}
    seen = []

    def score(mask, done):
        seen.append((done, mask))
        return {n: {"kernel": rng.random(p["kernel"].shape)} for n, p in params.items()}

    mask = schedule.prune_iteratively(score, masks.ones_like(params), {("a", "b"): 14}, 7)
    steps = [masks.counts(m)[0] for _, m in seen] + [masks.counts(mask)[0]]
    assert [done for done, _ in seen] == list(range(7))
    # The density falls by the same factor each time: 1400 * 100 ** (-round / 7).
    assert steps == [round(1400 * 0.01 ** (r / 7)) for r in range(8)]
    for (_, before), after in zip(seen, [m for _, m in seen[1:]] + [mask], strict=True):
        assert not any((after[n]["kernel"] & ~before[n]["kernel"]).any() for n in params)


def test_rounds_by_layer_keep_each_layers_count():
    params = {"a": {"kernel": np.zeros((30, 40))}, "b": {"kernel": np.zeros((40, 5))}}

    def score(mask, done):
        return scores.random(params, jax.random.fold_in(KEY, done))

    keep = {("a",): 12, ("b",): 50}
    mask = schedule.prune_iteratively(score, masks.ones_like(params), keep, 5)
    assert masks.layer_counts(mask) == {"a": (12, 1200), "b": (50, 200)}


@pytest.mark.parametrize("sparsity", [0.9, 0.97, 0.999])
def test_sparsities_are_exact_counts_of_all_weights(sparsity):
    sizes = {("a",): 20_024_000}
    (count,) = schedule.kept_at_level(
        sizes, 1, prune_fraction=0.2, sparsities=(sparsity,)
    ).values()  # fmt: skip
    assert count == round(20_024_000 * (1000 - round(sparsity * 1000)) / 1000)


def test_scores_leave_pruned_weights_at_nothing(mlp):
    """A pruned weight can't come back: its score is 0, and only survivors are ranked."""
    model, params, images, labels = mlp
    mask = masks.prune(scores.random(params, KEY), masks.ones_like(params), 0.8)
    params = jax.device_get(masks.apply(mask, params))
    for found in (
        snip(model, params, {}, images, labels),
        grasp(model, params, mask, images, labels),
        synflow(model, params, {}, SHAPE),
        scores.magnitude(params),
    ):
        for name in LAYERS:
            assert not np.asarray(found[name]["kernel"])[~mask[name]["kernel"]].any()
            assert jnp.isfinite(found[name]["kernel"]).all()
