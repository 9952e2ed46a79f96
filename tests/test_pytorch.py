"""Weights from and for PyTorch: networks written there compute what ours compute.

The networks here are written as torchvision writes them, with its names.
"""

import functools
import os
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from lottery_jax import tickets
from lottery_jax.errors import ConfigError, TicketError
from lottery_jax.models import abstract_variables, build_model
from lottery_jax.tickets import pytorch
from tests.test_train import assert_same

torch = pytest.importorskip("torch")
nn = torch.nn


class VGG19(nn.Module):
    """That vgg19_bn without its last pooling, with a mean over the image and one linear layer."""

    def __init__(self, n=64, classes=10):
        super().__init__()
        layers, before = [], 3
        stages = (n, n, "M", *[2 * n] * 2, "M", *[4 * n] * 4, "M", *[8 * n] * 4, "M", *[8 * n] * 4)
        for width in stages:
            if width == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(before, classes)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class Bottleneck(nn.Module):
    """Its block, with the stride in the 3x3 convolution."""

    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride > 1 or before != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(y))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet50(nn.Module):
    """That resnet50."""

    def __init__(self, n=64, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, n, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(n)
        channels = n
        stages = [(n, 3), (2 * n, 4), (4 * n, 6), (8 * n, 3)]
        for i, (width, depth) in enumerate(stages, 1):
            blocks = []
            for j in range(depth):
                blocks.append(Bottleneck(channels, width, 2 if i > 1 and j == 0 else 1))
                channels = 4 * width
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class AlexNet(nn.Module):
    """That alexnet with the layer sizes of the experiments on 32x32 images."""

    def __init__(self, n=64, classes=10):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, n, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(n, 3 * n, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(3 * n, 6 * n, 3, padding=1), nn.ReLU(),
            nn.Conv2d(6 * n, 4 * n, 3, padding=1), nn.ReLU(),
            nn.Conv2d(4 * n, 4 * n, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(16 * n, 64 * n), nn.ReLU(),
            nn.Dropout(), nn.Linear(64 * n, 64 * n), nn.ReLU(), nn.Linear(64 * n, classes),
        )  # fmt: skip

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


NETWORKS = {"vgg19": VGG19, "resnet50": ResNet50, "alexnet": AlexNet}
SHAPE = (32, 32, 3)


def options(name):
    """Networks of a quarter of the width: as many layers, files a sixteenth of the size."""
    return {"name": name, "width": 0.25} | ({"stem": "imagenet"} if name == "resnet50" else {})


def randomise(module, gain):
    """A third of each kernel, at random, and statistics far from those of a new BatchNorm."""
    generator = torch.Generator().manual_seed(0)

    def uniform(like, low, high):
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                bound = (gain / part.weight[0].numel()) ** 0.5
                kept = uniform(part.weight, 0, 1) < 1 / 3
                # A product, as masks are applied there: it leaves zeros of both signs.
                part.weight.copy_(uniform(part.weight, -bound, bound) * kept)
                if part.bias is not None:
                    part.bias.copy_(uniform(part.bias, -0.5, 0.5))
            if isinstance(part, nn.BatchNorm2d):
                part.weight.copy_(uniform(part.weight, 0.5, 1.5))
                part.bias.copy_(uniform(part.bias, -0.5, 0.5))
                part.running_mean.copy_(uniform(part.running_mean, -0.5, 0.5))
                part.running_var.copy_(uniform(part.running_var, 0.5, 1.5))
                part.num_batches_tracked.fill_(77)
    return module.eval()


@functools.cache
def network(name):
    # So that the logits are neither huge nor the same for every image.
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


@pytest.mark.parametrize("name, classes", [(name, n) for name in NETWORKS for n in (10, 100)])
def test_at_full_size_names_and_shapes_are_those_there(name, classes):
    with torch.device("meta"):
        expected = {k: tuple(v.shape) for k, v in NETWORKS[name](64, classes).state_dict().items()}
    model = build_model(num_classes=classes, **{**options(name), "width": 1.0})
    shapes = abstract_variables(model, SHAPE)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    state = pytorch.from_flax(variables, name, SHAPE)
    assert {key: value.shape for key, value in state.items()} == expected


@pytest.mark.parametrize("name", NETWORKS)
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
    """A vgg11 of one channel in every layer; the conversion is that of any width."""
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
    """Saves random weights for `SMALL_VGG`; returns them."""
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


@pytest.mark.parametrize("wrap", ["model_state_dict", "state_dict", "module.", "safetensors"])
def test_checkpoints_in_their_usual_wrappings_are_read(tmp_path, wrap):
    state = random_vgg(tmp_path / "plain.pth", 0)
    path = tmp_path / "a.pth"
    if wrap == "safetensors":
        path = tmp_path / "a.safetensors"
        save_file({key: value.numpy() for key, value in state.items()}, path)
    elif wrap == "module.":
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    else:
        torch.save({"epoch": 3, wrap: state, "optimizer_state_dict": {"param_groups": []}}, path)
    found = pytorch.read_state_dict(path)
    assert found.keys() == state.keys()
    assert all(np.array_equal(found[key], state[key].numpy()) for key in state)


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
        (lambda s: s.pop("features.4.weight"), "has no features.4.weight, which vgg11 has"),
        (lambda s: s.pop("classifier.0.weight"), "has no matrix classifier.weight"),
        (lambda s: s.update(extra=np.zeros(1)), "has extra, which vgg11 has not"),
        (
            lambda s: s.update({"features.4.weight": np.zeros((1, 1, 5, 5), np.float32)}),
            r"features.4.weight is float32 \(1, 1, 5, 5\), but that of vgg11 is float32 \(1, 1, 3, 3\)",
        ),
        (
            lambda s: s.update({"features.4.bias": np.zeros(1, np.float16)}),
            r"features.4.bias is float16 \(1,\), but that of vgg11 is float32 \(1,\)",
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
        ({"name": "resnet50"}, "has no matrix fc.weight, the output layer of resnet50"),
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
    with pytest.raises(ConfigError, match="unknown value 'conv2'; legal: alexnet"):
        pytorch.to_flax({}, "conv2", SHAPE)
    with pytest.raises(TicketError, match=r"does not take images of \(4, 4, 3\)"):
        pytorch.to_flax(small_vgg_state(), "vgg11", (4, 4, 3))


class Trap:
    """Unpickled carelessly, it makes a directory."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_but_tensors_is_unpickled(tmp_path):
    path, trap = tmp_path / "a.pth", tmp_path / "sprung"
    torch.save({"features.0.weight": torch.zeros(3), "more": Trap(trap)}, path)
    with pytest.raises(TicketError, match="holds other objects than tensors") as error:
        pytorch.read_state_dict(path)
    assert str(path) in str(error.value) and not trap.exists()


def test_other_files_are_errors(tmp_path):
    path = tmp_path / "a.pth"
    for content in (b"", b"not a file of PyTorch", b"PK\x03\x04" + b"\0" * 100):
        path.write_bytes(content)
        with pytest.raises(TicketError, match="a.pth: "):
            pytorch.read_state_dict(path)
    torch.save([torch.zeros(3)], path)
    with pytest.raises(TicketError, match="holds a list, not a state dict"):
        pytorch.read_state_dict(path)
    torch.save({"a": torch.zeros(3), "b": 7}, path)
    with pytest.raises(TicketError, match="'b' is int, not a float32 tensor"):
        pytorch.read_state_dict(path)
    torch.save({"a": torch.zeros(3, dtype=torch.bfloat16)}, path)
    with pytest.raises(TicketError, match=r"'a' is torch.bfloat16, not a float32 tensor"):
        pytorch.read_state_dict(path)
    with pytest.raises(TicketError, match="is not a file"):
        pytorch.read_state_dict(tmp_path / "nothing.pth")


def test_without_pytorch_one_line_says_how_to_get_it(vgg_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TicketError, match=r"needs PyTorch: pip install 'lottery_jax\[torch\]'"):
        pytorch.read_state_dict(vgg_file)
