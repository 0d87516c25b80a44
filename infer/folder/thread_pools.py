"""Thread pools; callbacks run on the thread that calls `take_in`, so no locks are needed.

A call of a C library cannot be interrupted. A thread that does not return from one is given up: its item ends with an
error, another thread takes its place, and what it returns later is dropped. The threads are daemons, so that it does
not keep the process either.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, ParamSpec, Self, TypeVar

from infer.folder.options import Stage

IO_THREADS = 8
"""Number of threads for disk and network I/O."""

TICK = 0.2
"""Longest time in seconds that `take_in` waits, so that its caller sees a signal or a thread that hangs."""

Item = TypeVar("Item")
Result = TypeVar("Result")
P = ParamSpec("P")
Ended = list[tuple[Item, BaseException | None]]
"""Processed items, each with its error or None."""


class NotBegunError(Exception):
    """The item was dropped before its stage had begun or ended, because the run stops."""


class Task(Generic[Item]):
    """Items that one thread processes one after the other."""

    def __init__(
        self,
        pool: "Pool",
        stage: str,
        work: Callable[[Item], None],
        items: Sequence[Item],
        then: Callable[[Ended[Item]], None],
    ) -> None:
        self.pool, self.stage, self.work, self.items, self.then = pool, stage, work, items, then
        self.ended: Ended[Item] = []
        self.current: Item | None = None
        """The item that is being processed."""
        self.thread: threading.Thread | None = None
        """The thread that processes them, once it has begun."""
        self.seconds = 0.0
        self.given_up = False
        self.halted = False
        """True if no further item is begun."""
        self._lock = threading.Lock()

    def process(self) -> bool:
        """Process the items; return False if the task was given up meanwhile."""
        begun, self.thread = time.perf_counter(), threading.current_thread()
        for item in self.items:
            with self._lock:
                if self.given_up:
                    return False
                if self.halted:
                    self.ended.append((item, NotBegunError()))
                    continue
                self.current = item
            error = _error_of(self.work, item)
            with self._lock:
                if not self.given_up:
                    self.ended.append((item, error))
                    self.current = None
        self.seconds = time.perf_counter() - begun
        return not self.given_up

    def halt(self) -> list[Item]:
        """Begin no further item, and return those that were begun."""
        with self._lock:
            self.halted = True
            begun = [item for item, error in self.ended if not isinstance(error, NotBegunError)]
            return begun if self.current is None else [*begun, self.current]

    def give_up(self, item: Item, error: Exception) -> bool:
        """Let an item end with an error; return False if its work has returned meanwhile."""
        with self._lock:
            if self.current is not item:
                return False
            self.given_up = True
            self.ended.append((item, error))
        return True


class Pool:
    """Daemon threads that make calls in turn."""

    def __init__(self, threads: int) -> None:
        self._calls: queue.SimpleQueue[Callable[[], bool] | None] = queue.SimpleQueue()
        self._threads = {self._started() for _ in range(threads)}

    def put(self, call: Callable[[], bool]) -> None:
        """Have a thread make a call; the thread ends if the call returns False, because it was replaced."""
        self._calls.put(call)

    def replace(self, thread: threading.Thread) -> None:
        """Start a thread in place of one that was given up."""
        self._threads.remove(thread)
        self._threads.add(self._started())

    def close(self) -> None:
        """Let the threads make all calls, and wait for those that were not given up."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        while (call := self._calls.get()) is not None and call():
            del call  # while it waits for the next one, it holds no photo


class Dispatcher:
    """Runs tasks in two pools, and their callbacks in the thread that calls `take_in`.

    Args:
        workers: number of threads for computation.
        stages: stages by name; the time of each task is added to its stage.
    """

    def __init__(self, workers: int, stages: dict[str, Stage]) -> None:
        self.pool = Pool(workers)
        self.io_pool = Pool(IO_THREADS)
        self.stages = stages
        self.tasks: set[Task[Any]] = set()
        """Tasks that were submitted and not taken in."""
        self._finished: queue.SimpleQueue[Task[Any] | None] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the threads, which begin nothing more."""
        for task in self.tasks:
            task.halted = True
        self.pool.close()
        self.io_pool.close()

    def submit(
        self,
        pool: Pool,
        stage: str,
        work: Callable[[Item], None],
        items: Sequence[Item],
        then: Callable[[Ended[Item]], None],
        halted: bool = False,
    ) -> None:
        """Submit a task that runs `work` on each item in one thread of a pool; `take_in` calls `then`.

        For small photos, submitting a task costs more than some of the work, so several items share one.
        """
        task = Task(pool, stage, work, items, then)
        task.halted = halted

        def call() -> bool:
            if kept := task.process():
                self._finished.put(task)
            return kept

        self.tasks.add(task)
        pool.put(call)

    def call(self, function: Callable[P, Result], *arguments: P.args, **options: P.kwargs) -> "Future[Result]":
        """Call a function in a thread for I/O; the future has its result."""
        future: Future[Result] = Future()

        def call() -> bool:
            try:
                future.set_result(function(*arguments, **options))
            except BaseException as error:
                future.set_exception(error)
            return True

        self.io_pool.put(call)
        return future

    def take_in(self, seconds: float = TICK) -> None:
        """Wait up to `seconds`, at most TICK, for a task to finish, and call its callback."""
        try:
            task = self._finished.get(timeout=min(max(0.0, seconds), TICK))
        except queue.Empty:
            return
        if task and not task.given_up:
            self._take(task)

    def wake(self) -> None:
        """Let `take_in` return at once; any thread may call this."""
        self._finished.put(None)

    def give_up(self, task: Task[Item], item: Item, error: Exception) -> None:
        """Let an item that a thread is processing end with an error; another thread takes the items after it."""
        if not task.give_up(item, error):
            return
        assert task.thread is not None
        task.pool.replace(task.thread)
        rest = task.items[len(task.ended) :]
        self._take(task)
        if rest:
            self.submit(task.pool, task.stage, task.work, rest, task.then, task.halted)

    def _take(self, task: Task[Any]) -> None:
        self.tasks.remove(task)
        total = self.stages[task.stage]
        total.files += sum(len(item) if isinstance(item, list) else 1 for item, _ in task.ended)
        total.seconds += task.seconds
        task.then(task.ended)


def _error_of(work: Callable[[Item], None], item: Item) -> BaseException | None:
    try:
        work(item)
    except BaseException as error:  # including KeyboardInterrupt and the like, which the thread of `take_in` raises
        return error
    return None
