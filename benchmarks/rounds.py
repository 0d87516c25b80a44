"""Ratios over rounds in which all contestants took turns: their median, and how surely it is known."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

SETTLED = 0.05
"""How far its interval reaches from a median, as a share of it, for a ratio to need no more rounds."""
CONFIDENCE = 0.95
LEAST_VALUES = 6
"""Of fewer not even the lowest and the highest enclose the median with CONFIDENCE."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """A confidence interval of the median, whatever the values' distribution.

    Between the k-th lowest and the k-th highest of n, whose coverage is 1 - 2 P(B < k) with B binomial of n and a half
    (Conover 1999, "Practical Nonparametric Statistics", section 3.2); of fewer than LEAST_VALUES the lowest and the
    highest. It holds for independent values of a number fixed beforehand. Rounds beside each other resemble each other,
    and who is settled stops: so 95% is nominal, and somewhat less is meant.
    """
    ordered, count = sorted(values), len(values)
    below, rank = 0.0, 0
    while (below := below + math.comb(count, rank) / 2**count) <= (1 - CONFIDENCE) / 2:
        rank += 1
    place = max(rank - 1, 0)
    return ordered[place], ordered[count - 1 - place]


def is_settled(values: Sequence[float]) -> bool:
    """Whether the median is known to within SETTLED."""
    return len(values) >= LEAST_VALUES and _uncertainty(values) <= SETTLED


def summary(values: Sequence[float]) -> str:
    """A ratio as text: its median and the interval."""
    low, high = interval(values)
    return f"{np.median(values):.2f} ({low:.2f} to {high:.2f})"


def worst(ratios: Iterable[Sequence[float]]) -> str:
    """How surely the least sure of the ratios is known, as text."""
    ratios = list(ratios)
    if min(map(len, ratios), default=0) < LEAST_VALUES:
        return "too few rounds to say how surely the medians are known"
    return f"medians and their {CONFIDENCE:.0%} intervals (nominal), the widest +-{max(map(_uncertainty, ratios)):.0%}"


def _uncertainty(values: Sequence[float]) -> float:
    (low, high), median = interval(values), float(np.median(values))
    return max(high - median, median - low) / median
