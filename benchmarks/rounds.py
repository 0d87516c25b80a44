"""Rounds in which contestants take turns, and ratios between them: the median and its confidence interval."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

SETTLED = 0.05
"""A ratio is settled when its interval reaches at most this far from the median, as a share of the median."""
CONFIDENCE = 0.95
LEAST_VALUES = 6
"""With fewer values, not even the lowest and the highest enclose the median with CONFIDENCE."""


def rounds_of_turns(
    names: Sequence[str],
    least: int,
    first: str | None = None,
    ratios: Callable[[str], Sequence[float]] = lambda name: (),
    goes_on: Callable[[int], bool] = lambda number: False,
) -> Iterator[tuple[int, list[str]]]:
    """Yield rounds of turns; every second round is in reverse order, so that no contestant always follows another.

    After `least` rounds only contestants whose ratio is not settled go on, and the first one with them. The caller
    measures each turn before it asks for the next round.

    Args:
        names: contestants, in the order of their turns.
        least: rounds that all contestants take part in.
        first: the contestant that the others are compared with; without it in `names` there are only `least` rounds.
        ratios: the ratios that were measured so far for a contestant.
        goes_on: called with the number of a round beyond `least`, counted from 0; False ends the rounds.

    Yields:
        The number of the round, counted from 0, and the names in the order of their turns.
    """
    number = 0
    turns = list(names)
    while number < least or (len(turns) > 1 and goes_on(number)):
        yield number, turns if number % 2 == 0 else turns[::-1]
        number += 1
        if number >= least:
            taking = names if first in names else ()
            turns = [name for name in taking if name == first or not is_settled(ratios(name))]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a confidence interval of the median, for values of any distribution.

    It reaches from the k-th lowest to the k-th highest of n values, whose coverage is 1 - 2 P(B < k) with B binomial of
    n and one half (Conover 1999, "Practical Nonparametric Statistics", section 3.2). With fewer than LEAST_VALUES it
    reaches from the lowest to the highest. The coverage holds for independent values of a number that is fixed
    beforehand. Neighbouring rounds resemble each other and settled contestants stop, so CONFIDENCE is nominal: the
    true coverage is somewhat lower.
    """
    ordered, count = sorted(values), len(values)
    below, rank = 0.0, 0
    while (below := below + math.comb(count, rank) / 2**count) <= (1 - CONFIDENCE) / 2:
        rank += 1
    place = max(rank - 1, 0)
    return ordered[place], ordered[count - 1 - place]


def is_settled(values: Sequence[float]) -> bool:
    """Return True if the median is known to within SETTLED."""
    return len(values) >= LEAST_VALUES and _uncertainty(values) <= SETTLED


def summary(values: Sequence[float]) -> str:
    """Return the median of ratios and its interval as text."""
    low, high = interval(values)
    return f"{np.median(values):.2f} ({low:.2f} to {high:.2f})"


def worst(ratios: Iterable[Sequence[float]]) -> str:
    """Return the width of the widest interval as text."""
    ratios = list(ratios)
    if min(map(len, ratios), default=0) < LEAST_VALUES:
        return "too few rounds to say how surely the medians are known"
    return f"medians and their {CONFIDENCE:.0%} intervals (nominal), the widest +-{max(map(_uncertainty, ratios)):.0%}"


def _uncertainty(values: Sequence[float]) -> float:
    (low, high), median = interval(values), float(np.median(values))
    return max(high - median, median - low) / median
