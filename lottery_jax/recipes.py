"""Training recipes that several files in `configs/`, or the notebooks, share.

The three large networks follow the scripts of *Generalizing Lottery Tickets* (Gohil et al., 2020,
ReScience C 6.2 #4), the replication of Morcos et al. (2019): batch 512, SGD, 30 levels of
20 %, late reset after one epoch.
"""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict

from lottery_jax.config import default_config
from lottery_jax.errors import ConfigError, lookup
from lottery_jax.methods import METHODS

# The large networks take every data set at CIFAR's shape: Fashion-MNIST is padded to 32 pixels and
# repeated to three channels, in training and test alike.
_CIFAR_SHAPE = (32, 32, 3)
# Sets of photographs, on which ResNet50 has another recipe.
_PHOTOGRAPHS = ("imagenet2012", "places365_small")


def _large(model: str, dataset: str, epochs: int, milestones: tuple[int, ...]) -> ConfigDict:
    c = default_config()
    c.model.name = model
    c.data.name = dataset
    c.data.input_shape = _CIFAR_SHAPE
    c.train.batch_size = 512
    c.train.epochs = epochs
    c.optimizer.milestones = milestones
    return c


def vgg19(dataset: str) -> ConfigDict:
    """Return VGG19's recipe: SGD at 0.1, 160 epochs, a tenth of the rate after 80 and 120."""
    return _large("vgg19", dataset, 160, (80, 120))


def resnet50(dataset: str) -> ConfigDict:
    """Return ResNet50's recipe: SGD at 0.1, 90 epochs, drops after 50, 65 and 80; ImageNet stem.

    On ImageNet and Places365 the recipe is that of `resnet50_photographs`.
    """
    if dataset in _PHOTOGRAPHS:
        return resnet50_photographs(dataset)
    c = _large("resnet50", dataset, 90, (50, 65, 80))
    c.model.stem = "imagenet"
    return c


def resnet50_photographs(dataset: str, rewind_epochs: str = "6") -> ConfigDict:
    """Return ResNet50's recipe at 224 pixels: batch 1024, SGD at 0.4, drops after 30, 60 and 80.

    The recipe is that of Frankle et al. (2020), *Linear mode connectivity and the lottery ticket
    hypothesis*, as in their library OpenLTH (`models/imagenet_resnet.py`): five epochs of warm-up,
    weight decay 1e-4. With another batch size scale the rate with it: 0.1 for 256 images (Goyal et
    al. 2017). Weights are rewound to epoch 6, as in the paper on ImageNet, or to `rewind_epochs`.
    """
    c = default_config()
    c.model.name = "resnet50"
    c.model.stem = "imagenet"
    c.data.name = dataset
    c.data.input_shape = (224, 224, 3)
    c.train.batch_size = 1024
    c.train.epochs = 90
    c.train.checkpoint_every_epochs = 1
    c.optimizer.learning_rate = 0.4
    c.optimizer.warmup_epochs = 5.0
    c.optimizer.milestones = (30, 60, 80)
    c.ladder.rewind = f"{rewind_epochs}ep"
    return c


def alexnet(dataset: str) -> ConfigDict:
    """Return AlexNet's recipe: SGD at 0.01, 500 epochs, drops after 450, 470, 480 and 490.

    Without BatchNorm the network does not train at 0.1.
    """
    c = _large("alexnet", dataset, 500, (450, 470, 480, 490))
    c.optimizer.learning_rate = 0.01
    return c


def vgg16(dataset: str) -> ConfigDict:
    """Return VGG16's recipe, which is VGG19's."""
    return _large("vgg16", dataset, 160, (80, 120))


def resnet20(dataset: str) -> ConfigDict:
    """Return ResNet-20's recipe (Frankle et al. 2020): batch 128, SGD at 0.1, 160 epochs."""
    c = _large("resnet20", dataset, 160, (80, 120))
    c.train.batch_size = 128
    c.ladder.rewind = "500st"
    return c


def lenet(dataset: str) -> ConfigDict:
    """Return LeNet-300-100's recipe (Frankle & Carbin 2019): Adam at 1.2e-3, batch 60.

    Weights are rewound to the initialisation, as in the paper; no augmentation, no weight decay.
    The paper prunes each layer by itself. Here pruning is global, output layer included.
    """
    c = default_config()
    c.model.name = "lenet_300_100"
    c.data.name = dataset
    c.data.augment = "none"
    c.optimizer.name = "adam"
    c.optimizer.learning_rate = 1.2e-3
    c.optimizer.weight_decay = 0.0
    c.optimizer.schedule = "constant"
    c.train.batch_size = 60
    c.ladder.rewind = 0
    return c


def conv2(dataset: str) -> ConfigDict:
    """Return Conv-2's recipe (Frankle & Carbin 2019): Adam at 2e-4, else as `lenet`."""
    c = lenet(dataset)
    c.model.name = "conv2"
    c.optimizer.learning_rate = 2e-4
    return c


def short_ladder(c: ConfigDict) -> ConfigDict:
    """Set 17 levels to 2.25 % of the weights, 10 epochs, 3 seeds, and two controls at six levels."""
    c.seeds = (0, 1, 2)
    c.controls = ("reinit", "random")
    c.control_levels = (2, 5, 8, 11, 14, 17)
    c.train.epochs = 10
    c.ladder.levels = 17
    return c


def with_method(c: ConfigDict, name: str) -> ConfigDict:
    """Set the method that draws tickets, and change nothing else, so that methods compare.

    Methods that prune before training score the initialisation and then train it: they rewind to 0.

    Raises:
        ConfigError: an unknown method.
    """
    method = lookup(METHODS, name, "the method")
    c.ladder.draw, c.ladder.scores = method.draw, method.scores
    if c.ladder.draw.startswith("init"):
        c.ladder.rewind = 0
    return c


def lenet_methods(name: str) -> ConfigDict:
    """Return a method's recipe for LeNet-300-100 on Fashion-MNIST, at six densities of its ladder.

    SNIP and GraSP see one batch of 100 images, as the SNIP paper has it for MNIST; iterative SNIP
    prunes in three rounds from level to level.
    """
    c = with_method(lenet("fashion_mnist"), name)
    c.seeds = (0, 1, 2)
    c.train.epochs = 10
    c.ladder.sparsities = tuple(1 - 0.8**k for k in (2, 5, 8, 11, 14, 16))
    c.ladder.score_batch_size = 100
    if name == "iterative_snip":
        c.ladder.rounds = 3
    return c


def quickstart() -> ConfigDict:
    """Return the recipe of LeNet-300-100 on digits, with Morcos et al.'s optimizer and late reset.

    Nine levels of 36 %, each equal to two of 20 %, reach 1.8 % of the weights.
    """
    c = default_config()
    c.seeds = (0, 1, 2)
    c.controls = ("random",)
    c.train.batch_size = 64
    c.ladder.levels = 9
    c.ladder.prune_fraction = 0.36
    c.train.checkpoint_every_epochs = 0
    return c


# name -> a recipe for any data set
NETWORKS: dict[str, Callable[[str], ConfigDict]] = {
    "vgg19": vgg19,
    "resnet50": resnet50,
    "alexnet": alexnet,
    "vgg16": vgg16,
    "resnet20": resnet20,
    "lenet": lenet,
    "conv2": conv2,
}


def named(name: str) -> ConfigDict:
    """Return the recipe of a network on a data set, such as `vgg19_cifar10`.

    Raises:
        ConfigError: an unknown network.
    """
    network, _, dataset = name.partition("_")
    return lookup(NETWORKS, network, "the recipe")(dataset)


def with_adam(c: ConfigDict) -> ConfigDict:
    """Set the Adam of Morcos et al. (2019): 3e-4, weight decay 1e-4."""
    c.optimizer.name = "adam"
    c.optimizer.learning_rate = 3e-4
    c.optimizer.weight_decay = 1e-4
    return c


def transfer(network: str, pair: str) -> ConfigDict:
    """Return the recipe that trains the tickets of one data set on another.

    `pair` names both, such as `cifar100_to_cifar10`. The source is the directory
    `runs/NETWORK_SOURCE`; the output layer is always drawn anew, as in Morcos et al. (2019).

    Raises:
        ConfigError: the pair is not SOURCE_to_TARGET.
    """
    source, to, target = pair.partition("_to_")
    if not to:
        raise ConfigError(f"the transfer: {pair!r} is not SOURCE_to_TARGET")
    c = named(f"{network}_{target}")
    c.source = f"runs/{network}_{source}"
    c.transfer.head = "reinit"
    return c
