"""Folders that runs read from and write to: on this machine, or behind an fsspec URL such as s3://bucket/photos."""

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cgan.errors import UserError
from cgan.files import file_sha256, remove_temporaries

WORK_FOLDER = ".cgan"
"""Folder in an OUTPUT on this machine for the journal, and for files that are not whole yet."""

JOURNAL_NAME = "journal.sqlite"
"""In the work folder, which tells an OUTPUT."""


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
                    if os.path.exists(f"{entry.path}/{WORK_FOLDER}/{JOURNAL_NAME}"):  # noqa: PTH110 (no error if locked)
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
        remove_temporaries(self.path, ())

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


def open_storage(place: str) -> Storage:
    """The folder for a path or an fsspec URL.

    Raises:
        UserError: a URL that cannot be opened with what is installed.
    """
    if not place:
        raise UserError("found an empty path for INPUT or OUTPUT, expected a folder; . is the current one")
    if place.startswith("file://"):
        return LocalFolder(Path(place.removeprefix("file://")))
    if not is_url(place):
        return LocalFolder(Path(place))
    from infer.remote import RemoteFolder

    folder = RemoteFolder(place)
    return folder.on_this_machine or folder


def open_source(place: str) -> Storage:
    """The photos for a path or an fsspec URL: those of a folder, or a single file of this machine.

    Raises:
        UserError: as `open_storage`.
    """
    source = open_storage(place)
    try:
        return LocalFile(source.path) if isinstance(source, LocalFolder) and source.path.is_file() else source
    except OSError as error:
        raise UserError(f"{place}: cannot be looked at ({error.strerror}); give permission to read it") from error


def is_url(place: str) -> bool:
    """Whether a place is a URL and not a path: a scheme of two letters or more before "://"."""
    scheme, separator, _ = place.partition("://")
    return bool(separator) and len(scheme) > 1 and scheme.replace("+", "").replace("-", "").isalnum()


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
