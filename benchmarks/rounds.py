"""Ratios over rounds in which all contestants took turns: their median, and how surely it is known."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

SETTLED = 0.05
"""Half the width of its interval, as a share of the median, below which a ratio needs no more rounds."""
CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> tuple[float, float]:
    """A confidence interval of the median, whatever the values' distribution.

    Between the k-th lowest and the k-th highest of n, whose coverage is 1 - 2 P(B < k) with B binomial of n and a half
    (Conover 1999, "Practical Nonparametric Statistics", section 3.2). Fewer than six values do not give CONFIDENCE, and
    then these are the lowest and the highest.
    """
    ordered, count = sorted(values), len(values)
    below, rank = 0.0, 0
    while (below := below + math.comb(count, rank) / 2**count) <= (1 - CONFIDENCE) / 2:
        rank += 1
    place = max(rank - 1, 0)
    return ordered[place], ordered[count - 1 - place]


def is_settled(values: Sequence[float]) -> bool:
    """Whether the median is known to within SETTLED."""
    return _uncertainty(values) <= SETTLED


def summary(values: Sequence[float]) -> str:
    """A ratio as text: its median and the interval."""
    low, high = interval(values)
    return f"{np.median(values):.2f} ({low:.2f} to {high:.2f})"


def worst(ratios: Iterable[Sequence[float]]) -> str:
    """How surely the least sure of the ratios is known, as text."""
    least_sure = max(map(_uncertainty, ratios), default=0.0)
    return f"medians with intervals of {CONFIDENCE:.0%} confidence, the widest +-{least_sure:.0%}"


def _uncertainty(values: Sequence[float]) -> float:
    low, high = interval(values)
    return (high - low) / 2 / float(np.median(values))
