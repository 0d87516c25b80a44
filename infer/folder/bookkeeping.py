"""Bookkeeping of a run: entries for each photo in the journal and in the outcome."""

import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import ParamSpec

from cgan.files import OccupiedError
from cgan.photo_limits import LimitError, check_file_size
from cgan.text import counted
from infer.folder.journal import Journal
from infer.folder.journal_row import BEGUN, DONE, FAILED, LEFT, JournalError, Row
from infer.folder.options import Event, FolderOptions, OnEvent, Outcome, State
from infer.folder.photo_item import Item
from infer.folder.plan import Action, Job, Judgement, judge, known_contents, made_from, refused, replaceable_contents
from infer.folder.storage import Storage
from infer.folder.thread_pools import IO_THREADS, TICK, Dispatcher
from infer.photo.decode import reason_of
from infer.photo.formats import ColorPhotos

P = ParamSpec("P")

STOPPING_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors of the output file system that affect all later files and stop the run."""

STORE_FAILURES = 20
"""Photos that fail one after the other by errors of a store, after which it counts as down and the run stops."""

COMMIT_SECONDS = 1.0
"""Longest time in seconds between a finished file and the flush of the journal."""


@dataclass(frozen=True)
class Failure:
    """Why a photo failed."""

    reason: str
    missing: bool = False
    """True if the photo is no longer there."""
    stops: bool = False
    """True if all later photos would fail too."""
    may_be_of_a_store: bool = False
    """True for an error that a store raises for any photo while it is down."""

    @classmethod
    def of(cls, error: Exception, output: str) -> "Failure":
        """Return the failure of an error, with the output that the photo should have had."""
        of_the_photo = isinstance(error, FileNotFoundError | OccupiedError)
        return cls(
            refused(output, error) if isinstance(error, OccupiedError) else reason_of(error),
            missing=isinstance(error, FileNotFoundError),
            stops=isinstance(error, OSError) and error.errno in STOPPING_ERRORS,
            may_be_of_a_store=isinstance(error, OSError) and not of_the_photo,
        )


@dataclass(eq=False)
class Bookkeeper:
    """Selects the jobs that need work, and notes the result of each."""

    source: Storage
    target: Storage
    options: FolderOptions
    journal: Journal
    recipe: str
    """Digest of the model and of the options that change the picture."""
    outcome: Outcome
    on_event: OnEvent | None
    """Called after each file."""
    pools: Dispatcher
    """Its threads for I/O compute checksums of inputs."""
    stop: threading.Event
    """When set, no further jobs are begun."""
    undo: dict[str, Row | None] = field(default_factory=dict)
    """Earlier rows of begun outputs, restored if the run stops before they end."""

    def __post_init__(self) -> None:
        self._root = self.source.identity
        self._committed = time.monotonic()
        self._in_a_row = 0
        """Photos that failed since the last one that did not, by errors of a store."""

    @property
    def stopping(self) -> bool:
        """True if no further jobs are begun."""
        return self.stop.is_set() or self.outcome.stopped is not None

    def note(self, text: str) -> None:
        """Add a note on the run."""
        self.outcome.run_notes.append(text)

    def to_do(self, jobs: tuple[Job, ...]) -> Iterator[Item]:
        """Yield the photos that need work, each after it is noted in the journal as begun."""
        identified = self._identified(jobs)
        while chunk := list(islice(identified, self.journal.chunk)):
            rows: list[tuple[str, Row]] = []
            begun: list[Item] = []
            if not self.noted(self.journal.look_ahead, [job.output for job, _ in chunk]):
                return
            for job, checksum in chunk:
                if self.stopping:
                    return
                try:
                    if found := self._begin(job, checksum):
                        begun.append(found[0])
                        rows += found[1]
                except JournalError as error:
                    self.outcome.stopped = str(error)
                    return
                except OSError as error:
                    self.failed(job, error)
            if not self.noted(self.journal.begin, rows):
                return
            yield from begun

    def _identified(self, jobs: tuple[Job, ...]) -> Iterator[tuple[Job, str]]:
        """Yield the jobs with the checksums of their photos, empty without --checksum."""
        if not self.options.checksum:
            yield from ((job, "") for job in jobs)
            return
        ahead: deque[tuple[Job, Future[str]]] = deque()
        waiting = iter(jobs)
        while True:
            while len(ahead) < 4 * IO_THREADS and (job := next(waiting, None)):
                ahead.append((job, self.pools.call(self._checksum, job)))
            if not ahead:
                return
            job, future = ahead.popleft()
            while not future.done() and not self.stopping:
                wait([future], TICK)
            if self.stopping:
                return
            try:
                checksum = future.result()
            except (OSError, LimitError) as error:
                self.failed(job, error)
            else:
                yield job, checksum

    def _checksum(self, job: Job) -> str:
        check_file_size(job.size, self.options.max_pixels)
        return self.source.checksum(job.name)

    def _begin(self, job: Job, checksum: str) -> tuple[Item, list[tuple[str, Row]]] | None:
        """Return a job's item, and rows of all outputs that it may get; None for a job that is settled already."""
        overwrite = self.options.overwrite
        found = judge(
            job, checksum, self.journal, self.target, recipe=self.recipe, root=self._root, overwrite=overwrite
        )
        row, there, content = found.row, found.there, found.content
        if found.action is Action.FAIL:
            self._settle(job, State.FAILED, found.reason, job.output)
            return None
        if found.action is Action.SKIP:
            self._skip(job, checksum, found)
            return None
        # The row keeps the digest of what earlier runs wrote to the output.
        known = content if content in known_contents(row) else row.digest if row else ""
        size = there.size if there else 0
        begun = Row(job.name, job.identity, checksum, self.recipe, self._root, BEGUN, size, "", known)
        self.undo[job.output] = row
        item, rows = Item(job, replaceable_contents(row, overwrite)), [(job.output, begun)]
        if not job.copy:
            return item, rows
        earlier = self.journal.find(job.copy)
        item.copy_replaces = replaceable_contents(earlier, overwrite)
        if earlier and earlier.name != job.name and not overwrite:
            item.copy_refusal = made_from(job.copy, earlier)
            return item, rows
        self.undo[job.copy] = earlier
        size, known = (earlier.size, earlier.digest or earlier.publishing) if earlier else (0, "")
        return item, [*rows, (job.copy, begun._replace(size=size, digest=known))]

    def _skip(self, job: Job, checksum: str, found: Judgement) -> None:
        row = found.row
        assert row
        if row.state == BEGUN:  # the run was killed before it noted the end
            assert found.there
            self.journal.settle(found.output, DONE, size=found.there.size, digest=found.content, reason=row.reason)
        if row.identity != job.identity or (checksum and not row.checksum):
            self.journal.refresh(found.output, job.identity, checksum)
        if row.reason:
            self.outcome.notes[job.name] = row.reason.splitlines()
        self._settle(job, State.SKIPPED, found.reason, None if row.state == LEFT else found.output)

    def publishing(self, items: list[Item]) -> bool:
        """Note the digests of outputs that are about to be published; return False if the journal cannot be written."""
        return self.noted(
            self.journal.publishing, [(item.output, item.digest, "\n".join(item.notes)) for item in items]
        )

    def done(self, item: Item) -> None:
        """Note that an output is published, or that a photo needs none."""
        job, notes = item.job, "\n".join(item.notes)
        self._in_a_row = 0
        if item.notes:
            self.outcome.notes[job.name] = list(item.notes)
        self.undo.pop(item.output, None)  # the output exists, even if the journal cannot be written
        self._restore({job.output, job.copy} - {item.output})
        if item.color is ColorPhotos.SKIP:
            if self.noted(self.journal.settle, item.output, LEFT, reason=notes):
                self._settle(job, State.SKIPPED, ColorPhotos.SKIP.note, None)
        elif self.noted(self.journal.settle, item.output, DONE, size=item.size, digest=item.digest, reason=notes):
            self._settle(job, State.DONE, "", item.output)

    def _restore(self, outputs: set[str]) -> None:
        """Restore the rows of outputs that a photo could have had, but does not get."""
        if rows := {output: self.undo.pop(output) for output in outputs if output in self.undo}:
            self.noted(self.journal.restore, rows)

    def failed(self, job: Job, error: Exception, output: str = "") -> None:
        """Note that a photo failed; STOPPING_ERRORS, and a store that is down, stop the run."""
        self.note_failure(job, Failure.of(error, output or job.output))

    def note_failure(self, job: Job, failure: Failure) -> None:
        """Note why a photo failed."""
        if failure.missing:
            self.outcome.missing.add(job.name)
        of_the_store = failure.may_be_of_a_store and (self.source.waits or self.target.waits)
        self._in_a_row = self._in_a_row + 1 if of_the_store else 0
        if failure.stops:
            self.outcome.stopped = failure.reason
        elif self.noted(self.journal.settle, job.output, FAILED, reason=failure.reason):
            self.undo.pop(job.output, None)
            self._restore({job.copy})
        self._settle(job, State.FAILED, failure.reason, job.output)
        if self._in_a_row == STORE_FAILURES and not self.outcome.stopped:
            self.outcome.stopped = f"the store failed {STORE_FAILURES} photos in a row, the last with: {failure.reason}"

    def _settle(self, job: Job, state: State, reason: str, output: str | None) -> None:
        if state is State.DONE:
            self.outcome.done += 1
        elif state is State.SKIPPED:
            self.outcome.skipped += 1
        else:
            self.outcome.failed[job.name] = reason
            limit = self.options.max_failures
            if limit is not None and len(self.outcome.failed) > limit:
                self.outcome.stopped = f"more than {counted(limit, 'file')} failed"
        if self.on_event:
            self.on_event(Event(job, state, reason, output), self.outcome)

    def leave_begun(self, item: Item) -> None:
        """Keep the begun rows of a photo whose process ended, for it may have published the output."""
        for output in (item.job.output, item.job.copy):
            self.undo.pop(output, None)

    def commit_if_due(self) -> None:
        """Flush the journal to disk if COMMIT_SECONDS have passed."""
        if time.monotonic() - self._committed > COMMIT_SECONDS:
            self._committed = time.monotonic()
            self.noted(self.journal.commit)

    def close(self) -> None:
        """Restore the rows of photos that were begun but not finished, and flush the journal."""
        self.noted(self.journal.restore, self.undo)
        self.noted(self.journal.flush)

    def noted(self, note: Callable[P, None], *arguments: P.args, **options: P.kwargs) -> bool:
        """Call a method of the journal; if the journal cannot be written, stop the run and return False."""
        try:
            note(*arguments, **options)
        except JournalError as error:
            self.outcome.stopped = self.outcome.stopped or str(error)
            return False
        return True
