"""Folders that runs read from and write to: on this machine, or behind an fsspec URL such as s3://bucket/photos."""

import contextlib
import errno
import hashlib
import os
import posixpath
import secrets
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgan.spec import UserError, file_sha256

WORK_FOLDER = ".cgan"
"""Folder in an OUTPUT on this machine for the journal, and for files that are not whole yet."""

JOURNAL_NAME = "journal.sqlite"
"""In the work folder, which tells an OUTPUT."""

ATOMIC_PROTOCOLS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "adl", "memory"})
"""Stores in which an object appears when its upload is complete; in others it is renamed or copied then."""


@dataclass(frozen=True, slots=True)
class Status:
    """What tells one version of a file from another without reading it."""

    size: int
    """In bytes."""
    version: str
    """Time of the last change in nanoseconds, or what a store has in its place."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file that a search found."""

    name: str
    """Path below the folder, with the separators of its storage."""
    status: Status | None
    problem: str | None = None
    """Why it is not read as a file: a link to a folder, a FIFO, a link that leads nowhere; it has no status then."""
    unreadable: bool = False
    """Whether it is a folder that could not be searched."""


class Storage(ABC):
    """A folder and what runs do in it. Names are paths below it."""

    waits = True
    """Whether each file is asked for over a network, as behind an fsspec URL."""

    @abstractmethod
    def __str__(self) -> str:
        """The folder as the user gave it."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """The folder in full, which tells it from others."""

    @abstractmethod
    def walk(self, leave_out: "Storage | None" = None) -> Iterator[Entry]:
        """All files in it and below, except those of another folder inside it."""

    @abstractmethod
    def status(self, name: str) -> Status | None:
        """A file's status, None where there is none."""

    @abstractmethod
    def fetch(self, name: str) -> Path | bytes:
        """A file to read: its path, or its content where it has no path on this machine."""

    def checksum(self, name: str) -> str:
        """SHA-256 of a file's content, 64 hexadecimal digits."""
        content = self.fetch(name)
        return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_sha256(content)

    @abstractmethod
    def publish(self, name: str, content: bytes | memoryview) -> None:
        """Write a file that appears whole and durable under its name, or not at all.

        Raises:
            OSError: it cannot be written.
        """

    @abstractmethod
    def prepare(self) -> None:
        """Make the folder ready to be written to, and remove what a killed run left unfinished in it.

        Raises:
            OSError: it cannot be written to.
        """

    @abstractmethod
    def finish(self) -> None:
        """Remove what only a run in progress needs."""


class LocalFolder(Storage):
    """A folder of this machine's file system."""

    waits = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._work = path / WORK_FOLDER / "work"

    def __str__(self) -> str:
        return str(self.path)

    @property
    def identity(self) -> str:
        """The path without links."""
        return str(self.path.resolve())

    def walk(self, leave_out: Storage | None = None) -> Iterator[Entry]:
        """Links to files are followed, links to folders are not; folders that other runs wrote to are passed over."""
        root = str(self.path.resolve())
        hidden = leave_out.identity if isinstance(leave_out, LocalFolder) else None
        folders = [root]
        while folders:
            folder = folders.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                reason = f"folder cannot be read: {error.strerror}"
                yield Entry(os.path.relpath(folder, root), None, reason, unreadable=True)
                continue
            for entry in entries:
                if entry.path == hidden:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if Path(entry.path, WORK_FOLDER, JOURNAL_NAME).exists():
                        problem = "another OUTPUT, whose photos are coloured already"
                        yield Entry(os.path.relpath(entry.path, root), None, problem)
                    else:
                        folders.append(entry.path)
                else:
                    yield _entry(os.path.relpath(entry.path, root), Path(entry.path))

    def status(self, name: str) -> Status | None:
        """Of what a link leads to."""
        try:
            found = (self.path / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _local_status(found)

    def fetch(self, name: str) -> Path:
        """Its path."""
        return self.path / name

    def publish(self, name: str, content: bytes | memoryview) -> None:
        """Written beside, flushed to disk, then renamed."""
        target = self.path / name
        temporary = self._work / secrets.token_hex(8)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            try:
                temporary.replace(target)
            except FileNotFoundError:
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def prepare(self) -> None:
        """The caller holds the journal's lock, so unfinished files belong to no one."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._work)
        self._work.mkdir(parents=True)

    def finish(self) -> None:
        """Remove the folder for unfinished files; the journal stays."""
        shutil.rmtree(self._work, ignore_errors=True)  # a disk that broke must not hide what became of the run


class LocalFile(LocalFolder):
    """A folder of which only one file is seen, so that a single photo is an INPUT too."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent)
        self.file = path

    def __str__(self) -> str:
        return str(self.file)

    def walk(self, leave_out: Storage | None = None) -> Iterator[Entry]:
        """The file, wherever it lies: who names it wants it."""
        yield _entry(self.file.name, self.file)


class RemoteFolder(Storage):
    """A folder behind an fsspec URL.

    Raises:
        UserError: fsspec or the package for this kind of URL is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            from fsspec import AbstractFileSystem
            from fsspec.core import url_to_fs

            self._files, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"{url}: cannot be opened ({_first_line(error)}); pip install 'cgan[remote]' and the package "
                "that fsspec names for this kind of URL"
            ) from error
        except Exception as error:  # some connect at once
            raise UserError(
                f"{url}: cannot be opened ({_first_line(error)}); check the address and the access"
            ) from error
        self._root = self._root.rstrip("/")
        self._listed: dict[str, Status] | None = None
        # fsspec's own mv copies, and takes names for patterns.
        self._renames = type(self._files).mv is not AbstractFileSystem.mv
        self._host = str(self._files.storage_options.get("host", ""))
        protocol = self._files.protocol
        self._protocols = {protocol} if isinstance(protocol, str) else set(protocol)

    def __str__(self) -> str:
        return self.url

    @property
    def identity(self) -> str:
        """Protocol and path, with the host where paths do not begin with a bucket."""
        return str(self._files.unstrip_protocol(self._root)).replace("://", f"://{self._host}", 1)

    def walk(self, leave_out: Storage | None = None) -> Iterator[Entry]:
        """Stores have neither links nor special files."""
        hidden = leave_out._root + "/" if isinstance(leave_out, RemoteFolder) and self._shares(leave_out) else None
        with _as_os_errors():
            self._files.invalidate_cache()
            for path, found in sorted(self._files.find(self._root, detail=True).items()):
                if not (hidden and path.startswith(hidden)):
                    yield Entry(path.removeprefix(self._root).lstrip("/"), _remote_status(found))

    def status(self, name: str) -> Status | None:
        """As the store listed it when the first was asked for, or as this run published it since.

        Asking for each file by itself would take a round trip a file.
        """
        if self._listed is None:
            try:
                self._listed = {entry.name: entry.status for entry in self.walk() if entry.status}
            except FileNotFoundError:
                self._listed = {}
        return self._listed.get(name)

    def fetch(self, name: str) -> bytes:
        """Its content."""
        with _as_os_errors():
            content: bytes = self._files.cat_file(self._path(name))
        return content

    def publish(self, name: str, content: bytes | memoryview) -> None:
        """As one object, or renamed where the store shows unfinished files."""
        with _as_os_errors():
            self._put(self._path(name), bytes(content))
        if self._listed is not None:
            self._listed[name] = Status(len(content), "")

    def _put(self, path: str, content: bytes) -> None:
        self._files.makedirs(posixpath.dirname(path), exist_ok=True)
        if self._protocols & ATOMIC_PROTOCOLS:
            self._files.pipe_file(path, content)
            return
        temporary = posixpath.join(posixpath.dirname(path), f"{WORK_FOLDER}-{secrets.token_hex(8)}")
        try:
            self._files.pipe_file(temporary, content)
            if self._renames:
                self._files.mv(temporary, path)
            else:
                self._files.cp_file(temporary, path)
                self._files.rm_file(temporary)
        except BaseException:
            with contextlib.suppress(Exception):
                self._files.rm_file(temporary)
            raise

    def prepare(self) -> None:
        """Write and remove a small file, so that missing permission shows before the first photo.

        Unfinished files are removed where there can be any.
        """
        with _as_os_errors():
            self._files.makedirs(self._root, exist_ok=True)
            if not self._protocols & ATOMIC_PROTOCOLS:
                for path in self._files.find(self._root):
                    if posixpath.basename(path).startswith(f"{WORK_FOLDER}-"):
                        self._files.rm_file(path)
            probe = self._path(f"{WORK_FOLDER}-{secrets.token_hex(8)}")
            self._files.pipe_file(probe, b"")
            self._files.rm_file(probe)

    def finish(self) -> None:
        """Nothing is left in a store."""

    @property
    def on_this_machine(self) -> LocalFolder | None:
        """The folder that a URL such as local:///photos is another name of; None for what is elsewhere."""
        return LocalFolder(Path(self._root)) if self._protocols & {"file", "local"} else None

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name)

    def _shares(self, other: "RemoteFolder") -> bool:
        return bool(self._protocols & other._protocols) and self._host == other._host


def open_storage(place: str) -> Storage:
    """The folder for a path or an fsspec URL.

    Raises:
        UserError: a URL that cannot be opened with what is installed.
    """
    if place.startswith("file://"):
        return LocalFolder(Path(place.removeprefix("file://")))
    if not is_url(place):
        return LocalFolder(Path(place))
    folder = RemoteFolder(place)
    return folder.on_this_machine or folder


def open_source(place: str) -> Storage:
    """The photos for a path or an fsspec URL: those of a folder, or a single file of this machine.

    Raises:
        UserError: as `open_storage`.
    """
    source = open_storage(place)
    return LocalFile(source.path) if isinstance(source, LocalFolder) and source.path.is_file() else source


def is_url(place: str) -> bool:
    """Whether a place is a URL and not a path: a scheme of two letters or more before "://"."""
    scheme, separator, _ = place.partition("://")
    return bool(separator) and len(scheme) > 1 and scheme.replace("+", "").replace("-", "").isalnum()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    """Stores raise types of their own; to a run each is a file that cannot be read or written."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error


def _entry(name: str, path: Path) -> Entry:
    try:
        found = path.stat()
    except OSError as error:
        return Entry(name, None, f"link leads nowhere: {error.strerror}" if path.is_symlink() else str(error.strerror))
    if stat.S_ISDIR(found.st_mode):
        return Entry(name, None, "link to a folder, not followed")
    if not stat.S_ISREG(found.st_mode):
        return Entry(name, None, "not a regular file")
    return Entry(name, _local_status(found))


def _local_status(found: os.stat_result) -> Status:
    return Status(found.st_size, str(found.st_mtime_ns))


VERSION_KEYS = (
    *("ETag", "etag", "md5Hash", "crc32c", "LastModified", "last_modified", "mtime"),
    *("modify", "modificationTime", "updated", "created"),
)
"""What stores tell of a file's version, the surest first."""


def _remote_status(found: dict[str, Any]) -> Status:
    """With the checksum or the time that the store has."""
    return Status(int(found["size"] or 0), next((str(found[key]) for key in VERSION_KEYS if found.get(key)), ""))
