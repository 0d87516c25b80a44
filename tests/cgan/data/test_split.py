"""Split into training and held-out photos, order of the photos."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cgan.data.split import epoch_batches, split
from cgan.errors import UserError

digests = st.lists(st.integers(0, 30).map(lambda n: f"{n:064x}"), min_size=2, max_size=80).filter(
    lambda found: len(set(found)) > 1
)
fractions = st.floats(0.001, 0.999)


@given(digests, fractions, st.integers(0, 2**63 - 1))
def test_split_is_disjoint_whole_and_seeded(found: list[str], fraction: float, seed: int) -> None:
    parts = split(tuple(found), fraction, seed)
    assert sorted(parts.train + parts.test) == list(range(len(found)))
    assert parts.train and parts.test
    assert parts == split(tuple(found), fraction, seed)


@given(digests, fractions, st.integers(0, 2**63 - 1))
def test_equal_files_never_straddle(found: list[str], fraction: float, seed: int) -> None:
    parts = split(tuple(found), fraction, seed)
    assert not {found[i] for i in parts.train} & {found[i] for i in parts.test}


@given(st.integers(2, 300), fractions, st.integers(0, 1000))
def test_split_holds_out_the_fraction(count: int, fraction: float, seed: int) -> None:
    parts = split(tuple(f"{i:064x}" for i in range(count)), fraction, seed)
    assert len(parts.test) == min(max(1, round(fraction * count)), count - 1)


@given(digests, fractions, st.integers(0, 1000), st.randoms())
def test_split_goes_by_content_not_by_order(found: list[str], fraction: float, seed: int, random: Any) -> None:
    order = list(range(len(found)))
    random.shuffle(order)
    parts, shuffled = split(tuple(found), fraction, seed), split(tuple(found[i] for i in order), fraction, seed)
    assert Counter(found[i] for i in parts.test) == Counter(found[order[i]] for i in shuffled.test)


def test_other_seeds_hold_out_other_photos() -> None:
    found = tuple(f"{i:064x}" for i in range(200))
    assert len({split(found, 0.1, seed).test for seed in range(10)}) == 10


@pytest.mark.parametrize("found", [(), ("a",), ("a", "a", "a")])
def test_split_needs_two_different_photos(found: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="expected at least 2"):
        split(found, 0.5, 0)


# order

seeds = st.integers(0, 2**63 - 1)


@given(st.integers(1, 60), st.integers(1, 20), seeds, st.integers(1, 100))
def test_each_epoch_sees_each_photo_once(count: int, batch_size: int, seed: int, epoch: int) -> None:
    indices = tuple(range(100, 100 + count))
    batches = list(epoch_batches(indices, batch_size, seed, epoch))
    assert sorted(torch.cat(batches).tolist()) == list(indices)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert len(batches[-1]) <= batch_size + 1
    again = list(epoch_batches(indices, batch_size, seed, epoch))
    assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in again]


@given(st.integers(2, 60), st.integers(2, 20), seeds)
def test_no_batch_of_one_where_there_are_more_photos(count: int, batch_size: int, seed: int) -> None:
    assert all(len(batch) > 1 for batch in epoch_batches(tuple(range(count)), batch_size, seed, 1))


@given(st.integers(1, 80), st.integers(1, 20), st.integers(1, 20), seeds)
def test_a_last_batch_that_is_too_small_joins_the_one_before(
    count: int, batch_size: int, smallest: int, seed: int
) -> None:
    smallest = min(smallest, batch_size)
    indices = tuple(range(count))
    batches = list(epoch_batches(indices, batch_size, seed, 1, smallest=smallest))
    whole, rest = divmod(count, batch_size)
    expected = [batch_size] * whole + [rest] * (rest > 0)
    if whole and 0 < rest < smallest:
        expected[-2:] = [batch_size + rest]
    assert [len(batch) for batch in batches] == expected
    plain = torch.cat(list(epoch_batches(indices, batch_size, seed, 1, smallest=1)))
    assert torch.equal(torch.cat(batches), plain)  # the order is another matter


def test_seeds_and_epochs_change_the_order() -> None:
    orders = {
        tuple(torch.cat(list(epoch_batches(tuple(range(50)), 8, seed, epoch))).tolist())
        for seed in range(4)
        for epoch in range(1, 5)
    }
    assert len(orders) == 16


def test_the_order_is_no_matter_of_the_global_generator() -> None:
    def order() -> list[int]:
        return torch.cat(list(epoch_batches(tuple(range(50)), 8, 3, 1))).tolist()

    torch.manual_seed(0)
    first, state = order(), torch.get_rng_state()
    torch.manual_seed(1)
    assert order() == first
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
