"""The configs of the runs that claims need, at each scale. Claims share them.

At every scale level k of the `imp` run keeps 0.8^k or 0.64^k of the weights, so that the densities
of all scales are the same kind of numbers. Other runs prune to those densities alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from lottery_jax import recipes
from lottery_jax.config import validate
from lottery_jax.errors import ConfigError, lookup


@dataclasses.dataclass(frozen=True)
class Scale:
    """A network, a data set and a budget.

    Attributes:
        text: what it is, for people.
        base: returns the recipe from which all runs of the scale are made.
        kept: the fraction of the weights that each level of IMP keeps.
        levels: the level of IMP at each named density.
        late: an early epoch to rewind to, for runs that are compared on their own data.
        late_step: the same as a step, for runs whose tickets are trained for equally long elsewhere.
        halves: two data sets of one distribution.
        whole_and_part: a source data set and a part of it.
        target: a recipe that trains the tickets of `whole_and_part` on other data.
        rewinds: the rewind steps of claim 9.
        seeds: the seeds unless others are asked for.
    """

    text: str
    base: Callable[[], ConfigDict]
    kept: float
    levels: Mapping[str, int]
    late: str
    late_step: str
    halves: tuple[str, str]
    whole_and_part: tuple[str, str]
    target: Callable[[], ConfigDict]
    rewinds: tuple[int, ...] = (0, 100, 500, 1000, 2000)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    def densities(self) -> dict[str, float]:
        """Return the fraction of weights at each named density."""
        named = {name: self.kept**level for name, level in self.levels.items()}
        return {"dense": 1.0, **named, "vanishing": 0.001}

    def sparsities(self, *names: str) -> tuple[float, ...]:
        """Return the pruned fractions at named densities, for a ladder of these levels alone."""
        return tuple(1 - self.densities()[name] for name in names)


def _small() -> ConfigDict:
    c = recipes.lenet("fashion_mnist")
    c.train.batch_size = 128
    c.train.epochs = 5
    c.ladder.prune_fraction = 0.36
    return c


def _digits_at_28_pixels() -> ConfigDict:
    c = recipes.lenet("digits")
    c.data.input_shape = (28, 28, 1)
    c.train.batch_size = 64
    c.train.epochs = 60
    return c


def _mid() -> ConfigDict:
    c = recipes.resnet20("fashion_mnist_1of4")
    c.model.width = 0.5
    c.data.input_shape = ()
    c.data.augment = "none"
    c.train.epochs = 8
    c.optimizer.milestones = (4, 6)
    c.ladder.prune_fraction = 0.36
    return c


_LENET_LEVELS = {"early": 3, "moderate": 4, "sparse": 6, "reach": 7, "extreme": 8}
_LARGE_LEVELS = {"early": 6, "moderate": 10, "sparse": 16, "reach": 18, "extreme": 20}
SCALES = {
    "quick": Scale(
        "LeNet-300-100 on digits, 20 epochs a level",
        recipes.quickstart, 0.64, _LENET_LEVELS, "1ep", "22st",
        ("digits_a", "digits_b"), ("digits", "digits_a"), recipes.quickstart,
    ),
    "small": Scale(
        "LeNet-300-100 on Fashion-MNIST (60,000 images), 5 epochs a level",
        _small, 0.64, _LENET_LEVELS, "1ep", "468st",
        ("fashion_mnist_a", "fashion_mnist_b"), ("fashion_mnist", "fashion_mnist_1of8"),
        _digits_at_28_pixels,
    ),
    "mid": Scale(
        "ResNet-20 of half width on 15,000 images of Fashion-MNIST, 8 epochs a level",
        _mid, 0.64, _LENET_LEVELS, "1ep", "117st",
        ("fashion_mnist_a", "fashion_mnist_b"), ("fashion_mnist", "fashion_mnist_1of8"), _mid,
        (0, 50, 100, 250, 500), (0, 1, 2),
    ),
    "full": Scale(
        "VGG19 on CIFAR-10, 160 epochs a level",
        lambda: recipes.vgg19("cifar10"), 0.8, _LARGE_LEVELS, "1ep", "97st",
        ("cifar10_a", "cifar10_b"), ("cifar10", "cifar10_a"), lambda: recipes.vgg19("svhn"),
    ),
    "full_resnet50": Scale(
        "ResNet50 on CIFAR-10, 90 epochs a level",
        lambda: recipes.resnet50("cifar10"), 0.8, _LARGE_LEVELS, "1ep", "97st",
        ("cifar10_a", "cifar10_b"), ("cifar10", "cifar10_a"), lambda: recipes.resnet50("svhn"),
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A run.

    Attributes:
        make: from a scale to its config, without seeds and source.
        source: the run whose tickets it trains; empty: it finds its own.
        text: what it is, for people.
    """

    make: Callable[[Scale], ConfigDict]
    text: str
    source: str = ""


def _ladder(s: Scale, until: str = "extreme", data: str = "", rewind: str = "") -> ConfigDict:
    c = s.base()
    c.ladder.levels = s.levels[until]
    c.controls, c.control_levels = (), ()
    c.data.name = data or c.data.name
    c.ladder.rewind = rewind or c.ladder.rewind
    return c


def _with_controls(
    c: ConfigDict, s: Scale, controls: tuple[str, ...], *densities: str
) -> ConfigDict:
    c.controls = controls
    c.control_levels = tuple(s.levels[name] for name in densities)
    return c


def _imp(s: Scale) -> ConfigDict:
    c = _ladder(s)
    c.train.eval_untrained = True
    controls: tuple[str, ...] = (
        "reinit", "shuffle_layers", "random", "random_preserved", "dense_sign",
        "noise_0.5", "noise_3", "resample", "replayed_random",
    )  # fmt: skip
    return _with_controls(c, s, controls, "moderate", "sparse", "extreme")


def _at_once(method: str, *controls: str) -> Callable[[Scale], ConfigDict]:
    """Return the protocol of a method that needs no ladder: only the densities that are compared."""

    def make(s: Scale) -> ConfigDict:
        c = recipes.with_method(_ladder(s), method)
        c.ladder.sparsities = s.sparsities("sparse", "extreme")
        c.ladder.levels = 2
        c.controls = controls
        if c.model.name == "lenet_300_100":
            c.ladder.score_batch_size = 100  # as the SNIP paper has it for MNIST
        return c

    return make


def _paths(method: str) -> Callable[[Scale], ConfigDict]:
    def make(s: Scale) -> ConfigDict:
        c = recipes.with_method(_ladder(s), method)
        c.ladder.sparsities = (0.9, 0.99, 0.999)
        c.ladder.levels = 3
        c.optimizer.milestones = ()
        c.train.epochs = 1  # masks alone are compared, and they are drawn before training
        return c

    return make


def _steps(s: Scale) -> ConfigDict:
    c = _ladder(s, "early", rewind="0")  # steps are counted from the start
    c.train.epochs *= 3  # so that the validation loss has its minimum before the end
    c.optimizer.milestones = tuple(3 * epoch for epoch in c.optimizer.milestones)
    c.data.validation_fraction = 1 / 12  # 5,000 of 60,000 images, as in the paper
    c.train.eval_every_steps = 100
    return _with_controls(c, s, ("reinit",), "early")


def _retrain(how: str) -> Callable[[Scale], ConfigDict]:
    def make(s: Scale) -> ConfigDict:
        c = _ladder(s, rewind=s.late)
        c.ladder.retrain = how
        c.optimizer.schedule = "step"  # without drops the last rate is the first one
        c.optimizer.milestones = c.optimizer.milestones or tuple(
            round(part * c.train.epochs, 6) for part in (0.5, 0.75)
        )
        return c

    return make


def _sgd(c: ConfigDict) -> ConfigDict:
    c.optimizer.name, c.optimizer.learning_rate = "sgd", 0.1
    c.optimizer.momentum, c.optimizer.weight_decay = 0.9, 1e-4
    return c


def _adam(c: ConfigDict) -> ConfigDict:
    if c.model.name == "lenet_300_100":
        c.optimizer.name, c.optimizer.learning_rate = "adam", 1.2e-3
        c.optimizer.weight_decay = 0.0
        return c
    return recipes.with_adam(c)


def _optimizer(change: Callable[[ConfigDict], ConfigDict]) -> Callable[[Scale], ConfigDict]:
    return lambda s: change(_ladder(s, rewind=s.late_step))


def _transferred(
    change: Callable[[ConfigDict], ConfigDict], until: str
) -> Callable[[Scale], ConfigDict]:
    """Return the protocol of a transfer; it takes the keys of its ladder from its source."""

    def make(s: Scale) -> ConfigDict:
        c = change(s.base())
        c.ladder.levels = s.levels[until]
        c.controls, c.control_levels = (), ()
        c.ladder.rewind = "1ep"  # the default, for which a transfer takes its source's
        c.transfer.head = "keep"
        return c

    return make


def _to_target(s: Scale) -> ConfigDict:
    c = s.target()
    c.ladder.levels = s.levels["extreme"]
    c.controls, c.control_levels = (), ()
    c.ladder.rewind = "1ep"  # the default, for which a transfer takes its source's
    c.transfer.head, c.transfer.head_mask = "reinit", "density"
    return c


def _part(s: Scale) -> ConfigDict:
    """Return the ladder on a part of the data, in as many steps: epochs grow as the data shrink."""
    part = s.whole_and_part[1]
    times = int(part.rpartition("_1of")[2]) if "_1of" in part else 2
    c = _ladder(s, data=part, rewind=s.late_step)
    c.train.epochs *= times
    c.optimizer.milestones = tuple(times * epoch for epoch in c.optimizer.milestones)
    return c


def _on_half(number: int) -> Callable[[Scale], ConfigDict]:
    return lambda s: _ladder(s, "sparse", data=s.halves[number], rewind=s.late)


def _b_data(s: Scale) -> ConfigDict:
    c = _transferred(lambda c: c, "sparse")(s)
    c.data.name = s.halves[1]
    return c


def _aligned(width: float) -> Callable[[Scale], ConfigDict]:
    def make(s: Scale) -> ConfigDict:
        c = _ladder(s)
        c.model.width *= width
        c.ladder.sparsities = s.sparsities("moderate", "extreme")
        c.ladder.levels = 2
        c.controls = ("aligned", "unaligned")
        return c

    return make


def _rewound(number: int) -> Callable[[Scale], ConfigDict]:
    def make(s: Scale) -> ConfigDict:
        step = s.rewinds[number]
        return _ladder(s, "moderate", rewind=f"{step}st" if step else "0")

    return make


PROTOCOLS = {
    "imp": Protocol(_imp, "IMP with all controls that claims compare it with"),
    "oneshot": Protocol(_at_once("oneshot"), "one-shot magnitude pruning after training"),
    "snip": Protocol(
        _at_once("snip", "random_preserved", "shuffle_layers", "reinit"), "SNIP with controls"
    ),
    "grasp": Protocol(
        _at_once("grasp", "random_preserved", "shuffle_layers", "reinit"), "GraSP with controls"
    ),
    "smart": Protocol(_at_once("snip", "smart_ratio"), "SNIP beside smart ratios"),
    "magnitude_at_init": Protocol(_at_once("magnitude_at_init"), "magnitude before training"),
    "paths_random": Protocol(_paths("random"), "random masks to 0.1 %, one epoch"),
    "paths_synflow": Protocol(_paths("synflow"), "SynFlow's masks to 0.1 %, one epoch"),
    "steps": Protocol(_steps, "IMP, evaluated every 100 steps on validation data"),
    "retrain_weights": Protocol(_retrain("weights"), "IMP with weight rewinding"),
    "retrain_lr": Protocol(_retrain("lr"), "IMP with learning-rate rewinding"),
    "retrain_finetune": Protocol(_retrain("finetune"), "IMP with fine-tuning"),
    "half_a": Protocol(_on_half(0), "IMP on one half of the data"),
    "half_b": Protocol(_on_half(1), "IMP on the other half"),
    "a_to_b": Protocol(_b_data, "the tickets of half a, trained on half b", "half_a"),
    "whole": Protocol(lambda s: _ladder(s, rewind=s.late_step), "IMP rewound to an early step"),
    "part": Protocol(_part, "IMP on a part of the data, in as many steps"),
    "whole_to_target": Protocol(_to_target, "the tickets of all data on other data", "whole"),
    "part_to_target": Protocol(_to_target, "the tickets of a part on other data", "part"),
    "sgd": Protocol(_optimizer(_sgd), "IMP with SGD"),
    "adam": Protocol(_optimizer(_adam), "IMP with Adam"),
    "adam_on_sgd": Protocol(_transferred(_adam, "sparse"), "Adam on SGD's tickets", "sgd"),
    "sgd_on_adam": Protocol(_transferred(_sgd, "sparse"), "SGD on Adam's tickets", "adam"),
    "aligned": Protocol(_aligned(1), "masks permuted to match another initialisation"),
    "aligned_wide": Protocol(_aligned(4), "the same at four times the width"),
    **{f"rewind_{i}": Protocol(_rewound(i), f"IMP at rewind point {i}") for i in range(5)},
}


def protocol(name: str, scale: str, seeds: tuple[int, ...] = ()) -> ConfigDict:
    """Return the config of a run, without its source.

    Args:
        name: a key of `PROTOCOLS`.
        scale: a key of `SCALES`.
        seeds: empty: those of the scale.

    Raises:
        ConfigError: there is no such run or scale, or this version lacks a key that the run needs.
    """
    s = lookup(SCALES, scale, "the scale")
    try:
        c = lookup(PROTOCOLS, name, "the run").make(s)
    except (AttributeError, KeyError) as error:
        raise ConfigError(f"the run {name} needs a key that this version lacks: {error}") from error
    c.seeds = tuple(seeds) or s.seeds
    c.train.eval_every_epochs = c.train.epochs  # curves within a training are not compared
    c.train.checkpoint_every_epochs = 10
    return validate(c)


def alone(argument: str) -> ConfigDict:
    """Return the config of one run by SCALE_RUN, such as `small_imp`, to run it by itself.

    A run that trains another's tickets looks for them in `runs/SCALE_RUN` of that one.

    Raises:
        ConfigError: as `protocol`.

    >>> alone("small_a_to_b").source
    'runs/small_half_a'
    """
    fitting = [scale for scale in SCALES if argument.startswith(f"{scale}_")]
    scale = max(fitting, key=len, default=argument.partition("_")[0])
    name = argument.removeprefix(f"{scale}_")
    c = protocol(name, scale)
    if PROTOCOLS[name].source:
        c.source = f"runs/{scale}_{PROTOCOLS[name].source}"
    return c
