"""The pipeline of a folder run: fetch, decode, run in batches, encode and publish, overlapped and in no fixed order.

This module connects the stages of one photo with `Scheduler` (order) and `Bookkeeper` (journal).
"""

import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cgan.photo_limits import check_file_size
from infer.backends.base import Backend
from infer.folder.bookkeeping import Bookkeeper
from infer.folder.journal import Journal
from infer.folder.options import FolderOptions, OnEvent, Outcome, Stage
from infer.folder.photo_item import Item
from infer.folder.photo_stages import STAGES, PhotoStages
from infer.folder.plan import Job
from infer.folder.scheduler import Limits, Scheduler
from infer.folder.storage import Storage
from infer.folder.thread_pools import Dispatcher

MEMORY_UNDER_WAY = 2**30
"""Limit in bytes of the memory of all photos in progress. A single larger photo is processed alone."""

GROUP = 4
"""Largest number of photos per task. Submitting a task costs as much as decoding a thumbnail."""

GROUP_PIXELS = 2**18
"""Largest number of pixels of all photos of a task; a larger photo is a task of its own."""

SMALL_FILE = 2**18
"""Largest file in bytes that is read when it is fetched; of a larger one the header is."""


class Books(Protocol):
    """What is noted about photos: a `Bookkeeper`, or in a process of a cluster what is told to the driver."""

    @property
    def stop(self) -> threading.Event:
        """When set, no further photos are begun."""

    @property
    def stopping(self) -> bool:
        """True if no further photos are begun, for this or another reason."""

    def note(self, text: str) -> None:
        """Add a note on the run."""

    def publishing(self, items: list[Item]) -> bool:
        """Note outputs that are about to be published; return False to prevent it."""

    def done(self, item: Item) -> None:
        """Note that an output is published, or that a photo needs none."""

    def failed(self, job: Job, error: Exception, output: str = "") -> None:
        """Note that a photo failed."""

    def commit_if_due(self) -> None:
        """Write notes to disk now and then."""


@dataclass(eq=False)
class PhotoWork(PhotoStages[Item]):
    """The work on the photos of a folder: its stages, and the decisions between them."""

    source: Storage
    target: Storage
    books: Books
    next: Callable[[], Item | None]
    """Returns the next photo to begin, None if there is none at present."""
    on_stop: Callable[[int], None] | None = None
    """Called with the number of photos in hand once a signal was received."""

    def fetch(self, item: Item) -> None:
        """Fetch the photo's path or content, and read its size from the header."""
        check_file_size(item.job.size, self.options.max_pixels)
        item.content = self.source.fetch(item.job.name)
        if isinstance(item.content, Path):
            item.mode, item.content = _read_if_small(item.content)
        self.read_header(item)

    def publish(self, item: Item) -> None:
        """Write the output."""
        assert isinstance(item.content, bytes | memoryview)
        replaces = item.copy_replaces if item.is_copied_apart else item.replaces
        self.target.publish(item.output, item.content, replaces, item.mode)
        item.content = None

    @property
    def stopping(self) -> bool:
        """True if no further photos are begun."""
        return self.books.stopping

    def smaller_batches(self, note: str) -> None:
        """Note that the run goes on with smaller batches."""
        self.books.note(note)

    def before_publishing(self, items: list[Item]) -> bool:
        """Note outputs in the journal before they may appear."""
        return self.books.publishing(items)

    def finished(self, item: Item) -> None:
        """Note that a photo is done, or skipped."""
        self.books.done(item)

    def failed(self, item: Item, error: Exception) -> None:
        """Note that a photo failed; the run continues."""
        self.books.failed(item.job, error, item.output)

    def winding_up(self, in_hand: int) -> None:
        """Say how many photos are being finished after a signal."""
        if self.on_stop and self.books.stop.is_set():
            self.on_stop(in_hand)

    def tick(self) -> None:
        """Flush the journal if it is due."""
        self.books.commit_if_due()


def _read_if_small(path: Path) -> tuple[int, Path | bytes]:
    """Return the permission bits of a file, and its content if it is small, so that it is opened only once."""
    with path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        return stat.S_IMODE(status.st_mode), file.readall() if status.st_size <= SMALL_FILE else path


@dataclass(eq=False)
class Pipeline:
    """One run over a plan, with its parts."""

    source: Storage
    """INPUT."""
    target: Storage
    """OUTPUT, locked for this run by the journal."""
    backend: Backend
    """The entered backend."""
    options: FolderOptions
    journal: Journal
    """Journal of OUTPUT."""
    recipe: str
    """Digest of the model and of the options that change the picture."""
    on_event: OnEvent | None = None
    """Called after each file."""
    stop: threading.Event = field(default_factory=threading.Event)
    """When set, no further files are begun and those in hand are finished."""
    on_stop: Callable[[int], None] | None = None
    """Called with the number of photos in hand once `stop` is noticed."""

    def color(self, jobs: tuple[Job, ...]) -> Outcome:
        """Colour the photos of all jobs; the run continues after failures of single files. Call this once.

        Args:
            jobs: jobs of `infer.folder.plan.make_plan`.

        Returns:
            The outcome; jobs that were not begun when the run stopped are neither done, skipped nor failed.

        Raises:
            OSError: `target` cannot be written to; no photo was begun.
        """
        started = time.monotonic()
        outcome = self._prepared()
        pools = Dispatcher(self.threads, outcome.stages)
        books = Bookkeeper(
            source=self.source,
            target=self.target,
            options=self.options,
            journal=self.journal,
            recipe=self.recipe,
            outcome=outcome,
            on_event=self.on_event,
            pools=pools,
            stop=self.stop,
        )
        try:
            with pools:
                self.run_all(jobs, books, pools)
            books.close()
            self.clean()
        finally:
            self.target.finish()
        if self.stop.is_set() and outcome.stopped is None and outcome.settled < len(jobs):
            outcome.stopped = "interrupted"
        outcome.seconds = time.monotonic() - started
        return outcome

    @property
    def threads(self) -> int:
        """Threads for computation."""
        return self.options.workers

    def run_all(self, jobs: tuple[Job, ...], books: Bookkeeper, pools: Dispatcher) -> None:
        """Colour the photos in the threads of this process, until all are settled or the run stops."""
        waiting = books.to_do(jobs)
        places = self.source, self.target
        work = PhotoWork(self.backend, self.options, *places, books, lambda: next(waiting, None), self.on_stop)
        Scheduler(work, pools, limits_of(*places, self.options)).run_all()

    def clean(self) -> None:
        """Remove what other processes of this run left unfinished: here there are none."""

    def _prepared(self) -> Outcome:
        """Prepare OUTPUT, remove what earlier runs left unfinished, and return the outcome to fill."""
        outcome = Outcome(stages={name: Stage() for name in STAGES})
        marks = self.journal.former_marks
        self.target.prepare(marks, self.journal.knows)
        self.journal.forget_marks(marks)
        for file in self.target.left:
            outcome.run_notes.append(f"{file}: a run was killed while it replaced a file, which this may be")
        return outcome


def limits_of(source: Storage, target: Storage, options: FolderOptions) -> Limits:
    """Return the bounds of the scheduler of a run."""
    return Limits(
        workers=options.workers,
        streams=options.streams,
        weight=MEMORY_UNDER_WAY,
        group=GROUP,
        group_effort=GROUP_PIXELS,
        fetch_singly=source.waits,  # content from a store is held in memory
        publish_singly=target.waits,
    )
