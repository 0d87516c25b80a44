"""The journal of an OUTPUT folder: which output was made from which input, so that a repeated run does only the rest.

A row is written as begun before its output may appear, gets the digest of the output before it is published, and is
set to done once the output is flushed to disk. A run that is killed leaves begun rows and complete outputs, and the
next run recognises its own files by their digests.
"""

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cgan.errors import UserError
from cgan.files import MARK, open_regular
from cgan.text import shown
from infer.folder.journal_row import (
    COLUMN_TYPES,
    COLUMNS,
    ENCODING,
    FAILED,
    JournalError,
    Row,
    RowState,
    check_row,
    row_of,
    values_of,
)
from infer.folder.storage import is_below

SCHEMA = 2
FORMER_SCHEMA = 1
"""Earlier schema without digests of outputs, which count as unknown, and without marks."""

SCHEMAS = {FORMER_SCHEMA: {("table", "files")}, SCHEMA: {("table", "files"), ("table", "marks")}}
"""Type and name of all that a journal holds, by its schema."""

APPLICATION_ID = 0x6347414E
"""Application id of the database: "cGAN"."""

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
"""Statements that migrate the former schema to the current one."""

LONGEST_ROW = 2**24
"""Largest row in bytes. Rows have some hundred; a damaged file can claim a billion."""

INSERT = f"INSERT OR REPLACE INTO files (output, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

OF_THE_DISK = frozenset(
    {
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN),
        *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM),
    }
)
"""Errors of SQLite that come from the file system, not from a damaged journal."""


DATABASE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""Errors of a damaged database; one in whose message SQLite quotes bytes that are no text is a UnicodeDecodeError."""


class Journal:
    """Rows by output, because an input has one output per format. An open journal locks its OUTPUT for other runs.

    Args:
        path: the database, created if missing; None for a journal in memory, for a dry run.
        shown: name for messages, if `path` is a copy.

    Raises:
        UserError: another run has the journal open, or the file is not a journal of this version.
        JournalError: the journal cannot be read or written.
    """

    chunk = 64
    """Number of outputs that are noted as begun at a time."""

    overtaken = ""
    """Why the run may write no longer, because another one has taken over; empty if it may."""

    def __init__(self, path: Path | None, shown: Path | str | None = None) -> None:
        self.path = shown or path
        self._ahead: dict[str, Row | None] = {}
        with _as_journal_errors(self.path):
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._refuse_others(path)
            # The caller ensures that only one thread at a time uses it.
            self._database = sqlite3.connect(path or ":memory:", timeout=0, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._database.close()
                raise
            self._file, self._inode = path, path.stat().st_ino if path else 0

    def _refuse_others(self, path: Path) -> None:
        """Refuse the database of another program by its header, before SQLite changes it."""
        descriptor = open_regular(os.path.realpath(path))
        if descriptor is None:
            return
        with open(descriptor, "rb") as file:  # noqa: PTH123
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
        """Return False if the file of the journal was removed."""
        return not self._file or (self._file.exists() and self._file.stat().st_ino == self._inode)

    def _open(self) -> None:
        run = self._database.execute
        self._database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_ROW)
        run("PRAGMA trusted_schema = OFF")
        run("PRAGMA cell_size_check = ON")
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
        # Views and triggers of another program's making would run with the statements below.
        schema = set(run("SELECT type, name FROM sqlite_master WHERE name NOT GLOB 'sqlite_*'"))
        if not schema:
            run(f"PRAGMA application_id = {APPLICATION_ID}")
            run(CREATE)
            version = FORMER_SCHEMA
        elif application != APPLICATION_ID or schema != SCHEMAS.get(version):
            raise self._of_others()
        if version == FORMER_SCHEMA:
            for statement in (*MIGRATE, f"PRAGMA user_version = {SCHEMA}"):
                run(statement)
        marks = run("SELECT mark FROM marks").fetchall()
        for row in marks:
            check_row(self.path, {"mark": str}, row)
        self.former_marks = tuple(mark for (mark,) in marks)
        run("INSERT OR REPLACE INTO marks VALUES (?)", (MARK,))
        run("COMMIT")

    def close(self) -> None:
        """Commit if possible, and release the lock; a journal without outputs is removed.

        It would make the folder look like an OUTPUT, for example the photos of somebody who swapped INPUT and OUTPUT.
        """
        with suppress(JournalError):  # work that is not noted is repeated by the next run
            self.forget_marks([MARK])
            self.commit()
            if self._file and self._is_without_outputs() and self.is_there():
                self._remove(self._file)
        self._database.close()

    def _is_without_outputs(self) -> bool:
        """Return True if the rows are of photos that failed and never had an output, and no other run left a mark."""
        with _as_journal_errors(self.path):
            row = "SELECT 1 FROM files WHERE state != ? OR digest != '' OR size != 0"
            found = self._database.execute(f"{row} UNION ALL SELECT 1 FROM marks LIMIT 1", (FAILED,)).fetchone()
        return found is None

    @staticmethod
    def _remove(file: Path) -> None:
        for name in (f"{file.name}-wal", f"{file.name}-shm", file.name):
            with suppress(OSError):
                file.with_name(name).unlink()
        with suppress(OSError):  # other files are in there
            file.parent.rmdir()

    def add_mark(self, mark: str) -> None:
        """Note the mark of another process of this run; durable with the next rows that begin."""
        with _as_journal_errors(self.path):
            self._transaction()
            self._database.execute("INSERT OR REPLACE INTO marks VALUES (?)", (mark,))

    def forget_marks(self, marks: Iterable[str]) -> None:
        """Forget processes whose temporary files were removed; `former_marks` lists the processes of earlier runs."""
        with _as_journal_errors(self.path):
            self._transaction()
            self._database.executemany("DELETE FROM marks WHERE mark = ?", [(mark,) for mark in marks])

    def find(self, output: str) -> Row | None:
        """Return the row of an output, None if there is none."""
        if output in self._ahead:
            return self._ahead.pop(output)
        with _as_journal_errors(self.path):
            found = self._database.execute(
                f"SELECT {COLUMNS} FROM files WHERE output = ?", (os.fsencode(output),)
            ).fetchone()
        return row_of(self.path, found) if found else None

    def look_ahead(self, outputs: Sequence[str]) -> None:
        """Read the rows of outputs that `find` is asked for next, in one query; they are kept until the next change."""
        self._ahead = dict.fromkeys(outputs)
        names = [os.fsencode(output) for output in outputs]
        places = ", ".join("?" * len(names))
        with _as_journal_errors(self.path):
            found = self._database.execute(f"SELECT output, {COLUMNS} FROM files WHERE output IN ({places})", names)
            for values in found:
                self._ahead[values[0].decode(*ENCODING)] = row_of(self.path, values[1:])

    def knows(self, digest: str) -> bool:
        """Return True if an output has, or was about to get, the content with this SHA-256."""
        with _as_journal_errors(self.path):
            found = self._database.execute("SELECT 1 FROM files WHERE digest = ? OR publishing = ?", (digest, digest))
            return found.fetchone() is not None

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Yield all outputs with their rows; nothing is written meanwhile.

        Raises:
            JournalError: the journal cannot be read, or names an output outside OUTPUT, which no run writes.
        """
        for output, values in self._all(COLUMNS, COLUMN_TYPES):
            yield output, row_of(self.path, values)

    def outputs(self) -> Iterator[tuple[str, str]]:
        """Yield all pairs of input and output; errors are those of `rows`."""
        for output, (stored,) in self._all("name", {"name": bytes}):
            name = stored.decode(*ENCODING)
            yield name, name if name == output else output  # the same object saves memory

    def _all(self, columns: str, types: Mapping[str, type]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Yield all outputs with columns of their rows, of which the first is the name; errors are those of `rows`."""
        expected = (bytes, *types.values())
        with _as_journal_errors(self.path):
            for found in self._database.execute(f"SELECT output, {columns} FROM files"):
                if tuple(map(type, found)) != expected:
                    check_row(self.path, {"output": bytes, **types}, found)
                output = found[0].decode(*ENCODING)
                if not is_below(output) or b"\0" in found[1]:
                    raise JournalError(
                        f"{self.path}: the journal cannot be used (it names {shown(output)}, which is not in OUTPUT, "
                        "so it is damaged); move it away"
                    )
                yield output, found[1:]

    def begin(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Write rows by output and commit; from then on the outputs may appear."""
        with _as_journal_errors(self.path):
            self._end_transaction()
            self._database.execute("PRAGMA synchronous = FULL")  # the next commit waits for the disk
            try:
                self._transaction()
                self._database.executemany(INSERT, (values_of(output, row) for output, row in rows))
                self._end_transaction()
            finally:
                if not self._database.in_transaction:
                    self._database.execute("PRAGMA synchronous = NORMAL")

    def publishing(self, outputs: Iterable[tuple[str, str, str]]) -> None:
        """Note names, digests and notes of outputs that are about to be published.

        Digests survive a killed process, but not a power failure: the next run then colours the photos again and finds
        equal outputs. Waiting for the disk would cost a tenth of the time of thumbnails.
        """
        with _as_journal_errors(self.path):
            self._transaction()
            self._database.executemany(
                "UPDATE files SET publishing = ?, reason = ? WHERE output = ?",
                [(digest, _text(notes), os.fsencode(output)) for output, digest, notes in outputs],
            )
            self._end_transaction()

    def settle(
        self, output: str, state: RowState, *, size: int | None = None, digest: str = "", reason: str = ""
    ) -> None:
        """Note the final state of an output, with size and digest if it is done; durable after the next `commit`."""
        with _as_journal_errors(self.path):
            self._transaction()
            self._database.execute(
                "UPDATE files SET state = ?, size = coalesce(?, size), digest = CASE WHEN ? <> '' THEN ? ELSE digest "
                "END, publishing = '', reason = ? WHERE output = ?",
                (state, size, digest, digest, _text(reason), os.fsencode(output)),
            )

    def restore(self, rows: Mapping[str, Row | None]) -> None:
        """Restore the earlier rows of outputs, such as those begun but not finished; None deletes the row."""
        with _as_journal_errors(self.path):
            self._transaction()
            for output, row in rows.items():
                if row:
                    self._database.execute(INSERT, values_of(output, row))
                else:
                    self._database.execute("DELETE FROM files WHERE output = ?", (os.fsencode(output),))

    def refresh(self, output: str, identity: str, checksum: str) -> None:
        """Note a new size and version of an unchanged input, and its checksum unless empty."""
        with _as_journal_errors(self.path):
            self._transaction()
            self._database.execute(
                "UPDATE files SET identity = ?, checksum = CASE WHEN ? <> '' THEN ? ELSE checksum END WHERE output = ?",
                (identity, checksum, checksum, os.fsencode(output)),
            )

    def clear(self) -> None:
        """Delete all rows."""
        with _as_journal_errors(self.path):
            self._transaction()
            self._database.execute("DELETE FROM files")

    def flush(self) -> None:
        """Make all notes durable, also for other machines if the journal is shared with them."""
        self.commit()

    def commit(self) -> None:
        """Flush all notes to disk."""
        with _as_journal_errors(self.path):
            self._end_transaction()
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)")  # which waits for the disk

    def _end_transaction(self) -> None:
        if self._database.in_transaction:
            self._database.execute("COMMIT")

    def _transaction(self) -> None:
        self._ahead.clear()
        if not self._database.in_transaction:
            self._database.execute("BEGIN")


def _text(reason: str) -> str:
    """Return valid text: reasons quote file names, which need not be."""
    return reason.encode("utf-8", "replace").decode()


@contextmanager
def _as_journal_errors(path: Path | str | None) -> Iterator[None]:
    try:
        yield
    except DATABASE_ERRORS as error:
        kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the high bits are the extended code
        advice = "make room or permission there" if kind in OF_THE_DISK else "move it away"
        failed = JournalError(f"{path}: the journal cannot be used ({error}); {advice}")
        failed.errno = errno.ENOSPC if kind == sqlite3.SQLITE_FULL else None
        raise failed from error
