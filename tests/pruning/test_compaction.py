"""A compacted network computes what the masked one did, and nothing that could go is left."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lottery_jax.datasets.in_memory import load_dataset
from lottery_jax.errors import ConfigError
from lottery_jax.models import build_model, resnet, vgg, vit
from lottery_jax.models.network import LinenNetwork
from lottery_jax.models.xla_options import compiler_options
from lottery_jax.pruning import masks
from lottery_jax.pruning.compaction import compact
from lottery_jax.pruning.connectivity import effective_mask
from tests.helpers import assert_same
from tests.pruning.small_networks import DEEP, QUICK, SHALLOW

SLOW, LONG = pytest.mark.slow, pytest.mark.long
NETWORKS = [
    "lenet_300_100",
    *(pytest.param(name, marks=SLOW) for name in ("conv2", "shallow_bottleneck")),
    *(pytest.param(f"shallow_{name}", marks=SLOW) for name in ("vgg", "vit")),
    pytest.param("shallow_resnet", marks=LONG),
    *(pytest.param(name, marks=LONG) for name in (*DEEP, "resnet50_imagenet")),
]
DENSITIES = (1.0, 0.5, 0.3, 0.15, 0.08, 0.04, 0.02, 0.01, 0.0)
QUICK_SEEDS = (1, 3, 5, 8)


def make(name, widths=None):
    """The network by the name of a test, in float32; with these widths."""
    if name.startswith("shallow_"):
        module, shape, _ = SHALLOW[name.removeprefix("shallow_")]
        return LinenNetwork(module if widths is None else narrowed(module, widths), shape)
    name, imagenet, _ = name.partition("_imagenet")
    options = {"stem": "imagenet"} if imagenet else {}
    width, shape = (QUICK | DEEP)[name]
    return LinenNetwork(build_model(name, 10, width=width, widths=widths, **options), shape)


def narrowed(module, widths):
    if isinstance(module, vgg.VGG):
        counts = iter(widths.values())
        return module.clone(widths=tuple(tuple(next(counts) for _ in s) for s in module.widths))
    if isinstance(module, vit.ViT):
        return module.clone(hidden=tuple(widths.values()))
    return resnet._with_widths(module, widths)


def draw_variables(network, rng):
    """Float64 weights of any sign: units may be dead, constants may be above or below zero."""

    def draw(path, leaf):
        if path[-1].key == "var":
            return rng.uniform(0.5, 1.5, leaf.shape)
        fan_in = np.prod(leaf.shape[:-1]) if path[-1].key == "kernel" else 1
        return rng.standard_normal(leaf.shape) * fan_in**-0.5

    return jax.tree_util.tree_map_with_path(draw, network.abstract_variables())


def draw_float32(network):
    return jax.tree.map(np.float32, draw_variables(network, np.random.default_rng(0)))


def draw_mask(params, density, rng, dead=0.0):
    """A random mask; besides, a share of the units of each kernel has no weight in or out."""

    def draw(path, leaf):
        if path[-1].key != "kernel":
            return np.ones(leaf.shape, bool)
        kept = rng.random(leaf.shape) < density
        kept[..., rng.random(leaf.shape[-1]) < dead] = False
        kept[..., rng.random(leaf.shape[-2]) < dead, :] = False
        return kept

    return jax.tree_util.tree_map_with_path(draw, params)


def outputs(network, params, batch_stats, images):
    """In the dtype of the params."""
    computing = network.with_dtype(jnp.result_type(*jax.tree.leaves(params)))
    return np.asarray(program()(computing, params, batch_stats, images))


@functools.cache
def program():
    options = compiler_options("cpu", run_once=True)
    return jax.jit(
        lambda network, *arrays: network.apply_eval(*arrays),
        static_argnums=0,
        compiler_options=options,
    )


def shapes(tree):
    return jax.tree.map(lambda leaf: leaf.shape, tree)


def drawn(name, seeds):
    """Variables and masks of many densities, whole units dead in every other one; and images."""
    network = make(name)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        variables = draw_variables(network, rng)
        density = DENSITIES[seed % len(DENSITIES)]
        mask = draw_mask(variables["params"], density, rng, dead=0.3 * (seed % 2))
        images = rng.normal(size=(2, *network.input_shape))
        yield network, variables, mask, np.concatenate([images, digits(network.input_shape)])


@functools.cache
def digits(shape):
    """Two images of real digits, repeated or cut to a shape; pixels as in a training."""
    data = load_dataset("digits")
    images = (data.x_test[:2] / 255 - np.array(data.mean)) / np.array(data.std)
    height, width, channels = shape
    repeated = np.tile(images, (1, -(-height // 8), -(-width // 8), channels))
    return repeated[:, :height, :width]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_stays(name):
    """Of each network at all densities, down to none: float64 agrees to its last digits."""
    is_quick = name in ("shallow_bottleneck", "shallow_vgg", "shallow_vit")
    assert removed_units(name, QUICK_SEEDS if is_quick else range(len(DENSITIES))) > 0


@pytest.mark.long
@pytest.mark.parametrize("name", ["shallow_vgg", "shallow_vit"])
def test_the_function_stays_at_the_other_densities(name):
    assert removed_units(name, set(range(len(DENSITIES))) - set(QUICK_SEEDS)) > 0


def removed_units(name, seeds):
    """How many units go from networks drawn with these seeds, each with the same function after it."""
    # The softmax of attention is float32 whatever the rest is.
    tolerance = 1e-5 if "vit" in name else 1e-10
    removed = 0
    with jax.enable_x64(True):
        for network, variables, mask, images in drawn(name, seeds):
            params = jax.tree.map(np.multiply, mask, variables["params"])
            before = outputs(network, params, variables["batch_stats"], images)
            small = compact(network, variables["params"], variables["batch_stats"], mask)
            smaller = make(name, small.widths)
            assert shapes(smaller.abstract_variables()["params"]) == shapes(small.params)
            after = outputs(smaller, small.params, small.batch_stats, images)
            scale = np.abs(before).max()
            assert np.abs(after - before).max() <= tolerance * scale
            assert all(
                np.all(p[~m] == 0)
                for p, m in zip(*map(jax.tree.leaves, (small.params, small.mask)), strict=True)
            )
            removed += sum(small.widths_before.values()) - sum(small.widths.values())
    return removed


@pytest.mark.parametrize(
    "name", [*NETWORKS[:2], *(pytest.param(f"shallow_{n}", marks=LONG) for n in SHALLOW)]
)
def test_a_second_time_nothing_goes(name):
    for network, variables, mask, _ in drawn(name, (3, 5)):
        variables = jax.tree.map(np.float32, variables)
        small = compact(network, **variables, mask=mask)
        again = compact(make(name, small.widths), small.params, small.batch_stats, small.mask)
        assert again.widths == small.widths and again.folded == 0
        assert_same(again.mask, small.mask)


def test_what_stays_lies_on_paths():
    """Of LeNet a unit stays exactly if a path of kept weights leads through it, or as the last."""
    for network, variables, mask, _ in drawn("lenet_300_100", range(2, 8)):
        small = compact(network, **variables, mask=mask)
        on_paths = effective_mask(network, mask)
        for layer, units in small.units.items():
            through = np.flatnonzero(on_paths[layer]["kernel"].any(axis=0))
            np.testing.assert_array_equal(units, through if len(through) else [0])
        assert masks.counts(small.mask)[0] == masks.counts(on_paths)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet_300_100", pytest.param("shallow_bottleneck", marks=LONG)])
def test_without_unread_units_training_is_the_same(name):
    """Outputs in training, new statistics and gradients of kept weights are the larger network's."""
    with jax.enable_x64(True):
        # (With fewer weights whole layers give constants, and BatchNorm makes much of their rounding.)
        for network, variables, mask, images in drawn(name, (1,)):
            variables["params"] = jax.tree.map(np.multiply, mask, variables["params"])
            small = compact(network, **variables, mask=mask, fold=False)
            assert small.folded == 0 and small.widths != small.widths_before
            assert_same(small.batch_stats, small.take(variables["batch_stats"]))
            smaller = make(name, small.widths).with_dtype(jnp.float64)

            def loss(params, stats, net, images=images):
                y, new = net.apply_train(params, stats, images, jax.random.key(0))
                return jnp.sum(jnp.sin(y)), (y, new)

            options = compiler_options("cpu", run_once=True)
            gradient = jax.jit(
                jax.grad(loss, has_aux=True), static_argnums=2, compiler_options=options
            )
            of_large, (y, new) = gradient(
                variables["params"], variables["batch_stats"], network.with_dtype(jnp.float64)
            )
            of_small, (y_small, new_small) = gradient(small.params, small.batch_stats, smaller)
            np.testing.assert_allclose(y_small, y, rtol=1e-9, atol=1e-12)
            expected = small.take(jax.device_get(of_large)), small.take(jax.device_get(new))
            of_small, of_large = (
                jax.tree.map(np.multiply, small.mask, each) for each in (of_small, expected[0])
            )
            if new:  # some channels of the last block, which the head does not read
                del new_small["block1_2"]["bn3"], expected[1]["block1_2"]["bn3"]
            for a, b in zip(
                *map(jax.tree.leaves, ((of_small, new_small), (of_large, expected[1]))), strict=True
            ):
                np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


def test_digits():
    """On real images in float32, with a tenth of the units of the second layer cut off."""
    network = LinenNetwork(build_model("lenet_300_100", 10), (8, 8, 1))
    variables = draw_float32(network)
    mask = masks.ones_like(variables["params"])
    mask["dense2"]["kernel"][:, ::10] = False
    mask["head"]["kernel"][5::10] = False
    images = load_dataset("digits").x_test[:100] / np.float32(255)
    params = jax.tree.map(np.multiply, mask, variables["params"])
    small = compact(network, **variables, mask=mask)
    assert small.widths == {"dense1": 300, "dense2": 80}
    smaller = LinenNetwork(build_model("lenet_300_100", 10, widths=small.widths), (8, 8, 1))
    before = outputs(network, params, {}, images)
    after = outputs(smaller, small.params, {}, images)
    np.testing.assert_allclose(after, before, atol=1e-5)


def conv2(second_bias):
    """A Conv-2 whose first two channels are constants that the second convolution reads."""
    network = LinenNetwork(build_model("conv2", 10, width=0.1), (8, 8, 1))
    variables = draw_float32(network)
    variables["params"]["conv1"]["bias"] = np.float32([0.5, second_bias, 0, 0, 0, 0])
    mask = masks.ones_like(variables["params"])
    mask["conv1"]["kernel"][..., :2] = False
    return network, variables, mask


def test_constants_near_a_border():
    """With padding a constant of zero can go; several others become one, with their weights."""
    network, variables, mask = conv2(-1.0)
    small = compact(network, **variables, mask=mask)
    np.testing.assert_array_equal(small.units["conv1"], [0, 2, 3, 4, 5])
    assert small.folded == 1
    assert_same(small.params["conv2"]["bias"], variables["params"]["conv2"]["bias"])
    network, variables, mask = conv2(1.0)
    small = compact(network, **variables, mask=mask)
    np.testing.assert_array_equal(small.units["conv1"], [1, 2, 3, 4, 5])
    kernel = variables["params"]["conv2"]["kernel"]
    np.testing.assert_allclose(
        small.params["conv2"]["kernel"][:, :, 0], kernel[:, :, 1] + kernel[:, :, 0] / 2, rtol=1e-5
    )


def test_a_constant_that_goes_for_one_unit_alone():
    """It counts as folded, for the weights that are left no longer train as before."""
    network, variables, mask = conv2(0.0)
    mask["conv1"]["kernel"][..., 1] = True
    mask["conv2"]["kernel"][:, :, 0, 2] = np.arange(9).reshape(3, 3) == 4  # sees no border
    small = compact(network, **variables, mask=mask)
    assert small.folded == 1 and small.widths == small.widths_before
    assert masks.counts(small.mask)[0] == masks.counts(mask)[0] - 1
    before, kernel = variables["params"]["conv2"]["bias"], variables["params"]["conv2"]["kernel"]
    expected = before + np.float32([0, 0, kernel[1, 1, 0, 2] / 2, 0, 0, 0])
    np.testing.assert_allclose(small.params["conv2"]["bias"], expected, rtol=1e-5)


def test_constants_without_a_border():
    """A dense layer takes them into its bias, from every pixel of a flat image."""
    network, variables, mask = conv2(0.0)
    variables["params"]["conv2"]["bias"] = np.float32([0, 0, 2, 0, 0, 0])
    mask["conv2"]["kernel"][..., 2] = False
    small = compact(network, **variables, mask=mask)
    np.testing.assert_array_equal(small.units["conv2"], [0, 1, 3, 4, 5])
    pixels = variables["params"]["dense1"]["kernel"].reshape(4, 4, 6, -1)
    before = variables["params"]["dense1"]["bias"]
    np.testing.assert_allclose(
        small.params["dense1"]["bias"],
        before + 2 * pixels[:, :, 2].sum((0, 1)),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_shortcut_stays_where_widths_become_equal():
    model = build_model("resnet50", 10, width=0.1, widths={"stem": 5, "block1_1/shortcut": 5})
    params = LinenNetwork(model, (32, 32, 3)).abstract_variables()["params"]
    assert params["block1_1"]["shortcut"]["kernel"].shape == (1, 1, 5, 5)
    assert "shortcut" not in params["block1_2"]


def test_token_numbers_of_a_transformer_stay():
    """LayerNorm reads them all, and heads are not looked into."""
    network = make("shallow_vit")
    variables = network.abstract_variables()
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), variables)
    mask = jax.tree.map(lambda leaf: np.zeros(leaf.shape, bool), variables["params"])
    assert compact(network, **variables, mask=mask, fold=False).widths == {"block1/fc1": 1}


class Chain(nn.Module):
    """A network of one's own: BatchNorm after a convolution without a bias or padding, and tanh."""

    widths: tuple[int, int] = (5, 6)
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x, train=False):
        for width in self.widths:
            x = nn.Conv(width, (2, 2), padding="VALID", use_bias=False, dtype=self.dtype)(x)
            x = jnp.tanh(nn.BatchNorm(not train, dtype=self.dtype)(x) + 0.1)
        return nn.Dense(3, dtype=self.dtype)(x.mean((1, 2)))


def test_constants_go_into_running_means():
    """In a network of one's own; what a constant is, the network itself says."""
    with jax.enable_x64(True):
        network, rng = LinenNetwork(Chain(), (5, 5, 2)), np.random.default_rng(0)
        variables, images = draw_variables(network, rng), rng.normal(size=(2, 5, 5, 2))
        mask = masks.ones_like(variables["params"])
        mask["Conv_0"]["kernel"][..., [1, 3]] = False
        small = compact(network, **variables, mask=mask)
        assert small.widths == {"Conv_0": 3, "Conv_1": 6}
        params = jax.tree.map(np.multiply, mask, variables["params"])
        before = outputs(network, params, variables["batch_stats"], images)
        smaller = LinenNetwork(Chain((3, 6)), (5, 5, 2))
        after = outputs(smaller, small.params, small.batch_stats, images)
        np.testing.assert_allclose(after, before, rtol=1e-12)
        changed = (
            small.batch_stats["BatchNorm_1"]["mean"]
            != variables["batch_stats"]["BatchNorm_1"]["mean"]
        )
        assert changed.all()


class Skip(nn.Module):
    """A shortcut of which the module says nothing."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(6, name="first")(x.reshape(len(x), -1)))
        return nn.Dense(3, name="head")(x + nn.relu(nn.Dense(6, name="second")(x)))


class ChannelsFirst(nn.Module):
    """An image made flat with its channels before its pixels."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (2, 2), padding="VALID", name="first")(x))
        return nn.Dense(3, name="head")(x.transpose(0, 3, 1, 2).reshape(len(x), -1))


class Between(nn.Module):
    """Two dense layers with a function between."""

    function: str

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6, name="first")(x.reshape(len(x), -1))
        if self.function == "LayerNorm":
            x = nn.LayerNorm(use_scale=False, use_bias=False)(x)
        elif self.function == "softmax":
            x = nn.softmax(x)
        return nn.Dense(3, name="head")(x)


class LateNorm(nn.Module):
    """A BatchNorm behind the function of a layer without a bias."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Dense(6, name="first")(x.reshape(len(x), -1)))
        x = nn.BatchNorm(not train)(nn.relu(nn.Dense(6, use_bias=False, name="second")(x)))
        return nn.Dense(3, name="head")(x)


class DenseRelu(nn.Module):
    """A layer and its function in one module."""

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], 6))
        return nn.relu(x @ kernel + self.param("bias", nn.initializers.zeros_init(), (6,)))


class Fused(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(6, name="first")(x.reshape(len(x), -1)))
        return nn.Dense(3, name="head")(DenseRelu(name="second")(x))


def unfed(kernel):
    kernel[..., 1] = False


def unread(kernel):
    kernel[1] = False


def unread_rows(kernel):
    kernel[1::3] = False  # of a channel, if an image had its channels last


@pytest.mark.parametrize(
    "module, layer, cut, fold",
    [
        (Skip(), "second", unread, False),
        (Skip(), "head", unread, False),
        (ChannelsFirst(), "first", unfed, True),
        (ChannelsFirst(), "head", unread_rows, False),
        (Between("LayerNorm"), "head", unread, False),
        (Between("softmax"), "first", unfed, True),
        (LateNorm(), "first", unfed, True),
        (Fused(), "first", unfed, True),
    ],
)
def test_networks_that_are_no_chains(module, layer, cut, fold):
    """They are refused, since a smaller network would compute something else."""
    network = LinenNetwork(module, (3, 3, 1))
    variables = draw_float32(network)
    variables["params"]["first"]["bias"][1] = 1.0  # a constant above zero, if nothing else feeds it
    mask = masks.ones_like(variables["params"])
    cut(mask[layer]["kernel"])
    with pytest.raises(ConfigError, match="outputs differ by"):
        compact(network, **variables, mask=mask, fold=fold)


def test_chains_of_ones_own():
    """A plain chain is no such network, and a function between layers matters where units go."""
    for module, widths in ((Between(""), {"first": 5}), (Between("LayerNorm"), {"first": 6})):
        network = LinenNetwork(module, (3, 3, 1))
        variables = draw_float32(network)
        mask = masks.ones_like(variables["params"])
        mask["head"]["kernel"][1] = module.function == "LayerNorm"
        assert compact(network, **variables, mask=mask).widths == widths


def test_outputs_that_are_not_finite():
    network = LinenNetwork(Between(""), (3, 3, 1))
    variables = draw_float32(network)
    variables["params"]["head"]["bias"][0] = np.inf
    with pytest.raises(ConfigError, match="not finite"):
        compact(network, **variables, mask=masks.ones_like(variables["params"]))


def test_a_layer_that_is_called_twice():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4, name="first")(x.reshape(len(x), -1))
            again = nn.Dense(4, name="again")
            return nn.Dense(3, name="head")(again(nn.relu(again(x))))

    network = LinenNetwork(Twice(), (2, 2, 1))
    variables = draw_float32(network)
    with pytest.raises(ConfigError, match="called twice"):
        compact(network, **variables, mask=masks.ones_like(variables["params"]))


@pytest.mark.parametrize(
    "widths",
    [
        {"dense3": 4},
        {"dense1": 0},
        {"dense1": 2.0},
        {"dense1": True},
        {"dense1": 301},
        {"dense1": 10**30},
        [("dense1", 4)],
        "dense1",
    ],
)
def test_widths_that_cannot_be(widths):
    with pytest.raises(ConfigError, match="widths"):
        build_model("lenet_300_100", 10, widths=widths)


@pytest.mark.parametrize("name", ["lenet_300_100", "alexnet", "vgg11", "resnet20", "vit_tiny"])
def test_only_none_and_an_empty_mapping_give_no_widths(name):
    for widths in ([], (), "", 0, 0.0, False, set()):
        with pytest.raises(ConfigError, match="widths: must be a mapping such as"):
            build_model(name, 10, widths=widths)
    assert (
        build_model(name, 10, widths={})
        == build_model(name, 10)
        == build_model(name, 10, widths=None)
    )


def arrays_at(tree, path):
    return functools.reduce(lambda node, key: node[key], path.split("/"), tree)


@pytest.mark.slow
def test_widths_of_all_layers_are_the_standard_ones():
    """Each network takes the units of its groups as `widths`, and is then the same one."""
    for name in ("conv4", "alexnet", "vgg11", "resnet20", "vit_tiny"):
        width, shape = (QUICK | DEEP)[name]
        network = LinenNetwork(build_model(name, 10, width=width), shape)
        variables = network.abstract_variables()
        counts = {
            group: arrays_at(variables["params"], group)["kernel"].shape[-1]
            for _, group in network.wiring().values()
            if group and group != "token"
        }
        again = LinenNetwork(build_model(name, 10, width=width, widths=counts), shape)
        assert shapes(again.abstract_variables()) == shapes(variables)
