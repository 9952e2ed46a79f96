"""Which values of a config key are legal, in words and as a check."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

from lottery_jax.errors import ConfigError, describe_unknown


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which values are legal.

    Attributes:
        text: the legal values in words, such as "a number, 0 or more".
        is_legal: whether a value is one of them.
        choices: all legal values, if they are a few names.
    """

    text: str
    is_legal: Callable[[Any], bool]
    choices: tuple[str, ...] = ()

    def check(self, key: str, value: object) -> None:
        """Raise a `ConfigError` that names the key, unless the value is legal."""
        if self.choices and value not in self.choices:
            raise ConfigError(describe_unknown(f"config.{key}", value, self.choices))
        if not self.is_legal(value):
            raise ConfigError(f"config.{key}: {value!r} is not {self.text}")


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def within(low: float, high: float, *, open_high: bool = False) -> Rule:
    """A number from `low` to `high`, the latter included unless `open_high`."""
    return Rule(
        f"a number in [{low:g}, {high:g}{')' if open_high else ']'}",
        lambda v: _is_finite(v) and low <= v and (v < high if open_high else v <= high),
    )


def whole(low: int, high: float = math.inf) -> Rule:
    """A whole number, which neither a float nor a bool is."""
    limit = f", {high:,} at most" if high < math.inf else ""
    return Rule(
        f"a whole number, {low} or more{limit}", lambda v: type(v) is int and low <= v <= high
    )


def one_of(*choices: str) -> Rule:
    """One of a few names."""
    return Rule(f"{', '.join(choices[:-1])} or {choices[-1]}", lambda v: v in choices, choices)


def tuple_of(rule: Rule, *, empty: bool = True, distinct: bool = False) -> Rule:
    """A tuple whose items a rule allows."""
    more = "" if empty else ", at least one"
    more += ", no two the same" if distinct else ""

    def is_legal(value: Any) -> bool:
        if not isinstance(value, tuple) or not (value or empty):
            return False
        return all(map(rule.is_legal, value)) and not (distinct and len({*value}) < len(value))

    return Rule(f"a tuple, each {rule.text}{more}", is_legal)


def rewind_step(rewind: str | int, steps_per_epoch: int) -> int:
    """Return the training step that `config.ladder.rewind` means.

    Raises:
        ConfigError: it is not of one of the three forms.

    >>> [rewind_step(r, 97) for r in ("1ep", "500st", 0)]
    [97, 500, 0]
    """
    match = re.fullmatch(r"(\d{1,9})(ep|st)|0", str(rewind))
    if match is None:
        raise ConfigError(f"config.ladder.rewind: {rewind!r} is not {REWIND.text}")
    if match[1] is None:
        return 0
    return int(match[1]) * (steps_per_epoch if match[2] == "ep" else 1)


def _is_rewind(value: Any) -> bool:
    try:
        rewind_step(value, 1)
    except ConfigError:
        return False
    return True


KEPT = Rule(
    "a whole number: an epoch, or -n for every n epochs", lambda v: type(v) is int and v != 0
)
NAME = Rule("a name", lambda v: isinstance(v, str) and v != "")
NAMES = tuple_of(NAME, distinct=True)
TEXT = Rule("text", lambda v: isinstance(v, str))
BOOL = Rule("true or false", lambda v: isinstance(v, bool))
NOT_NEGATIVE = Rule("a number, 0 or more", lambda v: _is_finite(v) and v >= 0)
FRACTION = Rule(
    "a fraction above 0 and below 1 (0.2 for 20 %)", lambda v: _is_finite(v) and 0 < v < 1
)
REWIND = Rule("'1ep' (epochs), '500st' (steps) or 0", _is_rewind)
SHAPE = Rule(
    "() or (height, width, channels), each 1 or more",
    lambda v: (
        isinstance(v, tuple) and len(v) in (0, 3) and all(type(n) is int and n > 0 for n in v)
    ),
)
# Beyond 32 bits different seeds would give the same keys.
SEED = Rule("a whole number, 0 to 2**32 - 1", lambda v: type(v) is int and 0 <= v < 2**32)

# Training computes in float32, where smaller numbers are 0 and larger ones infinite.
_SMALLEST, _LARGEST = 1.2e-38, 3.4e38
RATE = Rule(
    f"a number above 0, from {_SMALLEST:g} to {_LARGEST:g} (float32)",
    lambda v: _is_finite(v) and _SMALLEST <= v <= _LARGEST,
)
WEIGHT_DECAY = Rule(
    f"0 or a number above it, from {_SMALLEST:g} to {_LARGEST:g} (float32)",
    lambda v: _is_finite(v) and (v == 0 or _SMALLEST <= v <= _LARGEST),
)
# A float32 nearer to 1 is 1: a mean that forgets nothing, and Adam's correction divides by 0.
MOMENT = Rule(
    "a number in [0, 1), 0.9999999 at most (float32)",
    lambda v: _is_finite(v) and 0 <= v <= 0.9999999,
)
# These limits lie far beyond any network or training, but within what can be computed with. Where
# memory or the data set the limit, `experiment.set_up` checks it.
WIDTH = Rule("a number above 0, 10,000 at most", lambda v: _is_finite(v) and 0 < v <= 10_000)
EPOCHS = Rule("a number above 0, below 2**31", lambda v: _is_finite(v) and 0 < v < 2**31)
