"""Files that appear whole or not at all and never replace another program's file; digests of content.

A file is written under a temporary name. `place` then renames it, and is told which contents it may replace.
"""

import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

MARK = secrets.token_hex(16)
"""Random mark of this process in the names of its temporary files."""

_PREFIX, _SUFFIX = ".cgan-", ".tmp"
_ASIDE = (".exchanged", ".exchanged.old")
"""Suffixes of names that a file has for a moment while it is exchanged for another."""


class OccupiedError(FileExistsError):
    """The name of a file is taken by something that must not be replaced."""

    def __init__(self, path: str | os.PathLike[str], found: str) -> None:
        super().__init__(errno.EEXIST, f"found {found} there", os.fspath(path))


def canonical_json(values: object) -> str:
    """Return JSON text that is equal for equal values: sorted keys, no spaces."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def json_sha256(values: object) -> str:
    """Return the SHA-256 of the canonical JSON of `values`, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits; the file is read in chunks.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_path(path: Path, replaces: Collection[str] | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which is renamed to `path` when the block ends without an exception.

    The content is flushed to disk before the rename, so `path` holds either the old file or the whole new one, even
    after a power cut. After an exception the temporary file is removed.

    Args:
        path: the final name.
        replaces: contents that may be replaced, as in `place`.

    Raises:
        OccupiedError: something else has that name.
        OSError: `path` is a folder, a device or the like, or cannot be written.
    """
    check_replaceable(path)
    temporary = path.with_name(temporary_name())
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        place(temporary, path, replaces)
    finally:
        temporary.unlink(missing_ok=True)


def place(
    temporary: str | os.PathLike[str],
    target: str | os.PathLike[str],
    replaces: Collection[str] | None,
    *,
    temporary_folder: int | None = None,
    target_folder: int | None = None,
) -> None:
    """Rename a finished temporary file to its final name.

    A file that must not be replaced stays, even if it appears or changes while this function runs. A free name is taken
    by a rename that fails if the name exists. An old file is exchanged for the new one, and checked again before it is
    removed.

    Args:
        temporary: the file, on the file system of `target`.
        target: the final name; a link there is not followed.
        replaces: SHA-256 digests of the contents that may be replaced; empty if the name must be free; None for any
            content, and for a link.
        temporary_folder, target_folder: descriptors of the folders that the two names are relative to.

    Raises:
        OccupiedError: something else has that name; the temporary file stays.
        OSError: the name cannot be taken.
    """
    if replaces is None:
        os.replace(temporary, target, src_dir_fd=temporary_folder, dst_dir_fd=target_folder)
        return
    move = _Move(os.fspath(temporary), os.fspath(target), temporary_folder, target_folder)
    found = look_at(target, target_folder) if replaces else None
    if found is None:
        move.to_new_name()
    elif found.sha256 in replaces:
        move.over(found)
    else:
        raise OccupiedError(target, "another file")


class Content(NamedTuple):
    """Digest and version of a regular file."""

    sha256: str
    version: tuple[int, ...]
    """Device, inode, size and modification time, equal as long as the file is unchanged."""


def look_at(path: str | os.PathLike[str], folder: int | None = None) -> Content | None:
    """Return digest and version of a regular file; None if nothing has that name.

    Args:
        path: the file; a link is not followed.
        folder: descriptor of the folder that the path is relative to.

    Raises:
        OccupiedError: a link, a folder or a device.
        OSError: it cannot be read.
    """
    descriptor = open_regular(path, folder=folder)
    if descriptor is None:
        return None
    with open(descriptor, "rb") as file:  # noqa: PTH123
        return Content(hashlib.file_digest(file, "sha256").hexdigest(), _version(os.fstat(descriptor)))


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes | None:
    """Return the bytes of a regular file; None if nothing has that name.

    Args:
        path: the file; a link is not followed.
        limit: its largest size in bytes.

    Raises:
        OccupiedError: a link, a folder, a device, or a larger file.
        OSError: it cannot be read.
    """
    descriptor = open_regular(path)
    if descriptor is None:
        return None
    with open(descriptor, "rb") as file:  # noqa: PTH123
        size = os.fstat(descriptor).st_size
        content = b"" if size > limit else file.read(limit + 1)
    if max(size, len(content)) > limit:
        raise OccupiedError(path, f"a file of {max(size, len(content)):,} bytes")
    return content


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY, *, folder: int | None = None) -> int | None:
    """Open a regular file without blocking; None if nothing has that name.

    Args:
        path: the file; a link is not followed.
        flags: as of `os.open`.
        folder: descriptor of the folder that the path is relative to.

    Returns:
        A descriptor, which the caller closes.

    Raises:
        OccupiedError: a link, a folder or a device.
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):  # a link, as BSD says it, a socket
            raise OccupiedError(path, "a link or a device") from None
        if error.errno == errno.EISDIR:
            raise OccupiedError(path, "a folder") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OccupiedError(path, "a folder or a device")
    return descriptor


def append(descriptor: int, content: bytes) -> None:
    """Append to a file and flush it to disk: all of the content or, with an exception, none of it.

    On a full disk a single write can be partial.

    Args:
        descriptor: opened with O_APPEND.
        content: bytes to append.

    Raises:
        OSError: it cannot be written.
    """
    written, begin = 0, 0
    try:
        while written < len(content):
            count = os.write(descriptor, content[written:])
            begin = begin if written else os.lseek(descriptor, 0, os.SEEK_CUR) - count
            written += count
        os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            # Bytes that another process has appended meanwhile stay.
            if written and os.fstat(descriptor).st_size == begin + written:
                os.ftruncate(descriptor, begin)
        raise


def whole_lines(content: bytes, whole: re.Pattern[bytes], part: re.Pattern[bytes]) -> bytes | None:
    """Return the finished lines of a file written by `append`, without an unfinished last line.

    Args:
        content: of the file.
        whole: matches finished lines.
        part: matches an unfinished line; accepted only after a finished one, because alone it may be another program's.

    Returns:
        The finished lines; None if the file holds something else.
    """
    lines, newline, rest = content.rpartition(b"\n")
    if not whole.fullmatch(lines + newline) or (rest and not (newline and part.fullmatch(rest))):
        return None
    return lines + newline


def check_replaceable(path: Path) -> None:
    """Check that `path` is free or a regular file.

    Raises:
        OSError: it is something else.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def temporary_name() -> str:
    """Return a new name for a temporary file, with this process's mark."""
    return f"{_PREFIX}{MARK}-{secrets.token_hex(6)}{_SUFFIX}"


def temporary_mark(name: str) -> str | None:
    """Return the mark in the name of a temporary file; None for other names."""
    mark, separator, rest = name.removeprefix(_PREFIX).partition("-")
    return mark if separator and name.startswith(_PREFIX) and rest.endswith((_SUFFIX, *_ASIDE)) else None


def remove_temporaries(
    folder: Path, marks: Collection[str], is_own: Callable[[str], bool] = lambda sha256: False
) -> list[Path]:
    """Remove the temporary files that ended processes left in a folder.

    Args:
        folder: the folder, without its subfolders.
        marks: `MARK` of those processes; files of other processes stay.
        is_own: returns True for the SHA-256 of a content that the ended processes wrote. It is asked about files that
            `place` was exchanging when its process ended: such a name can belong to the file that was replaced.

    Returns:
        Exchanged files with a content that is not known as own; they stay.
    """
    kept = []
    for entry in folder.iterdir():
        if temporary_mark(entry.name) not in marks or not entry.is_file() or entry.is_symlink():
            continue
        if entry.name.endswith(_ASIDE) and not is_own(file_sha256(entry)):
            kept.append(entry)
        else:
            entry.unlink(missing_ok=True)
    return kept


@dataclass(frozen=True)
class _Move:
    """A pending rename: source and target, each relative to a folder."""

    source: str
    target: str
    source_folder: int | None
    target_folder: int | None

    def to_new_name(self) -> None:
        """Rename to a name that must be free."""
        try:
            if self._rename(_NO_REPLACE):
                return
            try:
                os.link(self.source, self.target, **self._folders(), follow_symlinks=False)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                # The file system has no hard links either: an empty file reserves the name until the rename.
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                os.close(os.open(self.target, flags, dir_fd=self.target_folder))
                os.replace(self.source, self.target, **self._folders())  # noqa: PTH105
            else:
                os.unlink(self.source, dir_fd=self.source_folder)
        except FileExistsError:
            raise OccupiedError(self.target, "another file") from None

    def over(self, expected: Content) -> None:
        """Replace a file that was looked at before; if it has changed since then, it stays."""
        # A suffix of its own, because another program's file can have this name for a moment.
        aside = replace(self, source=self.source + _ASIDE[0])
        os.rename(self.source, aside.source, src_dir_fd=self.source_folder, dst_dir_fd=self.source_folder)
        own = aside._source_version()
        try:
            try:
                exchanged = aside._rename(_EXCHANGE)
            except FileNotFoundError:  # the old file is gone
                aside.to_new_name()
                return
            if not exchanged:
                aside._over_by_link(expected)
            elif aside._source_version() == expected.version:
                os.unlink(aside.source, dir_fd=self.source_folder)
            else:
                aside._rename(_EXCHANGE)
                raise OccupiedError(self.target, "another file")
        finally:
            if aside._source_version() == own:
                os.rename(aside.source, self.source, src_dir_fd=self.source_folder, dst_dir_fd=self.source_folder)

    def _over_by_link(self, expected: Content) -> None:
        """Replace a file on a file system that cannot exchange two names.

        A hard link keeps the old file until the new one has its name. A file that another program puts there between
        the check and the rename, some microseconds, is lost; no other order of steps survives a kill at any moment.
        """
        old = replace(self, source=self.source.removesuffix(_ASIDE[0]) + _ASIDE[1])
        to_old = {"src_dir_fd": self.target_folder, "dst_dir_fd": self.source_folder}
        try:
            os.link(self.target, old.source, **to_old, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            old = replace(self, source=self.target, source_folder=self.target_folder)  # no hard links
        try:
            if old._source_version() != expected.version:
                raise OccupiedError(self.target, "another file")
            os.replace(self.source, self.target, **self._folders())  # noqa: PTH105
        finally:
            if old.source != self.target:
                os.unlink(old.source, dir_fd=self.source_folder)

    def _rename(self, flag: int) -> bool:
        """Rename with a flag; return False if the system or the file system does not support it."""
        if _RENAME is None:
            return False
        folders = (_HERE if folder is None else folder for folder in (self.source_folder, self.target_folder))
        source, target = folders
        if _RENAME(source, os.fsencode(self.source), target, os.fsencode(self.target), flag) == 0:
            return True
        number = ctypes.get_errno()
        if number in _UNSUPPORTED:
            return False
        raise OSError(number, os.strerror(number), self.source, None, self.target)

    def _source_version(self) -> tuple[int, ...] | None:
        try:
            return _version(os.stat(self.source, dir_fd=self.source_folder, follow_symlinks=False))
        except FileNotFoundError:
            return None

    def _folders(self) -> dict[str, int | None]:
        return {"src_dir_fd": self.source_folder, "dst_dir_fd": self.target_folder}


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _find_rename() -> tuple[Any, int, int, int]:
    """Return the C library's rename with flags, its flags "no replace" and "exchange", and its current folder."""
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        return getattr(library, "renameatx_np", None), 4, 2, -2  # sys/stdio.h, sys/fcntl.h
    return getattr(library, "renameat2", None), 1, 2, -100  # linux/fs.h, linux/fcntl.h


_RENAME, _NO_REPLACE, _EXCHANGE, _HERE = _find_rename()
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM})
"""errno values of a rename with flags, or of a link, that the file system does not support."""
