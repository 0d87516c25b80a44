"""Marks of the processes that write in a folder, by which the temporary files of ended ones are known.

A process notes its `MARK` in a file that it keeps locked, before it makes its first temporary file. A process that has
the lock alone knows that all others that are noted have ended.
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

_MARKS = re.compile(rb"(?:[0-9a-f]{32}\n)*")
_PART = re.compile(rb"[0-9a-f]{1,32}")

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
"""Errors of file systems that cannot lock files, as some of clusters."""


class Sharing(Enum):
    """What happens where another process is at work in the folder."""

    REFUSED = auto()
    """This one gets a BlockingIOError."""
    IN_TURN = auto()
    """This one waits for its end."""
    TOGETHER = auto()
    """Both work at once."""


@contextmanager
def noted(file: Path, sharing: Sharing, clean: Callable[[frozenset[str]], object]) -> Iterator[bool]:
    """Keep this process's mark in a file of marks for as long as the block runs.

    Args:
        file: made where it is missing.
        sharing: what happens where another process is noted there and still at work.
        clean: called with the marks of ended processes, to remove what these left.

    Yields:
        False where the file system has no locks: nobody is kept out, and nothing is removed.

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
        found = opened.read()
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
        # After an interrupt the mark stays: it may have come while a temporary file was being removed.
        try:
            yield alone is not None
        except Exception:
            _forget(opened, alone, sharing)
            raise
        _forget(opened, alone, sharing)


def read_marks(file: Path) -> frozenset[str]:
    """Marks in a file of marks; none where there is no file.

    Raises:
        OccupiedError: the file holds something else.
        OSError: it cannot be read.
    """
    return _parsed(_whole(read_regular(file) or b"", file))


def _lock(file: BinaryIO, sharing: Sharing) -> bool | None:
    """Lock a file of marks: True where no other process is at work, None where the file system has no locks."""
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
    """The finished lines of a file of marks."""
    whole = whole_lines(content, _MARKS, _PART)
    if whole is None:
        raise OccupiedError(file, "a file that cgan did not write")
    return whole


def _parsed(lines: bytes) -> frozenset[str]:
    return frozenset(lines.decode().split())


def _forget(file: BinaryIO, alone: bool | None, sharing: Sharing) -> None:
    """Forget this process's mark where no other one is noted beside it."""
    if alone and sharing is not Sharing.TOGETHER:
        file.truncate(0)
