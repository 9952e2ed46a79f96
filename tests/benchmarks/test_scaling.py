"""The estimates of scaling: the arithmetic, the facts of compiled programs, and the document."""

import doctest
import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
RESULTS = json.loads((ROOT / "benchmarks" / "results" / "scaling.json").read_text())


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def scaling(scripts):
    import scaling

    return scaling


@pytest.fixture
def model(scripts):
    import scaling_model

    return scaling_model


@pytest.fixture
def program(scripts):
    import scaling_compile

    return scaling_compile


@pytest.mark.parametrize("module", ["scaling", "scaling_model", "scaling_compile"])
def test_the_examples_in_the_scripts(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted and not results.failed


def test_an_all_reduce_by_hand(model):
    line, torus = model.Slice((4,), (False,)), model.Slice((16, 16), (True, True))
    # Each of 4 sends 3/4 of 100 MB twice at 50 GB/s, and 3 hops there and 3 back.
    assert model.all_reduce_seconds(100e6, line, 50e9) == pytest.approx(3e-3 + 6e-6)
    # Four links at a time, and half a ring along each axis, twice.
    expected = 2 * 255 / 256 * 100e6 / 200e9 + 32e-6
    assert model.all_reduce_seconds(100e6, torus, 50e9) == pytest.approx(expected)
    one = model.Slice((1, 1), (False, False))
    assert model.all_reduce_seconds(100e6, one, 50e9) == 0
    # An axis of one chip has no links.
    assert model.all_reduce_seconds(
        1e6, model.Slice((4, 1), (False, False)), 50e9
    ) == model.all_reduce_seconds(1e6, line, 50e9)


def test_links_add_up_to_what_the_vendor_says_of_a_pod(model):
    """Google states 51.2 TB/s of all-reduce for a v5e pod of 256, and 1.1 PB/s for 4096 v4."""
    v5e, v4 = model.CHIPS["TPU v5e"], model.CHIPS["TPU v4"]
    assert v5e.slices[-1].wrapped == (True, True)
    assert 256 * 4 * v5e.link == pytest.approx(51.2e12)
    assert 4096 * 6 * v4.link == pytest.approx(1.1e15, rel=0.01)


def test_slices_have_the_chips_they_are_named_for(model):
    for chip in ("TPU v5e", "TPU v4"):
        slices = model.CHIPS[chip].slices
        assert [s.chips for s in slices] == [1, 4, 8, 16, 32, 64, 128, 256]
        assert all(np.prod([int(k) for k in s.name.split("x")]) == s.chips for s in slices)


def test_a_roofline_by_hand(model):
    chip = model.Chip({"bfloat16": 100e12}, memory_bandwidth=1e12, link=50e9, host_link=1e10)
    facts = {
        "flops": 1e12, "bytes": 20e9, "temporary": 1e9, "dtype": "bfloat16",
        "small": 10, "small_bytes": 1000, "large": 1, "large_bytes": 100e6,
    }  # fmt: skip
    step = model.step_seconds(facts, 10**6, chip, model.Slice((4,), (False,)))
    assert step.compute == pytest.approx(10e-3)
    assert step.memory == pytest.approx(20e-3)
    assert step.least_memory == pytest.approx((2e9 + 17e6) / 1e12)
    assert step.statistics == pytest.approx(10 * 6e-6 + 1.5 * 1000 / 50e9)
    assert step.gradients == pytest.approx(3e-3 + 6e-6)
    assert step.as_compiled == pytest.approx(20e-3 + step.statistics + step.gradients)
    # Fewer bytes: the FLOPs are the longest, and gradients are hidden behind them.
    assert step.least == pytest.approx(10e-3 + step.statistics)


def test_between_and_beyond_what_was_compiled(model):
    rows = [
        {"chips": 4, "batch": 400, "flops": 100.0, "bytes": 30.0, "temporary": 7.0},
        {"chips": 8, "batch": 400, "flops": 60.0, "bytes": 20.0, "temporary": 4.0},
        {"chips": 16, "batch": 400, "flops": 50.0, "bytes": 15.0, "temporary": 3.0},
    ]
    assert model.at_batch(rows, 25) is rows[2]
    beyond = model.at_batch(rows, 400)
    assert (beyond["flops"], beyond["bytes"], beyond["temporary"]) == (340.0, 90.0, 25.0)


def test_trainings_of_a_matrix_by_hand(model):
    # Two sets: a ladder of 31, the other set's 30 tickets, 30 of each control; six seeds.
    trainings, epochs = model.matrix_epochs(160, 2)
    assert trainings == 6 * (31 + 30 + 60)
    assert epochs == 6 * (160 + 120 * 159)


@pytest.fixture
def small(model):
    """Make a network of ten classes, for a batch of images."""

    def make(name, shape, batch, **options):
        return model.Network("", name, options, shape, 10, batch, 1, {}, ())

    return make


def test_flops_of_a_dense_network(program, small):
    """A layer has three products with its weights; the first has no gradient for the pixels."""
    facts = program.step_facts(small("lenet_300_100", (28, 28, 1), 512), "float32")
    layers = [(784, 300), (300, 100), (100, 10)]
    weights = sum(a * b for a, b in layers)
    assert facts["multiply_adds"] == weights
    assert facts["parameters"] == weights + 410
    products = 2 * 512 * (3 * weights - 784 * 300)
    # Normalisation, augmentation and the update are the rest.
    assert products < facts["flops"] < 1.06 * products


@pytest.mark.long
def test_flops_of_vgg19_are_those_without_padding(program, model):
    """On an axis of h pixels the three taps meet 3h - 2; there is no gradient of the image."""
    convolutions, channels = [], 3
    for size, stage in zip(
        (32, 16, 8, 4, 2), ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4), strict=True
    ):
        for features in stage:
            convolutions.append((3 * size - 2) ** 2 * channels * features)
            channels = features
    products = 2 * 512 * (3 * sum(convolutions) - convolutions[0] + 3 * 512 * 10)
    facts = program.step_facts(model.NETWORKS["vgg19"], "bfloat16")
    assert products < facts["flops"] < 1.03 * products
    assert facts["multiply_adds"] == pytest.approx(398.1e6, rel=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("name", ["vgg19", "resnet50", "resnet50_cifar"])
def test_the_figures_are_those_of_the_program_of_today(program, model, name):
    now = program.step_facts(model.NETWORKS[name], "bfloat16")
    then = RESULTS["steps"][name]["bfloat16"]
    for key in ("parameters", "batchnorms", "channels", "multiply_adds"):
        assert now[key] == then[key]
    assert now["flops"] == pytest.approx(then["flops"], rel=0.01)
    assert now["bytes"] == pytest.approx(then["bytes"], rel=0.05)


@pytest.mark.long
def test_all_reduces_of_a_program_on_eight_devices(program, small):
    """All gradients, BatchNorm's four sums a channel, the loss and the hits are summed once."""
    # Images of 32 pixels end as images of two, so every tap of every kernel meets a pixel.
    network = small("vgg11", (32, 32, 3), 16, width=0.1)
    facts = program.step_facts(network, "float32")
    compiled = program.lowered_step(network, "float32", jax.devices(), "cpu").compile()
    sizes = program.all_reduces(compiled.as_text())
    # Two of the four sums are the gradients of BatchNorm's own parameters.
    others = facts["parameters"] - 2 * facts["channels"]
    expected = 4 * (others + 4 * facts["channels"])
    assert expected < sum(sizes) <= expected + 16
    assert len(sizes) >= 2 * facts["batchnorms"] + 1


# The BatchNorm of a shortcut and the last one of its block have the same gradient: one sum is shared.
@pytest.mark.parametrize("name, shared", [("vgg19", 0), ("resnet50", 256 + 512 + 1024 + 2048)])
def test_compiled_programs_reduce_everything_once(scaling, name, shared):
    """On every slice, gradients are in the computation's dtype and statistics in float32."""
    for row in RESULTS["compiled"][name]:
        if row["chips"] > 1:
            facts = RESULTS["steps"][name][row["dtype"]]
            width = {"bfloat16": 2, "float32": 4}[row["dtype"]]
            others = facts["parameters"] - 2 * facts["channels"]
            assert row["large_bytes"] == pytest.approx(width * others, rel=1e-4)
            # The loss and the hits are the rest.
            statistics = 4 * (4 * facts["channels"] - shared)
            assert statistics < row["small_bytes"] <= statistics + 8
        assert row["flops"] * row["chips"] >= 0.99 * RESULTS["steps"][name][row["dtype"]]["flops"]


def test_the_document_has_the_tables_of_the_figures(scaling):
    text = scaling.DOCUMENT.read_text(encoding="utf-8")
    assert scaling.fill(text, scaling.tables(RESULTS)) == text


def test_more_chips_are_faster_and_cost_more(model):
    for name in ("vgg19", "resnet50"):
        for chip in model.CHIPS:
            found = [e for e in model.estimates(RESULTS, name) if e.chip == chip]
            compiled = model.NETWORKS[name].chips
            assert len(found) == (2 if chip == "H100" else len(compiled))
            assert all(e.step.least <= e.step.as_compiled for e in found)
            hours = [e.shape.chips * e.step.as_compiled for e in found]
            assert hours == sorted(hours)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--compile", "--networks", "vgg91"], "invalid choice: 'vgg91'"),
        (["--out", "nowhere"], "scaling.json is not there; --compile makes it"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, message):
    command = [sys.executable, str(ROOT / "benchmarks" / "scaling.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
