"""Layer widths."""

from __future__ import annotations

from collections.abc import Sequence


def scaled(widths: Sequence[int], width: float) -> tuple[int, ...]:
    """Return layer widths times `width`, each rounded and at least 1.

    >>> scaled((300, 100), 0.5)
    (150, 50)
    """
    return tuple(max(1, round(n * width)) for n in widths)
