"""The claims, a file each. A new file `cNN_name.py` with a `CLAIM` is found by itself."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping

from lottery_jax.errors import ConfigError, describe_unknown
from lottery_jax.reproduce.claim import Claim

# The scale that is also a name on the command line: three claims that CI decides.
QUICK = "quick"


@functools.cache
def all_claims() -> Mapping[str, Claim]:
    """Return all claims by their number, in order."""
    found = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        number, _, short = name.partition("_")
        claim = importlib.import_module(f"{__name__}.{name}").CLAIM
        key = number.removeprefix("c").lstrip("0")
        found[key] = dataclasses.replace(claim, key=key, name=short)
    return found


def select(names: Iterable[str], scale: str) -> list[Claim]:
    """Return the claims that a command names, in order.

    Args:
        names: numbers, short names, or `all` for those that the scale has.
        scale: a key of `protocols.SCALES`.

    Raises:
        ConfigError: there is no such claim, or the scale has it not.

    >>> [claim.key for claim in select(["2", "reach_dense"], "small")]
    ['1', '2']
    """
    claims = all_claims()
    by_name = {claim.name: claim for claim in claims.values()}
    chosen = set()
    for name in names:
        if name == "all":
            chosen |= {claim.key for claim in claims.values() if scale in claim.scales}
            continue
        claim = claims.get(name) or by_name.get(name)
        if claim is None:
            known = {*by_name, *claims, "all", QUICK}
            raise ConfigError(describe_unknown("claim", name, known, noun="claim"))
        if scale not in claim.scales:
            raise ConfigError(
                f"claim {claim.key}: is not there at --scale={scale}; choose from "
                f"{', '.join(claim.scales)}"
            )
        chosen.add(claim.key)
    return [claim for claim in claims.values() if claim.key in chosen]
