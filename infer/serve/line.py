"""The bounded line of requests that wait: clients take turns, and none can fill it against the others."""

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FullError(Exception):
    """The line has no place for this client."""


class Line(Generic[T]):
    """Items that wait, by client. Any thread may call all methods.

    Args:
        places: largest number of items that wait.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self._items: OrderedDict[str, deque[T]] = OrderedDict()
        """Items of each client; the client whose turn it is first."""
        self._size = 0
        self._open = True
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return self._size

    def check(self, client: str) -> None:
        """Check that there is a place for one more item of a client.

        Raises:
            FullError: the line is full, and no other client has more items in it than this one would have.
        """
        with self._changed:
            self._giving_way(client)

    def put(self, client: str, item: T) -> T | None:
        """Add an item. In a full line the last item of the client with most of them gives way.

        Returns:
            The item that gave way, None if there was a place.

        Raises:
            FullError: as `check`.
        """
        with self._changed:
            longest = self._giving_way(client)
            last = None if longest is None else self._items[longest].pop()
            self._items.setdefault(client, deque()).append(item)
            self._size += last is None
            self._changed.notify()
            return last

    def _giving_way(self, client: str) -> str | None:
        """Return the client whose last item gives way, None if there is a place."""
        if self._size < self.places:
            return None
        longest = max(self._items, key=lambda name: len(self._items[name]))
        if len(self._items[longest]) <= len(self._items.get(client, ())) + 1:
            raise FullError
        return longest

    def take(self) -> T | None:
        """Remove and return the first item of the client whose turn it is; None if nothing waits."""
        with self._changed:
            if not self._items:
                return None
            client, items = self._items.popitem(last=False)
            item = items.popleft()
            if items:
                self._items[client] = items  # behind all others
            self._size -= 1
            return item

    def remove(self, client: str, item: T) -> None:
        """Remove an item if it still waits."""
        with self._changed:
            items = self._items.get(client, deque())
            if item in items:
                items.remove(item)
                self._size -= 1
                if not items:
                    del self._items[client]

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for an item; return False once the line is closed and empty, or if none came in this time."""
        with self._changed:
            self._changed.wait_for(lambda: self._size or not self._open, seconds)
            return bool(self._size)

    def close(self) -> None:
        """Let `wait` end when nothing waits any longer."""
        with self._changed:
            self._open = False
            self._changed.notify()
