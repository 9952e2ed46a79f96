"""Scaling on paper: the arithmetic, what is read from compiled programs, and that the document is true."""

import doctest
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
RESULTS = json.loads((ROOT / "benchmarks" / "results" / "scaling.json").read_text())


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import scaling

    return scaling


def test_the_examples_in_the_script(scaling):
    results = doctest.testmod(scaling)
    assert results.attempted and not results.failed


def test_an_all_reduce_by_hand(scaling):
    line, torus = scaling.Slice((4,), (False,)), scaling.Slice((16, 16), (True, True))
    # Each of 4 sends 3/4 of 100 MB twice at 50 GB/s, and 3 hops there and 3 back.
    assert scaling.all_reduce_seconds(100e6, line, 50e9) == pytest.approx(3e-3 + 6e-6)
    # Four links at a time, and half a ring along each axis, twice.
    expected = 2 * 255 / 256 * 100e6 / 200e9 + 32e-6
    assert scaling.all_reduce_seconds(100e6, torus, 50e9) == pytest.approx(expected)
    one = scaling.Slice((1, 1), (False, False))
    assert scaling.all_reduce_seconds(100e6, one, 50e9) == 0
    # An axis of one chip has no links.
    assert scaling.all_reduce_seconds(
        1e6, scaling.Slice((4, 1), (False, False)), 50e9
    ) == scaling.all_reduce_seconds(1e6, line, 50e9)


def test_links_add_up_to_what_the_vendor_says_of_a_pod(scaling):
    """Google: all-reduce bandwidth 51.2 TB/s in a v5e pod of 256, 1.1 PB/s in a v4 pod of 4096."""
    v5e, v4 = scaling.CHIPS["TPU v5e"], scaling.CHIPS["TPU v4"]
    assert v5e.slices[-1].wrapped == (True, True)
    assert 256 * 4 * v5e.link == pytest.approx(51.2e12)
    assert 4096 * 6 * v4.link == pytest.approx(1.1e15, rel=0.01)


def test_slices_have_the_chips_they_are_named_for(scaling):
    for chip in ("TPU v5e", "TPU v4"):
        slices = scaling.CHIPS[chip].slices
        assert [s.chips for s in slices] == [1, 4, 8, 16, 32, 64, 128, 256]
        assert all(np.prod([int(k) for k in s.name.split("x")]) == s.chips for s in slices)


def test_a_roofline_by_hand(scaling):
    chip = scaling.Chip({"bfloat16": 100e12}, 1e12, 16e9, 50e9, 1e10, ())
    facts = {
        "flops": 1e12, "bytes": 20e9, "temporary": 1e9, "dtype": "bfloat16",
        "small": 10, "small_bytes": 1000, "large": 1, "large_bytes": 100e6,
    }  # fmt: skip
    step = scaling.step_seconds(facts, 10**6, chip, scaling.Slice((4,), (False,)))
    assert step.compute == pytest.approx(10e-3)
    assert step.memory == pytest.approx(20e-3)
    assert step.least_memory == pytest.approx((2e9 + 17e6) / 1e12)
    assert step.statistics == pytest.approx(10 * 6e-6 + 1.5 * 1000 / 50e9)
    assert step.gradients == pytest.approx(3e-3 + 6e-6)
    assert step.as_compiled == pytest.approx(20e-3 + step.statistics + step.gradients)
    # Fewer bytes: the FLOPs are the longest, and gradients are hidden behind them.
    assert step.least == pytest.approx(10e-3 + step.statistics)


def test_between_and_beyond_what_was_compiled(scaling):
    rows = [
        {"chips": 4, "batch": 400, "flops": 100.0, "bytes": 30.0, "temporary": 7.0},
        {"chips": 8, "batch": 400, "flops": 60.0, "bytes": 20.0, "temporary": 4.0},
        {"chips": 16, "batch": 400, "flops": 50.0, "bytes": 15.0, "temporary": 3.0},
    ]
    assert scaling.at_batch(rows, 25) is rows[2]
    beyond = scaling.at_batch(rows, 400)
    assert (beyond["flops"], beyond["bytes"], beyond["temporary"]) == (340.0, 90.0, 25.0)


def test_trainings_of_a_matrix_by_hand(scaling):
    # Two sets: a ladder of 31, the other set's 30 tickets, 30 of each control; six seeds.
    trainings, epochs = scaling.matrix_epochs(160, 2)
    assert trainings == 6 * (31 + 30 + 60)
    assert epochs == 6 * (160 + 120 * 159)


def small(scaling, model, shape, batch, **options):
    return scaling.Network("", model, options, shape, 10, batch, 1, {}, ())


def test_flops_of_a_dense_network(scaling):
    """Two products a layer and one of the weights, but none for the pixels' gradient."""
    network = small(scaling, "lenet_300_100", (28, 28, 1), 512)
    facts = scaling.step_facts(network, "float32")
    layers = [(784, 300), (300, 100), (100, 10)]
    weights = sum(a * b for a, b in layers)
    assert facts["multiply_adds"] == weights
    assert facts["parameters"] == weights + 410
    products = 2 * 512 * (3 * weights - 784 * 300)
    # Normalisation, augmentation and the update are the rest.
    assert products < facts["flops"] < 1.06 * products


@pytest.mark.slow
def test_flops_of_vgg19_are_those_without_padding(scaling):
    """A 3x3 tap meets 3h - 2 of h pixels an axis; there is no gradient of the image."""
    convolutions, channels = [], 3
    for size, stage in zip(
        (32, 16, 8, 4, 2), ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4), strict=True
    ):
        for features in stage:
            convolutions.append((3 * size - 2) ** 2 * channels * features)
            channels = features
    products = 2 * 512 * (3 * sum(convolutions) - convolutions[0] + 3 * 512 * 10)
    facts = scaling.step_facts(scaling.NETWORKS["vgg19"], "bfloat16")
    assert products < facts["flops"] < 1.03 * products
    assert facts["multiply_adds"] == pytest.approx(398.1e6, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg19", "resnet50", "resnet50_cifar"])
def test_the_figures_are_those_of_the_program_of_today(scaling, name):
    now = scaling.step_facts(scaling.NETWORKS[name], "bfloat16")
    then = RESULTS["steps"][name]["bfloat16"]
    for key in ("parameters", "batchnorms", "channels", "multiply_adds"):
        assert now[key] == then[key]
    assert now["flops"] == pytest.approx(then["flops"], rel=0.01)
    assert now["bytes"] == pytest.approx(then["bytes"], rel=0.05)


@pytest.mark.slow
def test_all_reduces_of_a_program_on_eight_devices(scaling):
    """All gradients and BatchNorm's four sums a channel, each once; the loss and the hits."""
    # At 32 pixels the last images have two: every tap of every kernel meets one.
    network = small(scaling, "vgg11", (32, 32, 3), 16, width=0.1)
    facts = scaling.step_facts(network, "float32")
    compiled = scaling.lowered_step(network, "float32", jax.devices(), "cpu").compile()
    sizes = scaling.all_reduces(compiled.as_text())
    # Two of the four sums are the gradients of BatchNorm's own parameters.
    others = facts["parameters"] - 2 * facts["channels"]
    expected = 4 * (others + 4 * facts["channels"])
    assert expected < sum(sizes) <= expected + 16
    assert len(sizes) >= 2 * facts["batchnorms"] + 1


# A shortcut's BatchNorm and the last one beside it have the same gradient, and so one sum of it.
@pytest.mark.parametrize("name, shared", [("vgg19", 0), ("resnet50", 256 + 512 + 1024 + 2048)])
def test_compiled_programs_reduce_everything_once(scaling, name, shared):
    """In the computation's dtype the gradients, in float32 the statistics, on every slice."""
    for row in RESULTS["compiled"][name]:
        if row["chips"] > 1:
            facts = RESULTS["steps"][name][row["dtype"]]
            width = {"bfloat16": 2, "float32": 4}[row["dtype"]]
            others = facts["parameters"] - 2 * facts["channels"]
            assert row["large_bytes"] == pytest.approx(width * others, rel=1e-4)
            # Then the loss and the hits.
            statistics = 4 * (4 * facts["channels"] - shared)
            assert statistics < row["small_bytes"] <= statistics + 8
        assert row["flops"] * row["chips"] >= 0.99 * RESULTS["steps"][name][row["dtype"]]["flops"]


def test_the_document_has_the_tables_of_the_figures(scaling):
    text = scaling.DOCUMENT.read_text(encoding="utf-8")
    assert scaling.fill(text, scaling.tables(RESULTS)) == text


def test_more_chips_are_faster_and_cost_more(scaling):
    for name in ("vgg19", "resnet50"):
        for chip in scaling.CHIPS:
            found = [e for e in scaling.estimates(RESULTS, name, "bfloat16") if e.chip == chip]
            compiled = scaling.NETWORKS[name].chips
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
