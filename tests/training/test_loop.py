"""The train step equals a hand-written one, keeps zeros, resumes exactly, on any devices."""

import contextlib
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lottery_jax.datasets.in_memory import load_dataset
from lottery_jax.errors import TrainingError
from lottery_jax.models import build_model, init_variables
from lottery_jax.models.network import LinenNetwork
from lottery_jax.parallel.mesh import make_mesh, to_mesh
from lottery_jax.pruning import masks, scores
from lottery_jax.training import optim
from lottery_jax.training.batches import DeviceData, epoch_order, make_preprocess
from lottery_jax.training.evaluation import evaluate, make_eval_pass
from lottery_jax.training.loop import fit
from lottery_jax.training.program import compiled, init_device_state, make_program
from lottery_jax.training.state import MetricSums
from lottery_jax.training.task import CLASSIFICATION
from tests.helpers import assert_same, pruned_values
from tests.own import small_vgg

BATCH = 64


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def program_for(data, *args, **options):
    """Return a program for the data; tests that ask for the same one share it."""
    return _program(len(data.x_train), tuple(data.mean), tuple(data.std), *args, **options)


@functools.cache
def _program(
    examples, mean, std, model, devices=1, optimizer="sgd", rate=0.1, augment="none", **options
):
    return make_program(
        model,
        optim.make_optimizer(optimizer, **options),
        optim.make_schedule("constant", rate, steps_per_epoch=22, epochs=3),
        mesh=make_mesh(jax.devices()[:devices]),
        examples=examples,
        batch_size=BATCH,
        mean=mean,
        std=std,
        augment=augment,
    )


@functools.cache
def small_model(name="vgg"):
    model = small_vgg() if name == "vgg" else build_model(name, 10, width=0.05)
    init = jax.jit(lambda key: init_variables(model, key, (8, 8, 1)))
    return model, jax.device_get(init(jax.random.key(0)))


def half_mask(params):
    return masks.prune(scores.magnitude(params), masks.ones_like(params), 0.5)


def train_split(program, data):
    return to_mesh(program.mesh, DeviceData(data.x_train, data.y_train))


def test_a_step_is_masked_sgd_written_out(digits):
    model, variables = small_model()
    mask = half_mask(variables["params"])
    program = program_for(digits, model, momentum=0.9, weight_decay=0.01)
    state = init_device_state(program, variables, mask, step=0)
    key = jax.random.key(5)
    after = fit(program, state, train_split(program, digits), key, until=1)

    index = np.asarray(
        epoch_order(
            jax.random.split(key)[0], np.int32(0), examples=len(digits.x_train), batch_size=BATCH
        )
    )[0]
    images = (digits.x_train[index] / 255.0 - digits.mean[0]) / digits.std[0]
    start = jax.tree.map(lambda m, p: np.where(m, p, 0), mask, variables["params"])

    def loss(params):
        logits, updated = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            images.astype(np.float32),
            train=True,
            mutable=["batch_stats"],
        )
        log_p = logits - jax.scipy.special.logsumexp(logits, axis=1, keepdims=True)
        return -log_p[jnp.arange(BATCH), digits.y_train[index]].mean(), updated["batch_stats"]

    grads, batch_stats = jax.jit(jax.grad(loss, has_aux=True))(start)
    expected = jax.tree.map(
        lambda m, p, g: np.where(m, p - 0.1 * (g + 0.01 * p), 0), mask, start, grads
    )
    for ours, theirs in zip(jax.tree.leaves(after.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    for ours, theirs in zip(
        jax.tree.leaves(after.batch_stats), jax.tree.leaves(batch_stats), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


OPTIONS = {
    "sgd": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "adam": {"weight_decay": 0.1, "rate": 0.01},
    "adamw": {"weight_decay": 0.1, "rate": 0.01},
}


def test_every_optimizer_is_tried():
    assert set(OPTIONS) == set(optim.OPTIMIZERS)


@pytest.mark.parametrize("optimizer", OPTIONS)
def test_pruned_weights_stay_exactly_zero(digits, optimizer):
    """They do so even if the optimizer's state remembers gradients of weights that are now pruned."""
    model, variables = small_model("lenet_300_100")
    program = program_for(digits, model, optimizer=optimizer, **OPTIONS[optimizer])
    data, key = train_split(program, digits), jax.random.key(0)
    dense = init_device_state(program, variables, masks.ones_like(variables["params"]), step=0)
    dense = jax.device_get(fit(program, dense, data, key, until=3))
    mask = half_mask(variables["params"])
    state = init_device_state(program, variables, mask, step=3, restored=dense)
    for step in range(4, 9):
        state = fit(program, state, data, key, until=step)
        zeros = pruned_values(mask, state.params)
        assert (zeros == 0).all() and not np.signbit(zeros).any(), step
    moved = [
        (np.asarray(a) != np.asarray(b)).any()
        for a, b in zip(
            jax.tree.leaves(state.params), jax.tree.leaves(variables["params"]), strict=True
        )
    ]
    assert all(moved)


def test_training_changes_none_of_the_arrays_it_was_given(digits):
    model, variables = small_model("lenet_300_100")
    program = program_for(digits, model)
    on_device = to_mesh(program.mesh, variables)
    before = jax.tree.map(np.array, variables)
    mask = half_mask(variables["params"])
    for given in (variables, on_device):
        state = init_device_state(program, given, mask, step=0)
        fit(program, state, train_split(program, digits), jax.random.key(0), until=2)
        assert_same(jax.tree.map(np.asarray, given), before)


@pytest.mark.parametrize("augment, alike", [("none", True), ("crop", False)])
def test_images_are_augmented_anew_in_every_epoch(digits, augment, alike):
    """Weights that do not move have the same loss in every epoch, except for the augmentation."""
    model, variables = small_model("lenet_300_100")
    whole = dataclasses.replace(
        digits, x_train=digits.x_train[: 22 * BATCH], y_train=digits.y_train[: 22 * BATCH]
    )
    program = program_for(whole, model, rate=1e-30, augment=augment)
    losses = []
    fit(
        program, init_device_state(program, variables, masks.ones_like(variables["params"]), step=0),
        train_split(program, whole), jax.random.key(3), until=3 * 22,
        on_epoch=lambda _, report: losses.append(report.train_loss),
    )  # fmt: skip
    for a, b in itertools.combinations(losses, 2):
        assert (abs(a - b) < 1e-5) == alike


def test_stopping_and_going_on_is_the_same_bit_for_bit(digits):
    """It stops within an epoch and at its end, with augmentation, BatchNorm and momentum."""
    model, variables = small_model()
    program = program_for(digits, model, augment="crop_flip", momentum=0.9)
    data, key = train_split(program, digits), jax.random.key(1)

    def start():
        return init_device_state(program, variables, half_mask(variables["params"]), step=0)

    whole = fit(program, start(), data, key, until=30)
    state = start()
    for stop in (7, 22, 30):
        state = to_mesh(program.mesh, jax.device_get(fit(program, state, data, key, until=stop)))
    assert_same(state, whole)


def test_a_training_stopped_within_an_epoch_reports_it_as_if_it_had_not_been(digits):
    """The mean loss of an epoch in two parts has the same bits, and both parts' images and time."""
    model, variables = small_model()
    program = program_for(digits, model, augment="crop_flip", momentum=0.9)
    data, key = train_split(program, digits), jax.random.key(1)

    class Stop(Exception):
        pass

    def run(stops):
        state = init_device_state(program, variables, half_mask(variables["params"]), step=0)
        progress, reports = None, []
        for stop in [*stops, None]:
            seen = []

            def on_step(state, so_far, stop=stop, seen=seen):
                if int(state.step) == stop:
                    seen[:] = [jax.device_get(state), jax.device_get(so_far)]
                    raise Stop

            with contextlib.suppress(Stop):
                fit(program, state, data, key, until=44, progress=progress, on_step=on_step,
                    on_epoch=lambda state, report: reports.append(report))  # fmt: skip
            if seen:
                state, progress = to_mesh(program.mesh, seen[0]), seen[1]
        return reports

    whole, parts = run([]), run([3, 10, 30])
    assert [(r.epoch, r.train_loss) for r in parts] == [(r.epoch, r.train_loss) for r in whole]
    assert [r.epoch for r in parts] == [1, 2]
    for report in parts:
        assert report.images_per_s == pytest.approx(22 * BATCH / report.seconds)


def test_another_key_gives_another_training(digits):
    model, variables = small_model("lenet_300_100")
    program = program_for(digits, model)
    data = train_split(program, digits)

    def params(seed):
        state = init_device_state(program, variables, masks.ones_like(variables["params"]), step=0)
        return fit(program, state, data, jax.random.key(seed), until=2).params["head"]["kernel"]

    assert not np.array_equal(params(0), params(1))
    np.testing.assert_array_equal(params(0), params(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg", pytest.param("alexnet", marks=pytest.mark.long)])
def test_one_and_eight_devices_agree(digits, name):
    """BatchNorm over the global batch, augmentation and dropout all give the same numbers."""
    model, variables = small_model(name)
    mask = half_mask(variables["params"])
    results = []
    for devices in (1, 8):
        program = program_for(digits, model, devices, augment="crop_flip", rate=0.02)
        state = init_device_state(program, variables, mask, step=0)
        state = fit(program, state, train_split(program, digits), jax.random.key(2), until=10)
        assert len(state.step.sharding.device_set) == devices
        test = to_mesh(program.mesh, DeviceData(digits.x_test, digits.y_test))
        results.append((jax.device_get(state), program.evaluate(state, test)))
    (one, measured_one), (eight, measured_eight) = results
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
    assert measured_one.loss == pytest.approx(measured_eight.loss, rel=1e-3)
    drawn = [masks.prune(scores.magnitude(s.params), mask, 0.2) for s in (one, eight)]
    assert_same(*drawn)


@pytest.mark.slow
def test_evaluation_counts_every_test_image_once(digits):
    """359 images in batches of 64 are compared with one pass in NumPy."""
    model, variables = small_model()
    mesh = make_mesh(jax.devices()[:4])
    preprocess = make_preprocess(digits.mean, digits.std, "crop_flip")
    eval_pass = make_eval_pass(LinenNetwork(model), CLASSIFICATION, preprocess, mesh)
    eval_pass = compiled(eval_pass, mesh)
    placed = to_mesh(mesh, variables)
    test = to_mesh(mesh, DeviceData(digits.x_test, digits.y_test))
    measured = evaluate(eval_pass, BATCH, placed["params"], placed["batch_stats"], test)
    images = (digits.x_test / 255.0 - digits.mean[0]) / digits.std[0]
    logits = np.asarray(model.apply(variables, images.astype(np.float32), train=False), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert len(digits.y_test) % BATCH
    assert measured.accuracy == (logits.argmax(1) == digits.y_test).mean()
    assert measured.loss == pytest.approx(
        -log_p[np.arange(len(log_p)), digits.y_test].mean(), rel=1e-4
    )


def test_sums_leave_out_what_is_not_counted():
    logits = jnp.array([[2.0, 0.0], [0.0, 2.0], [jnp.nan, 0.0]])
    labels = jnp.array([0, 0, 0])
    counted = jnp.array([True, True, False])
    sums = MetricSums.zero() + CLASSIFICATION.metric_sums(logits, labels, counted)
    assert (int(sums.correct), int(sums.count)) == (1, 2)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits[:2], labels[:2]).sum()
    assert float(sums.loss) == pytest.approx(float(expected))


def test_a_loss_that_is_not_finite_stops_with_step_and_rate(digits):
    model, variables = small_model("lenet_300_100")
    program = program_for(digits, model, rate=1e30)
    state = init_device_state(program, variables, masks.ones_like(variables["params"]), step=0)
    with pytest.raises(TrainingError, match=r"step 22 \(learning rate 1e\+30\)"):
        fit(program, state, train_split(program, digits), jax.random.key(0), until=44)


def test_epochs_are_reported_when_they_end(digits):
    model, variables = small_model("lenet_300_100")
    program = program_for(digits, model)
    state = init_device_state(program, variables, masks.ones_like(variables["params"]), step=5)
    seen = []
    fit(
        program, state, train_split(program, digits), jax.random.key(0), until=50,
        on_epoch=lambda state, report: seen.append((report.epoch, report.step, int(state.step))),
    )  # fmt: skip
    assert seen == [(1, 22, 22), (2, 44, 44)]


def test_the_host_waits_for_no_step_within_an_epoch(digits, monkeypatch):
    """It reads a device array's `_value` as often in an epoch of 22 steps as in 11 of them."""
    model, variables = small_model("lenet_300_100")
    program = program_for(digits, model)
    data, seen = train_split(program, digits), []

    def run(until):
        state = init_device_state(program, variables, masks.ones_like(variables["params"]), step=0)
        seen.clear()
        fit(program, state, data, jax.random.key(0), until=until)
        return len(seen)

    run(22)  # compiles
    array = type(data.labels)
    value = array._value
    monkeypatch.setattr(array, "_value", property(lambda a: seen.append(a) or value.fget(a)))
    assert run(11) == run(22) > 0
