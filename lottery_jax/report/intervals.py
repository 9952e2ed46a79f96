"""The interval that all reports and verdicts give a mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable

LEVEL = 0.95


def t_interval(values: Iterable[float], level: float = LEVEL) -> tuple[float, float]:
    """Return Student's two-sided interval of the mean; infinite with fewer than two values.

    >>> low, high = t_interval([1.0, 2.0, 3.0])
    >>> f"{low:.4f} {high:.4f}"  # 2 -+ 4.3027 / sqrt(3)
    '-0.4841 4.4841'
    """
    from scipy import special  # which takes long to import

    data = list(values)
    if len(data) < 2:
        return -math.inf, math.inf
    mean = math.fsum(data) / len(data)
    variance = math.fsum((value - mean) ** 2 for value in data) / (len(data) - 1)
    quantile = float(special.stdtrit(len(data) - 1, (1 + level) / 2))
    half = quantile * math.sqrt(variance / len(data))
    return mean - half, mean + half
