"""Results that background threads make ahead of their consumer."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

PREPARE_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""Threads that read and decode photos."""

PREPARE_AHEAD = 4 * PREPARE_THREADS
"""Photos that may wait, decoded, while a slow one before them is decoded."""

T = TypeVar("T")
R = TypeVar("R")


def prefetch(items: Iterable[T], make: Callable[[T], R], depth: int = 2, workers: int = 1) -> Generator[R, None, None]:
    """make(item) of each item, in order, computed in background threads ahead of the consumer.

    Closing the generator, as leaving a for loop early does, ends the threads. In them torch's gradient mode and
    current CUDA device are the defaults, not the consumer's.

    Args:
        items: drawn in the consumer's thread.
        make: what it raises is raised to the consumer in place of that result.
        depth: how many results may wait, or be in the making, while the consumer works; at least 1.
        workers: background threads.
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
