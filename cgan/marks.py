"""Marks of the processes that write in a folder; they identify the temporary files of ended processes.

Before its first temporary file, a process adds its `MARK` to a file and keeps that file locked. A process that holds an
exclusive lock knows that all other processes in the file have ended.
"""

import errno
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from pathlib import Path
from typing import BinaryIO

from cgan.files import MARK, OccupiedError, append, open_regular, read_regular, whole_lines
from cgan.readers import SMALL_BYTES

_MARKS = re.compile(rb"(?:[0-9a-f]{32}\n)*")
_PART = re.compile(rb"[0-9a-f]{1,32}")

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
"""errno values of file systems without locks, such as some cluster file systems."""


class Sharing(Enum):
    """Policy if another process writes in the folder."""

    REFUSED = auto()
    """Raise BlockingIOError."""
    IN_TURN = auto()
    """Wait until it ends."""
    TOGETHER = auto()
    """Work at the same time."""


@contextmanager
def noted(file: Path, sharing: Sharing, clean: Callable[[frozenset[str]], object]) -> Iterator[bool]:
    """Keep this process's mark in a file of marks while the block runs.

    Args:
        file: created if it is missing.
        sharing: policy if another process in the file is still at work.
        clean: called with the marks of ended processes, to remove their temporary files.

    Yields:
        False if the file system has no locks; then no process is kept out and nothing is removed.

    Raises:
        BlockingIOError: another process is at work, with Sharing.REFUSED.
        OccupiedError: the file holds something else.
        OSError: it cannot be written.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    descriptor = open_regular(file, flags)
    if descriptor is None:
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(file.parent))
    with open(descriptor, "r+b", buffering=0) as opened:  # noqa: PTH123
        alone = _lock(opened, sharing)
        found = opened.read(SMALL_BYTES + 1)
        if len(found) > SMALL_BYTES:
            raise OccupiedError(file, f"a file of more than {SMALL_BYTES:,} bytes")
        whole = _whole(found, file)
        marks = _parsed(whole)
        if whole != found and os.fstat(descriptor).st_size == len(found):
            opened.truncate(len(whole))
        if alone and marks:
            clean(marks)
            opened.truncate(0)
        if alone and sharing is Sharing.TOGETHER:
            fcntl.flock(opened, fcntl.LOCK_SH)
        append(descriptor, f"{MARK}\n".encode())
        # After a KeyboardInterrupt the mark stays, because a temporary file may not have been removed.
        try:
            yield alone is not None
        except Exception:
            _forget(opened, alone, sharing)
            raise
        _forget(opened, alone, sharing)


def read_marks(file: Path) -> frozenset[str]:
    """Return the marks in a file of marks; empty if there is no file.

    Raises:
        OccupiedError: the file holds something else.
        OSError: it cannot be read.
    """
    return _parsed(_whole(read_regular(file, SMALL_BYTES) or b"", file))


def _lock(file: BinaryIO, sharing: Sharing) -> bool | None:
    """Lock a file of marks; return True if no other process is at work, None if the file system has no locks."""
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if sharing is Sharing.REFUSED:
                raise
            fcntl.flock(file, fcntl.LOCK_SH if sharing is Sharing.TOGETHER else fcntl.LOCK_EX)
            return sharing is Sharing.IN_TURN
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _whole(content: bytes, file: Path) -> bytes:
    """Return the finished lines of a file of marks."""
    whole = whole_lines(content, _MARKS, _PART)
    if whole is None:
        raise OccupiedError(file, "a file that cgan did not write")
    return whole


def _parsed(lines: bytes) -> frozenset[str]:
    return frozenset(lines.decode().split())


def _forget(file: BinaryIO, alone: bool | None, sharing: Sharing) -> None:
    """Remove this process's mark if no other process has one in the file."""
    if alone and sharing is not Sharing.TOGETHER:
        file.truncate(0)
