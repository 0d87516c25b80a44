"""Documents at a path that the user names: a new file, an earlier document, or a stream such as /dev/stdout."""

import errno
import hashlib
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from cgan.errors import UserError, cannot_write
from cgan.files import OccupiedError, atomic_path, read_regular
from cgan.readers import LARGE_BYTES, FormatError, parse_json

READER_SECONDS = 10.0
"""Seconds to wait for the reader of a FIFO."""

IsOwn = Callable[[bytes], bool]
"""Returns True if a content is an earlier document of the same command."""


def json_with(keys: frozenset[str]) -> IsOwn:
    """Return a test for JSON objects that have these keys."""

    def is_own(content: bytes) -> bool:
        try:
            values = parse_json(content)
        except FormatError:
            return False
        return isinstance(values, dict) and keys <= values.keys()

    return is_own


def check_document(path: Path, is_own: IsOwn, option: str, others: Collection[Path] = ()) -> None:
    """Check that a document can be written, before anything slow begins; nothing is changed.

    Args:
        path: the path that the user named; links are followed.
        is_own: test for an earlier document, which may be replaced.
        option: name of the option for messages; empty if the user gave none.
        others: files that the same command reads or writes.

    Raises:
        UserError: there is no folder, or something is there that is not an earlier document.
        GateError: the disk is full.
    """
    if _is_stream(path):
        return
    label = f"{option} {path}".strip()
    real = _real(path)
    if any(_real(other) == real for other in others):
        raise UserError(f"{label}: found the name of a file that this command reads or writes; give another")
    if not real.parent.is_dir():
        raise UserError(f"{label}: found no folder {real.parent}; make it, or choose another place")
    try:
        _own_digests(real, is_own)
        with tempfile.TemporaryFile(dir=real.parent):
            pass
    except OccupiedError:
        raise UserError(
            f"{label}: found something that this command did not write, expected nothing or an earlier "
            "file of it; move it away or give another name"
        ) from None
    except OSError as error:
        raise cannot_write(path, error) from error


def write_document(path: Path, content: bytes, is_own: IsOwn) -> None:
    """Write a document whole or not at all, or into a stream.

    Args:
        path: the path that the user named; links are followed.
        content: the document.
        is_own: test for an earlier document, which is replaced.

    Raises:
        OccupiedError: something else is there; it stays.
        OSError: it cannot be written.
    """
    if _is_stream(path):
        with open(_descriptor(path), "wb") as stream:
            stream.write(content)
        return
    real = _real(path)
    with atomic_path(real, _own_digests(real, is_own)) as temporary:
        temporary.write_bytes(content)


def _own_digests(path: Path, is_own: IsOwn) -> frozenset[str]:
    """Return the digests that a document may replace: that of an earlier document or of an empty file.

    Raises:
        OccupiedError: something else is there.
        OSError: it cannot be read.
    """
    content = read_regular(path, LARGE_BYTES)
    if content is None:
        return frozenset()
    if content and not is_own(content):
        raise OccupiedError(path, "a file that is no earlier document")
    return frozenset({hashlib.sha256(content).hexdigest()})


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _is_stream(path: Path) -> bool:
    """Return True for a device, a FIFO or a socket, and for this process's own output, which a shell can redirect."""
    try:
        status = path.stat()
    except OSError:
        return False
    return _standard(status) is not None or not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode))


def _descriptor(path: Path) -> int:
    """Open a stream for writing and return its descriptor."""
    status = path.stat()
    standard = _standard(status)
    if standard is not None:
        if sys.stdout:  # None if it is closed
            sys.stdout.flush()
        return os.dup(standard)
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY
    if not stat.S_ISFIFO(status.st_mode):
        return os.open(path, flags)
    end = time.monotonic() + READER_SECONDS
    while True:
        try:
            descriptor = os.open(path, flags | os.O_NONBLOCK)
            os.set_blocking(descriptor, True)
            return descriptor
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > end:
                raise
            time.sleep(0.05)


def _standard(status: os.stat_result) -> int | None:
    """Return 1 or 2 if a file is standard output or standard error: if it were replaced, later output would be lost."""
    for standard in (1, 2):
        with suppress(OSError):
            if os.path.samestat(status, os.fstat(standard)):
                return standard
    return None
