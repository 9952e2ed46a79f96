"""Every network of the zoo, in the layout of its public checkpoints, computes the same there."""

import importlib

import numpy as np
import pytest

from lottery_jax import tickets
from lottery_jax.errors import TicketError
from lottery_jax.models import MODELS, build_model
from lottery_jax.tickets import pytorch, torch_options
from tests.helpers import assert_same
from tests.tickets import torch_networks
from tests.tickets.torch_networks import SHAPE, assert_close, images, logits_there

torch = torch_networks.torch
nn = torch.nn


def logits_here(ticket, model):
    # Layer by layer, which takes less time than to compile a whole network for one batch.
    return model.apply(ticket.trained_variables, images(), train=False)


def imported(path, name, width=1.0, **more):
    return tickets.import_pytorch(
        path, {"name": name, "width": width}, data="cifar10", input_shape=SHAPE, mean=[0.5] * 3,
        std=[0.25] * 3, **more,
    )  # fmt: skip


def random_network(name, width=1.0, **options):
    # These gains make logits that are neither huge nor the same for every image.
    gain = 9 if name.startswith(("resnet", "vit")) else 18
    return torch_networks.randomise(torch_networks.build(name, width, **options), gain)


SMALL = [("lenet_300_100", 0.1)]  # the test of masks below has a small conv4
# The others are much like these; they take minutes.
SLOW = ("lenet_300_100", "conv6", "vgg19", "resnet20", "alexnet", "vit_tiny")
FULL = [
    pytest.param(name, 1.0, marks=pytest.mark.slow if name in SLOW else pytest.mark.long)
    for name in MODELS
]


@pytest.mark.parametrize("name, width", [*SMALL, *FULL])
def test_networks_compute_the_same_there_and_back_again(name, width, tmp_path):
    module = random_network(name, width)
    there = logits_there(module)
    torch.save(module.state_dict(), tmp_path / "there.pth")
    ticket = imported(tmp_path / "there.pth", name, width)
    here = logits_here(ticket, build_model(name, 10, width=width))
    assert_close(here, there)
    kernels = [p for n, p in module.state_dict().items() if p.ndim in (2, 4)]
    assert ticket.metadata["weights_total"] == sum(p.numel() for p in kernels)
    assert ticket.metadata["weights_remaining"] == sum(int(p.count_nonzero()) for p in kernels)
    assert "wrapping" not in ticket.metadata["imported"]

    tickets.export_pytorch(tmp_path / "back.pth", ticket)
    state = torch.load(tmp_path / "back.pth", weights_only=True)
    back = torch_networks.build(name, width).eval()
    back.load_state_dict(state, strict=True)
    assert_close(logits_there(back), here)
    for key, value in module.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(state[key], value), key


@pytest.mark.parametrize("shortcut, said", [
    pytest.param("shortcut", "shortcut for downsample", marks=pytest.mark.slow),
    ("zeros", "shortcuts without weights"),
])  # fmt: skip
def test_the_resnets_of_cifar_repositories(shortcut, said, tmp_path):
    """Their names differ, and some have shortcuts without weights, which become projections."""
    module = random_network("resnet20", 0.25, head="linear", shortcut=shortcut)
    state = module.state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "a.pth")
    ticket = imported(tmp_path / "a.pth", "resnet20", 0.25)
    assert said in ticket.metadata["imported"]["wrapping"]
    assert_close(logits_here(ticket, build_model("resnet20", 10, width=0.25)), logits_there(module))
    kept = sum(int(p.count_nonzero()) for n, p in state.items() if p.ndim in (2, 4))
    if shortcut == "zeros":  # a projection keeps one weight for each channel that it copies
        kept += 4 + 8
    assert ticket.metadata["weights_remaining"] == kept
    theirs, total, left_out = torch_options.counts(ticket)
    in_file = [p for p in state.values() if p.ndim in (2, 4)]
    assert (theirs, total) == (
        sum(int(p.count_nonzero()) for p in in_file), sum(p.numel() for p in in_file)
    )  # fmt: skip
    assert ("2 projections for shortcuts without weights" in left_out) == (shortcut == "zeros")
    tickets.export_pytorch(tmp_path / "b.pth", ticket)
    back = torch_networks.build("resnet20", 0.25).eval()
    back.load_state_dict(torch.load(tmp_path / "b.pth", weights_only=True), strict=True)
    assert_close(logits_there(back), logits_there(module))


def test_shortcuts_without_weights_excuse_nothing_else():
    state = dict(random_network("resnet20", 0.25, shortcut="zeros").state_dict())
    del state["layer3.2.bn2.bias"]
    with pytest.raises(TicketError, match="has no layer2.0.downsample.0.weight, .* and 8 more"):
        pytorch.to_flax(state, "resnet20", SHAPE, width=0.25)
    state = dict(torch_networks.build("resnet18", 1 / 64, shortcut="zeros").state_dict())
    with pytest.raises(TicketError, match="has no layer2.0.downsample.0.weight, .* resnet18 has"):
        pytorch.to_flax(state, "resnet18", SHAPE, width=1 / 64)


def test_masks_in_the_format_of_pytorchs_pruning(tmp_path):
    """`torch.nn.utils.prune` loads them, removes them and leaves the ticket's weights."""
    prune = importlib.import_module("torch.nn.utils.prune")
    module = random_network("conv4", 1 / 16)
    torch.save(module.state_dict(), tmp_path / "a.pth")
    ticket = imported(tmp_path / "a.pth", "conv4", 1 / 16)
    # A mask may keep a weight that is 0.0, as training can leave one.
    first, last = np.argwhere(ticket.mask["dense1"]["kernel"])[0]
    ticket.trained["dense1"]["kernel"][first, last] = 0.0
    tickets.export_pytorch(tmp_path / "b.pth", ticket, prune_format=True)
    state = torch.load(tmp_path / "b.pth", weights_only=True)
    pruned = torch_networks.build("conv4", 1 / 16).eval()
    layers = [m for m in pruned.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for i, layer in enumerate(layers):
        if i % 2:
            prune.identity(layer, "weight")
        else:
            prune.custom_from_mask(layer, "weight", torch.ones_like(layer.weight))
    pruned.load_state_dict(state, strict=True)
    here = logits_here(ticket, build_model("conv4", 10, width=1 / 16))
    assert_close(logits_there(pruned), here)  # the masks are applied
    masks = {name: mask for name, mask in pruned.named_buffers() if name.endswith("_mask")}
    assert len(masks) == len(layers) == 7
    assert sum(int(m.sum()) for m in masks.values()) == ticket.metadata["weights_remaining"]
    for layer in layers:
        prune.remove(layer, "weight")
    tickets.export_pytorch(tmp_path / "plain.pth", ticket)
    plain = torch.load(tmp_path / "plain.pth", weights_only=True)
    assert plain.keys() == pruned.state_dict().keys()
    assert all(torch.equal(value, plain[key]) for key, value in pruned.state_dict().items())

    again = imported(tmp_path / "b.pth", "conv4", 1 / 16)
    assert_same(again.mask, ticket.mask)
    assert_same(again.trained, ticket.trained)
    assert again.metadata["imported"]["mask"] == "weight_mask"


def test_masks_of_what_no_mask_here_prunes_are_refused():
    state = dict(random_network("vit_tiny", 1 / 64).state_dict())
    state["pos_embed_mask"] = torch.zeros_like(state["pos_embed"])
    with pytest.raises(TicketError, match="has a mask of pos_embed; only kernels can be pruned"):
        pytorch.to_flax(state, "vit_tiny", SHAPE, width=1 / 64)
