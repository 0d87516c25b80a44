"""The order of work in a folder run: items pass through five stages in threads, within bounds.

fetch -> decode -> run (in batches) -> encode -> publish. One thread hands out all work and takes in what is finished,
so nothing here needs a lock. The scheduler knows nothing of photos: `Work` has what is done with an item.
"""

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from infer.folder.thread_pools import IO_THREADS, Dispatcher, Ended


class Item(Protocol):
    """What passes through the stages."""

    @property
    def weight(self) -> int:
        """Memory that the item takes from its decoding to its end, in any unit; known once it is fetched."""

    @property
    def effort(self) -> int:
        """Length of the work on the item, in the same unit: short ones share a task."""

    @property
    def batch_key(self) -> Hashable:
        """Equal for items that may share a batch; known once it is decoded."""


T = TypeVar("T", bound=Item)


class AfterFailure(StrEnum):
    """What becomes of a batch that failed."""

    FAIL = "fail"
    AGAIN = "again"
    SINGLY = "singly"


class Work(Protocol[T]):
    """The work on items. The five stages are called in threads, everything else in the scheduler's own."""

    def fetch(self, item: T, /) -> None: ...
    def decode(self, item: T, /) -> None: ...
    def run(self, batch: list[T], /) -> None: ...
    def encode(self, item: T, /) -> None: ...
    def publish(self, item: T, /) -> None: ...

    @property
    def batch_size(self) -> int:
        """Items in a batch, which may fall after one that failed."""

    @property
    def stopping(self) -> bool:
        """True when no more items are to be begun; those that are decoded come to their end."""

    def next(self) -> T | None:
        """The next item to begin, None when there is none."""

    def batch_failed(self, batch: list[T], error: BaseException) -> AfterFailure:
        """Decide what becomes of a batch that failed."""

    def before_publishing(self, items: list[T]) -> bool:
        """Note that items are about to be published; False where they must not be."""

    def finished(self, item: T) -> None:
        """An item is published."""

    def failed(self, item: T, error: Exception) -> None:
        """A stage failed on an item."""

    def tick(self) -> None:
        """Called after each task."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a scheduler."""

    workers: int
    """Threads for decoding, running and encoding."""
    streams: int
    """Batches handed to the engine at a time."""
    weight: int
    """Items are begun while those under way weigh less in all. A single heavier item goes alone."""
    group: int
    """Items that share a task at most."""
    group_effort: int
    """Effort of the items of one task at most."""
    fetch_singly: bool = False
    """One item a task, and fewer at a time, where fetching takes memory."""
    publish_singly: bool = False


class Scheduler(Generic[T]):
    """Passes items through the stages of their work.

    Args:
        work: what is done with items.
        pools: threads, entered.
        limits: the bounds.
    """

    def __init__(self, work: Work[T], pools: Dispatcher, limits: Limits) -> None:
        self.work, self.pools, self.limits = work, pools, limits
        self._fetched: deque[T] = deque()
        self._decoded: deque[T] = deque()
        self._active: Counter[str] = Counter()
        """Items in tasks, by stage."""
        self._batches = 0
        """Batches in tasks."""
        self._weight = 0
        """Of all items from their decoding to their end."""

    def run_all(self) -> None:
        """Work until there is no next item and all that were begun have ended."""
        while True:
            self._fetch()
            self._decode()
            self._run()
            if not self.pools.tasks:
                return
            self.pools.take_in()
            self.work.tick()

    def _fetch(self) -> None:
        if self.work.stopping:
            self._fetched.clear()  # nothing of them is seen yet
            return
        share = 1 if self.limits.fetch_singly else self.limits.group
        room = 2 * IO_THREADS * share - self._active["fetch"] - len(self._fetched)
        begun: list[T] = []
        while len(begun) < room and not self.work.stopping and (item := self.work.next()) is not None:
            begun.append(item)
        self._submit("fetch", begun, share, self._fetched.extend)

    def _decode(self) -> None:
        admitted: list[T] = []
        while self._fetched and self._has_room(self._fetched[0].weight, len(admitted)):
            item = self._fetched.popleft()
            self._weight += item.weight
            admitted.append(item)
        self._submit("decode", admitted, self._share, self._decoded.extend)

    def _has_room(self, weight: int, more: int) -> bool:
        """Return True if an item may be decoded besides `more` others that will be."""
        if more + self._unfinished >= self._most or self._active["publish"] >= 2 * IO_THREADS * self.limits.group:
            return False
        return self._weight + weight <= self.limits.weight or not self._weight

    @property
    def _unfinished(self) -> int:
        """Items that are decoded, or about to be, and not encoded."""
        return len(self._decoded) + sum(self._active[stage] for stage in ("decode", "run", "encode"))

    @property
    def _most(self) -> int:
        """Bound of `_unfinished`: the batches that run, two before and two after them, and an item a worker."""
        return (self.limits.streams + 4) * self.work.batch_size + self.limits.workers

    @property
    def _share(self) -> int:
        """Items that may share a task without leaving one of the workers without two."""
        return max(1, min(self.limits.group, self._most // (2 * self.limits.workers)))

    def _run(self) -> None:
        more_come = self._active["decode"] or self._active["fetch"]
        while self._decoded and self._batches < self.limits.streams:
            # Items that no others can join, because none come or memory is full, go as a smaller batch.
            batch = self._next_batch(partial=not more_come or (not self._active["decode"] and bool(self._fetched)))
            if not batch:
                return
            self._submit_batch(batch)

    def _next_batch(self, partial: bool) -> list[T]:
        """Items of one key that fill a batch, or as many as there are of the commonest."""
        size, by_key = self.work.batch_size, dict[Hashable, list[T]]()
        for item in self._decoded:
            same = by_key.setdefault(item.batch_key, [])
            same.append(item)
            if len(same) == size:
                break
        else:
            # Keys that have too few items must not fill the whole bound.
            if not partial and len(self._decoded) < 2 * size * self.limits.streams:
                return []
            same = max(by_key.values(), key=len)
        for item in same:
            self._decoded.remove(item)
        return same

    def _submit_batch(self, batch: list[T]) -> None:
        self._batches += 1
        self._active["run"] += len(batch)
        self.pools.submit(self.pools.pool, "run", self.work.run, [batch], self._ran)

    def _ran(self, ended: Ended[list[T]]) -> None:
        ((batch, error),) = ended
        self._batches -= 1
        self._active["run"] -= len(batch)
        after = AfterFailure.FAIL if error is None else self.work.batch_failed(batch, error)
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
        """Have a stage done on items in tasks of at most `share`; `then` gets those of a task that succeeded."""
        pool = self.pools.io_pool if stage in ("fetch", "publish") else self.pools.pool

        def ended(results: Ended[T]) -> None:
            self._active[stage] -= len(results)
            then(self._succeeded(results, admitted=stage != "fetch"))

        for group in self._groups(items, share):
            self._active[stage] += len(group)
            self.pools.submit(pool, stage, getattr(self.work, stage), group, ended)

    def _groups(self, items: Iterable[T], most: int) -> Iterator[list[T]]:
        """Items that share a task, in their order."""
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
        """The items that a stage succeeded on; the others end here.

        Raises:
            BaseException: what ends a program, from a thread.
        """
        well = []
        for item, error in results:
            if error is None:
                well.append(item)
            elif isinstance(error, Exception):
                self._weight -= item.weight if admitted else 0
                self.work.failed(item, error)
            else:
                raise error
        return well
