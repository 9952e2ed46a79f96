"""The configuration: its defaults, what values are legal, and its fingerprint."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict, FieldReference

from lottery_jax.errors import ConfigError, describe_unknown
from lottery_jax.system.files import URL, local_path


def default_config() -> ConfigDict:
    """Every key there is, with its default and its meaning.

    The defaults are the protocol of Morcos et al. (2019): 30 levels of 20 %, global magnitude,
    late reset after one epoch. Networks, data sets and recipes are chosen by the files in
    `configs/`.
    """
    c = ConfigDict()
    c.seeds = (0,)  # one independent replicate each: other initial weights, other batch order

    c.data = ConfigDict()
    c.data.name = "digits"  # a built-in set, a half of one (cifar10_a), or <data.dir>/<name>.npz
    c.data.dir = ""  # where data sets are; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets
    c.data.input_shape = ()  # (height, width, channels) to adapt images to; empty: as they are
    c.data.resize = "pad"  # of images smaller than input_shape: pad (with black), bilinear
    c.data.augment = "auto"  # auto (what is usual for the set), none, crop, flip, crop_flip
    c.data.validation_fraction = 0.0  # of the training set, held out and measured
    # Processes that decode the images of a set that stays on disk; -1: one for each core, 0: threads
    # of the training process. Each process of a run that spans several has as many.
    c.data.workers = -1

    c.model = ConfigDict()
    c.model.name = "lenet_300_100"
    c.model.width = 1.0  # multiplies the standard layer widths
    c.model.stem = ""  # of a ResNet: cifar or imagenet; empty: cifar
    c.model.dtype = "float32"  # of the computation: float32 or bfloat16; weights are float32

    c.optimizer = ConfigDict()
    c.optimizer.name = "sgd"  # sgd, adam, adamw
    c.optimizer.learning_rate = 0.1
    c.optimizer.momentum = 0.9  # sgd
    c.optimizer.nesterov = False  # sgd
    c.optimizer.b1 = 0.9  # adam, adamw
    c.optimizer.b2 = 0.999  # adam, adamw
    c.optimizer.weight_decay = 1e-4  # sgd, adam: added to the gradient; adamw: decoupled
    c.optimizer.schedule = "step"  # step, cosine, constant
    c.optimizer.milestones = ()  # step: epochs after which the rate drops
    c.optimizer.decay = 0.1  # step: the factor of a drop
    c.optimizer.warmup_epochs = 0.0  # linear, before any schedule

    c.train = ConfigDict()
    c.train.batch_size = 128  # of a replicate; the last, shorter batch of an epoch is left out
    c.train.epochs = 20  # of the dense network; a ticket trains from the rewind point to there
    c.train.eval_every_epochs = 1  # the last epoch of a level is always evaluated
    c.train.checkpoint_every_epochs = 10  # within a level; 0: never
    # How many replicates (seeds, and controls of a level) are trained together at most. 0: what was
    # measured to be fastest for the network and the devices; 1: one after another.
    c.train.together = 0

    c.ladder = ConfigDict()
    c.ladder.levels = 30  # prunings; level 0 is the dense network
    c.ladder.prune_fraction = 0.2  # of the weights that remain, at each level
    # Which weights matter: magnitude, magnitude_at_init, snip, grasp, synflow, random, erk.
    c.ladder.scores = "magnitude"
    # What is scored. iterative: the trained weights of the level before (IMP); oneshot: those of
    # the dense network, for every level; init: the weights that tickets start from, for every
    # level by itself; init_nested: the same, what is left at the level before.
    c.ladder.draw = "iterative"
    # The share of the prunable weights (without skipped layers) that is pruned at level 1, 2, ...
    # (0.9 for 90 %); `levels` cuts the list short. Empty: by prune_fraction.
    c.ladder.sparsities = ()
    c.ladder.rounds = 0  # of scoring and pruning to a level; 0: the score's own (synflow 100, or 1)
    c.ladder.score_batches = 1  # of training images, for scores that look at data
    c.ladder.score_batch_size = 0  # 0: train.batch_size
    c.ladder.scope = "global"  # global: all layers ranked together; layer: each by itself
    c.ladder.skip_first = False  # leave the first layer unpruned
    c.ladder.skip_last = False  # leave the output layer unpruned
    # Where weights go back to: '1ep' (epochs), '500st' (steps) or 0 (initialisation).
    c.ladder.rewind = FieldReference("1ep", field_type=object)
    c.ladder.optimizer_state = "fresh"  # at a rewind: fresh, or restored from the rewind point
    c.ladder.schedule = "continue"  # at a rewind: continue from the rewind step, or restart at 0

    # Tickets of the same density to compare with: reinit, shuffle_layers, shuffle_global, random,
    # random_preserved, init, dense_sign.
    c.controls = ()
    c.control_levels = ()  # at which levels; empty: at all but the dense one

    # A finished run whose ladder is trained here; how it was drawn is then taken from there.
    c.source = ""
    c.transfer = ConfigDict()
    c.transfer.head = "auto"  # the output layer: auto (new if classes differ), reinit, keep
    c.transfer.head_mask = "dense"  # of a new output layer: dense, or density (that of the old one)
    # A matrix: the ladders of all these data sets, and the tickets of each source on each target.
    c.transfer.sources = ()
    c.transfer.targets = ()
    c.transfer.density = 0.03  # at which the matrix is compared in one figure

    c.wandb = ConfigDict()
    # Values other than these win over wandb's environment variables (WANDB_MODE, WANDB_PROJECT, …).
    c.wandb.mode = "disabled"  # disabled, offline, online
    c.wandb.entity = ""
    c.wandb.project = "lottery_jax"
    c.wandb.name = ""  # of the run; empty: the name of the run directory
    return c


# Keys that say where things are, how often they are saved and how devices are used: with the same
# data they can't change a result by more than the rounding of sums in another order.
WITHOUT_EFFECT = re.compile(
    r"wandb\..*|data\.(dir|workers)|train\.checkpoint_every_epochs|train\.together|transfer\.density"
)

# Keys that configs of earlier versions lack, each with the default that gives what those gave. At
# its default such a key is no part of the fingerprint.
ADDED_LATER: dict[str, Any] = {"data.resize": "pad"}

# (what is legal, in words; the check)
Rule = tuple[str, Callable[[Any], bool]]


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _within(low: float, high: float, *, open_high: bool = False) -> Rule:
    text = f"a number in [{low:g}, {high:g}{')' if open_high else ']'}"
    return text, lambda v: _finite(v) and low <= v and (v < high if open_high else v <= high)


def _whole(low: int, high: float = math.inf) -> Rule:
    limit = f", {high:,} at most" if high < math.inf else ""
    return f"a whole number, {low} or more{limit}", lambda v: type(v) is int and low <= v <= high


# Beyond 32 bits different seeds would give the same keys.
_SEED: Rule = ("a whole number, 0 to 2**32 - 1", lambda v: type(v) is int and 0 <= v < 2**32)


# Keys whose legal values are few and known here; others are looked up in tables later.
_CHOICES = {
    "data.resize": ("pad", "bilinear"),
    "data.augment": ("auto", "none", "crop", "flip", "crop_flip"),
    "ladder.scope": ("global", "layer"),
    "ladder.draw": ("iterative", "oneshot", "init", "init_nested"),
    "ladder.optimizer_state": ("fresh", "restored"),
    "ladder.schedule": ("continue", "restart"),
    "transfer.head": ("auto", "reinit", "keep"),
    "transfer.head_mask": ("dense", "density"),
    "wandb.mode": ("disabled", "offline", "online"),
}


def _tuple_of(rule: Rule, *, empty: bool = True, distinct: bool = False) -> Rule:
    text, ok = rule
    more = "" if empty else ", at least one"
    more += ", no two the same" if distinct else ""

    def check(value: Any) -> bool:
        if not isinstance(value, tuple) or not (value or empty):
            return False
        return all(ok(v) for v in value) and not (distinct and len(set(value)) < len(value))

    return f"a tuple, each {text}{more}", check


def _is_rewind(value: Any) -> bool:
    try:
        rewind_step(value, 1)
    except ConfigError:
        return False
    return True


_NOT_NEGATIVE: Rule = ("a number, 0 or more", lambda v: _finite(v) and v >= 0)
# Training computes in float32, where smaller numbers are 0 and larger ones infinite.
_SMALLEST, _LARGEST = 1.2e-38, 3.4e38
_RATE: Rule = (
    f"a number above 0, of {_SMALLEST:g} to {_LARGEST:g} (float32)",
    lambda v: _finite(v) and _SMALLEST <= v <= _LARGEST,
)
_DECAY: Rule = (
    f"0 or a number above it, of {_SMALLEST:g} to {_LARGEST:g} (float32)",
    lambda v: _finite(v) and (v == 0 or _SMALLEST <= v <= _LARGEST),
)
# A float32 nearer to 1 is 1: a mean that forgets nothing, and Adam's correction for it divides by 0.
_MOMENT: Rule = (
    "a number in [0, 1), 0.9999999 at most (float32)",
    lambda v: _finite(v) and 0 <= v <= 0.9999999,
)
# Far beyond what any network, ladder or training has, but within what can be computed with. Where
# the memory or the data set the limit, `experiment.set_up` looks at them.
_WIDTH: Rule = ("a number above 0, 10,000 at most", lambda v: _finite(v) and 0 < v <= 10_000)
_EPOCHS: Rule = ("a number above 0, below 2**31", lambda v: _finite(v) and 0 < v < 2**31)
_FRACTION: Rule = (
    "a fraction above 0 and below 1 (0.2 for 20 %)",
    lambda v: _finite(v) and 0 < v < 1,
)
_NAME: Rule = ("a name", lambda v: isinstance(v, str) and v != "")
_TEXT: Rule = ("text", lambda v: isinstance(v, str))
_BOOL: Rule = ("true or false", lambda v: isinstance(v, bool))
_SHAPE: Rule = (
    "() or (height, width, channels), each 1 or more",
    lambda v: (
        isinstance(v, tuple) and len(v) in (0, 3) and all(type(n) is int and n > 0 for n in v)
    ),
)

# Names of models, optimizers and the like are checked where they are looked up in their tables.
_RULES: dict[str, Rule] = {
    "seeds": _tuple_of(_SEED, empty=False, distinct=True),
    "data.name": _NAME,
    "data.dir": _TEXT,
    "data.input_shape": _SHAPE,
    "data.resize": _TEXT,
    "data.augment": _TEXT,
    "data.validation_fraction": _within(0, 1, open_high=True),
    "data.workers": _whole(-1, 1024),
    "model.name": _NAME,
    "model.width": _WIDTH,
    "model.stem": _TEXT,
    "model.dtype": _NAME,
    "optimizer.name": _NAME,
    "optimizer.learning_rate": _RATE,
    "optimizer.momentum": _MOMENT,
    "optimizer.nesterov": _BOOL,
    "optimizer.b1": _MOMENT,
    "optimizer.b2": _MOMENT,
    "optimizer.weight_decay": _DECAY,
    "optimizer.schedule": _NAME,
    "optimizer.milestones": _tuple_of(_EPOCHS, distinct=True),
    "optimizer.decay": _within(0, 1),
    "optimizer.warmup_epochs": _NOT_NEGATIVE,
    "train.batch_size": _whole(1),
    "train.epochs": _whole(1, 2**31 - 1),
    "train.eval_every_epochs": _whole(1),
    "train.checkpoint_every_epochs": _whole(0),
    "train.together": _whole(0),
    "ladder.levels": _whole(0, 1000),
    "ladder.prune_fraction": _FRACTION,
    "ladder.scores": _NAME,
    "ladder.draw": _TEXT,
    "ladder.sparsities": _tuple_of(_FRACTION, distinct=True),
    "ladder.rounds": _whole(0, 10_000),
    "ladder.score_batches": _whole(1),
    "ladder.score_batch_size": _whole(0),
    "ladder.scope": _TEXT,
    "ladder.skip_first": _BOOL,
    "ladder.skip_last": _BOOL,
    "ladder.rewind": ("'1ep' (epochs), '500st' (steps) or 0", _is_rewind),
    "ladder.optimizer_state": _TEXT,
    "ladder.schedule": _TEXT,
    "controls": _tuple_of(_NAME, distinct=True),
    "control_levels": _tuple_of(_whole(1), distinct=True),
    "source": _TEXT,
    "transfer.head": _TEXT,
    "transfer.head_mask": _TEXT,
    "transfer.sources": _tuple_of(_NAME, distinct=True),
    "transfer.targets": _tuple_of(_NAME, distinct=True),
    "transfer.density": _FRACTION,
    "wandb.mode": _TEXT,
    "wandb.entity": _TEXT,
    "wandb.project": _NAME,
    "wandb.name": _TEXT,
}


def rewind_step(rewind: str | int, steps_per_epoch: int) -> int:
    """The training step that `config.ladder.rewind` means.

    Raises:
        ConfigError: it is not of one of the three forms.

    >>> [rewind_step(r, 97) for r in ("1ep", "500st", 0)]
    [97, 500, 0]
    """
    match = re.fullmatch(r"(\d{1,9})(ep|st)|0", str(rewind))
    if match is None:
        raise ConfigError(
            f"config.ladder.rewind: {rewind!r} is not '1ep' (epochs), '500st' (steps) or 0"
        )
    if match[1] is None:
        return 0
    return int(match[1]) * (steps_per_epoch if match[2] == "ep" else 1)


def flatten(config: ConfigDict) -> dict[str, Any]:
    """The config's values by dotted key, in key order."""

    def walk(node: ConfigDict, prefix: str) -> Iterator[tuple[str, Any]]:
        for key in sorted(node.keys()):
            value = node[key]
            if isinstance(value, ConfigDict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield prefix + key, tuple(value) if isinstance(value, list) else value

    return dict(walk(config, ""))


_DEFAULTS = flatten(default_config())


def validate(config: ConfigDict) -> ConfigDict:
    """A locked copy of `config` in its normal form, with every value checked.

    Names (of models, data sets, optimizers, schedules, scores, controls) are checked later, by the
    tables they are looked up in; all of that happens before a run directory is touched.

    Raises:
        ConfigError: one line that names the key, its value and what is legal.
    """
    flat, rules = flatten(config), _RULES
    if unknown := sorted(set(flat) - set(rules)):
        raise ConfigError(_describe_unknown_key(unknown[0]))
    if missing := sorted(set(rules) - set(flat)):
        raise ConfigError(f"config.{missing[0]} is missing; start from default_config()")
    # On a command line, --config.controls=reinit,random arrives as one string in a tuple.
    for key in ("controls", "transfer.sources", "transfer.targets"):
        if isinstance(flat[key], tuple):
            flat[key] = tuple(
                name.strip() for item in flat[key] for name in str(item).split(",") if name.strip()
            )
    for key, value in flat.items():
        text, ok = rules[key]
        if not ok(value):
            raise ConfigError(f"config.{key}: {value!r} is not {text}")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise ConfigError(describe_unknown(f"config.{key}", value, _CHOICES[key]))
    for key in ("data.dir", "source"):
        if URL.match(flat[key]):
            flat[key] = str(local_path(flat[key], f"config.{key}"))
    _check_transfer(flat)
    if sparsities := flat["ladder.sparsities"]:
        if list(sparsities) != sorted(sparsities):
            raise ConfigError(
                f"config.ladder.sparsities: {sparsities} does not rise from level to level"
            )
        flat["ladder.levels"] = min(flat["ladder.levels"], len(sparsities))
    beyond = [level for level in flat["control_levels"] if level > flat["ladder.levels"]]
    if beyond:
        raise ConfigError(
            f"config.control_levels: there is no level {beyond[0]}; "
            f"config.ladder.levels is {flat['ladder.levels']}"
        )
    late = [m for m in flat["optimizer.milestones"] if m >= flat["train.epochs"]]
    if late and flat["optimizer.schedule"] == "step":
        raise ConfigError(
            f"config.optimizer.milestones: {late[0]} is not before the end of training; "
            f"config.train.epochs is {flat['train.epochs']} (--config.optimizer.milestones=() for "
            "none)"
        )
    if flat["optimizer.warmup_epochs"] > flat["train.epochs"]:
        raise ConfigError(
            f"config.optimizer.warmup_epochs: {flat['optimizer.warmup_epochs']} is beyond the end "
            f"of training; config.train.epochs is {flat['train.epochs']}"
        )
    checked = default_config()
    checked.unlock()
    checked.update_from_flattened_dict(flat)
    return checked.lock()


def _check_transfer(flat: dict[str, Any]) -> None:
    """What the keys of a transfer have to do with each other and with the rest."""
    sources, targets = flat["transfer.sources"], flat["transfer.targets"]
    if bool(sources) != bool(targets):
        raise ConfigError(
            "config.transfer: a matrix needs both config.transfer.sources and "
            "config.transfer.targets"
        )
    if flat["source"] and sources:
        raise ConfigError(
            "config.source: a matrix makes its own sources; leave it empty, or empty "
            "config.transfer.sources and config.transfer.targets"
        )
    if (flat["source"] or sources) and flat["ladder.optimizer_state"] == "restored":
        raise ConfigError(
            "config.ladder.optimizer_state: a transferred ticket has no optimizer state to "
            "restore; use 'fresh'"
        )


def fingerprint(config: ConfigDict) -> str:
    """16 hex digits that are the same for configs that must give the same results.

    It is a SHA-256 of the values as canonical JSON, without the keys that can't change a result and
    without those of `ADDED_LATER` that have their default.
    """
    flat = {
        k: v
        for k, v in flatten(config).items()
        if not WITHOUT_EFFECT.fullmatch(k) and not (k in ADDED_LATER and v == ADDED_LATER[k])
    }
    flat["ladder.rewind"] = str(flat["ladder.rewind"])
    text = json.dumps(flat, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differing_keys(a: ConfigDict, b: ConfigDict) -> list[str]:
    """The keys that matter to results and differ, as `key: value of a, value of b`.

    A source is told by its own fingerprint (`runs.directory.check_workdir`), wherever it lies.
    """
    # Either may be of a config.json from before a key was added.
    left, right = ({**ADDED_LATER, **flatten(config)} for config in (a, b))
    return [
        f"config.{key}: {left.get(key)!r}, {right.get(key)!r}"
        for key in sorted(set(left) | set(right))
        if str(left.get(key)) != str(right.get(key))
        and not WITHOUT_EFFECT.fullmatch(key)
        and key != "source"
    ]


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The config as nested plain dicts, for `config.json`."""
    return json.loads(json.dumps(config.to_dict()))


def from_json(values: dict[str, Any]) -> ConfigDict:
    """The config that `to_json` wrote, in this version or an earlier one, validated.

    Raises:
        ConfigError: a key or value that this version does not know.
    """
    if not isinstance(values, dict):
        raise ConfigError("the stored config is not a table of keys and values")
    return validate(ConfigDict(_with_added_keys(values)))


def _with_added_keys(values: dict[str, Any]) -> dict[str, Any]:
    """The nested values with those keys of `ADDED_LATER` that an earlier version did not write."""
    filled = copy.deepcopy(values)
    for key, default in ADDED_LATER.items():
        *groups, name = key.split(".")
        node: Any = filled
        for group in groups:
            node = node.get(group) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.setdefault(name, default)
    return filled


def returned_by(file: str, value: Any) -> ConfigDict:
    """What `get_config` of a config file has returned, validated.

    Raises:
        ConfigError: it is no ConfigDict, or a value is not legal.
    """
    # What could not be loaded raises only when an attribute is asked for.
    if not hasattr(value, "keys") or not isinstance(value, ConfigDict):
        raise ConfigError(
            f"--config: get_config() in {file} must return a ConfigDict, such as default_config(), "
            f"and not {type(value).__name__}"
        )
    return validate(value)


def cannot_load(file: str, error: Exception) -> str:
    """One line for whatever a config file, or the library that loads it, has raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[-1] if lines else "no more is said"
    # The library's own message quotes the whole traceback, whose last line names the error.
    kind = "" if "Traceback" in str(error) else f"{type(error).__name__}: "
    where = ""
    if re.match(r"\w*Warning\b", kind + said):  # that was made an error: whose it is matters
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{frame.filename}:{frame.lineno}" for frame in frames]
        places += [f"{a}:{b}" for a, b in re.findall(r'File "(.+)", line (\d+)', str(error))]
        where = f" (at {places[-1]}; PYTHONWARNINGS or -W makes it an error)" if places else ""
    return f"--config: can't be loaded: {file}: {kind}{said}{where}"


def with_last_overrides(arguments: list[str]) -> list[str]:
    """Return the arguments without the earlier ones of a key that is given twice: the last one wins.

    For most keys the library that parses flags does so itself; of tuples it would keep the values
    of both.

    >>> with_last_overrides(["main", "--config.seeds=0,1", "--config.seeds", "5", "--workdir=x"])
    ['main', '--config.seeds', '5', '--workdir=x']
    """
    kept: dict[int, list[str]] = {}
    last: dict[str, int] = {}
    rest = iter(enumerate(arguments))
    for i, argument in rest:
        kept[i] = [argument]
        flag, equals, _ = argument.partition("=")
        key = re.sub("^--?config[.]", "", flag)
        if key == flag or not isinstance(_DEFAULTS.get(key), tuple):
            continue
        if not equals:
            kept[i] += [value for _, value in itertools.islice(rest, 1)]
        if key in last:
            del kept[last[key]]
        last[key] = i
    return [argument for group in kept.values() for argument in group]


def misspelt_override(argument: str) -> str | None:
    """For `--config.KEY=…` with a KEY that does not exist, one line that says so.

    >>> misspelt_override("--config.seed=1").split(";")[0]
    "config: unknown key 'seed' (did you mean 'seeds'?)"
    """
    key = argument.removeprefix("--config.").partition("=")[0]
    if not argument.startswith("--config.") or key in _RULES:
        return None
    return _describe_unknown_key(key)


def _describe_unknown_key(key: str) -> str:
    if group := sorted(known for known in _RULES if known.startswith(f"{key}.")):
        return f"config.{key}: is a group of keys; name one of {', '.join(group)}"
    return describe_unknown("config", key, _RULES, noun="key")
