"""Bytes of bodies and outputs that all requests hold together."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

MOST_HELD = 2**30
"""Limit in bytes. A single larger body is read alone. Decoded photos have a limit of their own."""


class NoMemoryError(Exception):
    """All requests together would hold more than MOST_HELD bytes."""


class Memory:
    """The bytes that requests hold. Only the thread of the event loop may use it.

    Args:
        on_change: called with the number of bytes.
    """

    def __init__(self, on_change: Callable[[int], object]) -> None:
        self.held = 0
        self.on_change = on_change


class Share:
    """The part of one request. Use it as a context manager, which gives the bytes back."""

    def __init__(self, memory: Memory) -> None:
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
            NoMemoryError: `refuse` is given, and all requests together would hold too many.
        """
        others = self._memory.held - self._size
        if refuse and others and others + size > MOST_HELD:
            raise NoMemoryError
        self._size, self._memory.held = size, others + size
        self._memory.on_change(self._memory.held)
