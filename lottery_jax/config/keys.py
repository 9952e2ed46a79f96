"""Every key of a config, a row each.

`default_config`, the checks, the fingerprint, `--help` and docs/config.md are made from this table.
A new key needs a row with `added_later=True`, which keeps the fingerprints of earlier runs, and then
a new page: `python -m lottery_jax.config > docs/config.md`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict, FieldReference

from lottery_jax.config.rules import (
    BOOL,
    EPOCHS,
    FRACTION,
    KEPT,
    MOMENT,
    NAME,
    NAMES,
    NOT_NEGATIVE,
    RATE,
    REWIND,
    SEED,
    SHAPE,
    TEXT,
    WEIGHT_DECAY,
    WIDTH,
    Rule,
    one_of,
    tuple_of,
    whole,
    within,
)
from lottery_jax.errors import describe_unknown


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a config.

    Attributes:
        default: its value in `default_config`. The command line reads values of this type.
        rule: which values are legal, as far as this room can know.
        meaning: what it sets. Where a table of another room holds the legal names, it lists them.
        affects_results: whether another value can change a result by more than the rounding of
            sums in another order. Other keys are no part of the fingerprint.
        added_later: whether configs of earlier versions lack the key. Its default must then do
            what those versions did; at its default the key is no part of the fingerprint.
        any_type: whether the command line may give values of another type than the default's.
    """

    default: Any
    rule: Rule
    meaning: str
    affects_results: bool = True
    added_later: bool = False
    any_type: bool = False


GROUPS: dict[str, dict[str, Key]] = {
    "Replicates": {
        "seeds": Key((0,), tuple_of(SEED, empty=False, distinct=True),
            "Seeds of independent replicates. Each has its own initial weights and order of "
            "batches."),
    },
    "Data": {
        "data.name": Key("digits", NAME,
            "The data set: digits, cifar10, cifar100, svhn, fashion_mnist, imagenet2012 or "
            "places365_small; half of one that fits into memory, such as cifar10_a or cifar10_b, or a "
            "nested part of it, cifar10_1of2 to cifar10_1of64; your own "
            "file `<data.dir>/<name>.npz`; or the import path of a function that returns a "
            "`Dataset`, such as mypkg.data:load."),
        "data.options": Key("", TEXT,
            "Arguments for the function that an import path names, as a JSON object, such as "
            """`{"size": 32}`. Empty: none.""", added_later=True),
        "data.dir": Key("", TEXT,
            "The directory of data sets. Empty: `$TFDS_DATA_DIR`, or `~/tensorflow_datasets`.",
            affects_results=False),
        "data.input_shape": Key((), SHAPE,
            "The shape to which images are adapted. Empty: images stay as they are."),
        "data.resize": Key("pad", one_of("pad", "bilinear"),
            "How smaller images reach `data.input_shape`: pad adds black, bilinear interpolates.",
            added_later=True),
        "data.augment": Key("auto", one_of("auto", "none", "crop", "flip", "crop_flip"),
            "Random changes of training images; auto takes what is usual for the data set."),
        "data.validation_fraction": Key(0.0, within(0, 1, open_high=True),
            "The fraction of the training set that is held out and evaluated."),
        "data.workers": Key(-1, whole(-1, 1024),
            "Processes that decode the images of a data set that stays on disk, for each process "
            "of a run. -1: one for each core; 0: threads of the training process.",
            affects_results=False),
    },
    "Network": {
        "model.name": Key("lenet_300_100", NAME,
            "The network: lenet_300_100, conv2, conv4, conv6, vgg11, vgg13, vgg16, vgg19, "
            "resnet18, resnet20, resnet32, resnet34, resnet50, resnet56, alexnet or vit_tiny; or your "
            "own by its import path, such as `mypkg.vit:ViT`."),
        "model.options": Key("", TEXT,
            "Arguments of a network of your own as JSON, such as `{\"depth\": 4}`.",
            added_later=True),
        "model.head": Key("", TEXT,
            "The path of the output layer in the parameters of a network of your own. Empty: "
            "`head`, or else the last layer that is called.", added_later=True),
        "model.width": Key(1.0, WIDTH, "Multiplies the standard widths of all layers."),
        "model.stem": Key("", TEXT,
            "The first layers of a ResNet: cifar or imagenet. Empty: cifar."),
        "model.dtype": Key("float32", NAME,
            "The type in which the network computes: float32 or bfloat16. Weights are float32."),
    },
    "Task": {
        "task.name": Key("classification", NAME,
            "What the network learns: classification or regression; or your own task by the import "
            "path of a function that returns it.", added_later=True),
        "task.options": Key("", TEXT,
            "Arguments of the task as JSON, such as `{\"label_smoothing\": 0.1}`.",
            added_later=True),
    },
    "Optimizer": {
        "optimizer.name": Key("sgd", NAME,
            "The optimizer: sgd, adam or adamw; or the import path of a function that returns one "
            "of optax, such as `optax:lion`. The latter has its own learning rate in "
            "`optimizer.options`, and the other keys of this group do not change it."),
        "optimizer.options": Key("", TEXT,
            "Arguments of an optimizer of your own as JSON, such as `{\"learning_rate\": 1e-4}`.",
            added_later=True),
        "optimizer.learning_rate": Key(0.1, RATE,
            "The learning rate after warm-up, before the schedule lowers it."),
        "optimizer.momentum": Key(0.9, MOMENT, "The momentum of sgd."),
        "optimizer.nesterov": Key(False, BOOL, "Whether the momentum of sgd is Nesterov's."),
        "optimizer.b1": Key(0.9, MOMENT, "The decay of the first moment in adam and adamw."),
        "optimizer.b2": Key(0.999, MOMENT, "The decay of the second moment in adam and adamw."),
        "optimizer.weight_decay": Key(1e-4, WEIGHT_DECAY,
            "Weight decay: added to the gradient in sgd and adam, decoupled in adamw."),
        "optimizer.schedule": Key("step", NAME,
            "How the learning rate changes: step, cosine or constant."),
        "optimizer.milestones": Key((), tuple_of(EPOCHS, distinct=True),
            "Epochs after which schedule step lowers the learning rate."),
        "optimizer.decay": Key(0.1, within(0, 1), "The factor of each drop of schedule step."),
        "optimizer.warmup_epochs": Key(0.0, NOT_NEGATIVE,
            "Epochs of linear warm-up, under any schedule."),
    },
    "Training": {
        "train.batch_size": Key(128, whole(1),
            "Images in a batch of one replicate, over all its devices together. The last, shorter "
            "batch of an epoch is left out."),
        "train.epochs": Key(20, whole(1, 2**31 - 1),
            "Epochs of the dense network. A ticket trains from the rewind point to the same end."),
        "train.eval_every_epochs": Key(1, whole(1),
            "Epochs between evaluations. The last epoch of a level is always evaluated."),
        "train.eval_every_steps": Key(0, whole(0),
            "Steps between evaluations on the validation and the test set, beside those of epochs; 0: "
            "none. Tickets then say at which step the validation loss was smallest.", added_later=True),
        "train.eval_untrained": Key(False, BOOL,
            "Whether tickets are evaluated on the test set before training, as supermasks.",
            added_later=True),
        "train.checkpoint_every_epochs": Key(10, whole(0),
            "Epochs between checkpoints within a level; 0: none.", affects_results=False),
        "train.keep_epochs": Key((), tuple_of(KEPT, distinct=True),
            "Epochs after which weights are kept beside the ticket, such as `(1, 10)`; `(-10,)` keeps "
            "every tenth. `evaluate --epoch` measures them. Epochs are counted from the start of the "
            "dense training, and on through fine-tuning.", affects_results=False, added_later=True),
        "train.order": Key(0, whole(0, 2**32 - 1),
            "Another number is another order of batches and other augmentation and dropout, from "
            "the same initial weights.", added_later=True),
        "train.together": Key(0, whole(0),
            "The largest number of replicates (seeds, and controls of a level) that train "
            "together. 0: the fastest, as measured for the network and the devices; 1: one after "
            "another. A larger limit stacks as many as it allows; of networks with convolutions, "
            "those that share a device are computed one after another.", affects_results=False),
    },
    "Ladder": {
        "ladder.levels": Key(30, whole(0, 1000),
            "How often the network is pruned. Level 0 is the dense network."),
        "ladder.prune_fraction": Key(0.2, FRACTION,
            "The fraction of the remaining weights that each level prunes."),
        "ladder.scores": Key("magnitude", NAME,
            "How weights are scored: magnitude, magnitude_at_init, snip, grasp, synflow, random "
            "or erk. The lowest scores are pruned."),
        "ladder.draw": Key("iterative", one_of("iterative", "oneshot", "init", "init_nested"),
            "Which weights are scored. iterative: the trained weights of the level before (IMP); "
            "oneshot: the trained dense network, for every level; init: the weights from which "
            "tickets start, for every level by itself; init_nested: the same weights, among those "
            "that the level before kept."),
        "ladder.sparsities": Key((), tuple_of(FRACTION, distinct=True),
            "The pruned fractions of the prunable weights (without skipped layers) at level 1, 2, "
            "...; `ladder.levels` cuts the list short. Empty: `ladder.prune_fraction` sets them."),
        "ladder.rounds": Key(0, whole(0, 10_000),
            "Rounds of scoring and pruning from one level to the next. 0: the usual number for "
            "the score (synflow 100, others 1)."),
        "ladder.score_batches": Key(1, whole(1),
            "Batches of training images for scores that look at data."),
        "ladder.score_batch_size": Key(0, whole(0),
            "Images in each of these batches. 0: `train.batch_size`."),
        "ladder.scope": Key("global", one_of("global", "layer"),
            "global ranks the weights of all layers together; layer ranks each layer by itself."),
        "ladder.skip_first": Key(False, BOOL, "Whether the first layer stays unpruned."),
        "ladder.skip_last": Key(False, BOOL, "Whether the output layer stays unpruned."),
        "ladder.rewind": Key("1ep", REWIND,
            "The point of training to which weights go back: an epoch such as 1ep, a step such as "
            "500st, or 0 for the initialisation.", any_type=True),
        "ladder.pretrained": Key("", TEXT,
            "A run or a dense ticket (a path, zoo://NAME or hf://USER/REPO) whose starting weights "
            "(those of its rewind point) are the rewind point of this ladder: from a run, those of the "
            "same seed. `transfer.head` says whether the output layer is new, and `ladder.rewind` at "
            "which step of the schedule all levels start. Empty: the run trains to its own rewind "
            "point.", added_later=True),
        "ladder.retrain": Key("weights", one_of("weights", "lr", "finetune"),
            "How levels from 1 on are trained (Renda et al. 2020). weights: from the weights of the "
            "rewind point, the schedule rewound to it; lr: from the trained weights of the level whose "
            "weights were scored, the schedule rewound; finetune: from the same trained weights, for "
            "as many steps at the last learning rate of the schedule.", added_later=True),
        "ladder.optimizer_state": Key("fresh", one_of("fresh", "restored"),
            "The optimizer's state at a rewind: fresh, or restored from the rewind point."),
        "ladder.schedule": Key("continue", one_of("continue", "restart"),
            "The learning rate at a rewind: continue from the rewind step, or restart at step 0."),
    },
    "Controls": {
        "controls": Key((), NAMES,
            "Tickets of the same density to compare with: reinit, shuffle_layers, shuffle_global, "
            "random, random_preserved, init, dense_sign; aligned (the mask on another initialisation, "
            "its units matched) and unaligned (the same, not matched); noise (1 sigma of each layer on "
            "the winner's start, or noise_0.5, noise_3, ...), resample (weights drawn from the layer's "
            "survivors), rescaled (reinit, scaled for the density), invert (the worst-ranked "
            "weights), smart_ratio (random within layers, at layer ratios set by hand). "
            "replayed_random is a mistake of a replication, only to compare with its figures."),
        "control_levels": Key((), tuple_of(whole(1), distinct=True),
            "The levels that have controls. Empty: all but the dense network."),
    },
    "Transfer": {
        "source": Key("", TEXT,
            "The directory of a finished run whose tickets are trained here, or a series of the zoo, "
            "such as zoo://lenet_digits/imp. Its ladder keys are taken from there. Empty: this run "
            "finds its own tickets."),
        "transfer.head": Key("auto", one_of("auto", "reinit", "keep"),
            "The output layer of transferred tickets: reinit draws it anew, keep takes the "
            "source's, auto draws it anew where the classes differ."),
        "transfer.head_mask": Key("dense", one_of("dense", "density"),
            "The mask of a new output layer: dense (unpruned), or at the density of the old one."),
        "transfer.align": Key(False, BOOL,
            "Whether the source's masks are put on this run's own initialisations, their units "
            "permuted to match. The weights are then this run's, and so is the output layer.",
            added_later=True),
        "transfer.sources": Key((), NAMES,
            "The data sets of a transfer matrix whose tickets are found and trained on all "
            "targets."),
        "transfer.targets": Key((), NAMES,
            "The data sets of a transfer matrix on which tickets are trained."),
        "transfer.density": Key(0.03, FRACTION,
            "The density at which one figure compares all cells of the matrix.",
            affects_results=False),
    },
    "Tracking": {
        "tensorboard": Key(False, BOOL,
            "Whether event files for TensorBoard are written to `tensorboard/` in the run directory.",
            affects_results=False, added_later=True),
        "wandb.client": Key("wandb", one_of("wandb", "trackio"),
            "The tracker that `wandb.mode` switches on: Weights & Biases, or trackio in its place.",
            affects_results=False, added_later=True),
        "wandb.mode": Key("disabled", one_of("disabled", "offline", "online"),
            "Whether epochs are logged to wandb. Values other than the defaults of this group win "
            "over wandb's environment variables (`WANDB_MODE`, `WANDB_PROJECT`, ...).",
            affects_results=False),
        "wandb.entity": Key("", TEXT, "The wandb user or team.", affects_results=False),
        "wandb.project": Key("lottery_jax", NAME, "The wandb project.", affects_results=False),
        "wandb.name": Key("", TEXT,
            "The name of the wandb run. Empty: the name of the run directory.",
            affects_results=False),
        "wandb.group": Key("", TEXT, "The group of runs that this one belongs to.",
            affects_results=False, added_later=True),
        "wandb.tags": Key((), NAMES, "The tags of the wandb run.",
            affects_results=False, added_later=True),
        "wandb.job_type": Key("", TEXT, "The kind of job, such as `train`.",
            affects_results=False, added_later=True),
        "wandb.artifacts": Key((), tuple_of(one_of("report", "ticket"), distinct=True),
            "What is sent as artifacts at the end: the report, the last winning ticket of each seed.",
            affects_results=False, added_later=True),
    },
}  # fmt: skip

KEYS: dict[str, Key] = {name: key for group in GROUPS.values() for name, key in group.items()}
# Keys that name places, which may move and differ between machines.
PLACES = ("data.dir", "ladder.pretrained", "source")
# Keys in which the processes of one run may differ: places, readers of data, and what is logged.
PER_PROCESS = frozenset(
    {*PLACES, "data.workers", "tensorboard", *(k for k in KEYS if k.startswith("wandb."))}
)
ADDED_LATER: dict[str, Any] = {name: key.default for name, key in KEYS.items() if key.added_later}


def default_config() -> ConfigDict:
    """Return a config with every key at its default, which docs/config.md describes.

    The defaults are the protocol of Morcos et al. (2019): 30 levels of 20 %, global magnitude,
    late reset after one epoch. The files in `configs/` choose networks, data sets and recipes.
    """
    config = ConfigDict()
    for name, key in KEYS.items():
        *groups, leaf = name.split(".")
        node = config
        for group in groups:
            if group not in node:
                node[group] = ConfigDict()
            node = node[group]
        value = key.default
        node[leaf] = FieldReference(value, field_type=object) if key.any_type else value
    return config


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Return the config's values by dotted key, in alphabetical order of the keys."""

    def walk(node: ConfigDict, prefix: str) -> Iterator[tuple[str, Any]]:
        for key in sorted(node.keys()):
            value = node[key]
            if isinstance(value, ConfigDict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield prefix + key, tuple(value) if isinstance(value, list) else value

    return dict(walk(config, ""))


def describe_unknown_key(name: str) -> str:
    """Return one line that says that there is no such key, with the nearest one."""
    if group := sorted(known for known in KEYS if known.startswith(f"{name}.")):
        return f"config.{name}: is a group of keys; name one of {', '.join(group)}"
    return describe_unknown("config", name, KEYS, noun="key")
