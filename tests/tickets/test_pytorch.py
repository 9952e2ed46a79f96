"""Weights from and for PyTorch: networks written there compute what ours compute.

`torch_networks.py` has the networks as torchvision writes them, with its names.
"""

import functools
import importlib
import io
import os
import pickle
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from lottery_jax import tickets
from lottery_jax.errors import ConfigError, TicketError
from lottery_jax.models import abstract_variables, build_model
from lottery_jax.tickets import checkpoints, pytorch
from tests.helpers import assert_same
from tests.tickets import torch_networks
from tests.tickets.torch_networks import AlexNet, ViT, randomise

torch = torch_networks.torch
safetensors_torch = pytest.importorskip("safetensors.torch")
nn = torch.nn


def VGG19(n, classes=10):
    return torch_networks.VGG("vgg19", n, classes)


def ResNet50(n, classes=10):
    return torch_networks.ResNet("resnet50", n, classes, stem="imagenet")


NETWORKS = {"vgg19": VGG19, "resnet50": ResNet50, "alexnet": AlexNet}
SHAPE = (32, 32, 3)


def options(name):
    """Return options for a quarter of the width: as many layers, and a sixteenth of the file size."""
    return {"name": name, "width": 0.25} | ({"stem": "imagenet"} if name == "resnet50" else {})


@functools.cache
def network(name):
    # These gains make logits that are neither huge nor the same for every image.
    return randomise(NETWORKS[name](16), gain=9 if name == "resnet50" else 18)


def images():
    return np.random.default_rng(0).standard_normal((2, *SHAPE), np.float32)


def logits_there(module):
    with torch.no_grad():
        return module(torch.from_numpy(images().transpose(0, 3, 1, 2).copy())).numpy()


@functools.cache
def compiled(name):
    model = build_model(num_classes=10, **options(name))
    return jax.jit(functools.partial(model.apply, train=False))


def imported(path, model, **more):
    return tickets.import_pytorch(
        path, model, data="cifar10", input_shape=SHAPE, mean=[0.5] * 3, std=[0.25] * 3, **more
    )


@pytest.mark.parametrize(
    "name, classes", [*[(name, n) for name in NETWORKS for n in (10, 100)], ("vit_tiny", 100)]
)
def test_at_full_size_names_and_shapes_are_those_there(name, classes):
    with torch.device("meta"):
        there = ViT(classes=classes) if name == "vit_tiny" else NETWORKS[name](64, classes)
        expected = {k: tuple(v.shape) for k, v in there.state_dict().items()}
    model = build_model(num_classes=classes, **{**options(name), "width": 1.0})
    shapes = abstract_variables(model, SHAPE)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    state = pytorch.from_flax(variables, name, SHAPE)
    assert {key: value.shape for key, value in state.items()} == expected


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "alexnet")) for name in NETWORKS],
)
def test_networks_compute_the_same_after_import_and_after_export(name, tmp_path):
    module = network(name)
    there = logits_there(module)
    torch.save(module.state_dict(), tmp_path / "there.pth")
    ticket = imported(tmp_path / "there.pth", options(name))
    here = compiled(name)(ticket.trained_variables, images())
    np.testing.assert_allclose(here, there, atol=1e-4)
    assert np.abs(there).max() > 0.1 and np.abs(there[0] - there[1]).max() > 0.01

    kernels = {n: p for n, p in module.state_dict().items() if p.ndim in (2, 4)}
    assert ticket.metadata["weights_total"] == sum(p.numel() for p in kernels.values())
    kept = sum(int(p.count_nonzero()) for p in kernels.values())
    assert ticket.metadata["weights_remaining"] == kept
    assert ticket.density == pytest.approx(1 / 3, rel=0.01)

    tickets.export_pytorch(tmp_path / "back.pth", ticket)
    state = torch.load(tmp_path / "back.pth", weights_only=True)
    back = NETWORKS[name](16).eval()
    back.load_state_dict(state, strict=True)
    np.testing.assert_allclose(logits_there(back), here, atol=1e-4)
    for key, value in module.state_dict().items():
        assert state[key].dtype == value.dtype, key
        if key.endswith("num_batches_tracked"):
            assert state[key] == 0
        else:
            assert torch.equal(state[key], value), key


def small_vgg_state():
    """Return a vgg11 with one channel in every layer; any width is converted in the same way."""
    state = {}
    for i, index in enumerate((0, 4, 8, 11, 15, 18, 22, 25)):
        conv, norm = f"features.{index}", f"features.{index + 1}"
        state[f"{conv}.weight"] = np.full((1, 3 if i == 0 else 1, 3, 3), i, np.float32)
        state[f"{conv}.bias"] = np.zeros(1, np.float32)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{leaf}"] = np.ones(1, np.float32)
        state[f"{norm}.num_batches_tracked"] = np.zeros((), np.int64)
    state["classifier.0.weight"] = np.zeros((7, 1), np.float32)
    state["classifier.0.bias"] = np.zeros(7, np.float32)
    return state


SMALL_VGG = {"name": "vgg11", "width": 0.001}


def small_vgg(state):
    return pytorch.to_flax(state, input_shape=SHAPE, **SMALL_VGG)


def random_vgg(path, seed, pruned=0.0):
    """Save random weights for `SMALL_VGG`; return them."""
    rng = np.random.default_rng(seed)
    state = {}
    for key, value in small_vgg_state().items():
        values = rng.uniform(-1, 1, value.shape).astype(value.dtype)
        if key.endswith("weight") and value.ndim > 1:
            values *= rng.random(value.shape) >= pruned
        state[key] = torch.from_numpy(np.array(values))
    torch.save(state, path)
    return state


@pytest.fixture
def vgg_file(tmp_path):
    random_vgg(tmp_path / "vgg11.pth", 0, pruned=0.5)
    return tmp_path / "vgg11.pth"


def test_a_ticket_of_two_files_starts_from_the_second(tmp_path):
    trained = random_vgg(tmp_path / "trained.pth", 0, pruned=0.5)["features.0.weight"]
    start = random_vgg(tmp_path / "start.pth", 1)["features.0.weight"]
    ticket = imported(tmp_path / "trained.pth", SMALL_VGG, start=tmp_path / "start.pth")
    assert ticket.metadata["imported"]["file"] == "trained.pth"
    assert ticket.metadata["imported"]["start"] == "start.pth"
    assert 0 < (trained != 0).sum() < 27 and (start != 0).all()
    expected = (start * (trained != 0)).permute(2, 3, 1, 0).numpy()
    np.testing.assert_array_equal(ticket.params["conv1_1"]["kernel"], expected)
    # There is no -0.0 in it, so it can be saved and comes back the same.
    assert torch.signbit(trained[trained == 0]).any()
    tickets.save_portable(tmp_path / "a.safetensors", ticket)
    again = tickets.load_ticket(tmp_path / "a.safetensors")
    assert_same(again.params, ticket.params)
    assert_same(again.trained, ticket.trained)
    tickets.export_pytorch(tmp_path / "again.pth", ticket, weights="start")
    state = torch.load(tmp_path / "again.pth", weights_only=True)
    assert torch.equal(state["features.0.weight"], start * (trained != 0))


def test_the_starting_weights_default_to_the_trained_and_say_so(vgg_file):
    ticket = imported(vgg_file, SMALL_VGG)
    assert ticket.metadata["imported"]["start"] == "the trained weights"
    assert ticket.metadata["result"] == {}
    assert_same(ticket.params, ticket.trained)


def test_a_network_without_zeros_is_a_dense_ticket(tmp_path):
    random_vgg(tmp_path / "dense.pth", 0)
    assert imported(tmp_path / "dense.pth", SMALL_VGG).density == 1.0


def small_imported(path, contents, **more):
    torch.save(contents, path)
    return imported(path, SMALL_VGG, **more)


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def compiled_inside(state):
    """Return the names of a state dict after `torch.compile` has wrapped one module of several."""
    return {key.replace("features.", "features._orig_mod."): v for key, v in state.items()}


@pytest.mark.parametrize(
    "wrap, recognised",
    [
        (lambda s: {"epoch": 3, "model_state_dict": s, "optimizer_state_dict": {"state": {}}},
         "model_state_dict"),
        (lambda s: {"epoch": torch.tensor(3), "state_dict": s, "rng": torch.zeros(99)}, "state_dict"),
        (lambda s: {"state_dict": {"model": {"net": prefixed(s, "module.")}}},
         "state_dict, model, net, prefix module."),
        (lambda s: {"weights": prefixed(s, "_orig_mod.module.")}, "weights, torch.compile, prefix module."),
        (lambda s: prefixed(s, "backbone.model."), "prefix backbone.model."),
        (lambda s: prefixed(s, "features."), "prefix features."),
        (lambda s: prefixed(s, "whatever.it.is.called."), "prefix whatever.it.is.called."),
        (compiled_inside, "torch.compile"),
        (lambda s: {"n_averaged": torch.tensor(7), **prefixed(s, "module.")}, "prefix module."),
        (lambda s: {**s, "epoch": 3, "optimizer": {"state": {}}, "loss": torch.tensor(1.0)}, None),
        (lambda s: {"ema": {k: v * 0 for k, v in s.items()}, "model": s}, "model"),
        (lambda s: {"ema": s, "model": {"name": "vgg11", "depth": 11}}, "ema"),
        (lambda s: {k: nn.Parameter(v) if v.ndim else v for k, v in s.items()}, None),
        (lambda s: {k.replace("classifier.0", "head.fc"): v for k, v in s.items()}, None),
        (lambda s: {k.replace("classifier.0", "head"): v for k, v in s.items()}, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_in_the_wrappings_of_others_are_the_weights(tmp_path, wrap, recognised, zipped):
    state = random_vgg(tmp_path / "plain.pth", 0, pruned=0.5)
    torch.save(wrap(state), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    ticket = imported(tmp_path / "a.pth", SMALL_VGG)
    assert_same(
        ticket.trained_variables, imported(tmp_path / "plain.pth", SMALL_VGG).trained_variables
    )
    assert 0.2 < ticket.density < 0.8
    assert ticket.metadata["imported"].get("wrapping") == recognised
    assert ticket.metadata["imported"]["mask"] == "what is not zero"


def test_the_average_of_weights_as_pytorch_saves_it(tmp_path):
    torch.manual_seed(0)
    module = AlexNet(1)
    average = torch.optim.swa_utils.AveragedModel(module)
    average.update_parameters(module)
    assert "n_averaged" in average.state_dict()
    torch.save(average.state_dict(), tmp_path / "a.pth")
    torch.save(module.state_dict(), tmp_path / "b.pth")
    model = {"name": "alexnet", "width": 1 / 64}
    a, b = (imported(tmp_path / name, model) for name in ("a.pth", "b.pth"))
    assert_same(a.trained_variables, b.trained_variables)


def test_a_network_whose_own_names_have_a_prefix_keeps_them():
    """The end of `layer1.0.conv1.weight` is a name of the network too."""
    plain = resnet_from(resnet_state())
    assert_same(resnet_from(prefixed(resnet_state(), "layer1.0.")), plain)
    kernel = resnet_state()["layer1.0.conv1.weight"].permute(2, 3, 1, 0).numpy()
    np.testing.assert_array_equal(plain["params"]["block1_1"]["conv1"]["kernel"], kernel)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_floats_of_other_sizes_become_float32_and_the_metadata_says_so(tmp_path, dtype, suffix):
    state = random_vgg(tmp_path / "plain.pth", 0, pruned=0.5)
    halves = {k: v.to(getattr(torch, dtype)) if v.ndim else v for k, v in state.items()}
    halves["features.0.bias"] = state["features.0.bias"]
    path = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        torch.save(halves, path)
    else:
        safetensors_torch.save_file(halves, path)
    ticket = imported(path, SMALL_VGG)
    assert ticket.metadata["imported"]["converted_from"] == dtype
    expected = {k: v.float() if v.is_floating_point() else v for k, v in halves.items()}
    torch.save(expected, tmp_path / "expected.pth")
    again = imported(tmp_path / "expected.pth", SMALL_VGG)
    assert_same(ticket.trained_variables, again.trained_variables)
    assert "converted_from" not in again.metadata["imported"]


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", "float8_e5m2"])
def test_weights_that_are_no_floats_are_refused(tmp_path, dtype):
    state = random_vgg(tmp_path / "plain.pth", 0)
    state["features.4.weight"] = state["features.4.weight"].to(getattr(torch, dtype))
    if dtype == "float8_e5m2":  # it is a float as well
        assert (
            "float8"
            in small_imported(tmp_path / "a.pth", state).metadata["imported"]["converted_from"]
        )
        return
    with pytest.raises(
        TicketError, match=rf"features.4.weight is {dtype} \(1, 1, 3, 3\), but that"
    ):
        small_imported(tmp_path / "a.pth", state)


def masks_of(state, seed=5):
    """Return random masks of the kernels that keep some zeros and prune some other weights."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(value.shape, generator=generator) < 0.5
        for key, value in state.items()
        if value.ndim > 1
    }


def masked(state, masks):
    return {k: torch.where(masks[k], v, 0.0) if k in masks else v for k, v in state.items()}


def assert_masked(ticket, state, masks):
    """Assert that the ticket's mask is `masks` and that the kept weights are those of `state`."""
    ones = {k: torch.ones_like(v) for k, v in state.items()}
    expected = small_vgg({**ones, **{k: m.float() for k, m in masks.items()}})["params"]
    assert_same(ticket.mask, jax.tree.map(lambda leaf: leaf != 0, expected))
    assert_same(ticket.trained, small_vgg(masked(state, masks))["params"])
    assert 0.2 < ticket.density < 0.9


@pytest.mark.parametrize(
    "put",
    [
        lambda s, m: {"model_state_dict": s, "mask": m},
        lambda s, m: {"state_dict": s, "masks": {k: v.float() for k, v in m.items()}},
        lambda s, m: {"model": s, "weight_mask": {k.removesuffix(".weight"): v for k, v in m.items()}},
        lambda s, m: {"model": prefixed(s, "module."), "mask": prefixed(m, "module.")},
        lambda s, m: {"model": prefixed(s, "module."), "mask": m},
        lambda s, m: {"model": s, "mask": list(m.values())},
        lambda s, m: {"model": s, "mask": tuple(v.to(torch.uint8) for v in m.values())},
        # One for each parameter, as `model.parameters()` gives them.
        lambda s, m: {"model": s, "mask": [m.get(k, torch.ones_like(v)) for k, v in s.items()
                                           if v.ndim and "running" not in k]},
        lambda s, m: {"model": s, "mask": {**m, "features.1.weight": torch.ones(1), "features.1": None}},
        lambda s, m: {"model": {"state_dict": s, "masks": m}},
        lambda s, m: {"model": s, "pruner": {"masks": m, "rounds": 3}},
        lambda s, m: {**s, "mask": m},
        lambda s, m: {**s, **{f"{k}_mask": v for k, v in m.items()}},
        lambda s, m: {**s, **{k.replace(".weight", ".mask"): v for k, v in m.items()}},
        lambda s, m: {**{k: v for k, v in s.items() if k not in m}, **{f"{k}_orig": s[k] for k in m},
                      **{f"{k}_mask": v.float() for k, v in m.items()}},
    ],
)  # fmt: skip
def test_masks_that_are_there_are_the_mask(tmp_path, put):
    state = random_vgg(tmp_path / "plain.pth", 0, pruned=0.2)
    masks = masks_of(state)
    assert any((state[k] == 0)[m].any() for k, m in masks.items())  # a weight kept that is 0.0
    ticket = small_imported(tmp_path / "a.pth", put(state, masks))
    assert_masked(ticket, state, masks)
    assert "mask" in ticket.metadata["imported"]["mask"]


def test_pruning_as_pytorch_does_it(tmp_path):
    torch.manual_seed(0)
    module, model = AlexNet(1), {"name": "alexnet", "width": 1 / 64}
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    prune = importlib.import_module("torch.nn.utils.prune")
    for layer in layers:
        prune.random_unstructured(layer, "weight", amount=0.5)
        with torch.no_grad():
            layer.weight_orig.ravel()[layer.weight_mask.ravel().nonzero()[0]] = 0.0
    prune.identity(layers[0], "bias")
    torch.save(module.state_dict(), tmp_path / "a.pth")
    ticket = imported(tmp_path / "a.pth", model)
    kept = sum(int(layer.weight_mask.sum()) for layer in layers)
    assert ticket.metadata["weights_remaining"] == kept
    assert ticket.metadata["imported"]["mask"] == "weight_mask"
    for layer in layers:
        prune.remove(layer, "weight")
    prune.remove(layers[0], "bias")
    torch.save(module.state_dict(), tmp_path / "b.pth")
    removed = imported(tmp_path / "b.pth", model)
    assert_same(removed.trained, ticket.trained)
    assert removed.metadata["weights_remaining"] == kept - len(layers)  # the mask kept zeros
    prune.random_unstructured(layers[0], "bias", amount=1)
    torch.save(module.state_dict(), tmp_path / "c.pth")
    with pytest.raises(
        TicketError, match=r"prunes features.0.bias; only kernels can be pruned here"
    ):
        imported(tmp_path / "c.pth", model)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda m: {"features.0.weight": torch.ones(3)},
         r"mask: the mask of features.0.weight is \(3,\); expected \(1, 3, 3, 3\)"),
        (lambda m: {**m, "features.99": torch.ones(3)},
         "mask has a mask of features.99.weight, which the network does not have; expected names such as "
         "features.0.weight"),
        (lambda m: {**m, 7: torch.ones(3)}, "mask looks like masks, but has a key 7, which is no name"),
        (lambda m: {k: v * 0.5 for k, v in m.items()}, "features.0.weight has values other than 0 and 1"),
        (lambda m: {**m, "features.0.bias": torch.zeros(1)}, "mask prunes features.0.bias; only kernels"),
        (lambda m: dict.fromkeys(m, "x"), r"the mask of features.0.weight is str; expected \(1, 3"),
        (lambda m: torch.ones(3), "mask looks like masks, but is one tensor; expected a dict"),
        (lambda m: [torch.ones(3)], r"its 1 tensors \(\(3,\)\) do not fit the 9 kernels \(\(1, 3, 3"),
        # Seven of these have one shape: whose are the four?
        (lambda m: list(m.values())[1:5], "do not fit the 9 kernels .* in one way alone"),
        (lambda m: list(m.values())[::-1], "do not fit the 9 kernels .* in one way alone"),
        (lambda m: ["a", "b"], r"its 2 tensors \(str, str\) do not fit"),
    ],
)  # fmt: skip
def test_what_looks_like_masks_and_does_not_fit_is_refused(tmp_path, change, says):
    state = random_vgg(tmp_path / "plain.pth", 0)
    with pytest.raises(TicketError, match=says) as error:
        small_imported(tmp_path / "a.pth", {"model": state, "mask": change(masks_of(state))})
    assert "\n" not in str(error.value)


def test_masks_may_be_of_some_layers_and_nothing_is_no_mask(tmp_path):
    state = random_vgg(tmp_path / "plain.pth", 0, pruned=0.2)
    masks = masks_of(state)
    first, last = next(iter(masks)), list(masks)[-1]
    dense = {key: state[key] != 0 for key in masks}
    some = {**dense, first: masks[first], last: masks[last]}
    for given in ([masks[first], masks[last]], {first: masks[first], last: masks[last]}):
        assert_masked(
            small_imported(tmp_path / "a.pth", {"model": state, "mask": given}), state, some
        )
    for given in ({}, [], None, True, 0.2):
        ticket = small_imported(
            tmp_path / "a.pth", {"model": state, "mask": given, "use_masks": given}
        )
        assert_masked(ticket, state, dense)


def test_masks_that_contradict_each_other_are_refused(tmp_path):
    state = random_vgg(tmp_path / "plain.pth", 0)
    masks, others = masks_of(state, 1), masks_of(state, 2)
    with pytest.raises(TicketError, match="has two masks of features.0.weight"):
        small_imported(tmp_path / "a.pth", {"model": state, "mask": masks, "old_masks": others})
    assert_masked(
        small_imported(tmp_path / "a.pth", {"model": state, "a_mask": masks, "mask": masks}),
        state,
        masks,
    )
    pruned = {"features.0.weight_orig": state.pop("features.0.weight"), **state}
    with pytest.raises(
        TicketError, match="has features.0.weight_orig without features.0.weight_mask"
    ):
        small_imported(tmp_path / "a.pth", pruned)


def test_a_start_that_was_pruned_has_to_have_what_the_ticket_keeps(tmp_path):
    trained = random_vgg(tmp_path / "trained.pth", 0)
    start = random_vgg(tmp_path / "start.pth", 1)
    masks = masks_of(start)
    torch.save({"model": start, "mask": masks}, tmp_path / "start.pth")
    with pytest.raises(
        TicketError, match=r"start.pth: its mask of \w+ prunes weights that .*a.pth keeps"
    ):
        small_imported(tmp_path / "a.pth", trained, start=tmp_path / "start.pth")
    ticket = small_imported(
        tmp_path / "a.pth", {"model": trained, "mask": masks}, start=tmp_path / "start.pth"
    )
    assert_masked(ticket, trained, masks)
    assert_same(ticket.params, small_vgg(masked(start, masks))["params"])


SMALL_RESNET = {"name": "resnet50", "width": 1 / 64, "stem": "imagenet"}


@functools.cache
def resnet_state():
    torch.manual_seed(0)
    return dict(randomise(ResNet50(1), gain=9).state_dict())


def resnet_from(state):
    return pytorch.to_flax(state, input_shape=SHAPE, **SMALL_RESNET)


def hugging_face_name(key):
    """Return the name that Hugging Face's ResNetForImageClassification gives to a tensor."""
    *modules, leaf = key.split(".")
    kinds = {"conv": "convolution", "bn": "normalization"}
    if modules == ["fc"]:
        return f"classifier.1.{leaf}"
    if len(modules) == 1:
        kind = kinds[modules[0].rstrip("1")]
        return f"resnet.embedder.embedder.{kind}.{leaf}"
    stage, block = int(modules[0].removeprefix("layer")) - 1, modules[1]
    where = f"resnet.encoder.stages.{stage}.layers.{block}"
    if modules[2] == "downsample":
        return f"{where}.shortcut.{('convolution', 'normalization')[int(modules[3])]}.{leaf}"
    kind, number = modules[2][:-1], int(modules[2][-1]) - 1
    return f"{where}.layer.{number}.{kinds[kind]}.{leaf}"


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_resnet_of_hugging_face(tmp_path, prefix):
    state = resnet_state()
    theirs = {prefix + hugging_face_name(key): value for key, value in state.items()}
    assert f"{prefix}resnet.encoder.stages.3.layers.2.layer.2.convolution.weight" in theirs
    assert f"{prefix}resnet.encoder.stages.0.layers.0.shortcut.normalization.running_var" in theirs
    assert len(theirs) == len(state)
    safetensors_torch.save_file(theirs, tmp_path / "model.safetensors")
    checkpoint = checkpoints.read_checkpoint(tmp_path / "model.safetensors")
    assert_same(resnet_from(checkpoint.entries), resnet_from(state))


def test_a_vgg_of_timm_with_more_layers_than_ours_is_refused(tmp_path):
    state = random_vgg(tmp_path / "plain.pth", 0)
    state = {k.replace("classifier.0", "head.fc"): v for k, v in state.items()}
    state["pre_logits.fc1.weight"] = torch.zeros(1, 1, 7, 7)
    with pytest.raises(
        TicketError, match="has pre_logits.fc1.weight, which vgg11 does not have; found features.0"
    ):
        small_imported(tmp_path / "a.pth", state)


class OldPickler(pickle.Pickler):
    """A pickler that writes tensors as PyTorch did before 0.4: without gradient flag and hooks."""

    def reducer_override(self, value):
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        storage = value.untyped_storage()
        arguments = (storage, value.storage_offset(), tuple(value.shape), value.stride())
        return torch._utils._rebuild_tensor, arguments

    def persistent_id(self, value):
        if not isinstance(value, torch.UntypedStorage):
            return None
        kind, size = self.kinds[value.data_ptr()]
        return ("storage", kind, str(value.data_ptr()), "cpu", value.nbytes() // size, None)


def before_0_4(state):
    file, kinds = io.BytesIO(), {"float32": torch.FloatStorage, "int64": torch.LongStorage}
    for facts in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(facts, file, 2)
    pickler = OldPickler(file, 2)
    storages = {t.untyped_storage().data_ptr(): t for t in state.values()}
    pickler.kinds = {
        key: (kinds[checkpoints.dtype_name(t)], t.element_size()) for key, t in storages.items()
    }
    pickler.dump(state)
    pickle.dump([str(key) for key in storages], file, 2)
    for tensor in storages.values():
        file.write(tensor.numel().to_bytes(8, "little") + tensor.numpy().tobytes())
    return file.getvalue()


def test_files_from_before_pytorch_0_4_are_read(tmp_path):
    """Their pickles call an older function for each tensor, in the container of that time."""
    state = random_vgg(tmp_path / "plain.pth", 0, pruned=0.5)
    del state["features.1.num_batches_tracked"]  # PyTorch has it since 0.4.1
    path = tmp_path / "old.pth"
    path.write_bytes(before_0_4(state))
    assert b"_rebuild_tensor\n" in path.read_bytes() and b"_v2" not in path.read_bytes()
    ticket = imported(path, SMALL_VGG)
    assert_same(
        ticket.trained_variables, imported(tmp_path / "plain.pth", SMALL_VGG).trained_variables
    )


@pytest.mark.parametrize("computed", [True, False])
def test_archives_without_checksums_are_read(tmp_path, computed):
    state = random_vgg(tmp_path / "plain.pth", 0)
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(computed)
    try:
        small_imported(tmp_path / "a.pth", state)
    finally:
        torch.serialization.set_crc32_options(before)


@pytest.mark.parametrize(
    "version, safe",
    [("2.5.1", False), ("2.6.0", True), ("2.6.0+cpu", True), ("2.6", True), ("2.10.0", True),
     ("2.13.0+cu130", True), ("2.6.0a0+git1", False), ("2.7.0a0+nv25", True), ("1.13.1", False),
     ("10.0", True), ("unknown", False)],
)  # fmt: skip
def test_versions_of_pytorch_are_compared_as_numbers(version, safe):
    assert checkpoints.is_safe_version(version) == safe


def test_an_unsafe_pytorch_reads_nothing(vgg_file, monkeypatch):
    def load(*_, **__):
        raise AssertionError("it reads")

    monkeypatch.setattr(torch, "__version__", "2.5.1+cu121")
    monkeypatch.setattr(torch, "load", load)
    monkeypatch.setattr(checkpoints, "checked_for_torch", load)
    with pytest.raises(
        TicketError, match=r"PyTorch 2.5.1\+cu121 is not safe .* pip install --upgrade"
    ):
        imported(vgg_file, SMALL_VGG)


def test_vgg_convolutions_are_counted_over_stages_and_the_head_has_two_names():
    variables = small_vgg(small_vgg_state())
    order = ["1_1", "2_1", "3_1", "3_2", "4_1", "4_2", "5_1", "5_2"]
    assert [variables["params"][f"conv{n}"]["kernel"].max() for n in order] == list(range(8))
    assert variables["params"]["head"]["kernel"].shape == (1, 7)
    state = pytorch.from_flax(variables, "vgg11", SHAPE)
    assert state.keys() == {k.replace("classifier.0", "classifier") for k in small_vgg_state()}
    assert_same(small_vgg(state), variables)


@pytest.mark.parametrize(
    "change, says",
    [
        (
            lambda s: s.pop("features.4.weight"),
            "has no features.4.weight, which vgg11 has; found features.0.weight, features.0.bias, ",
        ),
        (lambda s: s.pop("classifier.0.weight"), "has no matrix classifier.weight, .*; found feat"),
        (
            lambda s: s.update(extra=np.zeros(1)),
            "has extra, which vgg11 does not have; found features.0",
        ),
        (
            lambda s: s.update({"features.4.weight": np.zeros((1, 1, 5, 5), np.float32)}),
            r"features.4.weight is float32 \(1, 1, 5, 5\), but that of vgg11 is float32 \(1, 1, 3, 3\)",
        ),
        (
            lambda s: s.update({"features.4.bias": np.zeros(1, np.int16)}),
            r"features.4.bias is int16 \(1,\), but that of vgg11 is float32 \(1,\)",
        ),
        (
            lambda s: s.update({"features.4.bias": 7}),
            r"features.4.bias is int, but that of vgg11 is float32 \(1,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, says):
    state = small_vgg_state()
    change(state)
    with pytest.raises(TicketError, match=says):
        small_vgg(state)


def test_another_network_or_number_of_classes_is_an_error_that_names_the_file(vgg_file, tmp_path):
    for model, says in [
        (
            {"name": "vgg13", "width": 0.001},
            "has no features.10.bias, features.10.weight, .* and 37 more",
        ),
        ({"name": "resnet50"}, "has no bn1.bias, .*, which resnet50 has; found features.0.weight"),
        ({"name": "vgg11", "width": 0.5}, r"features.1.bias is float32 \(1,\), but that of vgg11"),
    ]:
        with pytest.raises(TicketError, match=f"^{vgg_file}: {says}"):
            imported(vgg_file, model)
    state = {**small_vgg_state(), "classifier.0.weight": np.zeros((9, 1), np.float32),
             "classifier.0.bias": np.zeros(9, np.float32)}  # fmt: skip
    save_file(state, tmp_path / "start.safetensors")
    with pytest.raises(TicketError, match="start.safetensors: has another number of classes"):
        imported(vgg_file, SMALL_VGG, start=tmp_path / "start.safetensors")


def test_networks_without_a_layout_and_images_too_small_are_errors():
    with pytest.raises(ConfigError, match="unknown value 'conv3' .*legal: alexnet"):
        pytorch.to_flax({}, "conv3", SHAPE)
    with pytest.raises(TicketError, match=r"does not take images of \(4, 4, 3\)"):
        pytorch.to_flax(small_vgg_state(), "vgg11", (4, 4, 3))


class Trap:
    """An object that makes a directory when it is unpickled carelessly."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_but_tensors_is_unpickled(tmp_path):
    path, trap = tmp_path / "a.pth", tmp_path / "sprung"
    torch.save({"features.0.weight": torch.zeros(3), "more": Trap(trap)}, path)
    with pytest.raises(TicketError, match="holds other objects than tensors") as error:
        pytorch.read_checkpoint(path)
    assert str(path) in str(error.value) and not trap.exists()


def test_other_files_are_errors(tmp_path):
    path = tmp_path / "a.pth"
    for content in (b"", b"not a file of PyTorch", b"PK\x03\x04" + b"\0" * 100):
        path.write_bytes(content)
        with pytest.raises(TicketError, match="a.pth: "):
            pytorch.read_checkpoint(path)
    torch.save([torch.zeros(3)], path)
    with pytest.raises(TicketError, match="holds a list, not a state dict"):
        pytorch.read_checkpoint(path)
    torch.save({"net_g": {"a": torch.zeros(3)}, "epoch": 7}, path)
    with pytest.raises(TicketError, match="has no tensors by name; found net_g, epoch; expected"):
        pytorch.read_checkpoint(path)
    torch.save({"model": {"a": torch.zeros(3), 7: torch.zeros(3)}}, path)
    with pytest.raises(TicketError, match="a tensor is named 7, which is not text"):
        pytorch.read_checkpoint(path)
    with pytest.raises(TicketError, match="is not a file"):
        pytorch.read_checkpoint(tmp_path / "nothing.pth")


def test_without_pytorch_one_line_says_how_to_get_it(vgg_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TicketError, match=r"needs PyTorch: pip install 'lottery_jax\[torch\]'"):
        pytorch.read_checkpoint(vgg_file)
