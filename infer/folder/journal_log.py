"""The log of a journal in a store: numbered objects OUTPUT/.cgan/journal/00000001.jsonl.gz and so on.

Each holds the rows that changed since the one before, so all of them in order make the journal. An object is created
only if there is none of its number; of two runs that write to one log, one therefore finds that it was overtaken. It is
replaced only if it has no rows, by the run that wrote it, to say that the run goes on. Rows of a snapshot repeat those
before it, which can then be removed in any order, because only the objects without a gap up to the newest count.
"""

import gzip
import hashlib
import json
import re
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from operator import attrgetter
from typing import Any

from cgan.files import canonical_json, temporary_mark
from cgan.readers import LARGE_BYTES, FormatError, parse_json, typed_field
from cgan.text import shown
from infer.folder.journal_row import COLUMN_TYPES, STATES, JournalError, Row
from infer.folder.remote import RemoteFolder
from infer.folder.storage import LOG_NAME, WORK_FOLDER
from infer.folder.thread_pools import IO_THREADS

SCHEMA = 1
OBJECT = re.compile(r"[0-9]{8}\.jsonl\.gz")

Change = tuple[str, Row | None]
"""An output and its new row; None if the row was deleted."""

_TYPES = [str, *(int if kind is int else str for kind in COLUMN_TYPES.values())]
_STATE = list(COLUMN_TYPES).index("state")
_columns_of = attrgetter(*COLUMN_TYPES)
_to_json = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True)
class Head:
    """First line of an object: who wrote it and when."""

    run: str
    """Mark of the process (`cgan.files.MARK`)."""
    host: str
    process: int
    time: str
    """By the clock of that machine, ISO 8601."""
    ended: bool
    """True if the run has written nothing after it."""
    snapshot_from: int
    """Number of the first object of a snapshot of all rows that is complete with this one; 0 for any other object."""


class JournalLog:
    """The objects of a log.

    Args:
        target: OUTPUT in a store.
        part: ending of the names of a shard's own files.
    """

    def __init__(self, target: RemoteFolder, part: str) -> None:
        self.target = target
        self.folder = f"{WORK_FOLDER}/{LOG_NAME}{part}"
        self.place = f"{target}/{self.folder}"
        """The log for messages."""
        self.number = 0
        """Number of the newest object that was read or written."""
        self._sha256 = ""
        """Digest of the newest object that was written."""

    def numbers(self) -> list[int]:
        """Return the numbers of all objects, sorted.

        Raises:
            OSError: the store cannot be listed.
        """
        return sorted(int(name[:8]) for name in self.target.names_in(self.folder) if OBJECT.fullmatch(name))

    def newest(self) -> int:
        """Return the largest number, 0 if there is no object; errors are those of `numbers`."""
        return max(self.numbers(), default=0)

    def head(self) -> Head | None:
        """Return the head of the newest object, None if there is no object.

        Raises:
            JournalError: the object is damaged or foreign.
            OSError: it cannot be read.
        """
        newest = self.newest()
        return self._opened(newest, self.target.fetch(_name_in(self.folder, newest)))[0] if newest else None

    def read(self) -> Iterator[tuple[Head, Iterator[Change]]]:
        """Yield heads and rows of all objects that count, in order.

        Raises:
            JournalError: an object is damaged, foreign or missing.
            OSError: an object cannot be read.
        """
        numbers = self.numbers()
        counting = [number for index, number in enumerate(numbers) if number + len(numbers) - 1 - index == numbers[-1]]
        is_whole = counting[:1] in ([], [1])
        for number, content in self._fetched(counting):
            head, changes = self._opened(number, content)
            is_whole |= head.snapshot_from >= counting[0]
            self.number = number
            yield head, changes
        if not is_whole:
            raise self._unusable(f"found objects from {counting[0]} on, expected those before it too")

    def _fetched(self, numbers: list[int]) -> Iterator[tuple[int, bytes]]:
        """Yield the contents of objects, some of which are fetched ahead."""
        ahead: deque[tuple[int, Future[Any]]] = deque()
        waiting = iter(numbers)
        with ThreadPoolExecutor(IO_THREADS) as pool:
            while True:
                for number in islice(waiting, 2 * IO_THREADS - len(ahead)):
                    ahead.append((number, pool.submit(self.target.fetch, _name_in(self.folder, number))))
                if not ahead:
                    return
                number, content = ahead.popleft()
                try:
                    found = content.result()
                except FileNotFoundError as error:
                    raise JournalError(f"{self.place}: found a run that began meanwhile; try again later") from error
                yield number, found

    def _opened(self, number: int, content: Any) -> tuple[Head, Iterator[Change]]:
        """Return head and rows of an object.

        Raises:
            JournalError: it is damaged or foreign.
        """
        try:
            head, lines = _unpacked(content, number)
        except FormatError as error:
            raise self._unusable(str(error), number) from error
        return head, self._changes(lines, number)

    def _changes(self, lines: list[bytes], number: int) -> Iterator[Change]:
        try:
            # Each call of the parser takes longer than a row.
            yield from map(_change_of, parse_json(b"[" + b",".join(lines) + b"]"))
        except FormatError as error:
            raise self._unusable(str(error), number) from error

    def _unusable(self, problem: str, number: int | None = None) -> JournalError:
        where = self.place if number is None else _name_in(self.place, number)
        return JournalError(f"{where}: the journal cannot be used ({problem}); move {self.place} away")

    def write(self, head: Head, changes: Iterable[Change], again: bool = False) -> None:
        """Write the next object; or the last one `again` with a later head, if it has no rows.

        Raises:
            OccupiedError: another run has written it.
            OSError: it cannot be written.
        """
        lines = [_to_json(_values_of(output, row)) for output, row in changes]
        number = self.number if again else self.number + 1
        content = _packed(head, number, lines)
        self.target.write_own(_name_in(self.folder, number), content, {self._sha256} if again else ())
        self.number, self._sha256 = number, hashlib.sha256(content).hexdigest()

    def age(self, head: Head) -> float:
        """Return the seconds since the newest object was written: by the store's clock, or by those of both machines.

        Raises:
            OSError: the store cannot be asked.
        """
        written = self.target.modified(_name_in(self.folder, self.newest()))
        if written is None:
            return (datetime.now(UTC) - datetime.fromisoformat(head.time).astimezone(UTC)).total_seconds()
        with self.target.probe() as probe:
            now = self.target.modified(probe.name)
        assert now is not None
        return (now - written).total_seconds()

    def remove(self, below: int, marks: Iterable[str] = ()) -> None:
        """Remove the objects with smaller numbers than `below`, and temporary files of processes with these marks.

        Raises:
            JournalError: an object is foreign; it stays.
            OSError: an object cannot be removed.
        """
        old = [number for number in self.numbers() if number < below]
        for number, content in self._fetched(old):
            self._opened(number, content)
        unfinished = {name for name in self.target.names_in(self.folder) if temporary_mark(name) in set(marks)}
        names = [*(_name_in(self.folder, number) for number in old), *(f"{self.folder}/{name}" for name in unfinished)]
        with ThreadPoolExecutor(IO_THREADS) as pool:
            list(pool.map(self.target.remove, names))


def _name_in(folder: str, number: int) -> str:
    return f"{folder}/{number:08d}.jsonl.gz"


def _values_of(output: str, row: Row | None) -> list[str | int]:
    """Return a row as JSON values; bytes of names that are no UTF-8 are surrogates, which JSON escapes."""
    return [output, *_columns_of(row)] if row else [output]


def _change_of(found: object) -> Change:
    """Return the row of a JSON value.

    Raises:
        FormatError: it is no row.
    """
    if not isinstance(found, list) or [type(value) for value in found] not in (_TYPES, [str]):
        raise FormatError(f"found {shown(found)}, expected a row")
    output, *values = found
    if not values:
        return output, None
    if (state := values[_STATE]) not in STATES:
        raise FormatError(f"found a row of state {shown(state)}, expected one of {', '.join(STATES)}")
    values[_STATE] = STATES[state]
    return output, Row(*values)


def _packed(head: Head, number: int, lines: list[str]) -> bytes:
    """Return the content of an object."""
    body = "".join(f"{line}\n" for line in lines).encode()
    digest = hashlib.sha256(body).hexdigest()
    first = canonical_json({"cgan_journal": SCHEMA, "number": number, **asdict(head), "sha256": digest})
    return gzip.compress(f"{first}\n".encode() + body, 6, mtime=0)


def _unpacked(content: bytes, number: int) -> tuple[Head, list[bytes]]:
    """Return head and lines of an object.

    Raises:
        FormatError: it is no such object, or damaged.
    """
    unpacker = zlib.decompressobj(wbits=31)  # gzip
    try:
        text = unpacker.decompress(content, LARGE_BYTES)
    except zlib.error as error:
        raise FormatError(f"found no gzip ({error}), expected part of a journal") from error
    if not unpacker.eof:
        raise FormatError(f"found a file that is cut off, or larger than {LARGE_BYTES:,} bytes unpacked")
    first, _, body = text.partition(b"\n")
    values = parse_json(first)
    found = {name: typed_field(values, name, int) for name in ("cgan_journal", "number")}
    if found != {"cgan_journal": SCHEMA, "number": number}:
        raise FormatError(f"found {found}, expected schema {SCHEMA} and number {number}")
    if typed_field(values, "sha256", str) != hashlib.sha256(body).hexdigest():
        raise FormatError("found rows that do not fit their sha256, so it is damaged")
    head = Head(
        run=typed_field(values, "run", str),
        host=typed_field(values, "host", str),
        process=typed_field(values, "process", int),
        time=typed_field(values, "time", str),
        ended=typed_field(values, "ended", bool),
        snapshot_from=typed_field(values, "snapshot_from", int),
    )
    try:
        datetime.fromisoformat(head.time)
    except ValueError as error:
        raise FormatError(f"found the time {head.time!r}, expected ISO 8601") from error
    return head, body.split(b"\n")[:-1]
