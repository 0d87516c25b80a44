"""Where the time of an epoch goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Seconds spent in named phases that do not overlap.

    On a GPU the phases are measured by events in its stream, so that nothing waits for it: the host's own delays show
    as the GPU's idle time in the phase that had them.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._started = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the block's time as that of phase `name`."""
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
        """Seconds of each phase so far; waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        for name, begin, end in self._events:
            self._seconds[name] = self._seconds.get(name, 0.0) + begin.elapsed_time(end) / 1000
        self._events.clear()
        return dict(self._seconds)

    def total(self) -> float:
        """Seconds since the watch was made."""
        return time.perf_counter() - self._started

    def shares(self) -> dict[str, float]:
        """Share of each phase in the time since the watch was made, in [0, 1]."""
        seconds = self.seconds()
        total = self.total()
        return {name: spent / total for name, spent in seconds.items()}
