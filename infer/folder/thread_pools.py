"""Thread pools; callbacks run on the thread that calls `take_in`, so no locks are needed."""

import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Self, TypeVar

from infer.folder.options import Stage

IO_THREADS = 8
"""Number of threads for disk and network I/O."""

Item = TypeVar("Item")
Ended = list[tuple[Item, BaseException | None]]
"""Processed items, each with its error or None."""


class Dispatcher:
    """Runs tasks in two pools, and their callbacks in the thread that calls `take_in`.

    Args:
        workers: number of threads for computation.
        stages: stages by name; the time of each task is added to its stage.
    """

    def __init__(self, workers: int, stages: dict[str, Stage]) -> None:
        self.pool: Executor = ThreadPoolExecutor(workers)
        self.io_pool: Executor = ThreadPoolExecutor(IO_THREADS)
        self.stages = stages
        self.tasks = 0
        """Number of tasks that were submitted and not taken in."""
        self._finished: queue.SimpleQueue[tuple[Callable[[], None], str, int, float]] = queue.SimpleQueue()
        """Finished tasks: callback, stage, number of photos, and duration in seconds."""

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
        """Submit a task that runs `work` on each item in one thread of a pool; `take_in` calls `then`.

        For small photos, submitting a task costs more than some of the work, so several items share one.
        """
        files = sum(len(item) if isinstance(item, list) else 1 for item in items)

        def task() -> None:
            begun = time.perf_counter()
            ended = [(item, _error_of(work, item)) for item in items]
            self._finished.put((lambda: then(ended), stage, files, time.perf_counter() - begun))

        self.tasks += 1
        pool.submit(task)

    def take_in(self) -> None:
        """Wait for a task to finish, and call its callback."""
        then, stage, files, seconds = self._finished.get()
        self.tasks -= 1
        total = self.stages[stage]
        total.files += files
        total.seconds += seconds
        then()


def _error_of(work: Callable[[Item], None], item: Item) -> BaseException | None:
    try:
        work(item)
    except BaseException as error:  # including KeyboardInterrupt and the like, which the thread of `take_in` raises
        return error
    return None
