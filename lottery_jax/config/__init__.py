"""The configuration: its keys, what values are legal, and its fingerprint.

`keys.py` is the table from which everything else is made; docs/config.md shows it.
"""

from lottery_jax.config.identity import differing_keys, fingerprint, from_json, to_json
from lottery_jax.config.keys import (
    ADDED_LATER,
    GROUPS,
    KEYS,
    PER_PROCESS,
    PLACES,
    Key,
    default_config,
    flatten,
)
from lottery_jax.config.overrides import (
    cannot_load,
    find_config,
    in_file_name,
    misspelt_override,
    named_configs,
    returned_by,
    run_name,
    with_config_file,
    with_last_overrides,
)
from lottery_jax.config.rules import rewind_step
from lottery_jax.config.validation import validate

__all__ = [
    "ADDED_LATER",
    "GROUPS",
    "KEYS",
    "PER_PROCESS",
    "PLACES",
    "Key",
    "cannot_load",
    "default_config",
    "differing_keys",
    "find_config",
    "fingerprint",
    "flatten",
    "from_json",
    "in_file_name",
    "misspelt_override",
    "named_configs",
    "returned_by",
    "rewind_step",
    "run_name",
    "to_json",
    "validate",
    "with_config_file",
    "with_last_overrides",
]
