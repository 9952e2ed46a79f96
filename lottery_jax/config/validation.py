"""Checks of a whole config, before anything is computed or written."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from lottery_jax.config.keys import KEYS, PLACES, default_config, describe_unknown_key, flatten
from lottery_jax.config.rules import NAMES
from lottery_jax.errors import ConfigError
from lottery_jax.system.files import URL, local_path
from lottery_jax.system.imports import is_import_path

# Tickets of the zoo and of the Hugging Face hub, which `tickets/addresses.py` fetches.
_TICKET_SCHEMES = ("zoo", "hf")


def validate(config: ConfigDict) -> ConfigDict:
    """Return a locked copy of `config` in its normal form, with every value checked.

    The tables that hold models, data sets, optimizers, schedules, scores and controls check their
    names when a run is set up, before its directory is touched.

    Raises:
        ConfigError: one line that names the key, its value and what is legal.
    """
    flat = flatten(config)
    if unknown := sorted(set(flat) - set(KEYS)):
        raise ConfigError(describe_unknown_key(unknown[0]))
    if missing := sorted(set(KEYS) - set(flat)):
        raise ConfigError(f"config.{missing[0]} is missing; start from default_config()")
    for name, value in flat.items():
        rule = KEYS[name].rule
        is_tuple = isinstance(value, tuple)
        if is_tuple and (rule is NAMES or all(isinstance(part, str) for part in value)):
            # The command line reads --config.controls=reinit,random as one string in a tuple, and
            # --config.control_levels= as one empty string.
            value = tuple(filter(None, map(str.strip, ",".join(map(str, value)).split(","))))
        rule.check(name, value)
        flat[name] = value
    for name in PLACES:
        url = URL.match(flat[name])
        if url and (name == "data.dir" or url["scheme"] not in _TICKET_SCHEMES):
            flat[name] = str(local_path(flat[name], f"config.{name}"))
    _check_transfer(flat)
    _check_retrain(flat)
    _check_levels(flat)
    _check_schedule(flat)
    checked = default_config()
    checked.update_from_flattened_dict(flat)
    return checked.lock()


def _check_transfer(flat: dict[str, Any]) -> None:
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
    if flat["ladder.pretrained"]:
        if flat["source"] or sources:
            raise ConfigError(
                "config.ladder.pretrained: a transfer has the weights of its source; leave it empty"
            )
        if flat["ladder.optimizer_state"] == "restored":
            raise ConfigError(
                "config.ladder.pretrained: weights from elsewhere have no optimizer state to "
                "restore; use config.ladder.optimizer_state=fresh"
            )


def _check_retrain(flat: dict[str, Any]) -> None:
    """Check that there are trained weights, and nothing else, from which levels can be retrained."""
    retrain, draw = flat["ladder.retrain"], flat["ladder.draw"]
    own_rate = is_import_path(flat["optimizer.name"])
    refused = (
        (flat["source"] or flat["transfer.sources"], "a transfer starts from rewound weights"),
        (draw.startswith("init"), f"config.ladder.draw={draw} scores weights that are not trained"),
        (flat["ladder.optimizer_state"] == "restored", "the optimizer's state at the rewind point "
         "does not belong to them; use config.ladder.optimizer_state=fresh"),
        (retrain == "finetune" and own_rate, "an optimizer of your own has a learning rate of its "
         "own, which is not held at its last value"),
        (retrain == "finetune" and flat["optimizer.schedule"] == "cosine", "the last rate of "
         "config.optimizer.schedule=cosine is almost 0; use step or constant"),
    )  # fmt: skip
    for applies, reason in refused:
        if applies and retrain != "weights":
            raise ConfigError(
                f"config.ladder.retrain: {retrain!r} starts from trained weights, but {reason}"
            )


def _check_levels(flat: dict[str, Any]) -> None:
    """Check what depends on the number of levels; set that number where sparsities are listed."""
    if sparsities := flat["ladder.sparsities"]:
        if list(sparsities) != sorted(sparsities):
            raise ConfigError(
                f"config.ladder.sparsities: {sparsities} does not rise from level to level"
            )
        flat["ladder.levels"] = min(flat["ladder.levels"], len(sparsities))
    levels = flat["ladder.levels"]
    if beyond := [level for level in flat["control_levels"] if level > levels]:
        raise ConfigError(
            f"config.control_levels: there is no level {beyond[0]}; config.ladder.levels is "
            f"{levels}"
        )


def _check_schedule(flat: dict[str, Any]) -> None:
    epochs, warmup = flat["train.epochs"], flat["optimizer.warmup_epochs"]
    late = [milestone for milestone in flat["optimizer.milestones"] if milestone >= epochs]
    if late and flat["optimizer.schedule"] == "step":
        raise ConfigError(
            f"config.optimizer.milestones: {late[0]} is not before the end of training; "
            f"config.train.epochs is {epochs} (--config.optimizer.milestones=() for none)"
        )
    if warmup > epochs:
        raise ConfigError(
            f"config.optimizer.warmup_epochs: {warmup} is beyond the end of training; "
            f"config.train.epochs is {epochs}"
        )
