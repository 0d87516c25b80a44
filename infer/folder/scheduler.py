"""Scheduler of a folder run: items pass through five stages in threads, within bounds on memory.

fetch -> decode -> run (in batches) -> encode -> publish. Some items need no model, or no output. One thread submits all
tasks and handles their results, so no locks are needed. The scheduler knows nothing about photos: `Work` implements the
stages.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from infer.folder.thread_pools import IO_THREADS, TICK, Dispatcher, Ended, NotBegunError

GRACE_SECONDS = 1.5
"""Time that photos in hand have to be finished after the run was told to stop. Those that are then still being read,
decoded or encoded are left to the next run, so that a signal is answered within two seconds."""

ABANDONED = frozenset({"fetch", "decode", "encode"})
"""Stages that are not waited for. Outputs that are being written are, and so is the engine."""


class Way(StrEnum):
    """What follows the decoding of an item."""

    RUN = "run"
    PUBLISH = "publish"
    """Decoding has made the output."""
    END = "end"
    """The item has no output."""


class Item(Protocol):
    """An item that passes through the stages."""

    @property
    def fetch_weight(self) -> int:
        """Memory in bytes of the item while it is fetched, and until it is decoded."""

    @property
    def weight(self) -> int:
        """Memory in bytes of the item from decoding to its end; known once it is fetched."""

    @property
    def effort(self) -> int:
        """Length of the work on the item, in any unit; short items share a task."""

    @property
    def batch_key(self) -> Hashable:
        """Key that is equal for items that may share a batch; known once the item is decoded."""

    @property
    def way(self) -> Way:
        """The stage that follows decoding; known once the item is decoded."""


T = TypeVar("T", bound=Item)


class AfterFailure(StrEnum):
    """Action after a batch failed."""

    FAIL = "fail"
    """Fail all items."""
    AGAIN = "again"
    """Run the items again, in batches of the current size."""
    SINGLY = "singly"
    """Run the items one by one, to find the one at fault."""


class Work(Protocol[T]):
    """The work on items. The five stages are called in worker threads, all other methods in the scheduler's thread."""

    def fetch(self, item: T, /) -> None: ...
    def decode(self, item: T, /) -> None: ...
    def run(self, batch: list[T], /) -> None: ...
    def encode(self, item: T, /) -> None: ...
    def publish(self, item: T, /) -> None: ...

    @property
    def batch_size(self) -> int:
        """Items per batch; may shrink after a failed batch."""

    @property
    def stopping(self) -> bool:
        """True if no further items are begun; those in hand are finished."""

    def next(self) -> T | None:
        """Return the next item to begin, None if there is none."""

    def batch_failed(self, batch: list[T], error: BaseException) -> AfterFailure:
        """Decide the action after a batch failed."""

    def before_publishing(self, items: list[T]) -> bool:
        """Note that items are about to be published; return False to prevent it."""

    def finished(self, item: T) -> None:
        """Called when an item is published, or has ended without an output."""

    def failed(self, item: T, error: Exception) -> None:
        """Called when a stage failed on an item."""

    def overdue(self, item: T) -> Exception | None:
        """Return the error of an item in a stage that hangs, None for other items."""

    def winding_up(self, in_hand: int) -> None:
        """Called once if the run stops, with the number of items that are still being finished."""

    def tick(self) -> None:
        """Called after each task."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a scheduler."""

    workers: int
    """Threads for decoding, running and encoding."""
    streams: int
    """Largest number of batches that are submitted to the engine at a time."""
    weight: int
    """Limit in bytes of the total weight of decoded items, and also of that of fetched ones. A single heavier item is
    processed alone."""
    group: int
    """Largest number of items per task."""
    group_effort: int
    """Largest total effort of the items of a task."""
    fetch_singly: bool = False
    """Fetch one item per task, and fewer at a time, because fetched items take memory."""
    publish_singly: bool = False
    """Publish one item per task."""
    batch_wait: float | None = None
    """Longest time in seconds that decoded items wait for a full batch; None to wait while others are under way."""


class Scheduler(Generic[T]):
    """Passes items through the stages of their work.

    Args:
        work: the stages.
        pools: entered thread pools.
        limits: bounds.
    """

    def __init__(self, work: Work[T], pools: Dispatcher, limits: Limits) -> None:
        self.work, self.pools, self.limits = work, pools, limits
        self._fetched: deque[T] = deque()
        self._decoded: deque[T] = deque()
        self._active: Counter[str] = Counter()
        """Items in tasks, by stage."""
        self._batches = 0
        """Batches in tasks."""
        self._fetch_weight = 0
        """Total weight of items between fetching and decoding."""
        self._weight = 0
        """Total weight of items between decoding and their end."""
        self._due: float | None = None
        """Time at which the decoded items wait no longer for others, None if nothing waits."""
        self._next: T | None = None
        """An item that waits for room to be fetched."""
        self._end: float | None = None
        """Time at which items in hand are abandoned, if the run stops."""

    def run_all(self) -> None:
        """Work until there is no next item and all begun items have ended, or the run stops. It may be called again."""
        checked = time.monotonic()
        while True:
            if self.work.stopping and self._end is None:
                self._wind_up()
            self._fetch()
            self._decode()
            self._run()
            if not self.pools.tasks and not self._decoded:
                return
            self.pools.take_in(self._due - time.monotonic() if self._due and self._decoded else TICK)
            self.work.tick()
            if time.monotonic() - checked > TICK:
                checked = time.monotonic()
                self._give_up_hanging()

    def _wind_up(self) -> None:
        """Drop all items that no thread is processing, except encoded ones, which only need to be written."""
        self._end = time.monotonic() + GRACE_SECONDS
        in_hand = 0
        for task in self.pools.tasks:
            items = task.items if task.stage == "publish" else task.halt()
            if task.stage != "fetch":  # what is only read is dropped
                in_hand += sum(len(item) if isinstance(item, list) else 1 for item in items)
        self._fetched.clear()
        self._drop(self._decoded)
        self._decoded.clear()
        self.work.winding_up(in_hand)

    def _give_up_hanging(self) -> None:
        """Give up the tasks of items that are overdue, and all that the grace of a stop does not wait for."""
        late = self._end is not None and time.monotonic() > self._end
        for task in [task for task in self.pools.tasks if task.stage in ABANDONED]:
            item = task.current
            if item is not None and (error := NotBegunError() if late else self.work.overdue(item)):
                self.pools.give_up(task, item, error)

    def _drop(self, items: Iterable[T]) -> None:
        """Forget decoded items, which have left no trace yet."""
        for item in items:
            self._weight -= item.weight

    def _fetch(self) -> None:
        if self._end is not None:
            self._fetched.clear()  # they have left no trace yet
            return
        share = 1 if self.limits.fetch_singly else self.limits.group
        room = 2 * IO_THREADS * share - self._active["fetch"] - len(self._fetched)
        begun: list[T] = []
        while len(begun) < room and not self.work.stopping and (item := self._next or self.work.next()) is not None:
            self._next = item
            if self._fetch_weight and self._fetch_weight + item.fetch_weight > self.limits.weight:
                break
            self._next = None
            self._fetch_weight += item.fetch_weight
            begun.append(item)
        self._submit("fetch", begun, share, self._fetched.extend)

    def _decode(self) -> None:
        admitted: list[T] = []
        while self._fetched and self._has_room(self._fetched[0].weight, len(admitted)):
            item = self._fetched.popleft()
            self._fetch_weight -= item.fetch_weight
            self._weight += item.weight
            admitted.append(item)
        self._submit("decode", admitted, self._share, self._sort)

    def _sort(self, items: list[T]) -> None:
        """Pass on decoded items."""
        self._decoded.extend(item for item in items if item.way is Way.RUN)
        self._publish([item for item in items if item.way is Way.PUBLISH])
        self._finish([item for item in items if item.way is Way.END])

    def _has_room(self, weight: int, more: int) -> bool:
        """Return True if an item may be decoded in addition to `more` other admitted items."""
        if more + self._unfinished >= self._most or self._active["publish"] >= 2 * IO_THREADS * self.limits.group:
            return False
        return self._weight + weight <= self.limits.weight or not self._weight

    @property
    def _unfinished(self) -> int:
        """Number of items between admission to decoding and the end of encoding."""
        return len(self._decoded) + sum(self._active[stage] for stage in ("decode", "run", "encode"))

    @property
    def _most(self) -> int:
        """Limit of `_unfinished`: running batches, two batches before and two after them, and one item per worker."""
        return (self.limits.streams + 4) * self.work.batch_size + self.limits.workers

    @property
    def _share(self) -> int:
        """Items per task that leave at least two tasks for each worker."""
        return max(1, min(self.limits.group, self._most // (2 * self.limits.workers)))

    def _run(self) -> None:
        while self._decoded and self._batches < self.limits.streams:
            batch = self._next_batch(partial=self._waited)
            if not batch:
                return
            self._submit_batch(batch)

    @property
    def _waited(self) -> bool:
        """True if decoded items wait no longer for a full batch."""
        if self.limits.batch_wait is None:
            # Memory may be full, so that none of the fetched items is decoded before a batch has run.
            return not self._active["decode"] and (bool(self._fetched) or not self._active["fetch"])
        if self._due is None:
            self._due = time.monotonic() + self.limits.batch_wait
        return time.monotonic() >= self._due

    def _next_batch(self, partial: bool) -> list[T]:
        """Remove and return a full batch of one key; without one, the items of the most common key, or none."""
        size, by_key = self.work.batch_size, dict[Hashable, list[T]]()
        for item in self._decoded:
            same = by_key.setdefault(item.batch_key, [])
            same.append(item)
            if len(same) == size:
                break
        else:
            # Many keys with few items each must not use up the limit.
            if not partial and len(self._decoded) < 2 * size * self.limits.streams:
                return []
            same = max(by_key.values(), key=len)
        for item in same:
            self._decoded.remove(item)
        return same

    def _submit_batch(self, batch: list[T]) -> None:
        self._batches += 1
        self._due = None
        self._active["run"] += len(batch)
        self.pools.submit(self.pools.pool, "run", self.work.run, [batch], self._ran)

    def _ran(self, ended: Ended[list[T]]) -> None:
        ((batch, error),) = ended
        self._batches -= 1
        self._active["run"] -= len(batch)
        failed = error is not None and not isinstance(error, NotBegunError)
        after = self.work.batch_failed(batch, error) if failed and error else AfterFailure.FAIL
        if after is AfterFailure.AGAIN:
            self._decoded.extendleft(reversed(batch))
        elif after is AfterFailure.SINGLY:
            for item in batch:
                self._submit_batch([item])
        else:
            self._submit("encode", self._succeeded([(item, error) for item in batch]), self._share, self._publish)

    def _publish(self, items: list[T]) -> None:
        share = 1 if self.limits.publish_singly else self.limits.group
        for group in self._groups(items, share):
            if self.work.before_publishing(group):
                self._submit("publish", group, share, self._finish)

    def _finish(self, items: list[T]) -> None:
        for item in items:
            self._weight -= item.weight
            self.work.finished(item)

    def _submit(self, stage: str, items: list[T], share: int, then: Callable[[list[T]], None]) -> None:
        """Submit a stage for items, in tasks of at most `share`; `then` gets the successful items of each."""
        pool = self.pools.io_pool if stage in ("fetch", "publish") else self.pools.pool

        def ended(results: Ended[T]) -> None:
            self._active[stage] -= len(results)
            then(self._succeeded(results, admitted=stage != "fetch"))

        if self._end is not None and stage != "publish" and time.monotonic() > self._end:
            self._drop(items)
            return
        for group in self._groups(items, share):
            self._active[stage] += len(group)
            self.pools.submit(pool, stage, getattr(self.work, stage), group, ended)

    def _groups(self, items: Iterable[T], most: int) -> Iterator[list[T]]:
        """Yield groups of items that share a task, in order."""
        group: list[T] = []
        effort = 0
        for item in items:
            if group and (len(group) == most or effort + item.effort > self.limits.group_effort):
                yield group
                group, effort = [], 0
            group.append(item)
            effort += item.effort
        if group:
            yield group

    def _succeeded(self, results: Ended[T], admitted: bool = True) -> list[T]:
        """Return the items of a successful stage, and report the failure of the others.

        Raises:
            BaseException: an error from a thread that ends the program, such as KeyboardInterrupt.
        """
        well = []
        for item, error in results:
            if error is None:
                well.append(item)
            elif isinstance(error, Exception):
                self._weight -= item.weight if admitted else 0
                self._fetch_weight -= 0 if admitted else item.fetch_weight
                if not isinstance(error, NotBegunError):
                    self.work.failed(item, error)
            else:
                raise error
        return well
