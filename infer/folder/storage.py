"""What a folder run needs of INPUT and OUTPUT, wherever they are: `LocalFolder`, or `RemoteFolder` behind a URL.

Names are paths below a folder, with "/" between folders. `is_below` decides which ones may be used.
"""

import errno
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from cgan.files import MARK, file_sha256, temporary_name

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
    regular: bool = True
    """False for a link, a folder or a device, none of which is an output."""


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


@dataclass(frozen=True, slots=True)
class Probe:
    """A file in an OUTPUT for a moment, by which an INPUT tells whether the two are one place under two names."""

    name: str
    """Without a dot before it, since some servers do not show such files."""
    tails: tuple[str, ...]
    """Empty, and the last parts of the path of OUTPUT: what it can be called below a folder around it."""

    @classmethod
    def of(cls, folder: str) -> "Probe":
        """One for an OUTPUT with this path."""
        parts = [part for part in folder.split("/") if part]
        tails = ("".join(f"{part}/" for part in parts[first:]) for first in range(len(parts), -1, -1))
        return cls(temporary_name().lstrip("."), tuple(tails))

    @property
    def content(self) -> bytes:
        """Its own, since some servers have an answer for any name."""
        return f"{MARK} {self.name}".encode()


class Storage(ABC):
    """A folder and what runs do in it. Names are paths below it."""

    waits = True
    """Whether each file is asked for over a network, as behind an fsspec URL."""

    writable = True
    """False for an archive."""

    left: list[str] = []  # noqa: RUF012
    """Files that killed runs were replacing and that may be the user's, known after `prepare`."""

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
    def publish(self, name: str, content: bytes | memoryview, replaces: Collection[str] | None = ()) -> None:
        """Write a file that appears whole and durable under its name, or not at all.

        Args:
            name: path below the folder; folders are made.
            content: the file's.
            replaces: SHA-256 digests of the contents that may be replaced; none where no file may lie there yet.
                None stands for any file. A file that has the new content already is left as it is.

        Raises:
            OccupiedError: something else lies there; it stays.
            OSError: it cannot be written, a folder on the way is a link, or the name does not lie below the folder.
        """

    @abstractmethod
    def prepare(self, marks: Collection[str] = (), is_own: Callable[[str], bool] = lambda sha256: False) -> None:
        """Make the folder ready to be written to.

        Args:
            marks: of former processes (`cgan.files.MARK`) whose temporary files are removed.
            is_own: tells by its SHA-256 that runs published a content.

        Raises:
            OSError: it cannot be written to.
        """

    @abstractmethod
    def probe(self) -> AbstractContextManager[Probe]:
        """A small file in the folder, which is made, until it is left.

        Raises:
            OSError: it cannot be written to.
        """

    @abstractmethod
    def sees(self, probe: Probe) -> bool:
        """Whether the probe of another folder lies in this one, below it in a place of the same name, or above it."""

    @abstractmethod
    def finish(self) -> None:
        """Remove what only a run in progress needs."""


DRIVE = re.compile(r"[A-Za-z]:[/\\]")


def is_below(name: str, anywhere: bool = False) -> bool:
    """Return True if a name can only lie below the folder that it is joined to, and no other name is the same file.

    Archives, stores and journals can hold any name: absolute ones, "..", and empty parts, with which two names are one
    file.

    Args:
        name: a path with "/" between folders.
        anywhere: also on systems with drives and backslashes, for names that come from elsewhere.
    """
    if "\0" in name or {"", ".", ".."} & set(name.split("/")):
        return False
    return not (anywhere and (DRIVE.match(name) or name.startswith("\\") or ".." in name.split("\\")))


def check_below(name: str) -> None:
    """Check that a name lies below its folder.

    Raises:
        OSError: it does not.
    """
    if not is_below(name):
        raise OSError(errno.EINVAL, "its name leads out of its folder", name)
