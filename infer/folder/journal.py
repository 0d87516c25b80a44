"""The journal of an OUTPUT folder: what was made of which input, so that the same command does only what is missing.

A row is written as begun before its output may appear, with the output's digest before it is published, and as done
once it lies there, flushed to disk. A kill at any moment leaves rows that are begun and outputs that are whole, and the
next run knows by their digests which files are its own.
"""

import errno
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cgan.errors import UserError
from cgan.files import MARK
from cgan.user_folders import state_folder
from infer.folder.storage import JOURNAL_NAME, is_below

SCHEMA = 2
FORMER_SCHEMA = 1
"""Without digests of outputs, which then count as unknown, and without marks."""

APPLICATION_ID = 0x6347414E
"""Marks the database as this project's: "cGAN"."""

# BLOB, because file names need not be text.
CREATE = """
CREATE TABLE files (
    output BLOB PRIMARY KEY, name BLOB NOT NULL, identity TEXT NOT NULL, checksum TEXT NOT NULL, recipe TEXT NOT NULL,
    root BLOB NOT NULL, state TEXT NOT NULL, size INTEGER NOT NULL, reason TEXT NOT NULL
) WITHOUT ROWID
"""

MIGRATE = (
    "ALTER TABLE files ADD COLUMN digest TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE files ADD COLUMN publishing TEXT NOT NULL DEFAULT ''",
    "CREATE TABLE marks (mark TEXT PRIMARY KEY) WITHOUT ROWID",
)
"""From the former schema to this one."""

COLUMNS = "name, identity, checksum, recipe, root, state, size, reason, digest, publishing"

INSERT = f"INSERT OR REPLACE INTO files (output, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

OF_THE_DISK = frozenset(
    {
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN),
        *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM),
    }
)
"""SQLite's errors for which the journal itself is not to blame."""

BEGUN, DONE, FAILED = "begun", "done", "failed"


class JournalError(OSError):
    """The journal cannot be read or written: the run has to stop."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the journal knows of one output."""

    name: str
    """Path of its input below INPUT."""
    identity: str
    """Size and version of the input."""
    checksum: str
    """SHA-256 of the input, empty where the run did not ask for it."""
    recipe: str
    """Digest of the model and the options that change the picture."""
    root: str
    """The INPUT folder that it came from."""
    state: str
    """BEGUN, DONE or FAILED."""
    size: int
    """Bytes of the output; of one that is begun or failed, of what lay there before."""
    reason: str
    """Why it failed; of one that is done, what a user should know of it, a line each."""
    digest: str = ""
    """SHA-256 of the output; of one that is begun or failed, of what lay there before. Empty where it is not known."""
    publishing: str = ""
    """SHA-256 of what is about to take the output's name, while it is begun."""

    def is_of(self, identity: str, checksum: str) -> bool:
        """Whether it speaks of the input as it is now; content, where both sides know it, decides over time."""
        return self.checksum == checksum if self.checksum and checksum else self.identity == identity


class Journal:
    """Rows by output, because an input has one in each format. While it is open no other run can use the same OUTPUT.

    Args:
        path: the database; made where it is missing. None is a journal in memory, for OUTPUTs that nothing is written
            to.
        shown: the path that messages name, where `path` is a copy.

    Raises:
        UserError: another run has it open, or it is not a journal of this version.
        JournalError: it cannot be read or written.
    """

    def __init__(self, path: Path | None, shown: Path | None = None) -> None:
        self.path = shown or path
        with _as_journal_errors(self.path):
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._refuse_others(path)
            # Statements of one thread at a time, which the caller sees to.
            self._database = sqlite3.connect(path or ":memory:", timeout=0, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._database.close()
                raise
            self._file, self._inode = path, path.stat().st_ino if path else 0

    def _refuse_others(self, path: Path) -> None:
        """Refuse another program's database by its header, before SQLite changes anything in it."""
        with suppress(FileNotFoundError), path.open("rb") as file:
            header = file.read(100)
            application = int.from_bytes(header[68:72])  # SQLite, "Database File Format", 1.3
            unwritten = application == 0 and path.with_name(f"{path.name}-wal").exists()  # it can be in there
            if header.startswith(b"SQLite format 3") and application != APPLICATION_ID and not unwritten:
                raise self._of_others()

    def _of_others(self) -> UserError:
        return UserError(
            f"{self.path}: found a database that is not a journal of schema {SCHEMA}; move it away or choose another "
            "OUTPUT"
        )

    def is_there(self) -> bool:
        """Return True unless its file was removed, so that nobody will read what is noted."""
        return not self._file or (self._file.exists() and self._file.stat().st_ino == self._inode)

    def _open(self) -> None:
        run = self._database.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        try:
            run("PRAGMA journal_mode = WAL")
            run("PRAGMA synchronous = NORMAL")  # see `publishing`
            run("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                raise UserError(f"{self.path}: another run is writing there; wait for it or stop it") from error
            raise
        (application,), (version,) = run("PRAGMA application_id").fetchone(), run("PRAGMA user_version").fetchone()
        tables = [name for (name,) in run("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if not tables:
            run(f"PRAGMA application_id = {APPLICATION_ID}")
            run(CREATE)
            version = FORMER_SCHEMA
        elif application != APPLICATION_ID or version not in (FORMER_SCHEMA, SCHEMA):
            raise self._of_others()
        if version == FORMER_SCHEMA:
            for statement in (*MIGRATE, f"PRAGMA user_version = {SCHEMA}"):
                run(statement)
        self.former_marks = tuple(mark for (mark,) in run("SELECT mark FROM marks"))
        run("INSERT OR REPLACE INTO marks VALUES (?)", (MARK,))
        run("COMMIT")

    def close(self) -> None:
        """Commit, if that can be done, and release the lock."""
        with suppress(JournalError):  # what is not noted is done again
            self.forget_marks([MARK])
            self.commit()
        self._database.close()

    def forget_marks(self, marks: Iterable[str]) -> None:
        """Forget processes whose temporary files are removed; `former_marks` has those to remove."""
        with _as_journal_errors(self.path):
            self._transaction()
            self._database.executemany("DELETE FROM marks WHERE mark = ?", [(mark,) for mark in marks])

    def find(self, output: str) -> Row | None:
        """What is known of an output."""
        with _as_journal_errors(self.path):
            found = self._database.execute(
                f"SELECT {COLUMNS} FROM files WHERE output = ?", (os.fsencode(output),)
            ).fetchone()
        if found is None:
            return None
        _check_whole(self.path, *found)
        name, identity, checksum, recipe, root, *rest = found
        return Row(os.fsdecode(name), identity, checksum, recipe, os.fsdecode(root), *rest)

    def knows(self, digest: str) -> bool:
        """Return True if an output has, or was about to have, the content of this SHA-256."""
        with _as_journal_errors(self.path):
            found = self._database.execute("SELECT 1 FROM files WHERE digest = ? OR publishing = ?", (digest, digest))
            return found.fetchone() is not None

    def outputs(self) -> Iterator[tuple[str, str]]:
        """All inputs, each with every output that it was given.

        Raises:
            JournalError: also where an output does not lie below OUTPUT, which no run writes.
        """
        with _as_journal_errors(self.path):
            for name, output in self._database.execute("SELECT name, output FROM files"):
                _check_whole(self.path, name, output)
                if not is_below(os.fsdecode(output)):
                    raise JournalError(
                        f"{self.path}: the journal cannot be used (it names {os.fsdecode(output)!r}, which is not in "
                        "OUTPUT, so it is damaged); move it away"
                    )
                yield os.fsdecode(name), os.fsdecode(output)

    def begin(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Write rows by output and commit: from now on the outputs may appear."""
        with _as_journal_errors(self.path):
            self._end_transaction()
            self._database.execute("PRAGMA synchronous = FULL")  # the next commit comes back when it is on disk
            try:
                self._transaction()
                self._database.executemany(INSERT, (_values(output, row) for output, row in rows))
                self._end_transaction()
            finally:
                if not self._database.in_transaction:
                    self._database.execute("PRAGMA synchronous = NORMAL")

    def publishing(self, digests: Iterable[tuple[str, str]]) -> None:
        """Note the digests of outputs, by their names, that are about to be published.

        From now on a kill does not lose them. A power cut can: the next run then colours the photos again, and finds
        equal outputs. Waiting for the disk here would cost a tenth of the time of thumbnails.
        """
        with _as_journal_errors(self.path):
            self._transaction()
            self._database.executemany(
                "UPDATE files SET publishing = ? WHERE output = ?",
                [(digest, os.fsencode(output)) for output, digest in digests],
            )
            self._end_transaction()

    def settle(self, output: str, state: str, *, size: int | None = None, digest: str = "", reason: str = "") -> None:
        """Note how an output ended, and its size and digest where it is done; durable after the next `commit`."""
        with _as_journal_errors(self.path):
            self._transaction()
            self._database.execute(
                "UPDATE files SET state = ?, size = coalesce(?, size), digest = CASE WHEN ? <> '' THEN ? ELSE digest "
                "END, publishing = '', reason = ? WHERE output = ?",
                # Reasons quote file names, which need not be text either.
                (state, size, digest, digest, reason.encode("utf-8", "replace").decode(), os.fsencode(output)),
            )

    def restore(self, rows: Mapping[str, Row | None]) -> None:
        """Put back what was known of outputs that were begun and not come to; None is nothing."""
        with _as_journal_errors(self.path):
            self._transaction()
            for output, row in rows.items():
                if row:
                    self._database.execute(INSERT, _values(output, row))
                else:
                    self._database.execute("DELETE FROM files WHERE output = ?", (os.fsencode(output),))

    def refresh(self, output: str, identity: str, checksum: str) -> None:
        """Note another size and version of an input that is the same, and its checksum where it is known."""
        with _as_journal_errors(self.path):
            self._transaction()
            self._database.execute(
                "UPDATE files SET identity = ?, checksum = CASE WHEN ? <> '' THEN ? ELSE checksum END WHERE output = ?",
                (identity, checksum, checksum, os.fsencode(output)),
            )

    def commit(self) -> None:
        """Make everything that was noted durable."""
        with _as_journal_errors(self.path):
            self._end_transaction()
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)")  # which waits for the disk

    def _end_transaction(self) -> None:
        if self._database.in_transaction:
            self._database.execute("COMMIT")

    def _transaction(self) -> None:
        if not self._database.in_transaction:
            self._database.execute("BEGIN")


def journal_path(output: str, folder: Path | None) -> Path:
    """Where the journal of an OUTPUT lies.

    Args:
        output: the OUTPUT's identity.
        folder: its folder for work, None where it is not on this machine: then the journal is among the user's own
            state files, under a digest of the URL.
    """
    if folder:
        return folder / JOURNAL_NAME
    return state_folder() / f"{hashlib.sha256(os.fsencode(output)).hexdigest()[:16]}.sqlite"


def _values(output: str, row: Row) -> tuple[bytes | str | int, ...]:
    return (
        os.fsencode(output),
        os.fsencode(row.name),
        row.identity,
        row.checksum,
        row.recipe,
        os.fsencode(row.root),
        row.state,
        row.size,
        row.reason,
        row.digest,
        row.publishing,
    )


def _check_whole(path: Path | None, *values: object) -> None:
    """A database that was cut off can give rows without values."""
    if None in values:
        raise JournalError(f"{path}: the journal cannot be used (a row without values, so it is damaged); move it away")


@contextmanager
def _as_journal_errors(path: Path | None) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the rest of it tells more
        advice = "make room or permission there" if kind in OF_THE_DISK else "move it away"
        failed = JournalError(f"{path}: the journal cannot be used ({error}); {advice}")
        failed.errno = errno.ENOSPC if kind == sqlite3.SQLITE_FULL else None
        raise failed from error
