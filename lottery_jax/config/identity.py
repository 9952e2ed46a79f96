"""Which configs must give the same results, and configs as JSON."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from ml_collections import ConfigDict

from lottery_jax.config.keys import ADDED_LATER, KEYS, PLACES, flatten
from lottery_jax.config.validation import validate
from lottery_jax.errors import ConfigError


def _affects_results(name: str) -> bool:
    return name not in KEYS or KEYS[name].affects_results


def fingerprint(config: ConfigDict) -> str:
    """Return 16 hex digits that are the same for configs that must give the same results.

    They begin the SHA-256 of the values as canonical JSON, without the keys that can't change a
    result and without the keys of `ADDED_LATER` that have their default.
    """
    flat = {
        name: value
        for name, value in flatten(config).items()
        if _affects_results(name) and not (name in ADDED_LATER and value == ADDED_LATER[name])
    }
    flat["ladder.rewind"] = str(flat["ladder.rewind"])
    text = json.dumps(flat, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differing_keys(a: ConfigDict, b: ConfigDict) -> list[str]:
    """Return the keys that affect results and differ, as `key: value of a, value of b`.

    `runs.record.check_workdir` compares sources by their fingerprints, wherever they lie.
    """
    # Either config may come from a config.json that was written before a key was added.
    left, right = ({**ADDED_LATER, **flatten(config)} for config in (a, b))
    return [
        f"config.{name}: {left.get(name)!r}, {right.get(name)!r}"
        for name in sorted({*left, *right})
        if str(left.get(name)) != str(right.get(name))
        and _affects_results(name)
        and name not in PLACES
    ]


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Return the config as nested plain dicts, for `config.json`."""
    return json.loads(json.dumps(config.to_dict()))


def from_json(values: dict[str, Any]) -> ConfigDict:
    """Return the config that `to_json` wrote, in this version or an earlier one, validated.

    Raises:
        ConfigError: a key or value that this version does not know.
    """
    if not isinstance(values, dict):
        raise ConfigError("the stored config is not a table of keys and values")
    filled = copy.deepcopy(values)
    for key, default in ADDED_LATER.items():
        *groups, leaf = key.split(".")
        node: Any = filled
        for group in groups:
            node = node.setdefault(group, {}) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.setdefault(leaf, default)
    return validate(ConfigDict(filled))
