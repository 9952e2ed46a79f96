"""Networks of one's own from and to PyTorch: by a table of names, or in order."""

import json
from pathlib import Path

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import torch_reference
from lottery_jax import evaluate, tickets
from lottery_jax.datasets.in_memory import load_dataset
from lottery_jax.errors import ConfigError, TicketError
from lottery_jax.models import build_model
from lottery_jax.models.network import as_network
from lottery_jax.models.networks import nnx
from lottery_jax.tickets import fitting, layouts, torch_options
from lottery_jax.tickets.__main__ import main
from tests import own
from tests.helpers import assert_same
from tests.tickets import torch_networks
from tests.tickets.torch_networks import assert_close, images, logits_there

torch = torch_networks.torch
nn = torch.nn
SHAPE = (8, 12, 3)  # neither square nor of one channel, so that every mistake in order shows
WHERE = "tests.tickets.test_pytorch_own:Net"


class Block(linen.Module):
    """A convolution and a BatchNorm within a module."""

    features: int

    @linen.compact
    def __call__(self, x, train):
        x = linen.Conv(self.features, (3, 3), name="conv")(x)
        x = linen.BatchNorm(use_running_average=not train, epsilon=1e-5, name="norm")(x)
        return linen.max_pool(linen.relu(x), (2, 2), (2, 2))


class Net(linen.Module):
    """Two blocks, a flattened image, and two dense layers with a LayerNorm between them."""

    num_classes: int = 10

    @linen.compact
    def __call__(self, x, train=False):
        x = Block(5, name="first")(x, train)
        x = Block(6, name="second")(x, train)
        x = linen.Dense(7, name="hidden")(x.reshape(len(x), -1))
        x = linen.relu(linen.LayerNorm(epsilon=1e-5, name="norm")(x))
        return linen.Dense(self.num_classes, name="out")(x)


TABLE = {"first/conv": "0", "first/norm": "1", "second/conv": "4", "second/norm": "5", "hidden": "9",
         "norm": "10", "out": "12"}  # fmt: skip
FLATTEN = {"hidden": (2, 3)}


def there(shape=SHAPE):
    """Return the network as PyTorch's users write it without thinking of names."""
    height, width, channels = shape
    module = nn.Sequential(
        nn.Conv2d(channels, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(6 * (height // 4) * (width // 4), 7), nn.LayerNorm(7), nn.ReLU(),
        nn.Linear(7, 10),
    )  # fmt: skip
    return torch_networks.randomise(module, 18)


def imported(path, model, shape=SHAPE, **more):
    return tickets.import_pytorch(
        path, model, data="mine", input_shape=shape, mean=[0.0] * shape[2], std=[1.0] * shape[2], **more
    )  # fmt: skip


@pytest.fixture
def file(tmp_path):
    torch.save(there().state_dict(), tmp_path / "a.pth")
    return tmp_path / "a.pth"


@pytest.mark.parametrize("names", [pytest.param("order", marks=pytest.mark.slow), TABLE])
def test_a_network_of_ones_own_by_a_table_or_in_order(names, file, tmp_path):
    ticket = imported(file, {"name": "Net"}, network=Net(), names=names, flatten=FLATTEN)
    here = Net().apply(ticket.trained_variables, images(SHAPE))
    assert_close(here, logits_there(there(), SHAPE))
    assert ticket.metadata["num_classes"] == 10 and ticket.density == pytest.approx(1 / 3, abs=0.05)
    tickets.save_ticket(tmp_path / "ticket", ticket)
    again = tickets.load_ticket(tmp_path / "ticket")
    tickets.export_pytorch(tmp_path / "b.pth", again, names=TABLE, flatten=FLATTEN)
    back = there()
    back.load_state_dict(torch.load(tmp_path / "b.pth", weights_only=True), strict=True)
    assert_close(logits_there(back, SHAPE), here)
    # Without a table, modules have their own names there.
    tickets.export_pytorch(tmp_path / "c.pth", again, flatten=FLATTEN, prune_format=True)
    state = torch.load(tmp_path / "c.pth", weights_only=True)
    assert "first.norm.running_mean" in state and "second.conv.weight_mask" in state
    back = imported(tmp_path / "c.pth", {"name": WHERE}, flatten=FLATTEN)
    assert_same(back.mask, ticket.mask)
    assert_same(back.trained_variables, ticket.trained_variables)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("conv2", marks=pytest.mark.slow),
        pytest.param("resnet20", marks=pytest.mark.slow),
    ],
)
def test_the_networks_of_the_benchmarks_in_order(name, tmp_path):
    """They are sequences whose modules have no names but numbers."""
    shape = (32, 32, 3)
    module = torch_networks.randomise(torch_reference.build(name, shape, 10), 9)
    torch.save(module.state_dict(), tmp_path / "a.pth")
    ticket = imported(tmp_path / "a.pth", {"name": name}, shape, names="order")
    here = build_model(name, 10).apply(ticket.trained_variables, images(), train=False)
    assert_close(here, logits_there(module))


def test_other_names_for_a_network_of_the_zoo(tmp_path):
    module = torch_networks.randomise(torch_networks.build("lenet_300_100", 0.1), 18)
    theirs = {"fc1": "fc_layers.0", "fc2": "fc_layers.1", "fc3": "fc"}
    state = {f"{theirs[k.partition('.')[0]]}.{k.partition('.')[2]}": v
             for k, v in module.state_dict().items()}  # fmt: skip
    torch.save(state, tmp_path / "a.pth")
    model = {"name": "lenet_300_100", "width": 0.1}
    names = {"dense1": "fc_layers.0", "dense2": "fc_layers.1", "head": "fc"}
    ticket = imported(tmp_path / "a.pth", model, (32, 32, 3), names=names)
    here = build_model("lenet_300_100", 10, width=0.1).apply(
        ticket.trained_variables, images(), train=False
    )
    assert_close(here, logits_there(module))


@pytest.mark.slow
def test_an_nnx_network_in_order(tmp_path):
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(),
        nn.Linear(16, 10),
    )  # fmt: skip
    torch_networks.randomise(module, 18)
    torch.save(module.state_dict(), tmp_path / "a.pth")
    network, shape = nnx(lambda rngs: own.NNX(10, rngs=rngs)), (4, 8, 2)
    ticket = imported(tmp_path / "a.pth", {"name": "NNX"}, shape, network=network, names="order")
    here = network.apply_eval(ticket.trained, ticket.trained_batch_stats, images(shape))
    assert_close(here, logits_there(module, shape))


@pytest.mark.parametrize("given, says", [
    ({"names": "order"}, "hidden takes 36 numbers, and the layer before it gives 6: .*--flatten=hidden=H"),
    ({"names": TABLE, "flatten": {"hidden": (5, 5)}}, "hidden is not a dense layer .* 5x5 flattened"),
    ({"names": TABLE, "flatten": {**FLATTEN, "first/conv": (1, 1)}}, "first/conv is not a dense layer"),
    ({"names": {"hiddn": "9"}, "flatten": FLATTEN}, "names: .*'hiddn' .did you mean 'hidden'"),
    ({"names": {"hidden": "out"}, "flatten": FLATTEN}, "names: out would be two modules"),
    ({"flatten": FLATTEN}, "has no matrix out.weight, the output layer of Net; found 0.weight"),
    ({"names": {**TABLE, "norm": "13"}, "flatten": FLATTEN}, "has no 13.bias, 13.weight, which Net has"),
])  # fmt: skip
def test_names_and_orders_that_do_not_fit_are_one_line(given, says, file):
    with pytest.raises((ConfigError, TicketError), match=says) as error:
        imported(file, {"name": "Net"}, network=Net(), **given)
    assert "\n" not in str(error.value)


def test_an_order_with_more_or_fewer_layers_is_refused(tmp_path):
    module = there()
    torch.save(nn.Sequential(*module, nn.Linear(10, 10)).state_dict(), tmp_path / "a.pth")
    with pytest.raises(TicketError, match=r"has 5 layers with weights \(0, 4, 9 and 2 more\), but "
                       "the network has 4"):  # fmt: skip
        imported(tmp_path / "a.pth", {"name": "Net"}, network=Net(), names="order", flatten=FLATTEN)


class Cube(linen.Module):
    """A convolution of volumes, whose kernel has five dimensions."""

    @linen.compact
    def __call__(self, x):
        return linen.Dense(10)(linen.Conv(2, (1, 1, 1))(x[..., None]).mean((1, 2, 3)))


def test_other_kernels_than_those_of_images_are_refused(file):
    with pytest.raises(ConfigError, match="Conv_0: its kernel has 5 dimensions; only those"):
        imported(file, {"name": "Cube"}, network=Cube())


DIGITS = (8, 8, 1)


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    """Return a LeNet of PyTorch that has learned digits a little, and its file."""
    torch.manual_seed(0)
    module, data = torch_networks.LeNet((), (300, 100), DIGITS), load_dataset("digits")
    x, y = (torch.from_numpy(np.array(a)) for a in (data.x_train, data.y_train))
    x = ((x.float() / 255 - 0.5) / 0.25).permute(0, 3, 1, 2)
    for _ in range(30):
        loss = nn.functional.cross_entropy(module(x), y.long())
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter -= 0.3 * gradient
    with torch.no_grad():
        for layer in (module.fc1, module.fc2):
            layer.weight *= layer.weight.abs() > layer.weight.abs().median()
    file = tmp_path_factory.mktemp("lenet") / "theirs.pth"
    torch.save(module.state_dict(), file)
    return module, file


def command(call, *arguments):
    try:
        return call([str(argument) for argument in arguments])
    except SystemExit as exit:
        return exit.code


NORMAL = ("--input_shape=8,8,1", "--mean=0.5", "--std=0.25")


def test_evaluate_measures_a_file_of_pytorch(lenet, capsys):
    module, file = lenet
    options = (f"--ticket={file}", "--model=lenet_300_100", "--data=digits", *NORMAL)
    assert command(evaluate.main, *options) == 0
    out = capsys.readouterr().out
    data = load_dataset("digits")
    x = (torch.from_numpy(np.array(data.x_test)).float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        right = module(x.permute(0, 3, 1, 2)).argmax(1).numpy() == np.asarray(data.y_test)
    assert 0.6 < right.mean() < 1
    kernels = [p for p in module.state_dict().values() if p.ndim == 2]
    total, kept = sum(p.numel() for p in kernels), sum(int(p.count_nonzero()) for p in kernels)
    assert (
        f"pruned   {1 - kept / total:.2%} of the prunable weights ({total - kept} of {total})"
        in out
    )
    assert f"accuracy {right.mean():.2%} on the test set of digits" in out
    assert "mask     what is not zero" in out
    assert "images   normalised with mean 0.5, std 0.25\n" in out


@pytest.mark.parametrize("more, says", [
    ((), "is not a ticket; for a PyTorch file give --model and --data"),
    (("--model=lenet_300_100",), "give --model and --data"),
    (("--model=lenet_300_10", "--data=digits"), "unknown value 'lenet_300_10' (did you mean"),
    (("--model=lenet_300_100", "--data=digits", "--input_shape=32,32,3"),
     "fc1.weight is float32 (300, 64), but that of"),
    (("--model=conv2", "--data=digits", *NORMAL), "theirs.pth: has no conv1.bias, conv1.weight, "),
    (("--model=lenet_300_100", "--data=digits", "--epoch=3"), "--epoch: is for the tickets of a run"),
    (("--model=lenet_300_100", "--data=digits", "--names=dense1"), "--names: 'dense1' is not like"),
    (("--model=lenet_300_100", "--data=digits", "--names=a.json"), "--names: a.json: can't be read"),
    (("--model=lenet_300_100", "--data=digits", "--flatten=dense1=7"), "--flatten: '7' is not like 7x7"),
    (("--model=lenet_300_100", "--data=digits", f"--flatten=dense1={'9' * 5000}x1"), "9' is not like 7x7"),
    (("--model=no.such:Net", "--data=digits"), "--model: "),
])  # fmt: skip
def test_mistakes_about_files_of_pytorch_are_one_line(more, says, lenet, capsys):
    assert command(evaluate.main, f"--ticket={lenet[1]}", *more) == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and error.count("\n") == 1 and not out
    assert says in error


def test_the_command_takes_names_and_writes_pytorchs_pruning(file, tmp_path, capsys):
    (tmp_path / "names.json").write_text(json.dumps(TABLE))
    pairs = ",".join(f"{here}={name}" for here, name in TABLE.items())
    shared = (f"--model={WHERE}", "--data=digits", "--input_shape=8,12,3", "--flatten=hidden=2x3")
    for names in (tmp_path / "names.json", pairs, "order"):
        directory = tmp_path / "ticket"
        options = (*shared, f"--names={names}", "--force")
        assert command(main, "import", file, directory, *options) == 0, capsys.readouterr()
    options = (*shared, "--names=order", "--layers")
    assert command(evaluate.main, f"--ticket={file}", *options) == 0
    assert "second/conv" in capsys.readouterr().out
    options = ("--format=prune", f"--names={pairs}", "--flatten=hidden=2x3")
    assert command(main, "export", directory, tmp_path / "b.pth", *options) == 0
    state = torch.load(tmp_path / "b.pth", weights_only=True)
    assert state["9.weight_mask"].shape == (7, 36)
    np.testing.assert_array_equal(state["9.weight_orig"], there().state_dict()["9.weight"])
    assert command(main, "export", directory, tmp_path / "c.safetensors", "--format=prune") == 2
    assert "are for .pth and .pt" in capsys.readouterr().err


def test_a_ticket_of_a_run_takes_no_options_of_pytorch(file, tmp_path, capsys):
    ticket = imported(file, {"name": WHERE}, names="order", flatten=FLATTEN)
    tickets.save_portable(tmp_path / "a.safetensors", ticket)
    assert command(evaluate.main, f"--ticket={tmp_path / 'a.safetensors'}", "--stem=cifar") == 2
    assert "--stem: is for PyTorch files" in capsys.readouterr().err


def test_pixels_are_where_they_were(tmp_path):
    """A dense layer on a flattened image reads the same pixels: one weight, one pixel."""
    module = torch_networks.LeNet((), (4, 3), SHAPE)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.fc1.weight.view(4, 3, 8, 12)[1, 2, 5, 7] = 1.0
    torch.save(module.state_dict(), tmp_path / "a.pth")
    names = {"Dense_0": "fc1", "Dense_1": "fc2", "Dense_2": "fc3"}
    network = Plain()
    ticket = imported(tmp_path / "a.pth", {"name": "Plain"}, network=network, names=names)
    kernel = ticket.trained["Dense_0"]["kernel"].reshape(8, 12, 3, 4)
    assert kernel[5, 7, 2, 1] == 1.0 and ticket.metadata["weights_remaining"] == 1


class Plain(linen.Module):
    """LeNet with four and three hidden units, under the names that Flax gives."""

    first: int = 4

    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Dense(self.first)(x.reshape(len(x), -1)))
        x = linen.relu(linen.Dense(3)(x))
        return linen.Dense(10)(x)


class Twice(linen.Module):
    """Two dense layers that both read the flattened image; a third reads their sum."""

    @linen.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        x = linen.relu(linen.Dense(4, name="a")(x)) + linen.Dense(4, name="b")(x)
        return linen.Dense(10, name="c")(x)


def test_every_layer_that_reads_the_image_is_reordered(tmp_path):
    a, b, c = (
        torch_networks.randomise(nn.Linear(read, units), 18)
        for read, units in ((288, 4), (288, 4), (4, 10))
    )
    layers = {"a": a, "b": b, "c": c}
    state = {f"{n}.{k}": v for n, layer in layers.items() for k, v in layer.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    ticket = imported(tmp_path / "a.pth", {"name": "Twice"}, network=Twice())
    x = torch.from_numpy(images(SHAPE).transpose(0, 3, 1, 2).copy()).flatten(1)
    with torch.no_grad():
        there = c(a(x).relu() + b(x)).numpy()
    assert_close(Twice().apply(ticket.trained_variables, images(SHAPE)), there)
    tickets.export_pytorch(tmp_path / "b.pth", ticket)
    back = torch.load(tmp_path / "b.pth", weights_only=True)
    assert all(torch.equal(back[key], value) for key, value in state.items())


class Branches(linen.Module):
    """A flattened image, and again beside what a dense layer makes of it."""

    @linen.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        x = jnp.concatenate([x, linen.Dense(4)(x)], -1)
        return linen.Dense(10)(x)


class Pooled(linen.Module):
    """A flattened image of a quarter of the pixels, and no convolution before it."""

    @linen.compact
    def __call__(self, x):
        return linen.Dense(10)(linen.avg_pool(x, (2, 2), (2, 2)).reshape(len(x), -1))


class PerPixel(linen.Module):
    """A dense layer of each pixel, and the flattened image of what it gives."""

    @linen.compact
    def __call__(self, x):
        x = linen.Dense(2)(x).reshape(len(x), -1)
        return linen.Dense(10)(x)


class Wide(linen.Module):
    """Two dense layers that read the flattened image of a convolution; the first is as wide."""

    @linen.compact
    def __call__(self, x):
        x = linen.Conv(2, (3, 3))(x).reshape(len(x), -1)
        x = linen.Dense(x.shape[-1])(x)
        return linen.Dense(10)(x)


@pytest.mark.parametrize("network, shape, flatten, layer", [
    (Branches(), (2, 3, 2), {}, "Dense_1 takes 16 numbers, .* gives 4"),
    (Pooled(), (4, 4, 2), {}, "Dense_0 takes 8 numbers, .* --flatten=Dense_0=2x2"),
    (PerPixel(), (2, 2, 1), {}, "Dense_1 takes 8 numbers, .* --flatten=Dense_1=2x2"),
    # It may read the image or what the layer before it gives, which is as large.
    (Plain(first=12), (2, 3, 2), {}, "Dense_1 takes 12 numbers, .* gives 12"),
    (Wide(), (2, 2, 1), {"Dense_0": (2, 2)}, "Dense_1 takes 8 numbers, .* gives 8"),
])  # fmt: skip
def test_layers_that_may_read_a_flattened_image_are_not_guessed(network, shape, flatten, layer):
    """Either answer is a right one, and each gives another order."""
    facts = fitting.facts_of(fitting.Target({"name": "mine"}, shape, network), 10)[1]

    def layout(**more):
        of_network = (facts.variables, "mine", shape, facts.layer_order)
        return layouts.layout_of(*of_network, head=facts.head, flatten={**flatten, **more})

    with pytest.raises(ConfigError, match=f"{layer}.*1x1 leaves the order as it is"):
        layout()
    name = layer.partition(" ")[0]
    assert layout(**{name: (1, 1)}).images[name] == (1, 1)


def test_an_image_of_one_channel_has_one_order_alone():
    network, shape = Plain(first=6), (2, 3, 1)
    facts = fitting.facts_of(fitting.Target({"name": "mine"}, shape, network), 10)[1]
    layout = layouts.layout_of(facts.variables, "mine", shape, facts.layer_order, head=facts.head)
    kernel = np.arange(36.0).reshape(6, 6)
    for layer in ("Dense_0", "Dense_1"):
        np.testing.assert_array_equal(layout.to_torch(f"{layer}/kernel", kernel), kernel.T)


class Up(linen.ConvTranspose):
    """A transposed convolution under a name of one's own."""


class Transposed(linen.Module):
    """A transposed convolution with as many inputs as outputs: the shapes do not tell."""

    kind: type[linen.Module] = linen.ConvTranspose

    @linen.compact
    def __call__(self, x):
        x = self.kind(3, (3, 3), name="up")(x).mean((1, 2))
        return linen.Dense(10, name="out")(x)


class TransposedNNX(own.nnx.Module):
    """The same."""

    def __init__(self, rngs):
        self.up = own.nnx.ConvTranspose(3, 3, (3, 3), rngs=rngs)
        self.out = own.nnx.Linear(3, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(self.up(x).mean((1, 2)))


class General(linen.Module):
    """A dense layer over two axes at once."""

    @linen.compact
    def __call__(self, x):
        x = linen.DenseGeneral((3, 4), axis=(-2, -1), name="up")(x).mean(1)
        return linen.Dense(10, name="out")(x.mean(1))


@pytest.mark.parametrize("network, kind", [
    (Transposed(), "ConvTranspose"), (nnx(TransposedNNX), "ConvTranspose"), (General(), "DenseGeneral"),
    (Transposed(Up), "ConvTranspose"),
])  # fmt: skip
def test_layers_that_pytorch_has_otherwise_are_refused(network, kind, tmp_path, capsys):
    up, out = nn.Conv2d(3, 3, 3), nn.Linear(3, 10)
    torch.save(nn.ModuleDict({"up": up, "out": out}).state_dict(), tmp_path / "a.pth")
    says = f"up: is a {kind}; of layers with a kernel, only Dense"
    with pytest.raises(ConfigError, match=says):
        imported(tmp_path / "a.pth", {"name": "mine"}, network=network)
    # An export needs to be told the kinds: by the ticket or by the network.
    ticket = untrained(network)
    with pytest.raises(ConfigError, match=says):
        tickets.export_pytorch(tmp_path / "b.pth", ticket, network=network)
    kinds = layouts.layer_kinds(as_network(network, SHAPE))
    assert kinds.keys() == {"up", "out"} and kinds["up"] == kind
    ticket.metadata["layer_kinds"] = kinds
    with pytest.raises(ConfigError, match=says):
        tickets.export_pytorch(tmp_path / "b.pth", ticket)
    tickets.save_portable(tmp_path / "a.safetensors", ticket)
    capsys.readouterr()
    assert command(main, "export", tmp_path / "a.safetensors", tmp_path / "b.pth") == 2
    error = capsys.readouterr().err
    assert f"up: is a {kind}" in error and error.count("\n") == 1
    assert not (tmp_path / "b.pth").exists()


def untrained(network, shape=SHAPE):
    """Return a dense ticket of a network with random weights."""
    network = as_network(network, shape)
    variables = jax.tree.map(np.asarray, network.init(jax.random.key(0)))
    params, stats = variables["params"], variables["batch_stats"]
    metadata = {
        "model": {"name": "mine"}, "num_classes": 10, "input_shape": list(shape), "data": "mine",
        "mean": [0.0] * shape[2], "std": [1.0] * shape[2], "layer_order": network.layer_names(),
    }  # fmt: skip
    mask = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), params)
    return tickets.Ticket(mask, params, stats, metadata, params, stats)


class Grouped(linen.Module):
    """A convolution of two groups with holes, and one of a group for each channel with a stride."""

    @linen.compact
    def __call__(self, x):
        holes = {"kernel_dilation": (2, 1), "feature_group_count": 2}
        x = linen.relu(linen.Conv(8, (3, 3), padding="VALID", name="holes", **holes)(x))
        x = linen.Conv(8, (3, 2), 2, padding="VALID", feature_group_count=8, name="each")(x)
        return linen.Dense(10, name="out")(x.mean((1, 2)))


def test_groups_strides_and_dilation_leave_the_weights_as_they_are(tmp_path):
    shape, network = (10, 12, 4), Grouped()
    holes, each = (
        nn.Conv2d(4, 8, 3, dilation=(2, 1), groups=2),
        nn.Conv2d(8, 8, (3, 2), 2, groups=8),
    )
    there = nn.ModuleDict({"holes": holes, "each": each, "out": nn.Linear(8, 10)})
    ticket = untrained(network, shape)
    tickets.export_pytorch(tmp_path / "a.pth", ticket, network=network)
    there.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True), strict=True)
    x = torch.from_numpy(images(shape).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        theirs = there["out"](each(holes(x).relu()).mean((2, 3))).numpy()
    assert_close(network.apply(ticket.trained_variables, images(shape)), theirs)
    back = imported(tmp_path / "a.pth", {"name": "mine"}, shape, network=network)
    assert_same(back.trained, ticket.trained)
    assert back.metadata["layer_kinds"] == {"holes": "Conv", "each": "Conv", "out": "Dense"}


def test_the_command_says_that_kinds_of_layers_are_not_known(tmp_path, capsys):
    tickets.save_portable(tmp_path / "a.safetensors", untrained(Plain(), (2, 3, 1)))
    assert command(main, "export", tmp_path / "a.safetensors", tmp_path / "b.pth") == 0
    assert "does not say of which kind its layers are: taken for Dense" in capsys.readouterr().out


class Haiku(linen.Module):
    """A matrix by another name, which is square."""

    @linen.compact
    def __call__(self, x):
        return linen.Dense(10, name="out")(x.mean((1, 2)) @ self.param("w", _ones, (3, 3)))


class Same(linen.Module):
    """A module whose kernel and scale have one name in PyTorch."""

    @linen.compact
    def __call__(self, x):
        x = x.mean((1, 2)) @ self.param("kernel", _ones, (3, 3)) * self.param("scale", _ones, (3,))
        return linen.Dense(10, name="out")(x)


def _ones(key, shape):
    return jnp.ones(shape)


class Around(linen.Module):
    """A network of one module."""

    inner: linen.Module

    @linen.compact
    def __call__(self, x):
        return self.inner(x)


@pytest.mark.parametrize("inner, says", [
    (Haiku(), "inner/w: only weights named kernel can be from or for PyTorch"),
    (Same(), "inner/kernel and inner/scale would both be inner.weight in PyTorch; rename one of them"),
])  # fmt: skip
def test_weights_that_have_no_one_name_or_order_are_refused(inner, says, tmp_path):
    """In both directions."""
    network = Around(inner)
    state = {"inner.weight": np.ones((3, 3), np.float32), "inner.out.bias": np.ones(10, np.float32),
             "inner.out.weight": np.ones((10, 3), np.float32)}  # fmt: skip
    torch.save({k: torch.from_numpy(v) for k, v in state.items()}, tmp_path / "a.pth")
    with pytest.raises(ConfigError, match=says):
        imported(tmp_path / "a.pth", {"name": "mine"}, network=network)
    facts = fitting.facts_of(
        fitting.Target({"name": "mine"}, SHAPE, as_network(network, SHAPE)), 10
    )
    params = jax.tree.map(
        lambda leaf: np.ones(leaf.shape, leaf.dtype), facts[1].variables["params"]
    )
    mask = jax.tree.map(lambda leaf: leaf > 0, params)
    metadata = {
        "model": {"name": "mine"},
        "input_shape": SHAPE,
        "layer_order": facts[1].layer_order,
    }
    with pytest.raises(ConfigError, match=says):
        tickets.export_pytorch(
            tmp_path / "b.pth", tickets.Ticket(mask, params, {}, metadata, params, {})
        )


def test_bfloat16_is_written_as_float32(tmp_path):
    params = {"out": {"kernel": jnp.asarray([[1.5, -2.0]], jnp.bfloat16).T}}
    metadata = {"model": {"name": "mine"}, "input_shape": (1, 1, 2), "layer_order": ["out"]}
    mask = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), params)
    tickets.export_pytorch(
        tmp_path / "a.pth", tickets.Ticket(mask, params, {}, metadata, params, {})
    )
    weight = torch.load(tmp_path / "a.pth", weights_only=True)["out.weight"]
    assert weight.dtype == torch.float32 and weight.tolist() == [[1.5, -2.0]]


def test_evaluate_normalises_as_the_data_set_unless_told(lenet, capsys):
    module, file = lenet
    options = (f"--ticket={file}", "--model=lenet_300_100", "--data=digits")
    data = load_dataset("digits")
    x = torch.from_numpy(np.array(data.x_test)).float().permute(0, 3, 1, 2) / 255
    cases = [
        ((), data.mean[0], data.std[0], "mean and std"),
        (("--mean=0.5",), 0.5, data.std[0], "std"),
    ]
    for more, mean, std, unnamed in cases:
        assert command(evaluate.main, *options, *more) == 0
        with torch.no_grad():
            right = module((x - mean) / std).argmax(1).numpy() == np.asarray(data.y_test)
        out = capsys.readouterr().out
        assert f"accuracy {right.mean():.2%} on the test set of digits" in out
        assert (
            f"images   normalised with mean {mean:.4g}, std {std:.4g} ({unnamed}: those of the data "
            "set; --mean and --std change that)"
        ) in out


def test_import_says_how_images_are_taken(lenet, tmp_path, capsys):
    options = ("--model=lenet_300_100", "--data=digits", "--input_shape=8,8,1")
    assert command(main, "import", lenet[1], tmp_path / "a", *options) == 0
    assert "mean 0, std 1 (mean and std: assumed, for pixels from 0" in capsys.readouterr().out
    assert command(main, "import", lenet[1], tmp_path / "b", *options, *NORMAL) == 0
    assert capsys.readouterr().out.endswith("images are normalised with mean 0.5, std 0.25\n")


def test_an_address_is_no_file_of_pytorch():
    assert not torch_options.is_pytorch(Path("hf://me/net.pt"))
    assert torch_options.is_pytorch(Path("net.pt"))
