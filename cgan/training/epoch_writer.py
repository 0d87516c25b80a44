"""Writing an epoch while the next one trains."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

from cgan.training.run import Metrics


class EpochWriter:
    """Writes one epoch at a time in a thread of its own, and tells of it in the caller's thread once it is on disk.

    Used as a context manager, which ends when the last epoch is written, also after further interrupts: the files are
    only the run's as long as its folder is locked. What writing raises is raised by the next call; at the end in the
    place of an error or an interrupt of the block, since what could not be saved outlasts why training stopped.

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
            future, metrics = self._pending
            wait([future])  # an interrupt here leaves it to the end of the block
            self._pending = None
            future.result()
            if self._on_epoch:
                self._on_epoch(metrics)


def _nothing() -> None:
    pass
