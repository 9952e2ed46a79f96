"""The training recipes, each written once; the files in `configs/` choose among them.

The three large networks follow the scripts of *Generalizing Lottery Tickets* (Gohil et al., 2020,
ReScience C 6.2 #4), the replication of Morcos et al. (2019): batch 512, SGD, 30 levels of
20 %, late reset after one epoch.
"""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict

from lottery_jax.config import default_config
from lottery_jax.errors import ConfigError, lookup

# The large networks take every data set at CIFAR's shape: Fashion-MNIST is padded to 32 pixels and
# repeated to three channels, alike in training and test.
_CIFAR_SHAPE = (32, 32, 3)
# Sets of photographs, for which a network has another recipe.
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
    """VGG19: SGD at 0.1, 160 epochs, a tenth after epochs 80 and 120."""
    return _large("vgg19", dataset, 160, (80, 120))


def resnet50(dataset: str) -> ConfigDict:
    """ResNet50 with the ImageNet stem: SGD at 0.1, 90 epochs, drops after 50, 65 and 80.

    On ImageNet and Places365 it is `resnet50_photographs`.
    """
    if dataset in _PHOTOGRAPHS:
        return resnet50_photographs(dataset)
    c = _large("resnet50", dataset, 90, (50, 65, 80))
    c.model.stem = "imagenet"
    return c


def resnet50_photographs(dataset: str, rewind_epochs: str = "6") -> ConfigDict:
    """ResNet50 at 224 pixels: batch 1024, SGD at 0.4, 90 epochs, a tenth after 30, 60 and 80.

    The recipe of Frankle et al. (2020), *Linear mode connectivity and the lottery ticket
    hypothesis*, as their library OpenLTH has it (`models/imagenet_resnet.py`): five epochs of
    warm-up, weight decay 1e-4. For another batch size scale the rate with it: 0.1 for 256 images
    (Goyal et al. 2017). Rewound to epoch 6, as there for ImageNet, or to `rewind_epochs`.
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
    """AlexNet: SGD, 500 epochs, drops after 450, 470, 480 and 490.

    Without BatchNorm it does not train at 0.1; it starts at 0.01.
    """
    c = _large("alexnet", dataset, 500, (450, 470, 480, 490))
    c.optimizer.learning_rate = 0.01
    return c


def vgg16(dataset: str) -> ConfigDict:
    """VGG16 with VGG19's recipe."""
    return _large("vgg16", dataset, 160, (80, 120))


def resnet20(dataset: str) -> ConfigDict:
    """ResNet-20 (Frankle et al. 2020): batch 128, Nesterov-free SGD at 0.1, 160 epochs."""
    c = _large("resnet20", dataset, 160, (80, 120))
    c.train.batch_size = 128
    c.ladder.rewind = "500st"
    return c


def lenet(dataset: str) -> ConfigDict:
    """LeNet-300-100: Adam at 1.2e-3, batch 60, pruned by layer in Frankle & Carbin (2019).

    Here pruning is global and the output layer is pruned like the others; no augmentation, no
    weight decay, rewound to the initialisation as in the paper.
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
    """Conv-2 of Frankle & Carbin (2019): Adam at 2e-4, batch 60, rewound to initialisation."""
    c = lenet(dataset)
    c.model.name = "conv2"
    c.optimizer.learning_rate = 2e-4
    return c


def short_ladder(c: ConfigDict) -> ConfigDict:
    """17 levels to 2.25 % of the weights, 10 epochs each, 3 seeds, both controls at six levels."""
    c.seeds = (0, 1, 2)
    c.controls = ("reinit", "random")
    c.control_levels = (2, 5, 8, 11, 14, 17)
    c.train.epochs = 10
    c.ladder.levels = 17
    return c


# name -> (config.ladder.draw, config.ladder.scores)
METHODS = {
    "imp": ("iterative", "magnitude"),
    "oneshot": ("oneshot", "magnitude"),
    "snip": ("init", "snip"),
    "iterative_snip": ("init_nested", "snip"),
    "grasp": ("init", "grasp"),
    "synflow": ("init", "synflow"),
    "magnitude_at_init": ("init", "magnitude_at_init"),
    "random": ("init", "random"),
    "erk": ("init", "erk"),
}


def with_method(c: ConfigDict, name: str) -> ConfigDict:
    """`c` with its tickets drawn by another method; everything else stays, so that they compare.

    Methods that prune before training score the initialisation and train it: they rewind to 0.

    Raises:
        ConfigError: an unknown method.
    """
    c.ladder.draw, c.ladder.scores = lookup(METHODS, name, "the method")
    if c.ladder.draw.startswith("init"):
        c.ladder.rewind = 0
    return c


def lenet_methods(name: str) -> ConfigDict:
    """A method on LeNet-300-100 and Fashion-MNIST, at six of the densities of its IMP ladder.

    SNIP and GraSP see one batch of 100 images, as for MNIST in the SNIP paper; iterative SNIP
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


def lenet_controls() -> ConfigDict:
    """Every control of LeNet-300-100's winning tickets on Fashion-MNIST at four densities.

    Rewound to the end of the first epoch, so that `init` is not the winning ticket itself.
    """
    c = lenet("fashion_mnist")
    c.seeds = (0, 1, 2)
    c.train.epochs = 10
    c.ladder.levels = 16
    c.ladder.rewind = "1ep"
    c.controls = (
        "reinit",
        "shuffle_layers",
        "shuffle_global",
        "random",
        "random_preserved",
        "init",
        "dense_sign",
    )
    c.control_levels = (5, 9, 13, 16)
    return c


def quickstart() -> ConfigDict:
    """LeNet-300-100 on the bundled digits with Morcos et al.'s optimizer, rate and late reset.

    Nine levels of 36 %, each as two of 20 %, reach 1.8 % of the weights.
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
# Levels 3, 10, 16, 20 and 30 of 20 %: where Gohil et al. give numbers.
_PUBLISHED_SPARSITIES = tuple(1 - 0.8**k for k in (3, 10, 16, 20, 30))


def named(name: str) -> ConfigDict:
    """The recipe of a network and a data set, such as `vgg19_cifar10`.

    Raises:
        ConfigError: an unknown network.
    """
    network, _, dataset = name.partition("_")
    return lookup(NETWORKS, network, "the recipe")(dataset)


def dense(name: str) -> ConfigDict:
    """The dense network alone, with its late-reset weights: level 0 of a ladder."""
    c = named(name)
    c.ladder.levels = 0
    return c


def oneshot(name: str) -> ConfigDict:
    """One-shot magnitude pruning of the trained network, with rewinding, at five sparsities."""
    c = with_method(named(name), "oneshot")
    c.ladder.sparsities = _PUBLISHED_SPARSITIES
    return c


def snip(name: str) -> ConfigDict:
    """SNIP at five sparsities, each in one round on one batch of 128, as the paper has for CIFAR."""
    c = with_method(named(name), "snip")
    c.ladder.sparsities = _PUBLISHED_SPARSITIES
    c.ladder.score_batch_size = 128
    return c


def iterative_snip(name: str) -> ConfigDict:
    """SNIP in nested rounds of 20 %, every round a level that is trained."""
    c = with_method(named(name), "iterative_snip")
    c.ladder.score_batch_size = 128
    return c


def with_adam(c: ConfigDict) -> ConfigDict:
    """`c` with the Adam of Morcos et al. (2019): 3e-4, weight decay 1e-4."""
    c.optimizer.name = "adam"
    c.optimizer.learning_rate = 3e-4
    c.optimizer.weight_decay = 1e-4
    return c


def transfer(network: str, pair: str) -> ConfigDict:
    """The tickets of one data set on another: `transfer("vgg19", "cifar100_to_cifar10")`.

    The source is the run directory that the source's config names by default in its file; the
    output layer is always drawn anew, as in Morcos et al.

    Raises:
        ConfigError: not a pair.
    """
    source, to, target = pair.partition("_to_")
    if not to:
        raise ConfigError(f"the transfer: {pair!r} is not SOURCE_to_TARGET")
    c = named(f"{network}_{target}")
    c.source = f"runs/{network}_{source}"
    c.transfer.head = "reinit"
    return c


def optimizer_transfer(name: str, found_by: str, trained_by: str) -> ConfigDict:
    """The tickets that one optimizer found, trained by the other: `sgd` and `adam`."""
    c = named(name)
    c.source = f"runs/{name}" if found_by == "sgd" else f"runs/{name}_{found_by}"
    return with_adam(c) if trained_by == "adam" else c


def transfer_quickstart() -> ConfigDict:
    """A transfer matrix between the halves of the digits: the quickstart's recipe, four levels."""
    c = quickstart()
    c.transfer.sources = ("digits_a", "digits_b")
    c.transfer.targets = ("digits_a", "digits_b")
    c.ladder.levels = 4
    c.ladder.prune_fraction = 0.64
    return c


def transfer_lenet() -> ConfigDict:
    """A transfer matrix over Fashion-MNIST's halves and digits: LeNet-300-100, eight levels of 36 %.

    Rewound to the end of the first epoch: the initial weights of a seed are the same on all data.
    """
    c = lenet("fashion_mnist")
    c.seeds = (0, 1, 2)
    c.controls = ("random",)
    c.data.input_shape = (28, 28, 1)
    c.train.epochs = 10
    c.ladder.levels = 8
    c.ladder.prune_fraction = 0.36
    c.ladder.rewind = "1ep"
    c.transfer.sources = ("fashion_mnist_a", "fashion_mnist_b", "digits")
    c.transfer.targets = c.transfer.sources
    return c
