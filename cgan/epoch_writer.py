"""Writing an epoch while the next one trains."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from cgan.state import Metrics


class EpochWriter:
    """Writes one epoch at a time in a thread of its own, and tells of it in the caller's thread once it is on disk.

    Used as a context manager, which ends when the last epoch is written. What writing raises is raised by the next
    call; at the end in the place of an error of the block, since what could not be saved outlasts the reason why
    training stopped, but not in that of an interrupt.

    Args:
        on_epoch: told each epoch's metrics.
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
        self._pool.shutdown()
        interrupted = error is not None and not isinstance(error, Exception)
        if not (interrupted and self._pending and self._pending[0].exception()):
            self.finish()

    def write(self, write: Callable[[], None] | None, metrics: Metrics) -> None:
        """Begin to write an epoch, once the one before is written.

        Args:
            write: uses only what no further step changes; None where another process writes.
            metrics: of the epoch.
        """
        self.finish()
        self._pending = self._pool.submit(write or _nothing), metrics

    def look(self) -> None:
        """Tell of the epoch that is being written, if it is written by now."""
        if self._pending and self._pending[0].done():
            self.finish()

    def finish(self) -> None:
        """Wait until the epoch is written, and tell of it."""
        if self._pending:
            (future, metrics), self._pending = self._pending, None
            future.result()
            if self._on_epoch:
                self._on_epoch(metrics)


def _nothing() -> None:
    pass
