"""Results computed by background threads ahead of their consumer."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from cgan.cores import available_cores

PREPARE_THREADS = min(32, available_cores() + 4)
"""Threads that read and decode photos."""

PREPARE_AHEAD = 4 * PREPARE_THREADS
"""Decoded photos that may wait for a slower one before them."""

T = TypeVar("T")
R = TypeVar("R")


def prefetch(items: Iterable[T], make: Callable[[T], R], depth: int = 2, workers: int = 1) -> Generator[R, None, None]:
    """Yield make(item) of each item, in order, computed in background threads ahead of the consumer.

    Closing the generator ends the threads; leaving a for loop early closes it. In the threads torch's gradient mode and
    current CUDA device are the defaults, not those of the consumer.

    Args:
        items: iterated in the consumer's thread.
        make: called in a background thread; its exception is raised to the consumer in place of the result.
        depth: results that may wait or be in progress while the consumer works, at least 1.
        workers: number of background threads.
    """
    pool = ThreadPoolExecutor(workers, "prefetch")
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(make, item))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
