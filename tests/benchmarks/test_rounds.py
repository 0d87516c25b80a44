"""Confidence intervals of a median, against the binomial distribution and against draws."""

import math

import numpy as np
import pytest

from benchmarks.rounds import interval, is_settled, rounds_of_turns, summary, worst

pytestmark = pytest.mark.benchmarks


@pytest.mark.parametrize("count", [6, 9, 10, 14, 30, 101])
def test_the_interval_is_the_narrowest_that_covers_enough(count: int) -> None:
    low, high = interval(range(count))
    place = int(low)
    assert high == count - 1 - place

    def coverage(place: int) -> float:
        """Of the interval from the place-th lowest to the place-th highest value, counted from 0."""
        return 1 - 2 * sum(math.comb(count, k) for k in range(place + 1)) / math.pow(2, count)

    assert coverage(place) >= 0.95 > coverage(place + 1)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_of_few_values_it_is_the_lowest_and_the_highest(count: int) -> None:
    assert interval([3.0 - n for n in range(count)]) == (3.0 - (count - 1), 3.0)


def test_medians_of_draws_lie_within_it() -> None:
    draws = np.random.default_rng(0).lognormal(0, 0.5, (2000, 12))
    intervals = [interval(list(row)) for row in draws]
    inside = np.mean([low <= 1 <= high for low, high in intervals])
    assert 0.95 < inside < 0.98  # exactly 1 - 2 * 79 / 4096 of them


def test_settled_is_known_to_within_five_percent() -> None:
    assert is_settled([1.95, 2.0, 2.0, 2.0, 2.0, 2.05])
    assert not is_settled([1.8, 2.0, 2.0, 2.0, 2.0, 2.1])
    assert not is_settled([2.0, 2.0, 2.0, 2.0, 2.0, 2.18])  # to one side
    assert is_settled([1.0, *[2.0] * 10, 4.0])  # an odd round at either end
    assert not is_settled([2.0] * 5)  # too few to know


def test_as_text() -> None:
    assert summary([1.8, 2.0, 2.0, 2.0, 2.0, 2.2]) == "2.00 (1.80 to 2.20)"
    assert worst([[1.0] * 6, [1.8, 2.0, 2.0, 2.0, 2.0, 2.2]]).endswith("the widest +-10%")
    assert worst([[1.0] * 6, [1.0] * 5]).startswith("too few rounds")


def test_every_second_round_is_in_reverse_order() -> None:
    assert list(rounds_of_turns(["a", "b"], 3)) == [(0, ["a", "b"]), (1, ["b", "a"]), (2, ["a", "b"])]


def test_only_those_who_are_not_settled_go_on_with_the_first() -> None:
    known = {"steady": [2.0] * 6, "unsteady": [1.0, 2.0] * 3}
    found = rounds_of_turns(["first", *known], 2, "first", known.__getitem__, lambda number: number < 4)
    assert [sorted(names) for _, names in found][1:] == [["first", "steady", "unsteady"], *[["first", "unsteady"]] * 2]
    assert len(list(rounds_of_turns(list(known), 2, "first", known.__getitem__, lambda number: True))) == 2
