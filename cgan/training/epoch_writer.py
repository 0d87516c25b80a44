"""The thread that writes an epoch while the next one trains."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

from cgan.training.run_state import Metrics


class EpochWriter:
    """Writes one epoch at a time in a background thread; reports it in the caller's thread once it is on disk.

    It is a context manager. The block ends when the last epoch is written, even after further interrupts, because the
    run's folder is locked only until then. An exception from writing is raised by the next call; at the end of the
    block it replaces an exception of the block, because lost data matter more than the reason why training stopped.

    Args:
        on_epoch: called with the metrics of each epoch that is on disk.
    """

    def __init__(self, on_epoch: Callable[[Metrics], None] | None = None) -> None:
        self._on_epoch = on_epoch
        self._pool = ThreadPoolExecutor(1, "epoch-writer")
        self._pending: tuple[Future[None], Metrics] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupt = None
        while self._pending and not self._pending[0].done():
            try:
                wait([self._pending[0]])
            except KeyboardInterrupt as again:
                interrupt = again
        self._pool.shutdown()
        self.finish()
        if interrupt:
            raise interrupt

    def write(self, write: Callable[[], None] | None, metrics: Metrics) -> None:
        """Begin to write an epoch, after the previous one is written.

        Args:
            write: writes the epoch from data that no further step changes; None if another process writes.
            metrics: metrics of the epoch.
        """
        self.finish()
        self._pending = self._pool.submit(write or _nothing), metrics

    def look(self) -> None:
        """Report the pending epoch if it is written; do not wait."""
        if self._pending and self._pending[0].done():
            self.finish()

    def finish(self) -> None:
        """Wait until the pending epoch is written, and report it."""
        if self._pending:
            future, metrics = self._pending
            wait([future])  # after an interrupt here, the end of the block waits
            self._pending = None
            future.result()
            if self._on_epoch:
                self._on_epoch(metrics)


def _nothing() -> None:
    pass
