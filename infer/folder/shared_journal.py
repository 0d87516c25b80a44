"""The journal of an OUTPUT in a store, which any machine can go on with.

A run works with a database on its machine, which it makes from the log in the store (`infer.folder.journal_log`). What
changes goes to the log: rows of photos that are begun before their outputs may appear, all others every few seconds.
"""

import errno
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from cgan.errors import UserError
from cgan.files import MARK, OccupiedError
from infer.folder.journal import Journal
from infer.folder.journal_files import copied_journal, is_locked, journal_path
from infer.folder.journal_log import Change, Head, JournalLog
from infer.folder.journal_row import JournalError, Row, RowState
from infer.folder.remote import RemoteFolder
from infer.folder.storage import Storage

UPLOAD_SECONDS = 10.0
"""Longest time between the end of a photo and its row in the store."""

RENEW_SECONDS = 60.0
"""Longest time between two writes to the log."""

LEASE_SECONDS = 300.0
"""Age of the newest object from which a run that has not ended counts as killed, and another run may take over."""

PIECE = 20_000
"""Most rows of an object, which bounds the memory for reading it."""

MOST_OBJECTS = 16
"""Number of objects after the last snapshot from which the next run begins with a new one."""


class SharedJournal(Journal):
    """A journal with a log in the store.

    Args:
        path: its database on this machine, the lock for other runs of this machine. It is removed when the run ends;
            one that is left, by a run that was killed or by an earlier version, is taken in if no other run has written
            to the log since.
        log: the log.

    Raises:
        UserError: another run writes to the log, on this or another machine.
        JournalError: the log is damaged, or the database cannot be used.
        OSError: the store cannot be read or written to.
    """

    chunk = 1024  # an object in the store for each

    def __init__(self, path: Path, log: JournalLog) -> None:
        super().__init__(path, log.place)
        self._log = log
        self.resources = ExitStack()
        """Closed with the journal: a temporary folder of its database."""
        self._changed: set[str] = set()
        """Outputs whose rows are not in the store yet."""
        self._renewed = time.time()
        """Time at which the newest object of the log was sent."""
        self._says_only = False
        """True if that object has no rows, and says only that this run goes on."""
        try:
            self._begin_log()
        except BaseException as error:
            self._database.close()
            if self.overtaken:
                raise UserError(self.overtaken) from error
            raise

    def _begin_log(self) -> None:
        last = self._log.head()
        is_ahead = last is None or (not last.ended and last.run in self.former_marks)  # the database, of the log
        if last and not (last.ended or is_ahead) and (age := self._log.age(last)) < LEASE_SECONDS:
            raise UserError(
                f"{self.path}: another run is writing there, on {last.host}; wait for it or stop it. If it was killed, "
                f"run the command again in {LEASE_SECONDS - age:.0f} s"
            )
        if is_ahead:
            later, marks = read_log(self._log, lambda rows: None)
        else:
            self.clear()
            later, marks = read_log(self._log, super().restore)
        super().commit()
        self.former_marks = (*{*self.former_marks, *marks},)
        first = self._log.number + 1
        if later <= MOST_OBJECTS and not is_ahead:
            self._write(())
            return
        self._write_snapshot()
        if first > 1:
            self._log.remove(first, self.former_marks)

    def _write_snapshot(self) -> None:
        """Write all rows to the log."""
        first, rows = self._log.number + 1, self.rows()
        piece = list(islice(rows, PIECE))
        while following := list(islice(rows, PIECE)):
            self._write(piece)
            piece = following
        self._write(piece, snapshot_from=first)

    def _write(self, changes: Sequence[Change], ended: bool = False, snapshot_from: int = 0) -> None:
        """Write an object of the log; of several in a row that only say that the run goes on, each replaces the last.

        Raises:
            JournalError: another run has taken over, or the store cannot be written to.
        """
        sent = time.time()
        says_only = not (changes or ended or snapshot_from)
        again = says_only and self._says_only
        head = Head(MARK, socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(), ended, snapshot_from)
        try:
            # After so long another run may have taken over, and removed the object of the next number.
            late = sent - self._renewed > LEASE_SECONDS / 2
            if (late or again) and self._log.newest() != self._log.number:
                raise OccupiedError(self._log.place, "a newer object")
            self._log.write(head, changes, again)
        except OccupiedError as error:
            self.overtaken = f"{self.path}: another run has begun there and goes on with it, so this one ends"
            raise JournalError(self.overtaken) from error
        except OSError as error:
            raise JournalError(f"{self.path}: the journal cannot be written ({error}); check the access") from error
        self._renewed, self._says_only = sent, says_only

    def _upload(self, ended: bool = False) -> None:
        """Write the rows that changed to the log."""
        while len(self._changed) > PIECE:
            self._write_changed(set(islice(self._changed, PIECE)), ended=False)
        if self._changed or ended:
            self._write_changed(self._changed, ended)

    def _write_changed(self, outputs: set[str], ended: bool) -> None:
        self._write([(output, self.find(output)) for output in sorted(outputs)], ended)
        self._changed = self._changed - outputs

    def begin(self, rows: Iterable[tuple[str, Row]]) -> None:
        rows = list(rows)
        super().begin(rows)
        self._changed.update(output for output, _ in rows)
        if rows:
            self._upload()
        else:
            self.commit()

    def publishing(self, outputs: Iterable[tuple[str, str, str]]) -> None:
        outputs = list(outputs)
        super().publishing(outputs)
        self._changed.update(output for output, _, _ in outputs)

    def settle(
        self, output: str, state: RowState, *, size: int | None = None, digest: str = "", reason: str = ""
    ) -> None:
        super().settle(output, state, size=size, digest=digest, reason=reason)
        self._changed.add(output)

    def restore(self, rows: Mapping[str, Row | None]) -> None:
        super().restore(rows)
        self._changed.update(rows)

    def refresh(self, output: str, identity: str, checksum: str) -> None:
        super().refresh(output, identity, checksum)
        self._changed.add(output)

    def commit(self) -> None:
        """Flush all notes to disk, and write them to the log if that is due."""
        super().commit()
        waited = time.time() - self._renewed
        if self._changed and waited > UPLOAD_SECONDS:
            self._upload()
        elif waited > RENEW_SECONDS:
            self._write(())

    def flush(self) -> None:
        super().commit()
        self._upload()

    def close(self) -> None:
        """End the log, and remove the database, which is kept if the end cannot be written.

        A log without outputs is removed: it would make the folder look like an OUTPUT.
        """
        with self.resources, suppress(OSError):  # as in a run that was killed
            if not self.overtaken:
                self.forget_marks([MARK])  # not committed yet
                if self._is_without_outputs():
                    self._log.remove(self._log.number + 1)
                else:
                    self._upload(ended=True)
                super().commit()
                if self._file:
                    self._remove(self._file)
        self._database.close()


def open_shared(target: RemoteFolder) -> SharedJournal:
    """Open the journal of an OUTPUT in a store; errors are those of `SharedJournal`.

    The database is among the state files of the user, or a temporary one if these cannot be written.
    """
    path = journal_path(target.identity, None, target.part)
    with ExitStack() as resources:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="cgan-")))
            path = copied_journal(path, folder) or folder / path.name
        journal = SharedJournal(path, JournalLog(target, target.part))
        journal.resources = resources.pop_all()
        return journal


def read_journal(target: Storage, folder: Path | None, part: str, copy: Path) -> Journal | None:
    """Return a copy of the journal of an OUTPUT, None if there is none; nothing is written to OUTPUT.

    Args:
        target: OUTPUT.
        folder: its work folder; None for a store.
        part: ending of the names of a shard's own files.
        copy: an empty folder for the copy.

    Raises:
        UserError: it is not a journal of this version.
        OSError: it cannot be read.
    """
    path = journal_path(target.identity, folder, part)
    if isinstance(target, RemoteFolder) and (log := JournalLog(target, part)).newest():
        journal = Journal(copy / path.name, log.place)
        read_log(log, journal.restore)
        return journal
    copied = copied_journal(path, copy)
    return Journal(copied, path) if copied else None


def is_in_use(target: Storage, folder: Path | None, part: str) -> bool:
    """Return True if a run has the journal of an OUTPUT open; one in a store also if it was killed a moment ago.

    Args:
        target: OUTPUT.
        folder: its work folder; None for a store.
        part: ending of the names of a shard's own files.

    Raises:
        OSError: the journal cannot be read.
    """
    if not isinstance(target, RemoteFolder):
        return is_locked(journal_path(target.identity, folder, part))
    log = JournalLog(target, part)
    last = log.head()
    return last is not None and not last.ended and log.age(last) < LEASE_SECONDS


def read_log(log: JournalLog, restore: Callable[[dict[str, Row | None]], None]) -> tuple[int, set[str]]:
    """Read a log from its beginning.

    Args:
        log: the log.
        restore: called with the rows of each object, in order.

    Returns:
        The number of objects after the last snapshot, and the marks of runs that have not ended.
    """
    later, marks = 0, set[str]()
    for head, changes in log.read():
        restore(dict(changes))
        later = 0 if head.snapshot_from else later + 1
        marks = marks - {head.run} if head.ended else marks | {head.run}
    return later, marks
