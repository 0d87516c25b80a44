"""The pipeline of a folder run: fetch, decode, run in batches, encode and publish, overlapped and in no fixed order.

This module implements the work on one photo, and connects it with `Scheduler` (order) and `Bookkeeper` (journal).
"""

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from cgan.photo_limits import check_file_size, out_of_time, time_limit
from infer.backends.base import Backend, OutOfMemory
from infer.folder.bookkeeping import Bookkeeper
from infer.folder.journal import Journal
from infer.folder.options import FolderOptions, OnEvent, Outcome, Stage
from infer.folder.photo_item import Item
from infer.folder.plan import Job
from infer.folder.scheduler import AfterFailure, Limits, Scheduler, Way
from infer.folder.storage import Storage
from infer.folder.thread_pools import Dispatcher
from infer.photo.decode import PhotoError, decode, header_of, model_input, render_size_for
from infer.photo.encode import encoding_bytes, write_photo
from infer.photo.formats import ColorPhotos, Resolution
from infer.photo.mark import Mark

MEMORY_UNDER_WAY = 2**30
"""Limit in bytes of the memory of all photos in progress. A single larger photo is processed alone."""

HANGING_SECONDS = 5.0
"""Time after the limit of a photo's time from which its thread is taken to hang in a library. Until then it has the
opportunity to end with the reason itself."""

GROUP = 4
"""Largest number of photos per task. Submitting a task costs as much as decoding a thumbnail."""

GROUP_PIXELS = 2**18
"""Largest number of pixels of all photos of a task; a larger photo is a task of its own."""

SMALL_FILE = 2**18
"""Largest file in bytes that is read when it is fetched; of a larger one the header is."""

STAGES = ("fetch", "decode", "run", "encode", "publish")


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
class PhotoWork:
    """The work on photos for `Scheduler`: five stages in threads, and the decisions between them."""

    source: Storage
    target: Storage
    backend: Backend
    options: FolderOptions
    books: Books
    next: Callable[[], Item | None]
    """Returns the next photo to begin, None if there is none at present."""
    on_stop: Callable[[int], None] | None = None
    """Called with the number of photos in hand once a signal was received."""

    def __post_init__(self) -> None:
        self.batch_size = self.options.batch_size

    @contextmanager
    def _timed(self, item: Item) -> Iterator[None]:
        """Count the time of the block to that of the photo, which `check_time` bounds."""
        begun, limit = time.monotonic(), self.options.timeout
        item.until = begun + limit - item.spent if limit else None
        try:
            with time_limit(limit, item.spent):
                yield
        finally:
            item.until = None
            item.spent += time.monotonic() - begun

    def fetch(self, item: Item) -> None:
        """Fetch the photo's path or content, and read its size from the header."""
        check_file_size(item.job.size, self.options.max_pixels)
        content = self.source.fetch(item.job.name)
        if isinstance(content, Path):
            item.mode, content = _read_if_small(content)
        item.content = content
        with self._timed(item):
            header = header_of(content, item.job.name, self.options.max_pixels)
        item.pixels = header.pixels
        item.memory = header.memory + encoding_bytes(header.size, self._render_size(header.size)[0], item.job.format)

    def decode(self, item: Item) -> None:
        """Decode the photo, and scale its luma to the render size."""
        assert isinstance(item.content, Path | bytes)
        with self._timed(item):
            photo = decode(item.content, item.job.name, self.options.max_pixels, profile=self.options.profile)
            content, item.content, item.notes = item.content, None, photo.notes
            if photo.was_color:
                item.color = self.options.color_photos
                item.notes += (item.color.note,)
            if item.way is Way.RUN:
                item.photo, item.gray = photo, model_input(photo, *self._render_size(photo.size))
            elif item.way is Way.PUBLISH:
                self._copy(item, content)

    def _copy(self, item: Item, content: Path | bytes) -> None:
        """Make the content of the file that of the output."""
        if item.is_copied_apart and item.copy_refusal:
            raise PhotoError(item.copy_refusal)
        item.content = content.read_bytes() if isinstance(content, Path) else content
        item.size, item.digest = len(item.content), hashlib.sha256(item.content).hexdigest()
        item.notes = (ColorPhotos.COPY.note,)  # the others are on what colouring would change

    def _render_size(self, size: tuple[int, int]) -> tuple[int, int]:
        spec, longest = self.backend.spec, self.options.render_longest
        if longest:
            height, width = render_size_for(size, longest, spec.size_multiple)
            least = self.backend.least_side
            return max(height, least), max(width, least)
        return self.backend.own_size

    def run(self, batch: list[Item]) -> None:
        """Run the model on a batch."""
        rgb = self.backend.run(np.stack([item.gray for item in batch if item.gray is not None]))
        for item, colors in zip(batch, rgb, strict=True):
            item.colors = colors

    def encode(self, item: Item) -> None:
        """Merge colours and luma at the photo's own size, and encode the output."""
        assert item.photo is not None and item.gray is not None and item.colors is not None
        with self._timed(item):
            item.content, notes = write_photo(
                item.photo,
                item.gray,
                item.colors,
                item.job.format,
                quality=self.options.quality,
                strength=self.options.strength,
                raw=self.options.resolution == Resolution.MODEL,
                mark=Mark(self.backend.path.name, self.backend.digest) if self.options.mark else None,
            )
        item.notes += notes
        item.size, item.digest = len(item.content), hashlib.sha256(item.content).hexdigest()
        item.photo = item.gray = item.colors = None

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

    def batch_failed(self, batch: list[Item], error: BaseException) -> AfterFailure:
        """Halve the batch size if memory ran out; otherwise run the photos one by one to find the one at fault."""
        ran = max(len(batch), self.batch_size if self.backend.pads else 0)
        # Batches below the engine's minimum are padded, so halving no longer helps.
        if isinstance(error, OutOfMemory) and ran > self.backend.batch_range[0]:
            half = -(-ran // 2)
            if half < self.batch_size:
                self.batch_size = self.backend.batch_size = half
                self.books.note(f"{error}; going on with batches of {half}")
            return AfterFailure.AGAIN
        return AfterFailure.SINGLY if isinstance(error, Exception) and len(batch) > 1 else AfterFailure.FAIL

    def before_publishing(self, items: list[Item]) -> bool:
        """Note outputs in the journal before they may appear."""
        return self.books.publishing(items)

    def finished(self, item: Item) -> None:
        """Note that a photo is done, or skipped."""
        self.books.done(item)

    def failed(self, item: Item, error: Exception) -> None:
        """Note that a photo failed; the run continues."""
        self.books.failed(item.job, error, item.output)

    def overdue(self, item: Item) -> Exception | None:
        """Return the error of a photo that took longer than --timeout and did not end by itself."""
        until = item.until
        hangs = until is not None and time.monotonic() > until + HANGING_SECONDS
        return out_of_time(self.options.timeout) if hangs else None

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
        outcome = prepared(self.target, self.journal)
        pools = Dispatcher(self.options.workers, outcome.stages)
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
        waiting = books.to_do(jobs)
        places = self.source, self.target
        work = PhotoWork(*places, self.backend, self.options, books, lambda: next(waiting, None), self.on_stop)
        try:
            with pools:
                Scheduler(work, pools, limits_of(*places, self.options)).run_all()
            books.close()
        finally:
            self.target.finish()
        return ended(outcome, len(jobs), self.stop, started)


def prepared(target: Storage, journal: Journal) -> Outcome:
    """Prepare OUTPUT for a run, remove what earlier runs left unfinished, and return the outcome to fill.

    Raises:
        OSError: `target` cannot be written to.
    """
    outcome = Outcome(stages={name: Stage() for name in STAGES})
    target.prepare(journal.former_marks, journal.knows)
    journal.forget_marks(journal.former_marks)
    for file in target.left:
        outcome.run_notes.append(f"{file}: a run was killed while it replaced a file, which this may be")
    return outcome


def ended(outcome: Outcome, photos: int, stop: threading.Event, started: float) -> Outcome:
    """Complete the outcome of a run over so many photos that started at a time of the monotonic clock."""
    if stop.is_set() and outcome.stopped is None and outcome.settled < photos:
        outcome.stopped = "interrupted"
    outcome.seconds = time.monotonic() - started
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
