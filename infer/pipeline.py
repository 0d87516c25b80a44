"""Folder runs: fetch, decode, batch, run, encode and publish, overlapped, bounded and in no fixed order.

One thread hands out all work and takes in what is finished, so nothing else needs a lock. Work for the processor runs
in a pool of `workers` threads; waiting for disks and networks happens in a pool of its own. Photos under way are
bounded by number and by pixels, so memory does not grow with the folder or with the photos.
"""

import errno
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import ParamSpec

import numpy as np

from cgan.files import OccupiedError
from infer.backends.base import Backend, OutOfMemory
from infer.dispatch import IO_THREADS, Dispatcher, Ended
from infer.images import Photo, decode, model_input, pixels_of, reason_of, render_size_for
from infer.jobs import Job, check, content_decides, known_contents, refused, replaceable_contents
from infer.journal import BEGUN, DONE, FAILED, Journal, JournalError, Row
from infer.render import write_photo
from infer.run import Event, FolderOptions, OnEvent, Outcome, Stage
from infer.storage import Status, Storage
from infer.under_way import Item, groups

P = ParamSpec("P")

STOPPING_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors of the output file system that every later file would meet too."""

JOURNAL_CHUNK = 64
"""Inputs whose beginning is noted in one transaction."""

COMMIT_SECONDS = 1.0
"""How long a finished file may wait until the journal is flushed to disk."""

PIXELS_UNDER_WAY = 2**26
"""Photos are begun while those under way have fewer pixels in all; about 8 bytes each are held. A single larger photo
is coloured alone."""

GROUP = 4
"""Photos that share a task at most. Handing a task out costs as much as decoding a thumbnail."""


@dataclass(eq=False)
class Pipeline:
    """What one run needs, and where it stands."""

    source: Storage
    """INPUT."""
    target: Storage
    """OUTPUT, which the journal's lock keeps for this run alone."""
    backend: Backend
    """Entered."""
    options: FolderOptions
    journal: Journal
    """Of the OUTPUT."""
    recipe: str
    """Digest of the model and of the options that change the picture."""
    on_event: OnEvent | None = None
    """Called after each file."""
    stop: threading.Event = field(default_factory=threading.Event)
    """When set, no more files are begun and those under way are finished."""

    def __post_init__(self) -> None:
        self.outcome = Outcome(stages={name: Stage() for name in ("fetch", "decode", "run", "encode", "publish")})
        self.batch_size = self.options.batch_size
        self.root = self.source.identity
        self.work = Dispatcher(self.options.workers, self.outcome.stages)
        self.admitted = 0
        """Photos from their decoding to their end."""
        self.pixels = 0
        """Their pixels."""
        self.publishing = 0
        """Those of them that are encoded."""
        self.fetching = self.decoding = self.running = 0
        self.fetched: deque[Item] = deque()
        self.decoded: deque[Item] = deque()
        self.undo: dict[str, Row | None] = {}
        """What the journal knew of outputs that are begun and not settled, put back if the run stops before them."""
        self.committed = 0.0

    def color(self, jobs: tuple[Job, ...]) -> Outcome:
        """Colour the jobs' photos, once; a file that fails is noted and the run goes on.

        Args:
            jobs: from `infer.jobs.make_plan`.

        Returns:
            Each job as done, skipped or failed; jobs that were not begun when the run stopped are in none.

        Raises:
            OSError: nothing can be written to `target`; no photo was begun.
        """
        started = self.committed = time.monotonic()
        self.target.prepare(self.journal.former_marks)
        self.journal.forget_marks(self.journal.former_marks)
        waiting = self._to_do(jobs)
        try:
            with self.work:
                while True:
                    self._hand_out(waiting)
                    if not self.work.tasks:
                        break
                    self.work.take_in()
                    if time.monotonic() - self.committed > COMMIT_SECONDS:
                        self.committed = time.monotonic()
                        self._noted(self.journal.commit)
            self._noted(self.journal.restore, self.undo)
            self._noted(self.journal.commit)
        finally:
            self.target.finish()
        if self.stop.is_set() and self.outcome.stopped is None and self.outcome.settled < len(jobs):
            self.outcome.stopped = "interrupted"
        self.outcome.seconds = time.monotonic() - started
        return self.outcome

    def _hand_out(self, waiting: Iterator[Item]) -> None:
        """Begin what the bounds allow, in the order in which photos come nearer to their end."""
        self._fetch_some(waiting)
        admitted: list[Item] = []
        while self.fetched and self._has_room(self.fetched[0]):
            item = self.fetched.popleft()
            item.admitted = True
            self.admitted += 1
            self.pixels += item.pixels
            self.decoding += 1
            admitted.append(item)
        for group in groups(admitted, self._share()):
            self.work.submit(self.work.pool, "decode", self._decode, group, self._decoded)
        more = self.decoding or self.fetching
        while self.decoded and self.running < self.options.streams:
            # Photos that no others can join, because none come or memory is full, go as a smaller batch.
            batch = self._next_batch(partial=not more or (not self.decoding and bool(self.fetched)))
            if not batch:
                break
            self.running += 1
            self.work.submit(self.work.pool, "run", self._run, [batch], self._colored)

    def _fetch_some(self, waiting: Iterator[Item]) -> None:
        if self._stopping():
            self.fetched.clear()  # nothing of them is seen yet, and the journal forgets that they were begun
            return
        share = 1 if self.source.waits else GROUP  # what was fetched from a store is in memory
        room = 2 * IO_THREADS * share - self.fetching - len(self.fetched)
        begun = list(islice(iter(lambda: self._next(waiting), None), max(0, room)))
        self.fetching += len(begun)
        for group in groups(begun, share):
            self.work.submit(self.work.io_pool, "fetch", self._fetch, group, self._fetched)

    def _next(self, waiting: Iterator[Item]) -> Item | None:
        return None if self._stopping() else next(waiting, None)

    def _has_room(self, item: Item) -> bool:
        """Whether a photo may be decoded: the bounds on numbers and on pixels."""
        if self.admitted - self.publishing >= self._most() or self.publishing >= 2 * IO_THREADS * GROUP:
            return False
        return self.pixels + item.pixels <= PIXELS_UNDER_WAY or not self.pixels

    def _most(self) -> int:
        """How many photos may be decoded and not yet encoded."""
        batches = self.options.streams + 4  # run, and two each before and after
        return batches * self.batch_size + self.options.workers

    def _share(self) -> int:
        """How many photos may share a task of the workers without leaving one of them without two."""
        return max(1, min(GROUP, self._most() // (2 * self.options.workers)))

    def _next_batch(self, partial: bool) -> list[Item]:
        """Photos of one render size that fill a batch, or as many as there are of the first one's."""
        by_size: dict[tuple[int, ...], list[Item]] = {}
        for item in self.decoded:
            assert item.gray is not None
            same = by_size.setdefault(item.gray.shape, [])
            same.append(item)
            if len(same) == self.batch_size:
                break
        else:
            # Sizes that have too few photos must not fill the whole bound.
            if not partial and len(self.decoded) < 2 * self.batch_size * self.options.streams:
                return []
            same = max(by_size.values(), key=len)
        for item in same:
            self.decoded.remove(item)
        return same

    def _to_do(self, jobs: tuple[Job, ...]) -> Iterator[Item]:
        """The photos of the jobs that have to be done, each noted in the journal as begun before it is handed out."""
        identified = self._identified(jobs)
        while chunk := list(islice(identified, JOURNAL_CHUNK)):
            rows: list[tuple[str, Row]] = []
            begun: list[Item] = []
            for job, checksum in chunk:
                if self._stopping():
                    return
                try:
                    former, there = self.journal.find(job.output), self.target.status(job.output)
                    content = self.target.checksum(job.output) if content_decides(former, there) else ""
                    if self._is_to_do(job, checksum, former, there, content):
                        begun.append(Item(job, replaceable_contents(former, self.options.overwrite)))
                        size = there.size if there else 0
                        row = Row(job.name, job.identity, checksum, self.recipe, self.root, BEGUN, size, "")
                        # It remembers what earlier runs put at its output.
                        known = content if content in known_contents(former) else former.digest if former else ""
                        rows.append((job.output, replace(row, digest=known)))
                except JournalError as error:
                    self.outcome.stopped = str(error)
                    return
                except OSError as error:
                    self._fail(job, error)
            if not self._noted(self.journal.begin, rows):
                return
            yield from begun

    def _identified(self, jobs: tuple[Job, ...]) -> Iterator[tuple[Job, str]]:
        """The jobs with the checksums of their photos, empty where those are not asked for."""
        if not self.options.checksum:
            yield from ((job, "") for job in jobs)
            return
        ahead: deque[tuple[Job, Future[str]]] = deque()
        waiting = iter(jobs)
        while True:
            while len(ahead) < 4 * IO_THREADS and (job := next(waiting, None)):
                ahead.append((job, self.work.io_pool.submit(self.source.checksum, job.name)))
            if not ahead:
                return
            job, future = ahead.popleft()
            try:
                checksum = future.result()
            except OSError as error:
                self._fail(job, error)
            else:
                yield job, checksum

    def _is_to_do(self, job: Job, checksum: str, row: Row | None, there: Status | None, content: str) -> bool:
        """Decide whether a job has to be done; otherwise it is settled."""
        same = row is not None and row.is_of(job.identity, checksum)
        verdict, reason = check(job, row, there, content, same, self.recipe, self.root, self.options.overwrite)
        if verdict == "fail":
            self._settle(job, "failed", reason)
        elif verdict == "skip":
            if row and there and row.state == BEGUN:  # a kill came before its note
                self.journal.settle(job.output, DONE, size=there.size, digest=content)
            if row and (row.identity != job.identity or (checksum and not row.checksum)):
                self.journal.refresh(job.output, job.identity, checksum)
            if row and row.state == DONE and row.reason:
                self.outcome.notes[job.name] = row.reason.splitlines()
            self._settle(job, "skipped")
        else:
            self.undo[job.output] = row
        return verdict == "do"

    def _fetch(self, item: Item) -> None:
        item.content = self.source.fetch(item.job.name)
        item.pixels = pixels_of(item.content, item.job.name, self.options.max_pixels)

    def _decode(self, item: Item) -> None:
        assert isinstance(item.content, Path | bytes)
        photo = decode(item.content, item.job.name, max_pixels=self.options.max_pixels)
        item.content = None
        item.photo, item.gray, item.notes = photo, model_input(photo, *self._render_size(photo)), photo.notes

    def _render_size(self, photo: Photo) -> tuple[int, int]:
        spec, longest = self.backend.spec, self.options.render_longest
        if longest:
            height, width = render_size_for(photo.size, longest, spec.size_multiple)
            least = self.backend.least_side
            return max(height, least), max(width, least)
        return self.backend.own_size

    def _run(self, batch: list[Item]) -> None:
        rgb = self.backend.run(np.stack([item.gray for item in batch if item.gray is not None]))
        for item, colors in zip(batch, rgb, strict=True):
            item.colors = colors

    def _encode(self, item: Item) -> None:
        assert item.photo is not None and item.gray is not None and item.colors is not None
        item.content, notes = write_photo(
            item.photo,
            item.gray,
            item.colors,
            item.job.format,
            quality=self.options.quality,
            raw=self.options.resolution == "model",
        )
        item.notes += notes
        item.size, item.digest = len(item.content), hashlib.sha256(item.content).hexdigest()
        item.photo = item.gray = item.colors = None

    def _publish(self, item: Item) -> None:
        assert isinstance(item.content, bytes | memoryview)
        self.target.publish(item.job.output, item.content, item.replaces)
        item.content = None

    def _fetched(self, ended: Ended[Item]) -> None:
        self.fetching -= len(ended)
        self.fetched.extend(self._came_through(ended))

    def _decoded(self, ended: Ended[Item]) -> None:
        self.decoding -= len(ended)
        self.decoded.extend(self._came_through(ended))

    def _colored(self, ended: Ended[list[Item]]) -> None:
        self.running -= 1
        ((batch, error),) = ended
        ran = max(len(batch), self.batch_size if self.backend.pads else 0)
        # Smaller batches than the engine takes are filled up, so halving no longer helps.
        if isinstance(error, OutOfMemory) and ran > self.backend.batch_range[0]:
            half = -(-ran // 2)
            if half < self.batch_size:
                self.batch_size = self.backend.batch_size = half
                self.outcome.run_notes.append(f"{error}; going on with batches of {half}")
            self.decoded.extendleft(reversed(batch))
        elif isinstance(error, Exception) and len(batch) > 1:
            for item in batch:  # each by itself, so that only the photo at fault fails
                self.running += 1
                self.work.submit(self.work.pool, "run", self._run, [[item]], self._colored)
        else:
            for group in groups(self._came_through([(item, error) for item in batch]), self._share()):
                self.work.submit(self.work.pool, "encode", self._encode, group, self._encoded)

    def _encoded(self, ended: Ended[Item]) -> None:
        for group in groups(self._came_through(ended), 1 if self.target.waits else GROUP):
            if not self._noted(self.journal.publishing, [(item.job.output, item.digest) for item in group]):
                continue  # the run stops, and nothing appears that the journal does not know
            self.publishing += len(group)
            self.work.submit(self.work.io_pool, "publish", self._publish, group, self._published)

    def _published(self, ended: Ended[Item]) -> None:
        self.publishing -= len(ended)
        for item in self._came_through(ended):
            self._leave(item)
            if item.notes:
                self.outcome.notes[item.job.name] = list(item.notes)
            self.undo.pop(item.job.output, None)  # it lies there, whatever the journal can still take
            output, notes = item.job.output, "\n".join(item.notes)
            if self._noted(self.journal.settle, output, DONE, size=item.size, digest=item.digest, reason=notes):
                self._settle(item.job, "done")

    def _came_through(self, ended: Ended[Item]) -> list[Item]:
        """The photos whose work ended well; the others have failed, and the run goes on."""
        well = []
        for item, error in ended:
            if error is None:
                well.append(item)
            elif isinstance(error, Exception):
                self._leave(item)
                self._fail(item.job, error)
            else:
                raise error
        return well

    def _leave(self, item: Item) -> None:
        if item.admitted:
            self.admitted -= 1
            self.pixels -= item.pixels

    def _fail(self, job: Job, error: Exception) -> None:
        reason = refused(job.output, error) if isinstance(error, OccupiedError) else reason_of(error)
        if isinstance(error, OSError) and error.errno in STOPPING_ERRORS:
            self.outcome.stopped = reason
        elif self._noted(self.journal.settle, job.output, FAILED, reason=reason):
            self.undo.pop(job.output, None)
        self._settle(job, "failed", reason)

    def _settle(self, job: Job, state: str, reason: str = "") -> None:
        if state == "done":
            self.outcome.done += 1
        elif state == "skipped":
            self.outcome.skipped += 1
        else:
            self.outcome.failed[job.name] = reason
            limit = self.options.max_failures
            if limit is not None and len(self.outcome.failed) > limit:
                self.outcome.stopped = f"more than {limit} files failed"
        if self.on_event:
            self.on_event(Event(job, state, reason), self.outcome)

    def _noted(self, note: Callable[P, None], *arguments: P.args, **options: P.kwargs) -> bool:
        """Whether the journal took a note; where it cannot be written, the run stops."""
        try:
            note(*arguments, **options)
        except JournalError as error:
            self.outcome.stopped = str(error)
            return False
        return True

    def _stopping(self) -> bool:
        return self.stop.is_set() or self.outcome.stopped is not None
