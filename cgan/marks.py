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

from cgan.files import MARK, OccupiedError

_MARKS = re.compile(rb"(?:[0-9a-f]{32}\n)*")

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
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(file, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise OccupiedError(file, "a link") from None
        raise
    with open(descriptor, "r+b", buffering=0) as opened:  # noqa: PTH123
        alone = _lock(opened, sharing)
        marks = _parsed(opened.read(), file)
        if alone and marks:
            clean(marks)
            opened.truncate(0)
        if alone and sharing is Sharing.TOGETHER:
            fcntl.flock(opened, fcntl.LOCK_SH)
        opened.write(f"{MARK}\n".encode())
        os.fsync(descriptor)
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
    if file.is_symlink():
        raise OccupiedError(file, "a link")
    try:
        return _parsed(file.read_bytes(), file)
    except FileNotFoundError:
        return frozenset()


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


def _parsed(content: bytes, file: Path) -> frozenset[str]:
    if not _MARKS.fullmatch(content):
        raise OccupiedError(file, "a file that cgan did not write")
    return frozenset(content.decode().split())


def _forget(file: BinaryIO, alone: bool | None, sharing: Sharing) -> None:
    """Forget this process's mark where no other one is noted beside it."""
    if alone and sharing is not Sharing.TOGETHER:
        file.truncate(0)
