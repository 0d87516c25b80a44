"""A stopwatch for the phases of an epoch."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Measures the seconds in named phases that do not overlap.

    On a GPU the phases are measured by events in its stream, so that the host does not wait. Delays of the host count
    as idle time of the GPU in the same phase.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._started = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block to the phase `name`."""
        if self.device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            yield
            end.record()
            self._events.append((name, begin, end))
            return
        began = time.perf_counter()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase so far; this waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        for name, begin, end in self._events:
            self._seconds[name] = self._seconds.get(name, 0.0) + begin.elapsed_time(end) / 1000
        self._events.clear()
        return dict(self._seconds)

    def total(self) -> float:
        """Return the seconds since the stopwatch was created."""
        return time.perf_counter() - self._started

    def shares(self) -> dict[str, float]:
        """Return the share of each phase in the time since the stopwatch was created, in [0, 1]."""
        seconds = self.seconds()
        total = self.total()
        return {name: spent / total for name, spent in seconds.items()}
