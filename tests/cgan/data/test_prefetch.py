"""prefetch: order, bound, overlap, exceptions, and the end of its threads."""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from cgan.data.prefetch import prefetch


def alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    assert not alive()
    yield
    assert not alive()


def wait_for(count: int, made: list[int]) -> None:
    deadline = time.monotonic() + 10
    while len(made) < count and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(made) >= count, f"{made} were made in 10 s"


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_results_come_in_the_order_of_the_items(count: int, workers: int) -> None:
    def late_where_even(item: int) -> int:
        time.sleep(0.003 * (item % 2 == 0))
        return 10 * item

    assert list(prefetch(range(count), late_where_even, 2, workers)) == [10 * i for i in range(count)]


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_so_many_are_made_ahead_and_no_more(depth: int) -> None:
    made: list[int] = []

    def make(item: int) -> int:
        made.append(item)
        return item

    with contextlib.closing(prefetch(itertools.count(), make, depth)) as results:
        for taken in range(1, 6):
            assert next(results) == taken - 1
            wait_for(taken + depth, made)  # while the consumer is at work here
            time.sleep(0.01)
            assert len(made) == taken + depth


@pytest.mark.parametrize("workers", [1, 3])
def test_work_is_done_in_that_many_other_threads(workers: int) -> None:
    together = threading.Barrier(workers)

    def meet(_: int) -> int:
        together.wait(timeout=10)  # broken, and so an exception here, where fewer threads come
        return threading.get_ident()

    threads = set(prefetch(range(6 * workers), meet, 4, workers))
    assert len(threads) <= workers
    assert threading.get_ident() not in threads


def test_an_exception_comes_in_the_place_of_its_result() -> None:
    def fail_at_3(item: int) -> int:
        if item == 3:
            raise OSError("no third photo")
        return item

    results = prefetch(range(10), fail_at_3)
    assert list(itertools.islice(results, 3)) == [0, 1, 2]
    with pytest.raises(OSError, match="no third photo"):
        next(results)
    assert not alive()
    assert list(results) == []


def test_an_exception_of_the_items_ends_the_thread() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more batches")

    with pytest.raises(ValueError, match="no more batches"):
        list(prefetch(items(), str))
    assert not alive()


def test_leaving_early_ends_the_thread_and_drops_what_waits() -> None:
    made: list[int] = []
    release = threading.Event()

    def make(item: int) -> int:
        made.append(item)
        if item == 3:
            release.wait(10)
        return item

    for result in prefetch(itertools.count(), make, depth=5):
        assert alive()
        if result == 2:
            wait_for(4, made)
            threading.Timer(0.2, release.set).start()
            break
    assert not alive()
    assert made == [0, 1, 2, 3]  # 3 was in the making; 4 to 7 waited


def test_nothing_starts_before_the_first_result_is_asked_for() -> None:
    results = prefetch(iter([1]), str)
    assert not alive()
    results.close()
