"""Bytes of bodies and outputs that all requests hold together, and memory of the process that is free."""

import ctypes
import gc
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

MOST_HELD = 2**30
"""Limit in bytes, of which one client has at most half. A single larger body is read alone. Decoded photos have a limit
of their own."""


class NoMemoryError(Exception):
    """All requests would hold more than MOST_HELD bytes, or those of a client more than half of them."""


class Memory:
    """The bytes that requests hold. Only the thread of the event loop may use it.

    Args:
        on_change: called with the number of bytes.
    """

    def __init__(self, on_change: Callable[[int], object]) -> None:
        self.held: Counter[str] = Counter()
        """Bytes by client."""
        self.on_change = on_change

    @property
    def total(self) -> int:
        """Bytes of all clients."""
        return self.held.total()


class Share:
    """The part of one request of a client. Use it as a context manager, which gives the bytes back."""

    def __init__(self, memory: Memory, client: str) -> None:
        self.client = client
        self._memory, self._size = memory, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hold(0)

    def hold(self, size: int, refuse: bool = False) -> None:
        """Note the number of bytes that the request holds now.

        Args:
            size: the number.
            refuse: raise if they are too many.

        Raises:
            NoMemoryError: `refuse` is given, and together with other requests it would hold too many.
        """
        others, own = self._memory.total - self._size, self._memory.held[self.client] - self._size
        if refuse and ((others and others + size > MOST_HELD) or (own and own + size > MOST_HELD // 2)):
            raise NoMemoryError
        self._size = size
        self._memory.held[self.client] = own + size
        if not own + size:
            del self._memory.held[self.client]
        self._memory.on_change(others + size)


def give_back_freed() -> None:
    """Give memory that was freed back to the system. glibc keeps most of it, for each thread apart; others do not.

    Errors of decoding refer to frames with pixels, and these to the errors, so they are collected first.
    """
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
