"""Pools of threads whose finished work comes back to the one thread that hands it out."""

import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Self, TypeVar

from infer.folder.options import Stage

IO_THREADS = 8
"""Threads that wait for disks and networks."""

Item = TypeVar("Item")
Ended = list[tuple[Item, BaseException | None]]
"""Items that were worked on, each with the error that it met."""


class Dispatcher:
    """Runs work in threads, and what follows it in the thread that calls `take_in`, which so needs no locks.

    Args:
        workers: threads for the processor.
        stages: where the time of each stage is added up, by its name.
    """

    def __init__(self, workers: int, stages: dict[str, Stage]) -> None:
        self.pool: Executor = ThreadPoolExecutor(workers)
        self.io_pool: Executor = ThreadPoolExecutor(IO_THREADS)
        self.stages = stages
        self.tasks = 0
        """Tasks that were handed out and not taken in."""
        self._finished: queue.SimpleQueue[tuple[Callable[[], None], str, int, float]] = queue.SimpleQueue()
        """What to do next, after which stage, of how many photos, and the seconds that it took."""

    def __enter__(self) -> Self:
        self._open = ExitStack()
        self._open.enter_context(self.io_pool)
        self._open.enter_context(self.pool)
        return self

    def __exit__(self, *details: Any) -> None:
        """Wait for all threads."""
        self._open.__exit__(*details)

    def submit(
        self,
        pool: Executor,
        stage: str,
        work: Callable[[Item], None],
        items: Sequence[Item],
        then: Callable[[Ended[Item]], None],
    ) -> None:
        """Run `work` on each item, one after the other in one thread of a pool; `then` is called when it is taken in.

        Items that share a task share what handing it out costs, which for small photos is more than some of the work.
        """
        files = sum(len(item) if isinstance(item, list) else 1 for item in items)

        def task() -> None:
            begun = time.perf_counter()
            ended = [(item, _error_of(work, item)) for item in items]
            self._finished.put((lambda: then(ended), stage, files, time.perf_counter() - begun))

        self.tasks += 1
        pool.submit(task)

    def take_in(self) -> None:
        """Wait for a task to finish, and do what follows it."""
        then, stage, files, seconds = self._finished.get()
        self.tasks -= 1
        total = self.stages[stage]
        total.files += files
        total.seconds += seconds
        then()


def _error_of(work: Callable[[Item], None], item: Item) -> BaseException | None:
    try:
        work(item)
    except BaseException as error:  # also what ends a program: the thread that takes it in raises that
        return error
    return None
