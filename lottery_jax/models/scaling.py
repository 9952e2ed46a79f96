"""Layer widths: standard ones times a factor, or those that are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from reprlib import repr as short_repr

from lottery_jax.errors import ConfigError


def scaled(widths: Sequence[int], width: float) -> tuple[int, ...]:
    """Return layer widths times `width`, each rounded and at least 1.

    >>> scaled((300, 100), 0.5)
    (150, 50)
    """
    return tuple(max(1, round(n * width)) for n in widths)


def with_widths(standard: Mapping[str, int], widths: Mapping[str, int] | None) -> dict[str, int]:
    """Return the number of units of each layer: the standard one, or that which `widths` gives.

    Args:
        standard: the standard number by the name of the layer, from input to output.
        widths: the numbers of some layers or of all, at most the standard ones; None: of none.

    Raises:
        ConfigError: `widths` is not a mapping, a name is not in `standard`, or a number is not an integer
            from 1 to the standard one.

    >>> with_widths({"dense1": 300, "dense2": 100}, {"dense2": 7})
    {'dense1': 300, 'dense2': 7}
    """
    given = {} if widths is None else widths
    if not isinstance(given, Mapping):
        raise ConfigError(f"widths: must be a mapping such as {{'dense1': 7}}: {short_repr(given)}")
    for name, count in given.items():
        if name not in standard:
            raise ConfigError(
                f"widths: there is no {short_repr(name)}; there are {', '.join(standard)}"
            )
        if type(count) is not int or not 1 <= count <= standard[name]:
            raise ConfigError(
                f"widths: {name!r} must have from 1 to {standard[name]} units: {short_repr(count)}"
            )
    return {**standard, **given}


def conv_and_dense_widths(
    convs: Sequence[int], denses: Sequence[int], width: float, widths: Mapping[str, int] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the numbers of channels and units of layers named `conv1`, … and `dense1`, ….

    >>> conv_and_dense_widths((64, 64), (256, 256), 0.5, {"dense2": 7})
    ((32, 32), (128, 7))
    """
    standard = {f"conv{i}": n for i, n in enumerate(scaled(convs, width), 1)}
    standard |= {f"dense{i}": n for i, n in enumerate(scaled(denses, width), 1)}
    counts = tuple(with_widths(standard, widths).values())
    return counts[: len(convs)], counts[len(convs) :]
