"""Pools of threads whose finished work comes back to the one thread that hands it out."""

import queue
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Self

from infer.run import Stage

IO_THREADS = 8
"""Threads that wait for disks and networks."""


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
        work: Callable[..., Any],
        arguments: tuple[Any, ...],
        then: Callable[..., None],
    ) -> None:
        """Run `work` in a pool; when it is taken in, `then` is called with the arguments and the future."""
        spent = 0.0
        files = len(arguments[0]) if isinstance(arguments[0], list) else 1

        def timed() -> Any:
            nonlocal spent
            begun = time.perf_counter()
            try:
                return work(*arguments)
            finally:
                spent = time.perf_counter() - begun

        def report(future: Future[Any]) -> None:
            self._finished.put((lambda: then(*arguments, future), stage, files, spent))

        self.tasks += 1
        pool.submit(timed).add_done_callback(report)

    def take_in(self) -> None:
        """Wait for a task to finish, and do what follows it."""
        then, stage, files, seconds = self._finished.get()
        self.tasks -= 1
        total = self.stages[stage]
        total.files += files
        total.seconds += seconds
        then()
